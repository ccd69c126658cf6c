// Policies inside the forward pass: what attention really reads, and that nothing else changes.
#include "eval/selection_policies.h"

#include <gtest/gtest.h>

#include <cmath>

#include "small_run.h"

namespace winnow::eval {
namespace {

constexpr const char* kModels[] = {"v32-groups-f32", "glm-list-f32"};

EngineOptions Exact() {
  EngineOptions options;
  options.precision = Precision::kF32;
  options.kv_cache = LatentType::kF32;
  options.index_keys = IndexKeyType::kF32;
  return options;
}

// Fills in what a run of the model's own selected.
class Replay : public SelectionPolicy {
 public:
  explicit Replay(const Recorder::Places& selected) : selected_(selected) {}
  void Select(const Pass& pass, const AttentionState& state,
              const SelectionView& selection) override {
    int64_t layer = state.layer;
    while (pass.config.indexer_types[static_cast<size_t>(layer)] != IndexerType::kFull) --layer;
    const int64_t width = selection.positions.dims[1];
    for (int64_t token = 0; token < pass.num_tokens(); ++token) {
      const int64_t position = pass.batch.positions.As<int32_t>()[token];
      const std::vector<int32_t>& chosen = selected_.at({layer, position});
      for (int64_t place = 0; place < width; ++place) {
        const bool used = place < static_cast<int64_t>(chosen.size());
        const int32_t s = used ? chosen[static_cast<size_t>(place)] : -1;
        selection.positions.As<int32_t>()[token * width + place] = s;
        selection.slots.As<int32_t>()[token * width + place] =
            used ? pass.batch.page_table.As<int32_t>()[s / 64] * 64 + s % 64 : -1;
      }
      selection.counts.As<int32_t>()[token] = static_cast<int32_t>(chosen.size());
    }
  }

