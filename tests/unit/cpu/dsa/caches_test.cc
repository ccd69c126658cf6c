// What is written to the two caches, against norms, rotations and quantizers made here in doubles.
#include "cpu/dsa/caches.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <random>

#include "base/thread_pool.h"
#include "dsa/lightning_indexer.h"
#include "dsa_problem.h"
#include "tensor/half.h"

namespace winnow::cpu {
namespace {

constexpr int64_t kPositions = 40;

// Angles of `pairs` pairs for every position, in both layouts.
struct Rope {
  Rope(int64_t pairs, bool half_split) : pairs(pairs), half_split(half_split) {
    for (int64_t position = 0; position < kPositions; ++position) {
      for (double (*function)(double) :
           {static_cast<double (*)(double)>(std::cos), static_cast<double (*)(double)>(std::sin)}) {
        for (int64_t pair = 0; pair < pairs; ++pair) {
          table.push_back(static_cast<float>(function(Angle(position, pair))));
        }
      }
    }
  }
  double Angle(int64_t position, int64_t pair) const {
    return static_cast<double>(position) *
           std::pow(100.0, -static_cast<double>(pair) / static_cast<double>(pairs));
  }
  RopeTable view() const {
    return {.cos_sin = {table.data(), DType::kF32, {kPositions, 2, pairs}},
            .half_split = half_split};
  }
  void Turn(int64_t position, double* x) const {
    for (int64_t pair = 0; pair < pairs; ++pair) {
      double& first = half_split ? x[pair] : x[2 * pair];
      double& second = half_split ? x[pair + pairs] : x[2 * pair + 1];
      const double angle = Angle(position, pair);
      const double turned = first * std::cos(angle) - second * std::sin(angle);
      second = first * std::sin(angle) + second * std::cos(angle);
      first = turned;
    }
  }

