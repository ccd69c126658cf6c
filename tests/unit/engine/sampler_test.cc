#include "engine/sampler.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <set>

namespace winnow {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

int32_t DrawOne(Sampler& sampler, std::vector<float> logits) {
  auto sample = sampler.Next(logits);
  EXPECT_TRUE(sample.ok()) << sample.status().ToString();
  return sample.ok() ? sample->chosen.token_id : -1;
}

std::set<int32_t> DrawMany(const SamplerOptions& options, const std::vector<float>& logits) {
  std::set<int32_t> drawn;
  for (uint64_t seed = 0; seed < 300; ++seed) {
    SamplerOptions seeded = options;
    seeded.seed = seed;
    Sampler sampler(seeded, {});
    drawn.insert(DrawOne(sampler, logits));
  }
  return drawn;
}

TEST(Sampler, IsGreedyAtTemperatureZero) {
  Sampler sampler({}, {});
  EXPECT_EQ(DrawOne(sampler, {1, 3, 2}), 1);
}

TEST(Sampler, BreaksGreedyTiesTowardTheLowerId) {
  Sampler sampler({}, {});
  EXPECT_EQ(DrawOne(sampler, {0, 5, 5, 5}), 1);
}

TEST(Sampler, NeverDrawsNanOrPadding) {
  SamplerOptions options;
  options.vocab_limit = 3;
  Sampler sampler(options, {});
  EXPECT_EQ(DrawOne(sampler, {NAN, 1, 2, 9}), 2);
}

TEST(Sampler, RefusesLogitsWithoutANumber) {
  Sampler sampler({}, {});
  std::vector<float> logits = {NAN, -kInfinity};
  EXPECT_EQ(sampler.Next(logits).status().code(), StatusCode::kInternal);
}

TEST(Sampler, DrawsTheSameWithTheSameSeed) {
  SamplerOptions options{.temperature = 1.0, .seed = 42};
  Sampler a(options, {});
  Sampler b(options, {});
  std::vector<float> logits(100);
  for (size_t id = 0; id < logits.size(); ++id) logits[id] = std::sin(static_cast<float>(id));
  for (int draw = 0; draw < 20; ++draw) EXPECT_EQ(DrawOne(a, logits), DrawOne(b, logits));
}

TEST(Sampler, FollowsTheProbabilities) {
  // Odds of 3 to 1.
  const std::vector<float> logits = {std::log(3.0f), 0.0f};
  SamplerOptions options{.temperature = 1.0, .seed = 7};
  Sampler sampler(options, {});
  int first = 0;
  for (int draw = 0; draw < 20000; ++draw) first += DrawOne(sampler, logits) == 0 ? 1 : 0;
  EXPECT_NEAR(first / 20000.0, 0.75, 0.015);
}

TEST(Sampler, TemperatureSharpens) {
  const std::vector<float> logits = {1.0f, 0.0f};
  SamplerOptions options{.temperature = 0.25, .seed = 7};
  Sampler sampler(options, {});
  int first = 0;
  for (int draw = 0; draw < 20000; ++draw) first += DrawOne(sampler, logits) == 0 ? 1 : 0;
  EXPECT_NEAR(first / 20000.0, 1.0 / (1.0 + std::exp(-4.0)), 0.01);
}

TEST(Sampler, TopKKeepsTheLikeliest) {
  EXPECT_EQ(DrawMany({.temperature = 5.0, .top_k = 2}, {0, 3, 1, 2}), (std::set<int32_t>{1, 3}));
}

TEST(Sampler, TopPKeepsTheSmallestSetThatHoldsTheMass) {
  // Probabilities 0.5, 0.3, 0.2: the first two hold 0.8.
  const std::vector<float> logits = {std::log(0.2f), std::log(0.5f), std::log(0.3f)};
  EXPECT_EQ(DrawMany({.temperature = 1.0, .top_p = 0.7}, logits), (std::set<int32_t>{1, 2}));
  EXPECT_EQ(DrawMany({.temperature = 1.0, .top_p = 0.4}, logits), (std::set<int32_t>{1}));
  EXPECT_EQ(DrawMany({.temperature = 1.0, .top_p = 1.0}, logits), (std::set<int32_t>{0, 1, 2}));
}

TEST(Sampler, TopPReachesBeyondTheFirstSortedRun) {
  // A thousand equal tokens: half the mass is five hundred of them, the lowest ids.
  const std::vector<float> logits(1000, 1.0f);
  const std::set<int32_t> drawn = DrawMany({.temperature = 1.0, .top_p = 0.5}, logits);
  EXPECT_LT(*drawn.rbegin(), 500);
  EXPECT_GT(*drawn.rbegin(), 400);
}

TEST(Sampler, MinPDropsWhatIsFarFromTheLikeliest) {
  const std::vector<float> logits = {std::log(0.6f), std::log(0.3f), std::log(0.1f)};
  EXPECT_EQ(DrawMany({.temperature = 1.0, .min_p = 0.4}, logits), (std::set<int32_t>{0, 1}));
}

TEST(Sampler, RepetitionPenaltyCountsThePrompt) {
  const std::vector<int32_t> prompt = {1};
  Sampler sampler({.repetition_penalty = 2.0}, prompt);
  EXPECT_EQ(DrawOne(sampler, {1.0f, 1.5f, 0.0f}), 0);
}

TEST(Sampler, PresencePenaltyCountsOnlyTheAnswer) {
  const std::vector<int32_t> prompt = {1};
  Sampler sampler({.presence_penalty = 1.0}, prompt);
  EXPECT_EQ(DrawOne(sampler, {1.0f, 1.5f, 0.0f}), 1);
  EXPECT_EQ(DrawOne(sampler, {1.0f, 1.5f, 0.0f}), 0);
}

TEST(Sampler, FrequencyPenaltyGrowsWithEachUse) {
  Sampler sampler({.frequency_penalty = 1.0}, {});
  const std::vector<float> logits = {0.0f, 1.5f};
  EXPECT_EQ(DrawOne(sampler, logits), 1);
  EXPECT_EQ(DrawOne(sampler, logits), 1);
  EXPECT_EQ(DrawOne(sampler, logits), 0);
}

TEST(Sampler, LogProbabilitiesAreTheModelsOwn) {
  Sampler sampler({.temperature = 0.0, .presence_penalty = 5.0, .logprobs = 2}, {});
  std::vector<float> logits = {std::log(0.2f), std::log(0.5f), std::log(0.3f)};
  auto sample = sampler.Next(logits);
  ASSERT_TRUE(sample.ok());
  EXPECT_EQ(sample->chosen.token_id, 1);
  EXPECT_NEAR(sample->chosen.logprob, std::log(0.5), 1e-6);
  ASSERT_EQ(sample->top.size(), 2u);
  EXPECT_EQ(sample->top[0].token_id, 1);
  EXPECT_EQ(sample->top[1].token_id, 2);
  EXPECT_NEAR(sample->top[1].logprob, std::log(0.3), 1e-6);
}

TEST(Sampler, NamesAParameterOutOfRange) {
  EXPECT_NE(CheckSampler({.temperature = -1}).message().find("temperature: -1"), std::string::npos);
  EXPECT_NE(CheckSampler({.temperature = NAN}).message().find("temperature"), std::string::npos);
  EXPECT_FALSE(CheckSampler({.top_p = 0.0}).ok());
  EXPECT_FALSE(CheckSampler({.top_p = 1.1}).ok());
  EXPECT_FALSE(CheckSampler({.top_k = -1}).ok());
  EXPECT_FALSE(CheckSampler({.min_p = 2}).ok());
  EXPECT_FALSE(CheckSampler({.repetition_penalty = 0}).ok());
  EXPECT_FALSE(CheckSampler({.logprobs = 5000}).ok());
  EXPECT_TRUE(CheckSampler({}).ok());
}

TEST(Sampler, LeavesDrawsToOthersWhereNothingElseIsWantedOrChanged) {
  EXPECT_TRUE(NeedsTokensAlone({.temperature = 0.0, .top_p = 0.5, .top_k = 3, .vocab_limit = 7}));
  EXPECT_TRUE(NeedsTokensAlone({.temperature = 0.5, .top_p = 0.5, .top_k = 3, .min_p = 0.1}));
  EXPECT_FALSE(NeedsTokensAlone({.repetition_penalty = 1.1}));
  EXPECT_FALSE(NeedsTokensAlone({.presence_penalty = 1}));
  EXPECT_FALSE(NeedsTokensAlone({.frequency_penalty = 1}));
  EXPECT_FALSE(NeedsTokensAlone({.logprobs = 0}));
  EXPECT_FALSE(NeedsTokensAlone({.logit_bias = {{1, 1.0}}}));
  Sampler sampler({}, {});
  EXPECT_EQ(sampler.Accept(5)->chosen.token_id, 5);
  EXPECT_EQ(sampler.Accept(-1).error().code(), StatusCode::kInternal);
}

TEST(Sampler, DrawsByItsRuleWithANumberForEachToken) {
  const SamplerOptions options{.temperature = 0.5,
                               .top_p = 0.9,
                               .top_k = int64_t{1} << 40,
                               .min_p = 0.01,
                               .seed = 3,
                               .vocab_limit = 90};
  Sampler here(options, {});
  Sampler elsewhere(options, {});
  std::mt19937_64 numbers(3);
  std::vector<float> logits(100);
  for (size_t id = 0; id < logits.size(); ++id) logits[id] = std::sin(static_cast<float>(id));
  for (int token = 0; token < 50; ++token) {
    EXPECT_EQ(elsewhere.rule(), (DrawRule{.below = 90,
                                          .top_k = std::numeric_limits<int32_t>::max(),
                                          .temperature = 0.5,
                                          .top_p = 0.9,
                                          .min_p = 0.01,
                                          .random = numbers()}));
    const int32_t drawn = DrawToken(logits, elsewhere.rule());
    ASSERT_TRUE(elsewhere.Accept(drawn).ok());
    EXPECT_EQ(DrawOne(here, logits), drawn);
  }
}

}  // namespace
}  // namespace winnow