 private:
  const Recorder::Places& selected_;
};

TEST(SelectionPolicy, OfTheModelsOwnChoiceGivesTheSameBits) {
  for (const char* model : kModels) {
    const std::vector<int32_t> tokens = SomeTokens(100);
    const auto runner = LoadSmall(model, Exact(), 512);
    Recorder recorder;
    const std::vector<float> logits = RunAll(*runner, tokens, &recorder);
    Replay replay(recorder.selected);
    EXPECT_EQ(RunAll(*runner, tokens, nullptr, &replay), logits) << model;
    EXPECT_EQ(RunAll(*runner, tokens, nullptr), logits) << model << ", without it again";
  }
}

TEST(SelectionPolicy, IsWhatAttentionReads) {
  const std::vector<int32_t> tokens = SomeTokens(100);
  ThreadPool pool(2);
  for (const char* model : kModels) {
    std::vector<std::vector<float>> seen;
    for (const NamedPolicy& named : OtherPolicies(1)) {
      for (const int64_t chunk : {512, 9}) {
        const auto runner = LoadSmall(model, Exact(), chunk);
        const int64_t topk = runner->config().index_topk;
        Recorder recorder;
        const auto policy = named.make(pool);
        const std::vector<float> logits = RunAll(*runner, tokens, &recorder, policy.get());
        EXPECT_EQ(recorder.selected.count({0, 99}), 1u);
        for (const auto& [place, chosen] : recorder.selected) {
          const int64_t position = place.second;
          ASSERT_EQ(static_cast<int64_t>(chosen.size()), std::min(topk, position + 1));
          EXPECT_EQ(chosen.back(), position);
          if (named.name == "sliding window") {
            EXPECT_EQ(chosen, WindowPattern(position, topk));
          } else if (named.name == "strided") {
            EXPECT_EQ(chosen, StridedPattern(position, topk));
          } else if (named.name == "fixed") {
            EXPECT_EQ(chosen, FixedPattern(position, topk));
          }
        }
        if (chunk == 512) seen.push_back(logits);
        EXPECT_EQ(logits, seen.back()) << named.name << ": in chunks of " << chunk;
      }
    }
    for (size_t a = 0; a < seen.size(); ++a) {
      for (size_t b = a + 1; b < seen.size(); ++b) EXPECT_NE(seen[a], seen[b]);
    }
  }
}

TEST(SelectionPolicy, OracleTakesTheMostTrueAttention) {
  const std::vector<int32_t> tokens = SomeTokens(100);
  ThreadPool pool(2);
  const auto runner = LoadSmall("v32-groups-f32", Exact(), 30);
  const int64_t topk = runner->config().index_topk;
  Recorder recorder;
  for (const NamedPolicy& named : OtherPolicies(1)) {
    if (named.name != "oracle") continue;
    const auto policy = named.make(pool);
    RunAll(*runner, tokens, &recorder, policy.get());
  }
  int64_t checked = 0;
  for (const auto& [place, chosen] : recorder.selected) {
    const std::vector<double>& mass = recorder.mass.at(place);
    std::vector<int32_t> best = Best(mass, topk);
    if (best.back() != place.second) {
      best = Best({mass.begin(), mass.end() - 1}, topk - 1);
      best.push_back(static_cast<int32_t>(place.second));
    }
    EXPECT_EQ(chosen, best) << "layer " << place.first << ", position " << place.second;
    ++checked;
  }
  EXPECT_GE(checked, 80 * 2);
}

TEST(SelectionPolicy, OfBranchesFromOnePrefixIsThatOfFreshRuns) {
  std::vector<int32_t> first = SomeTokens(90);
  std::vector<int32_t> second = first;
  for (size_t token = 70; token < second.size(); ++token) second[token] = 89 - second[token];
  ThreadPool pool(1);
  for (const NamedPolicy& named : OtherPolicies(5)) {
    const auto runner = LoadSmall("v32-groups-f32", Exact(), 512);
    const auto fresh = named.make(pool);
    const std::vector<float> expected = RunAll(*runner, second, nullptr, fresh.get());
    const auto policy = named.make(pool);
    RunAll(*runner, first, nullptr, policy.get());
    const size_t kept = static_cast<size_t>(runner->Resume(second));
    ASSERT_EQ(kept, 70u);
    const size_t vocab = static_cast<size_t>(runner->config().vocab_size);
    std::vector<float> logits((second.size() - kept) * vocab);
    ASSERT_TRUE(runner
                    ->Step(std::span(second).subspan(kept), LogitRows::kAll, logits.data(), nullptr,
                           policy.get())
                    .ok());
    EXPECT_TRUE(std::equal(logits.begin(), logits.end(),
                           expected.begin() + static_cast<int64_t>(kept * vocab)))
        << named.name;
  }
}

TEST(LshHash, PutsEqualDirectionsIntoEqualBucketsAndOppositeOnesApart) {
  const LshHash hash(40, 3);
  std::vector<float> x(40), longer(40), opposite(40), other(40);
  for (size_t k = 0; k < x.size(); ++k) {
    x[k] = std::sin(static_cast<float>(k) + 1);
    longer[k] = 3 * x[k];
    opposite[k] = -x[k];
    other[k] = std::cos(2.7f * static_cast<float>(k));
  }
  uint8_t a[kLshRounds], b[kLshRounds], c[kLshRounds], d[kLshRounds];
  hash.Hash(x.data(), a);
  hash.Hash(longer.data(), b);
  hash.Hash(opposite.data(), c);
  hash.Hash(other.data(), d);
  int64_t shared = 0;
  for (int64_t round = 0; round < kLshRounds; ++round) {
    EXPECT_LT(a[round], kLshBuckets);
    EXPECT_EQ(a[round], b[round]);
    EXPECT_EQ((a[round] + kLshBuckets / 2) % kLshBuckets, c[round]);
    shared += a[round] == d[round] ? 1 : 0;
  }
  EXPECT_LT(shared, kLshRounds);
}

}  // namespace
}  // namespace winnow::eval