  int64_t pairs;
  bool half_split;
  std::vector<float> table;
};

std::vector<float> RandomFloats(int64_t size, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0.3f, 1.5f);
  std::vector<float> values(size);
  for (float& value : values) value = normal(random);
  return values;
}

// Three tokens in slots that are neither neighbours nor in order.
std::vector<int32_t> kTokenPositions = {0, 17, 39};
std::vector<int32_t> kTokenSlots = {33, 2, 95};
constexpr int64_t kSlots = 96;

// ---- Latent rows --------------------------------------------------------------------------------

struct LatentShape {
  int64_t latent_dim = 0;
  int64_t rope_dim = 0;
};
constexpr LatentShape kLatentShapes[] = {{512, 64}, {64, 16}, {200, 6}};

std::vector<uint8_t> WriteLatentRows(Backend& backend, LatentType type, LatentShape shape,
                                     const Rope& rope, const std::vector<float>& kv_a,
                                     const std::vector<float>& weight) {
  const int64_t row_bytes = LatentRowBytes(type, shape.latent_dim, shape.rope_dim);
  std::vector<uint8_t> rows(kSlots * row_bytes, 0xcd);
  backend.WriteLatent({.kv_a = {kv_a.data(), DType::kF32, {3, shape.latent_dim + shape.rope_dim}},
                       .kv_a_layernorm = {weight.data(), DType::kF32, {shape.latent_dim}},
                       .eps = 1e-5f,
                       .positions = {kTokenPositions.data(), DType::kI32, {3}},
                       .slots = {kTokenSlots.data(), DType::kI32, {3}},
                       .rope = rope.view(),
                       .cache = {.type = type,
                                 .latent_dim = shape.latent_dim,
                                 .rope_dim = shape.rope_dim,
                                 .row_bytes = row_bytes,
                                 .rows = {rows.data(), DType::kU8, {kSlots, row_bytes}}}});
  return rows;
}

std::vector<float> RowOf(const std::vector<uint8_t>& rows, int64_t slot, int64_t row_dim) {
  std::vector<float> row(row_dim);
  std::memcpy(row.data(), rows.data() + slot * row_dim * 4, row_dim * 4);
  return row;
}

TEST(WriteLatent, NormalisesTheLatentAndTurnsTheRotaryKey) {
  for (const LatentShape& shape : kLatentShapes) {
    for (bool half_split : {false, true}) {
      const Rope rope(shape.rope_dim / 2, half_split);
      const int64_t row_dim = shape.latent_dim + shape.rope_dim;
      const std::vector<float> kv_a = RandomFloats(3 * row_dim, 1);
      const std::vector<float> weight = RandomFloats(shape.latent_dim, 2);
      for (const NamedBackend& named : AllBackends()) {
        const std::vector<uint8_t> rows =
            WriteLatentRows(*named.backend, LatentType::kF32, shape, rope, kv_a, weight);
        for (int64_t token = 0; token < 3; ++token) {
          std::vector<double> x(kv_a.begin() + token * row_dim,
                                kv_a.begin() + (token + 1) * row_dim);
          double squares = 0;
          for (int64_t c = 0; c < shape.latent_dim; ++c) squares += x[c] * x[c];
          const double rms = std::sqrt(squares / static_cast<double>(shape.latent_dim) + 1e-5);
          for (int64_t c = 0; c < shape.latent_dim; ++c) x[c] = x[c] / rms * weight[c];
          rope.Turn(kTokenPositions[token], x.data() + shape.latent_dim);
          const std::vector<float> row = RowOf(rows, kTokenSlots[token], row_dim);
          for (int64_t k = 0; k < row_dim; ++k) ASSERT_NEAR(row[k], x[k], 1e-5) << named.name;
        }
        EXPECT_EQ(rows[0], 0xcd) << "slot 0 was not to be written";
      }
    }
  }
}

TEST(WriteLatent, RoundsToBfloat16) {
  for (const LatentShape& shape : kLatentShapes) {
    const Rope rope(shape.rope_dim / 2, false);
    const int64_t row_dim = shape.latent_dim + shape.rope_dim;
    const std::vector<float> kv_a = RandomFloats(3 * row_dim, 3);
    const std::vector<float> weight = RandomFloats(shape.latent_dim, 4);
    for (const NamedBackend& named : AllBackends()) {
      const std::vector<uint8_t> exact =
          WriteLatentRows(*named.backend, LatentType::kF32, shape, rope, kv_a, weight);
      const std::vector<uint8_t> rows =
          WriteLatentRows(*named.backend, LatentType::kBf16, shape, rope, kv_a, weight);
      for (int32_t slot : kTokenSlots) {
        const std::vector<float> row = RowOf(exact, slot, row_dim);
        for (int64_t k = 0; k < row_dim; ++k) {
          uint16_t stored;
          std::memcpy(&stored, rows.data() + (slot * row_dim + k) * 2, 2);
          ASSERT_EQ(stored, FloatToBf16(row[k]));
        }
      }
    }
  }
}

// The rule of the official quantizer, made in doubles: one power of two for up to 128 values, and
// the nearest code to each quotient.
TEST(WriteLatent, QuantizesBlocksOf128ToE4m3) {
  for (const LatentShape& shape : kLatentShapes) {
    const Rope rope(shape.rope_dim / 2, false);
    const int64_t row_dim = shape.latent_dim + shape.rope_dim;
    std::vector<float> kv_a = RandomFloats(3 * row_dim, 5);
    for (int64_t c = 0; c < std::min<int64_t>(128, shape.latent_dim); ++c) kv_a[c] *= 1e-8f;
    const std::vector<float> weight = RandomFloats(shape.latent_dim, 6);
    const int64_t blocks = (shape.latent_dim + 127) / 128;
    const int64_t row_bytes = LatentRowBytes(LatentType::kFp8, shape.latent_dim, shape.rope_dim);
    ASSERT_EQ(row_bytes, shape.latent_dim + 4 * blocks + 2 * shape.rope_dim);
    for (const NamedBackend& named : AllBackends()) {
      const std::vector<uint8_t> exact =
          WriteLatentRows(*named.backend, LatentType::kF32, shape, rope, kv_a, weight);
      const std::vector<uint8_t> rows =
          WriteLatentRows(*named.backend, LatentType::kFp8, shape, rope, kv_a, weight);
      for (int32_t slot : kTokenSlots) {
        const std::vector<float> row = RowOf(exact, slot, row_dim);
        const uint8_t* stored = rows.data() + slot * row_bytes;
        for (int64_t block = 0; block < blocks; ++block) {
          const int64_t end = std::min(shape.latent_dim, (block + 1) * 128);
          float max = 1e-4f;
          for (int64_t c = block * 128; c < end; ++c) max = std::max(max, std::fabs(row[c]));
          float scale;
          std::memcpy(&scale, stored + shape.latent_dim + 4 * block, 4);
          ASSERT_EQ(scale, std::exp2(std::ceil(std::log2(static_cast<double>(max / 448)))));
          for (int64_t c = block * 128; c < end; ++c) {
            const double wanted = static_cast<double>(row[c]) / scale;
            const double error = std::fabs(E4m3ToFloat(stored[c]) - wanted);
            for (int code = 0; code < 256; ++code) {
              if ((code & 0x7f) == 0x7f) continue;
              ASSERT_LE(error, std::fabs(E4m3ToFloat(static_cast<uint8_t>(code)) - wanted));
            }
          }
        }
        for (int64_t k = 0; k < shape.rope_dim; ++k) {
          uint16_t rotary;
          std::memcpy(&rotary, stored + shape.latent_dim + 4 * blocks + 2 * k, 2);
          ASSERT_EQ(rotary, FloatToBf16(row[shape.latent_dim + k]));
        }
      }
    }
  }
}

TEST(WriteLatent, RoundsNothingButWhatItStores) {
  const LatentShape shape{64, 16};
  const Rope rope(8, false);
  const std::vector<float> kv_a = RandomFloats(3 * 80, 7);
  const std::vector<float> weight = RandomFloats(64, 8);
  const std::vector<NamedBackend> exact_backends = AllBackends();
  const std::vector<uint8_t> exact =
      WriteLatentRows(*exact_backends[0].backend, LatentType::kF32, shape, rope, kv_a, weight);
  for (const Sums sums : {Sums::kPairs, Sums::kTiles}) {
    for (const NamedBackend& named : AllBackends(sums)) {
      EXPECT_EQ(WriteLatentRows(*named.backend, LatentType::kF32, shape, rope, kv_a, weight),
                exact);
    }
  }
}

// ---- Index keys and queries ---------------------------------------------------------------------

struct IndexShape {
  int64_t index_dim = 0;
  int64_t rope_dim = 0;
};
constexpr IndexShape kIndexShapes[] = {{128, 64}, {16, 16}, {64, 0}};

struct WrittenKeys {
  std::vector<float> codes;  // [3, J]
  std::vector<float> scales;
};

WrittenKeys WriteKeys(Backend& backend, IndexKeyType type, int64_t index_dim, const Rope& rope,
                      const std::vector<float>& k, const std::vector<float>& weight,
                      const std::vector<float>& bias) {
  constexpr int64_t kPageSize = 32;
  const int64_t page_bytes = IndexPageBytes(type, index_dim, kPageSize);
  std::vector<uint8_t> pages(kSlots / kPageSize * page_bytes, 0xcd);
  const IndexCacheView cache = {
      .type = type,
      .index_dim = index_dim,
      .page_size = kPageSize,
      .page_bytes = page_bytes,
      .pages = {pages.data(), DType::kU8, {kSlots / kPageSize, page_bytes}}};
  backend.WriteIndexKeys({.k = {k.data(), DType::kF32, {3, index_dim}},
                          .k_norm_weight = {weight.data(), DType::kF32, {index_dim}},
                          .k_norm_bias = {bias.data(), DType::kF32, {index_dim}},
                          .eps = 1e-6f,
                          .positions = {kTokenPositions.data(), DType::kI32, {3}},
                          .slots = {kTokenSlots.data(), DType::kI32, {3}},
                          .rope = rope.view(),
                          .cache = cache});
  WrittenKeys written;
  for (int32_t slot : kTokenSlots) {
    const uint8_t* page = IndexPage(cache, slot / kPageSize);
    // Codes of four dimensions lie together for int8, of two for bf16.
    const int64_t n = type == IndexKeyType::kInt8 ? 4 : type == IndexKeyType::kBf16 ? 2 : 1;
    for (int64_t j = 0; j < index_dim; ++j) {
      const int64_t at = (j / n * kPageSize + slot % kPageSize) * n + j % n;
      if (type == IndexKeyType::kF32) {
        written.codes.push_back(reinterpret_cast<const float*>(page)[at]);
      } else if (type == IndexKeyType::kBf16) {
        written.codes.push_back(Bf16ToFloat(reinterpret_cast<const uint16_t*>(page)[at]));
      } else if (type == IndexKeyType::kE4m3) {
        written.codes.push_back(E4m3ToFloat(page[at]));
      } else {
        written.codes.push_back(static_cast<int8_t>(page[at]));
      }
    }
    const float* scales = IndexScales(cache, slot / kPageSize);
    written.scales.push_back(scales ? scales[slot % kPageSize] : 1);
  }
  return written;
}

TEST(WriteIndexKeys, NormalisesAndTurnsTheFirstDimensions) {
  for (const IndexShape& shape : kIndexShapes) {
    for (bool half_split : {false, true}) {
      const int64_t dim = shape.index_dim;
      const Rope rope(shape.rope_dim / 2, half_split);
      const std::vector<float> k = RandomFloats(3 * dim, 9);
      const std::vector<float> weight = RandomFloats(dim, 10);
      const std::vector<float> bias = RandomFloats(dim, 11);
      for (const NamedBackend& named : AllBackends()) {
        const WrittenKeys written =
            WriteKeys(*named.backend, IndexKeyType::kF32, dim, rope, k, weight, bias);
        for (int64_t token = 0; token < 3; ++token) {
          std::vector<double> x(k.begin() + token * dim, k.begin() + (token + 1) * dim);
          double mean = 0;
          for (double value : x) mean += value / static_cast<double>(dim);
          double variance = 0;
          for (double value : x) variance += (value - mean) * (value - mean);
          variance /= static_cast<double>(dim);
          for (int64_t j = 0; j < dim; ++j) {
            x[j] = (x[j] - mean) / std::sqrt(variance + 1e-6) * weight[j] + bias[j];
          }
          rope.Turn(kTokenPositions[token], x.data());
          for (int64_t j = 0; j < dim; ++j) {
            ASSERT_NEAR(written.codes[token * dim + j], x[j], 2e-5) << named.name;
          }
        }
      }
    }
  }
}

TEST(WriteIndexKeys, StoresTheFormOfEachType) {
  for (const IndexShape& shape : kIndexShapes) {
    const int64_t dim = shape.index_dim;
    const Rope rope(shape.rope_dim / 2, true);
    const std::vector<float> k = RandomFloats(3 * dim, 12);
    const std::vector<float> weight = RandomFloats(dim, 13);
    const std::vector<float> bias = RandomFloats(dim, 14);
    for (const NamedBackend& named : AllBackends()) {
      const WrittenKeys exact =
          WriteKeys(*named.backend, IndexKeyType::kF32, dim, rope, k, weight, bias);
      for (IndexKeyType type : {IndexKeyType::kBf16, IndexKeyType::kE4m3, IndexKeyType::kInt8}) {
        const WrittenKeys written = WriteKeys(*named.backend, type, dim, rope, k, weight, bias);
        for (int64_t token = 0; token < 3; ++token) {
          const FlushSubnormals flush;
          std::vector<float> x(exact.codes.begin() + token * dim,
                               exact.codes.begin() + (token + 1) * dim);
          if (type != IndexKeyType::kBf16) dsa::HadamardTransform(x.data(), dim);
          ASSERT_EQ(written.scales[token], dsa::QuantizeIndexVector(type, x.data(), dim));
          for (int64_t j = 0; j < dim; ++j) ASSERT_EQ(written.codes[token * dim + j], x[j]);
        }
      }
    }
  }
}

TEST(WriteIndexKeys, MarksAKeyThatIsNotFinite) {
  std::vector<float> k = RandomFloats(3 * 16, 15);
  k[20] = NAN;
  const Rope rope(8, false);
  const std::vector<float> ones(16, 1.0f);
  for (IndexKeyType type : {IndexKeyType::kE4m3, IndexKeyType::kInt8}) {
    for (const NamedBackend& named : AllBackends()) {
      const WrittenKeys written = WriteKeys(*named.backend, type, 16, rope, k, ones, ones);
      EXPECT_FALSE(std::isnan(written.scales[0]));
      EXPECT_TRUE(std::isnan(written.scales[1]));
      EXPECT_FALSE(std::isnan(written.scales[2]));
    }
  }
}

struct PreparedQuery {
  std::vector<float> q;        // [3, I, J]
  std::vector<float> weights;  // [3, I]
};

PreparedQuery Prepare(Backend& backend, IndexKeyType type, int64_t index_heads, int64_t index_dim,
                      const Rope& rope, PreparedQuery query) {
  backend.PrepareIndexQuery({.q = {query.q.data(), DType::kF32, {3, index_heads, index_dim}},
                             .weights = {query.weights.data(), DType::kF32, {3, index_heads}},
                             .positions = {kTokenPositions.data(), DType::kI32, {3}},
                             .rope = rope.view(),
                             .type = type});
  return query;
}

TEST(PrepareIndexQuery, TurnsEveryHeadAndFoldsTheConstants) {
  for (bool half_split : {false, true}) {
    const Rope rope(8, half_split);
    const PreparedQuery query = {RandomFloats(3 * 5 * 32, 16), RandomFloats(3 * 5, 17)};
    for (const NamedBackend& named : AllBackends()) {
      const PreparedQuery prepared =
          Prepare(*named.backend, IndexKeyType::kF32, 5, 32, rope, query);
      for (int64_t head = 0; head < 15; ++head) {
        std::vector<double> x(query.q.begin() + head * 32, query.q.begin() + (head + 1) * 32);
        rope.Turn(kTokenPositions[head / 5], x.data());
        for (int64_t j = 0; j < 32; ++j) ASSERT_NEAR(prepared.q[head * 32 + j], x[j], 1e-6);
        EXPECT_NEAR(prepared.weights[head], query.weights[head] / std::sqrt(5.0 * 32), 1e-6);
      }
    }
  }
}

TEST(PrepareIndexQuery, MovesTheScaleOfTheCodesIntoTheWeight) {
  const Rope rope(32, true);
  const PreparedQuery query = {RandomFloats(3 * 4 * 128, 18), RandomFloats(3 * 4, 19)};
  for (const NamedBackend& named : AllBackends()) {
    const PreparedQuery exact = Prepare(*named.backend, IndexKeyType::kF32, 4, 128, rope, query);
    for (IndexKeyType type : {IndexKeyType::kE4m3, IndexKeyType::kInt8}) {
      const PreparedQuery prepared = Prepare(*named.backend, type, 4, 128, rope, query);
      for (int64_t head = 0; head < 12; ++head) {
        std::vector<float> x(exact.q.begin() + head * 128, exact.q.begin() + (head + 1) * 128);
        dsa::HadamardTransform(x.data(), 128);
        const float scale = dsa::QuantizeIndexVector(type, x.data(), 128);
        for (int64_t j = 0; j < 128; ++j) ASSERT_EQ(prepared.q[head * 128 + j], x[j]);
        EXPECT_NEAR(prepared.weights[head], exact.weights[head] * scale,
                    1e-6f * std::fabs(exact.weights[head] * scale));
      }
    }
  }
}

TEST(PrepareIndexQuery, MakesScoresThatDependOnTheDistanceOfPositions) {
  // The same query and key at positions 17 and 0, and at 39 and 22: equal products.
  const Rope rope(8, false);
  std::vector<float> vectors = RandomFloats(32, 20);
  std::vector<double> sums;
  for (const std::vector<int32_t>& positions : {std::vector<int32_t>{17, 0}, {39, 22}}) {
    std::vector<float> turned = vectors;
    std::vector<float> weights(2, 1.0f);
    AllBackends()[0].backend->PrepareIndexQuery({.q = {turned.data(), DType::kF32, {2, 1, 16}},
                                                 .weights = {weights.data(), DType::kF32, {2, 1}},
                                                 .positions = {positions.data(), DType::kI32, {2}},
                                                 .rope = rope.view(),
                                                 .type = IndexKeyType::kF32});
    double sum = 0;
    for (int64_t j = 0; j < 16; ++j) sum += static_cast<double>(turned[j]) * turned[16 + j];
    sums.push_back(sum);
  }
  EXPECT_NEAR(sums[0], sums[1], 1e-4);
}

TEST(PrepareIndexQuery, IsTheSameInBfloat16Precision) {
  const Rope rope(8, false);
  const PreparedQuery query = {RandomFloats(3 * 16, 21), RandomFloats(3, 22)};
  const std::vector<NamedBackend> exact_backends = AllBackends();
  const PreparedQuery exact =
      Prepare(*exact_backends[0].backend, IndexKeyType::kInt8, 1, 16, rope, query);
  for (const Sums sums : {Sums::kPairs, Sums::kTiles}) {
    for (const NamedBackend& named : AllBackends(sums)) {
      const PreparedQuery prepared =
          Prepare(*named.backend, IndexKeyType::kInt8, 1, 16, rope, query);
      EXPECT_EQ(prepared.q, exact.q);
      EXPECT_EQ(prepared.weights, exact.weights);
    }
  }
}

}  // namespace
}  // namespace winnow::cpu
