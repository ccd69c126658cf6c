// The draw of a token against its plain definition, and its masses against e^x.
#include "backend/draw_token.h"

#include <gtest/gtest.h>

#include <cmath>

#include "unit/backend/plain_draw.h"

namespace winnow {
namespace {

constexpr float kLargestFloat = std::numeric_limits<float>::max();

TEST(TokenMass, IsTheExponentialToTheNearestWholeNumber) {
  std::mt19937 bits(3);
  for (const double temperature : {0.01, 0.7, 1.0, 100.0}) {
    const double scale = ExponentScale(temperature);
    for (int i = 0; i < 20000; ++i) {
      const float largest = std::uniform_real_distribution<float>(-30, 30)(bits);
      const double below = std::uniform_real_distribution<double>(0, 45 * temperature)(bits);
      const float logit = std::min(static_cast<float>(largest - below), largest);
      const long double exact =
          std::ldexp(std::exp((static_cast<long double>(logit) - largest) / temperature), 40);
      ASSERT_NEAR(static_cast<double>(MassOf(ExponentOf(logit, largest, scale)) - exact), 0, 0.52)
          << logit << " " << largest << " " << temperature;
    }
  }
}

TEST(TokenMass, IsAllForTheLikeliestAndNothingFarBelow) {
  for (const double temperature : {5e-324, 1e-6, 1.0, 100.0}) {
    const double scale = ExponentScale(temperature);
    for (const float largest : {0.0f, -3.5f, 2e-38f, kLargestFloat, -kLargestFloat}) {
      EXPECT_EQ(MassOf(ExponentOf(largest, largest, scale)), uint64_t{1} << 40);
      EXPECT_EQ(MassOf(ExponentOf(NAN, largest, scale)), 0u);
      EXPECT_EQ(MassOf(ExponentOf(-INFINITY, largest, scale)), 0u);
    }
    // 2^-41 is the least that has a mass, but for rounding.
    const double drop = 41 * std::log(2.0) * temperature;
    EXPECT_EQ(MassOf(ExponentOf(static_cast<float>(-drop * 1.001 - 1e-30), 0, scale)), 0u);
    if (temperature < 1e-5) continue;
    EXPECT_EQ(MassOf(ExponentOf(static_cast<float>(-drop * 0.999), 0, scale)), 1u);
  }
}

TEST(RankOf, OrdersLogitsAndFindsThemAgain) {
  const float ascending[] = {-kLargestFloat, -1.0f, -1e-37f, 0.0f, 1e-37f, 1.0f, kLargestFloat};
  uint32_t last = kNeverDrawn;
  for (const float logit : ascending) {
    EXPECT_GT(RankOf(logit), last);
    last = RankOf(logit);
    EXPECT_EQ(LogitOf(last), logit);
  }
  EXPECT_EQ(RankOf(INFINITY), kInfiniteRank);
  EXPECT_GT(kInfiniteRank, last);
  for (const float never : {NAN, -NAN, -INFINITY}) EXPECT_EQ(RankOf(never), kNeverDrawn);
  for (const float zero : {-0.0f, 1e-39f, -1e-39f}) EXPECT_EQ(RankOf(zero), RankOf(0.0f));
}

TEST(DrawToken, IsThePlainDraw) {
  for (const int64_t size : {1, 2, 3, 255, 256, 257, 1000, 8192}) {
    for (const DrawCase& c : DrawCases(size, static_cast<uint32_t>(size))) {
      for (const DrawRule& rule : DrawRules(size, 7)) {
        ASSERT_EQ(DrawToken(c.logits, rule), PlainDraw(c.logits, rule))
            << size << " " << c.name << ": " << Describe(rule);
      }
    }
  }
}

TEST(DrawToken, IsThePlainDrawFromAWholeVocabulary) {
  for (const DrawCase& c : DrawCases(129280, 5)) {
    const std::vector<DrawRule> rules = DrawRules(129280, 8);
    for (size_t kind = 2; kind < rules.size(); kind += 3) {
      ASSERT_EQ(DrawToken(c.logits, rules[kind]), PlainDraw(c.logits, rules[kind]))
          << c.name << ": " << Describe(rules[kind]);
    }
  }
}

// Every place in the masses of a small row, so every border between tokens.
TEST(DrawToken, GivesEachTokenItsMass) {
  const std::vector<float> logits = {0.5f, -1, 0.5f, 2, 0.5f, -40, 1.75f};
  for (DrawRule rule :
       {DrawRule{.below = 7, .temperature = 1}, DrawRule{.below = 7, .top_k = 3, .temperature = 1},
        DrawRule{.below = 7, .temperature = 1, .top_p = 0.85}}) {
    const std::vector<PlainToken> kept = PlainKept(logits, rule);
    uint64_t total = 0;
    for (const PlainToken& token : kept) total += token.mass;
    uint64_t sum = 0;
    for (const PlainToken& token : kept) {
      if (token.mass == 0) continue;
      // The first number that falls to the token, and the last.
      const auto number_of = [total](uint64_t place) {
        const unsigned __int128 shifted = static_cast<unsigned __int128>(place) << 64;
        return static_cast<uint64_t>((shifted + total - 1) / total);
      };
      rule.random = number_of(sum);
      EXPECT_EQ(DrawToken(logits, rule), token.id);
      sum += token.mass;
      rule.random = sum < total ? number_of(sum) - 1 : ~uint64_t{0};
      EXPECT_EQ(DrawToken(logits, rule), token.id);
    }
  }
}

TEST(DrawToken, BreaksTiesAtTheBordersTowardTheLowerIds) {
  const std::vector<float> logits = {1, 2, 1, 2, 1, 2, 1};
  const auto drawn = [&](DrawRule rule) {
    rule.below = 7;
    std::vector<int32_t> ids;
    for (const PlainToken& token : PlainKept(logits, rule)) ids.push_back(token.id);
    std::mt19937_64 bits(1);
    std::vector<int32_t> seen;
    for (int i = 0; i < 500; ++i) {
      rule.random = bits();
      seen.push_back(DrawToken(logits, rule));
    }
    std::sort(seen.begin(), seen.end());
    seen.erase(std::unique(seen.begin(), seen.end()), seen.end());
    EXPECT_EQ(seen, ids);
    return seen;
  };
  using Ids = std::vector<int32_t>;
  EXPECT_EQ(drawn({.top_k = 2, .temperature = 1}), (Ids{1, 3}));
  EXPECT_EQ(drawn({.top_k = 5, .temperature = 1}), (Ids{0, 1, 2, 3, 5}));
  // Three of e and four of 1 make 12.15: 0.7 of it is 8.51, a little more than three of e.
  EXPECT_EQ(drawn({.temperature = 1, .top_p = 0.7}), (Ids{0, 1, 3, 5}));
  EXPECT_EQ(drawn({.temperature = 1, .top_p = 0.4}), (Ids{1, 3}));
  // Of the five likeliest, 10.15, it is 7.11.
  EXPECT_EQ(drawn({.top_k = 5, .temperature = 1, .top_p = 0.7}), (Ids{1, 3, 5}));
}

// Chi-square with 15 degrees of freedom: 37.7 is passed by one in a thousand.
TEST(DrawToken, FollowsTheProbabilities) {
  std::vector<float> logits(16);
  for (size_t id = 0; id < logits.size(); ++id) logits[id] = std::sin(static_cast<float>(3 * id));
  for (const double temperature : {0.5, 1.0, 4.0}) {
    double total = 0;
    for (const float logit : logits) total += std::exp(logit / temperature);
    std::mt19937_64 bits(11);
    std::vector<int> counts(logits.size());
    constexpr int kDraws = 100000;
    for (int i = 0; i < kDraws; ++i) {
      const DrawRule rule{.below = 16, .temperature = temperature, .random = bits()};
      ++counts[static_cast<size_t>(DrawToken(logits, rule))];
    }
    double chi_square = 0;
    for (size_t id = 0; id < logits.size(); ++id) {
      const double expected = kDraws * std::exp(logits[id] / temperature) / total;
      chi_square += (counts[id] - expected) * (counts[id] - expected) / expected;
    }
    EXPECT_LT(chi_square, 37.7) << temperature;
  }
}

}  // namespace
}  // namespace winnow
