// The draw of tokens as an operation: on every device the plain definition's tokens.
#include <algorithm>
#include <cmath>
#include <limits>

#include "unit/backend/plain_draw.h"
#include "unit/cpu/cpu_test_support.h"

namespace winnow::cpu {
namespace {

using Ids = std::vector<int32_t>;

// A row of `logits` for each rule.
Ids Draw(Backend& backend, const std::vector<float>& logits, const std::vector<DrawRule>& rules) {
  const int64_t rows = static_cast<int64_t>(rules.size());
  Ids tokens(rules.size(), -7);
  backend.DrawTokens({.logits = ViewOf(logits, {rows, static_cast<int64_t>(logits.size()) / rows}),
                      .rules = TensorView(rules.data(), DType::kU8, {rows, sizeof(DrawRule)}),
                      .tokens = ViewOf(tokens, {rows})});
  return tokens;
}

// Rows of so many logits by every `step`th of the rules, in one operation.
void ExpectPlainDraws(const std::vector<std::unique_ptr<Backend>>& backends, int64_t size,
                      size_t step) {
  std::vector<float> logits;
  std::vector<DrawRule> rules;
  std::vector<std::string> names;
  Ids expected;
  size_t turn = 0;
  for (const DrawCase& c : DrawCases(size, 3)) {
    for (const DrawRule& rule : DrawRules(size, 4)) {
      if (++turn % step != 0) continue;
      logits.insert(logits.end(), c.logits.begin(), c.logits.end());
      rules.push_back(rule);
      names.push_back(std::to_string(size) + " " + c.name + ": " + Describe(rule));
      expected.push_back(PlainDraw(c.logits, rule));
    }
  }
  for (const auto& backend : backends) {
    const Ids tokens = Draw(*backend, logits, rules);
    for (size_t row = 0; row < rules.size(); ++row) {
      ASSERT_EQ(tokens[row], expected[row]) << backend->Describe() << " " << names[row];
    }
  }
}

TEST(DrawTokens, AreThePlainDraws) {
  const auto backends = EqualBackends(Sums::kF32);
  for (const int64_t size : {1, 2, 31, 255, 256, 257, 1000, 8191, 8192, 8193}) {
    ExpectPlainDraws(backends, size, 1);
  }
}

TEST(DrawTokens, AreThePlainDrawsFromAWholeVocabulary) {
  const auto backends = EqualBackends(Sums::kF32);
  ExpectPlainDraws(backends, 129280, 5);
  ExpectPlainDraws(backends, 262144, 29);  // more than a GPU copies
}

TEST(DrawTokens, OfARowDoNotDependOnTheOthers) {
  for (const auto& backend : EqualBackends(Sums::kF32)) {
    const std::vector<float> row = RandomFloats(5000, 1);
    const DrawRule drawn{.below = 5000, .temperature = 0.3, .top_p = 0.9, .random = 1ull << 63};
    const DrawRule nothing;
    const Ids alone = Draw(*backend, row, {drawn});
    std::vector<float> three = RandomFloats(5000, 2);
    three.insert(three.end(), row.begin(), row.end());
    three.insert(three.end(), row.begin(), row.end());
    EXPECT_EQ(Draw(*backend, three, {nothing, drawn, drawn}), (Ids{-1, alone[0], alone[0]}));
  }
}

TEST(DrawTokens, AreTheLikeliestAtTemperatureZero) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  for (const auto& backend : EqualBackends(Sums::kF32)) {
    const auto find = [&](const std::vector<float>& logits, const std::vector<int32_t>& limits) {
      std::vector<DrawRule> rules;
      for (const int32_t limit : limits) rules.push_back({.below = limit, .top_p = 0.5});
      return Draw(*backend, logits, rules);
    };
    EXPECT_EQ(find({1, 3, 2, 3}, {4}), Ids{1});
    EXPECT_EQ(find({1, 3, 2, 4}, {3}), Ids{1});
    EXPECT_EQ(find({-0.0f, 0.0f}, {2}), Ids{0});
    EXPECT_EQ(find({NAN, -5, NAN, -kInfinity}, {4}), Ids{1});
    EXPECT_EQ(find({NAN, -kInfinity, NAN}, {3}), Ids{-1});
    EXPECT_EQ(find({1, kInfinity, 2}, {3}), Ids{-1});
    EXPECT_EQ(find({1, 2, 3, kInfinity}, {3}), Ids{2});
    EXPECT_EQ(find({1, 2}, {0}), Ids{-1});
    EXPECT_EQ(find({1, 2, 3, 6, 5, 4}, {3, std::numeric_limits<int32_t>::max()}), (Ids{2, 0}));
    for (const int64_t size : {31, 1024, 8191, 8192, 8193, 129280}) {
      const std::vector<float> equal(3 * size, -2.5f);
      EXPECT_EQ(find(equal, Ids(3, static_cast<int32_t>(size))), Ids(3, 0)) << size;
      std::vector<float> logits = RandomFloats(3 * size, 9);
      for (float& logit : logits) logit = std::floor(logit * 1000);  // with many ties
      const int32_t limit = static_cast<int32_t>(size - size / 10);
      Ids expected;
      for (auto row = logits.begin(); row != logits.end(); row += size) {
        expected.push_back(static_cast<int32_t>(std::max_element(row, row + limit) - row));
      }
      EXPECT_EQ(find(logits, Ids(3, limit)), expected) << backend->Describe() << " " << size;
    }
  }
}

}  // namespace
}  // namespace winnow::cpu
