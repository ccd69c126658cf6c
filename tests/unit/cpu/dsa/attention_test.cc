// Attention on the CPU against the definition, and against itself: equal bits on every instruction
// set, for every number of threads and any cut of the batch.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "dsa_problem.h"

namespace winnow::cpu {
namespace {

std::vector<int32_t> Range(int32_t first, int32_t last) {
  std::vector<int32_t> positions;
  for (int32_t position = first; position < last; ++position) positions.push_back(position);
  return positions;
}

bool SameBits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

const std::vector<NamedBackend>& Backends() {
  static const std::vector<NamedBackend>* backends = new auto(AllBackends());
  return *backends;
}

void ExpectTheDefinition(const AttentionProblem& problem, const std::string& what) {
  static unsigned seed = 0;
  const AttentionCase problem_case(problem, ++seed);
  const std::vector<float> expected = problem_case.Expected();
  const std::vector<float> first = problem_case.Run(*Backends()[0].backend);
  // Values are of size 1 and weights add up to 1; a score of size s is off by s times the rounding
  // of its sum, and moves a weight by that share.
  const float scores = problem.q_size * problem.softmax_scale *
                       std::sqrt(static_cast<float>(problem.latent_dim + problem.rope_dim));
  const float tolerance = 2e-6f * (1 + 4 * scores);
  for (size_t k = 0; k < expected.size(); ++k) {
    ASSERT_NEAR(first[k], expected[k], tolerance) << what << " at " << k;
  }
  for (const NamedBackend& named : Backends()) {
    for (int64_t chunk : {int64_t{1} << 30, int64_t{1}, int64_t{7}}) {
      ASSERT_TRUE(SameBits(problem_case.Run(*named.backend, chunk), first))
          << what << ", " << named.name << ", " << chunk;
    }
  }
}

constexpr LatentType kTypes[] = {LatentType::kF32, LatentType::kBf16, LatentType::kFp8};

TEST(Attention, GivesWhatTheDefinitionGivesForEveryLatentType) {
  for (LatentType type : kTypes) {
    ExpectTheDefinition(
        {.type = type, .topk = 70, .sequences = {{200, {199, 3, 0}}, {150, Range(120, 130)}}},
        std::string("sparse ") + Name(type));
    ExpectTheDefinition({.type = type, .sequences = {{200, {199, 3, 0}}, {150, Range(60, 70)}}},
                        std::string("dense ") + Name(type));
  }
}

TEST(Attention, HoldsForEveryNumberOfHeads) {
  for (int64_t heads : {1, 2, 3, 4, 5, 6, 7, 11, 63, 64, 65, 128}) {
    for (int64_t topk : {0, 40}) {
      ExpectTheDefinition({.num_heads = heads,
                           .latent_dim = 64,
                           .rope_dim = 16,
                           .topk = topk,
                           .sequences = {{80, {79, 5, 6, 7}}}},
                          std::to_string(heads) + " heads");
    }
  }
}

TEST(Attention, HoldsForRowsThatFillNoVector) {
  for (LatentType type : kTypes) {
    for (int64_t latent_dim : {8, 24, 72, 130, 200}) {
      for (int64_t rope_dim : {2, 6, 20}) {
        for (int64_t topk : {0, 30}) {
          ExpectTheDefinition({.type = type,
                               .num_heads = 5,
                               .latent_dim = latent_dim,
                               .rope_dim = rope_dim,
                               .topk = topk,
                               .sequences = {{70, {69, 31}}}},
                              Name(type));
        }
      }
    }
  }
}

TEST(Attention, HoldsAroundTheEdgesOfTiles) {
  for (int64_t length : {1, 2, 63, 64, 65, 127, 128, 129, 640}) {
    for (int64_t topk : {int64_t{0}, int64_t{1}, length - 1, length, length + 1}) {
      if (topk < 0) continue;
      ExpectTheDefinition({.latent_dim = 32,
                           .rope_dim = 16,
                           .topk = topk,
                           .page_size = 16,
                           .sequences = {{length, {static_cast<int32_t>(length) - 1}}}},
                          std::to_string(length) + " rows, K = " + std::to_string(topk));
    }
  }
}

TEST(Attention, SurvivesASharpSoftmax) {
  ExpectTheDefinition({.topk = 100, .q_size = 100, .sequences = {{300, {299, 250}}}}, "sharp");
}

TEST(Attention, IsTheSameDenseOrWithEverythingSelected) {
  for (LatentType type : kTypes) {
    const AttentionCase problem_case(
        {.type = type, .sequences = {{300, {299, 298, 5}}, {129, Range(100, 129)}}}, 5);
    const std::vector<float> dense = problem_case.Run(*Backends()[0].backend);
    for (const NamedBackend& named : Backends()) {
      EXPECT_TRUE(SameBits(problem_case.Run(*named.backend), dense)) << named.name;
      EXPECT_TRUE(SameBits(problem_case.RunWithEverythingSelected(*named.backend), dense))
          << named.name;
    }
  }
}

}  // namespace
}  // namespace winnow::cpu
