// The indexer's inner loops on every instruction set against its definition: scores bit by bit, and
// the sieve one score at a time.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>

#include "base/thread_pool.h"
#include "cpu/cpu_backend.h"
#include "cpu/dsa/caches.h"
#include "cpu/dsa/dsa_kernels.h"
#include "cpu/dsa/token_selection.h"
#include "dsa/lightning_indexer.h"
#include "tensor/tensor.h"

namespace winnow::cpu {
namespace {

constexpr int64_t kPageSize = 64;

std::vector<InstructionSet> Sets() {
  std::vector<InstructionSet> sets;
  for (const InstructionSet set : kInstructionSets) {
    if (IsSupported(set)) sets.push_back(set);
  }
  return sets;
}

class IndexerKernels : public testing::TestWithParam<InstructionSet> {
 protected:
  const LightningIndexerKernels& kernels() const { return DsaKernelsFor(GetParam()).indexer; }
};
INSTANTIATE_TEST_SUITE_P(Sets, IndexerKernels, testing::ValuesIn(Sets()),
                         [](const auto& info) { return InstructionSetName(info.param); });

// Sizes from far below 1 up to far above, so that the order of sums shows; zeros of both signs; and
// numbers so small that bfloat16 has no normal one for them.
float Draw(std::mt19937& random) {
  std::normal_distribution<float> normal;
  const unsigned kind = random() % 16;
  if (kind == 0) return normal(random) * 1e4f;
  if (kind == 1) return normal(random) * 1e-4f;
  if (kind == 2) return -0.0f;
  if (kind == 3) return normal(random) * 1e-39f;
  return normal(random);
}

// One page of keys, and queries of some tokens, in the form of `type`.
struct ScoreCase {
  ScoreCase(IndexKeyType type, int64_t num_tokens, int64_t heads, int64_t dim, unsigned seed)
      : type(type), num_tokens(num_tokens), heads(heads), dim(dim) {
    const FlushSubnormals flush;
    std::mt19937 random(seed);
    const int64_t page_bytes = IndexPageBytes(type, dim, kPageSize);
    page = HostBuffer(page_bytes);
    std::memset(page.data(), 0xff, page_bytes);
    const IndexCacheView cache = {.type = type,
                                  .index_dim = dim,
                                  .page_size = kPageSize,
                                  .page_bytes = page_bytes,
                                  .pages = {page.data(), DType::kU8, {1, page_bytes}}};
    keys.resize(kPageSize * dim);
    for (float& value : keys) value = Draw(random);
    for (int64_t key = 0; key < kPageSize; ++key) {
      scales.push_back(dsa::QuantizeIndexVector(type, keys.data() + key * dim, dim));
      StoreIndexKey(cache, key, keys.data() + key * dim, scales.back());
    }
    q.resize(num_tokens * heads * dim);
    for (float& value : q) value = Draw(random);
    for (size_t row = 0; row < q.size(); row += dim) {
      dsa::QuantizeIndexVector(type, q.data() + row, dim);
    }
    for (int64_t head = 0; head < num_tokens * heads; ++head) weights.push_back(Draw(random));
  }

  float Expected(int64_t token, int64_t key) const {
    const FlushSubnormals flush;
    return dsa::IndexScore(q.data() + token * heads * dim, weights.data() + token * heads,
                           keys.data() + key * dim, scales[key], heads, dim);
  }

  // Scores of the groups [first, first + count) for all tokens, [num_tokens, kPageSize].
  std::vector<float> Run(const LightningIndexerKernels& kernels, int64_t first,
                         int64_t count) const {
    const FlushSubnormals flush;
    const int64_t rows = num_tokens * heads;
    HostBuffer words(rows * (dim + 4) * 4 + 4);
    std::memset(words.data(), 0xee, words.size());
    const int64_t num_words = kernels.pack_queries(type, q.data(), rows, dim, words.data());
    EXPECT_LE(num_words, rows * (dim + 4));
    HostBuffer scratch(kPageSize * PaddedIndexDim(dim) * 4);
    std::vector<float> scores(num_tokens * kPageSize, -77);
    kernels.score({.type = type,
                   .q = words.data(),
                   .weights = weights.data(),
                   .num_tokens = num_tokens,
                   .index_heads = heads,
                   .index_dim = dim,
                   .page = page.data(),
                   .page_size = kPageSize,
                   .first_key = first * kKeyGroup,
                   .num_groups = count,
                   .key_scale = scales.data() + first * kKeyGroup,
                   .keys = scratch.data(),
                   .scores = scores.data(),
                   .scores_stride = kPageSize});
    return scores;
  }

