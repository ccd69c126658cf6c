// Attention on the CPU against the definition, and against itself: equal bits on every instruction
// set, for every number of threads and any cut of the batch.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>

#include "dsa_problem.h"
#include "tensor/half.h"

namespace winnow::cpu {
namespace {

bool SameBits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

const std::vector<NamedBackend>& Backends() {
  static const std::vector<NamedBackend>* backends = new auto(AllBackends());
  return *backends;
}

const std::vector<NamedBackend>& RoundingBackends() {
  static const std::vector<NamedBackend>* backends = new auto(AllBackends(Sums::kPairs));
  return *backends;
}

const std::vector<NamedBackend>& TileBackends() {
  static const std::vector<NamedBackend>* backends = new auto(AllBackends(Sums::kTiles));
  return *backends;
}

void ExpectEqualBits(const AttentionCase& problem_case, const std::vector<NamedBackend>& backends,
                     const std::vector<float>& first, const std::string& what) {
  for (const NamedBackend& named : backends) {
    for (int64_t chunk : {int64_t{1} << 30, int64_t{1}, int64_t{7}}) {
      ASSERT_TRUE(SameBits(problem_case.Run(*named.backend, chunk), first))
          << what << ", " << named.name << ", " << chunk;
    }
  }
}

void ExpectTheDefinition(const AttentionProblem& problem, const std::string& what) {
  static unsigned seed = 0;
  const AttentionCase problem_case(problem, ++seed);
  const std::vector<float> expected = problem_case.Expected();
  // Values are of size 1 and weights add up to 1; a score of size s is off by s times the rounding
  // of its sum, and moves a weight by that share.
  const float scores = problem.q_size * problem.softmax_scale *
                       std::sqrt(static_cast<float>(problem.latent_dim + problem.rope_dim));
  const std::vector<float> first = problem_case.Run(*Backends()[0].backend);
  for (size_t k = 0; k < expected.size(); ++k) {
    ASSERT_NEAR(first[k], expected[k], 2e-6f * (1 + 4 * scores)) << what << " at " << k;
  }
  ExpectEqualBits(problem_case, Backends(), first, what);
  // In bf16 precision queries, rows and weights are each off by 2^-9 of their size at
  // most, and a score by the root of how many products it sums.
  for (const auto* backends : {&RoundingBackends(), &TileBackends()}) {
    if (backends->empty()) continue;
    const std::vector<float> rounded = problem_case.Run(*backends->front().backend);
    for (size_t k = 0; k < expected.size(); ++k) {
      ASSERT_NEAR(rounded[k], expected[k],
                  0x1p-9f * (4 + 8 * scores) * (1 + std::fabs(expected[k])))
          << what << ", " << backends->front().name << ", bf16, at " << k;
    }
    ExpectEqualBits(problem_case, *backends, rounded, what + ", bf16");
  }
}

constexpr LatentType kLatentTypes[] = {LatentType::kF32, LatentType::kBf16, LatentType::kFp8};

TEST(Attention, GivesWhatTheDefinitionGivesForEveryLatentType) {
  for (LatentType type : kLatentTypes) {
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
  for (LatentType type : kLatentTypes) {
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

// Rows that kernels may read where they are cached, for heads few and many.
TEST(Attention, HoldsForRowsThatFillTheirVectors) {
  for (LatentType type : kLatentTypes) {
    for (int64_t heads : {1, 6, 8, 23, 24, 25}) {
      for (int64_t topk : {int64_t{0}, int64_t{1}, int64_t{63}, int64_t{66}, int64_t{131}}) {
        ExpectTheDefinition({.type = type,
                             .num_heads = heads,
                             .latent_dim = 160,
                             .rope_dim = 32,
                             .topk = topk,
                             .sequences = {{200, {199, 131, 66, 0}}}},
                            std::to_string(heads) + " heads, K = " + std::to_string(topk));
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
  for (LatentType type : kLatentTypes) {
    for (const auto* backends : {&Backends(), &RoundingBackends(), &TileBackends()}) {
      if (backends->empty()) continue;
      const AttentionCase problem_case(
          {.type = type, .sequences = {{300, {299, 298, 5}}, {129, Range(100, 129)}}}, 5);
      const std::vector<float> dense = problem_case.Run(*backends->front().backend);
      for (const NamedBackend& named : *backends) {
        EXPECT_TRUE(SameBits(problem_case.Run(*named.backend), dense)) << named.name;
        EXPECT_TRUE(SameBits(problem_case.RunWithEverythingSelected(*named.backend), dense))
            << named.name;
      }
    }
  }
}

TEST(Attention, RoundsInBfloat16Precision) {
  // One head, two rows with scores of ln 3 and 0: 3/4 and 1/4 of them. Against the larger the
  // second weighs 1/3, which bfloat16 holds as 0x1.56p-2, and the query 1 + 2^-9 becomes 1.
  const float kLn3 = 1.0986123f;
  AttentionProblem problem = {.num_heads = 1,
                              .latent_dim = 16,
                              .rope_dim = 2,
                              .softmax_scale = kLn3,
                              .sequences = {{2, {1}}}};
  AttentionCase problem_case(problem, 7);
  std::vector<float> q(18, 0.0f);
  q[0] = 1 + 0x1p-9f;
  std::vector<float> first(18, 0.0f), second(18, 0.0f);
  first[0] = 1;
  first[1] = 1;
  second[2] = 1;
  problem_case.Set(q, {first, second});
  const float third = 0x1.56p-2f;
  for (const auto* backends : {&RoundingBackends(), &TileBackends()}) {
    for (const NamedBackend& named : *backends) {
      const std::vector<float> out = problem_case.Run(*named.backend);
      EXPECT_EQ(out[1], 1 / (1 + third)) << named.name;
      EXPECT_EQ(out[2], third * (1 / (1 + third))) << named.name;
      EXPECT_EQ(out[3], 0) << named.name;
    }
  }
}

TEST(Attention, KeepsTheFutureOutOfOddTiles) {
  // The row after the last of an odd number is not finite, and in the same call.
  for (const auto* backends : {&Backends(), &RoundingBackends(), &TileBackends()}) {
    AttentionCase problem_case(
        {.num_heads = 2, .latent_dim = 32, .rope_dim = 2, .sequences = {{2, {0, 1}}}}, 8);
    problem_case.Set(std::vector<float>(2 * 2 * 34, 0.5f),
                     {std::vector<float>(34, 1.0f), std::vector<float>(34, INFINITY)});
    for (const NamedBackend& named : *backends) {
      const std::vector<float> out = problem_case.Run(*named.backend);
      for (int k = 0; k < 64; ++k) EXPECT_EQ(out[k], 1) << named.name;
    }
  }
}

TEST(Attention, LeavesRowsOutThatOthersRead) {
  // Tokens side by side share what is read of the cache. A row that is not finite is the business
  // of those that select it.
  for (const auto* backends : {&Backends(), &RoundingBackends(), &TileBackends()}) {
    for (const NamedBackend& named : *backends) {
      const int64_t row_dim = 48;
      AttentionCase problem_case({.num_heads = 3,
                                  .latent_dim = 32,
                                  .rope_dim = 16,
                                  .topk = 60,
                                  .sequences = {{130, Range(110, 130)}}},
                                 11);
      std::mt19937 random(12);
      std::normal_distribution<float> normal;
      std::vector<float> q(20 * 3 * row_dim);
      for (float& value : q) value = normal(random);
      std::vector<std::vector<float>> rows(130, std::vector<float>(row_dim));
      for (auto& row : rows) {
        for (float& value : row) value = normal(random);
      }
      problem_case.Set(q, rows);
      const std::vector<float> finite = problem_case.Run(*named.backend);
      std::fill(rows[70].begin(), rows[70].end(), INFINITY);
      problem_case.Set(q, rows);
      const std::vector<float> out = problem_case.Run(*named.backend);
      int readers = 0;
      for (int64_t token = 0; token < 20; ++token) {
        const std::vector<int32_t> selected = problem_case.Selected(token);
        const bool reads = std::binary_search(selected.begin(), selected.end(), 70);
        readers += reads;
        const int64_t first = token * 3 * 32;
        EXPECT_NE(
            std::equal(out.begin() + first, out.begin() + first + 3 * 32, finite.begin() + first),
            reads)
            << named.name << ", token " << token;
      }
      EXPECT_TRUE(readers > 0 && readers < 20) << readers;
    }
  }
}

// The sum of rows as tiles make it, 0 at places where a row is left out: of each 32 places of a
// tile of 64, the even ones and the odd ones are a chain each.
float SumByTiles(const std::vector<float>& places) {
  const int64_t count = static_cast<int64_t>(places.size());
  float total = 0;
  for (int64_t tile = 0; tile < count; tile += 64) {
    float sum = 0;
    for (int64_t block = tile; block < std::min(count, tile + 64); block += 32) {
      float chains[2] = {};
      for (int64_t row = block; row < std::min(count, block + 32); ++row) {
        chains[row % 2] += places[row];
      }
      sum += chains[0] + chains[1];
    }
    total += sum;
  }
  return total;
}

// Of each position and column, for contexts of up to `length`.
std::vector<std::vector<float>> RandomRows(int64_t length, int64_t row_dim) {
  std::mt19937 random(static_cast<unsigned>(length));
  std::normal_distribution<float> normal;
  std::vector<std::vector<float>> rows(length, std::vector<float>(row_dim));
  for (auto& row : rows) {
    for (float& value : row) value = RoundToBf16(normal(random));
  }
  return rows;
}

TEST(Attention, AddsRowsByTilesInBlocksOf32) {
  // With queries of zeros all rows weigh 1, and a mean is a sum by the number of rows.
  for (const int32_t length : {1, 2, 31, 32, 33, 63, 64, 65, 97, 200}) {
    const int64_t row_dim = 96;
    const std::vector<std::vector<float>> rows = RandomRows(length, row_dim);
    AttentionCase problem_case(
        {.num_heads = 3, .latent_dim = 64, .rope_dim = 32, .sequences = {{length, {length - 1}}}},
        9);
    problem_case.Set(std::vector<float>(3 * row_dim, 0.0f), rows);
    for (const NamedBackend& named : TileBackends()) {
      const std::vector<float> out = problem_case.Run(*named.backend);
      for (int64_t k = 0; k < 3 * 64; ++k) {
        std::vector<float> places;
        for (const auto& row : rows) places.push_back(row[k % 64]);
        ASSERT_EQ(out[k], SumByTiles(places) * (1.0f / static_cast<float>(length)))
            << named.name << " " << k;
      }
    }
  }
}

TEST(Attention, LaysFewHeadsRowsByPositionWhileASelectionIsDense) {
  // At four positions a row and fewer, tiles are of positions; beyond, and with more than eight
  // heads, of rows of the list.
  const int64_t row_dim = 96;
  const int32_t length = 300;
  const std::vector<std::vector<float>> rows = RandomRows(length, row_dim);
  for (const int64_t heads : {1, 6, 8, 9}) {
    AttentionCase problem_case({.num_heads = heads,
                                .latent_dim = 64,
                                .rope_dim = 32,
                                .topk = 70,
                                .sequences = {{length, {70, 71, 200, 278, 279, 280, 281, 299}}}},
                               10);
    problem_case.Set(std::vector<float>(8 * heads * row_dim, 0.0f), rows);
    for (const NamedBackend& named : TileBackends()) {
      const std::vector<float> out = problem_case.Run(*named.backend);
      for (int64_t token = 0; token < 8; ++token) {
        const int32_t context = std::vector{70, 71, 200, 278, 279, 280, 281, 299}[token] + 1;
        const std::vector<int32_t> selected = problem_case.Selected(token);
        const int64_t count = static_cast<int64_t>(selected.size());
        const bool by_position = heads <= 8 && context <= 4 * count;
        for (int64_t k = 0; k < heads * 64 && count > 0; ++k) {
          std::vector<float> places(by_position ? context : 0);
          for (const int32_t position : selected) {
            const float value = rows[position][k % 64];
            by_position ? void(places[position] = value) : places.push_back(value);
          }
          ASSERT_EQ(out[token * heads * 64 + k],
                    SumByTiles(places) * (1.0f / static_cast<float>(count)))
              << named.name << ", token " << token << ", " << k;
        }
      }
    }
  }
}

}  // namespace
}  // namespace winnow::cpu