  IndexKeyType type;
  int64_t num_tokens, heads, dim;
  HostBuffer page;
  std::vector<float> keys, scales, q, weights;
};

TEST_P(IndexerKernels, GiveTheScoresOfTheDefinitionToTheLastBit) {
  unsigned seed = 0;
  for (const IndexKeyType type :
       {IndexKeyType::kF32, IndexKeyType::kBf16, IndexKeyType::kE4m3, IndexKeyType::kInt8}) {
    for (const int64_t heads : {1, 2, 3, 4, 5, 6, 7, 8, 9, 15, 17, 64}) {
      for (const int64_t dim : {1, 2, 4, 16, 128, 2048}) {
        if (heads * dim > 8192) continue;
        for (const int64_t tokens : {1, 3}) {
          const ScoreCase score_case(type, tokens, heads, dim, ++seed);
          for (const auto& [first, count] : {std::pair{0, 4}, {1, 3}, {3, 1}}) {
            const std::vector<float> scores = score_case.Run(kernels(), first, count);
            for (int64_t token = 0; token < tokens; ++token) {
              for (int64_t key = 0; key < count * kKeyGroup; ++key) {
                const float expected = score_case.Expected(token, first * kKeyGroup + key);
                const float score = scores[token * kPageSize + key];
                ASSERT_EQ(std::memcmp(&score, &expected, sizeof(score)), 0)
                    << Name(type) << ", " << heads << " heads of " << dim << ", key " << key << ": "
                    << score << ", expected " << expected;
              }
            }
          }
        }
      }
    }
  }
}

// Heads of several tokens, of one and of parts of one fill a tile, and so do dimensions; or do not.
TEST_P(IndexerKernels, GiveTheScoresOfTheDefinitionForTilesOfCodes) {
  unsigned seed = 1000;
  for (const int64_t heads : {1, 3, 4, 16, 17, 64, 65, 130}) {
    for (const int64_t dim : {3, 16, 60, 64, 100, 128, 192}) {
      for (const int64_t tokens : {1, 4, 12, 17}) {
        if (heads * tokens > 200) continue;
        const ScoreCase score_case(IndexKeyType::kInt8, tokens, heads, dim, ++seed);
        const std::vector<float> scores = score_case.Run(kernels(), 2, 2);
        for (int64_t token = 0; token < tokens; ++token) {
          for (int64_t key = 0; key < 2 * kKeyGroup; ++key) {
            const float expected = score_case.Expected(token, 2 * kKeyGroup + key);
            const float score = scores[token * kPageSize + key];
            ASSERT_EQ(std::memcmp(&score, &expected, sizeof(score)), 0)
                << tokens << " tokens, " << heads << " heads of " << dim << ", key " << key << ": "
                << score << ", expected " << expected;
          }
        }
      }
    }
  }
}

TEST_P(IndexerKernels, MultiplyTheLargestCodesExactly) {
  for (const int64_t dim : {128, 1024}) {
    ScoreCase score_case(IndexKeyType::kInt8, 1, 1, dim, 1);
    for (const float sign : {1.0f, -1.0f}) {
      std::fill(score_case.q.begin(), score_case.q.end(), 127 * sign);
      std::fill(score_case.keys.begin(), score_case.keys.end(), 127 * sign);
      score_case.scales.assign(kPageSize, 1);
      score_case.weights = {1};
      const int64_t bytes = IndexPageBytes(IndexKeyType::kInt8, dim, kPageSize);
      for (int64_t key = 0; key < kPageSize; ++key) {
        StoreIndexKey({.type = IndexKeyType::kInt8,
                       .index_dim = dim,
                       .page_size = kPageSize,
                       .page_bytes = bytes,
                       .pages = {score_case.page.data(), DType::kU8, {1, bytes}}},
                      key, score_case.keys.data() + key * dim, 1);
      }
      const std::vector<float> scores = score_case.Run(kernels(), 0, 4);
      for (const float score : scores) EXPECT_EQ(score, static_cast<float>(127 * 127 * dim));
    }
  }
}

TEST_P(IndexerKernels, LetThroughWhatBeatsTheThreshold) {
  std::mt19937 random(3);
  std::normal_distribution<float> normal;
  for (int round = 0; round < 200; ++round) {
    const int64_t count = 1 + static_cast<int64_t>(random() % kMaxRun);
    std::vector<float> scores(count);
    for (float& score : scores) {
      const unsigned kind = random() % 10;
      score = kind == 0   ? NAN
              : kind == 1 ? INFINITY
              : kind == 2 ? -INFINITY
              : kind == 3 ? 0.5f
                          : normal(random);
    }
    const float thresholds[] = {0.5f, -INFINITY, INFINITY, -1.0f};
    const float* threshold = round % 5 == 4 ? nullptr : &thresholds[round % 5];
    const int32_t first = static_cast<int32_t>(random() % 1000000);
    std::vector<Candidate> out(count + kFilterSlack);
    const int64_t found = kernels().filter(scores.data(), count, first, threshold, out.data());
    int64_t next = 0;
    for (int64_t s = 0; s < count; ++s) {
      const bool passes = threshold ? scores[s] > *threshold : !std::isnan(scores[s]);
      if (!passes) continue;
      ASSERT_LT(next, found);
      EXPECT_EQ(PositionOf(out[next]), first + s);
      EXPECT_EQ(ScoreOf(out[next]), scores[s]);
      ++next;
    }
    EXPECT_EQ(next, found);
  }
}

TEST_P(IndexerKernels, NormaliseWithSumsOfSixteenChains) {
  const FlushSubnormals flush;
  std::mt19937 random(6);
  for (const int64_t size : {1, 15, 16, 17, 96, 128, 150}) {
    std::vector<float> x(size), weight(size), bias(size), out(size);
    for (std::vector<float>* values : {&x, &weight, &bias}) {
      for (float& value : *values) value = Draw(random);
    }
    const auto add_up = [&](const auto& term) {
      float chains[16] = {};
      for (int64_t k = 0; k < size; ++k) chains[k % 16] += term(k);
      for (int distance = 8; distance > 0; distance /= 2) {
        for (int i = 0; i < distance; ++i) chains[i] += chains[i + distance];
      }
      return chains[0];
    };
    const float count = static_cast<float>(size);
    const float mean = add_up([&](int64_t k) { return x[k]; }) / count;
    const float variance = add_up([&](int64_t k) { return (x[k] - mean) * (x[k] - mean); }) / count;
    const float scale = 1.0f / std::sqrt(variance + 1e-6f);
    kernels().layer_norm(x.data(), weight.data(), bias.data(), 1e-6f, size, out.data());
    for (int64_t k = 0; k < size; ++k) {
      EXPECT_EQ(out[k], (x[k] - mean) * scale * weight[k] + bias[k]) << k << " of " << size;
    }
  }
}

TEST_P(IndexerKernels, TransformAsTheDefinition) {
  const FlushSubnormals flush;
  std::mt19937 random(3);
  for (const int64_t size : {1, 2, 4, 8, 16, 32, 64, 128, 256, 1024}) {
    std::vector<float> expected(size);
    for (float& value : expected) value = Draw(random);
    std::vector<float> x = expected;
    dsa::HadamardTransform(expected.data(), size);
    kernels().hadamard(x.data(), size);
    EXPECT_EQ(std::memcmp(x.data(), expected.data(), size * sizeof(float)), 0) << size;
  }
}

TEST_P(IndexerKernels, QuantizeAsTheDefinition) {
  const FlushSubnormals flush;
  std::mt19937 random(4);
  for (const IndexKeyType type : {IndexKeyType::kE4m3, IndexKeyType::kInt8}) {
    for (int64_t size = 1; size < 150; ++size) {
      std::vector<float> expected(size);
      for (float& value : expected) value = Draw(random) * (size % 3 == 0 ? 1e-36f : 1.0f);
      std::vector<float> x = expected;
      const float max = kernels().finite_max(x.data(), size);
      EXPECT_EQ(max, dsa::FiniteMax(expected.data(), size)) << size;
      const float scale = dsa::IndexVectorScale(type, max);
      dsa::QuantizeByScale(type, scale, expected.data(), size);
      kernels().quantize(type, scale, x.data(), size);
      EXPECT_EQ(std::memcmp(x.data(), expected.data(), size * sizeof(float)), 0) << size;
    }
  }
}

TEST_P(IndexerKernels, FindNoMaximumWhereANumberIsNotFinite) {
  for (const float value : {INFINITY, -INFINITY, NAN}) {
    for (const int64_t at : {0, 15, 16, 18}) {
      std::vector<float> x(19, 1.0f);
      x[at] = value;
      EXPECT_TRUE(std::isnan(kernels().finite_max(x.data(), 19))) << value << " at " << at;
    }
  }
}

}  // namespace
}  // namespace winnow::cpu
