// Matrix products against plain definitions, and against themselves: alone and in a batch, on every
// instruction set and number of threads.
#include <cmath>

#include "cpu/dsa/rope.h"
#include "unit/cpu/cpu_test_support.h"

namespace winnow::cpu {
namespace {

struct Shape {
  int64_t m, n, k;
};
// Every extent meets an awkward partner: one row, remainders of tiles, panels and registers, ragged
// blocks of scales, several blocks of columns.
constexpr Shape kShapes[] = {
    {1, 1, 1},     {2, 7, 15},      {3, 16, 16},   {5, 129, 17},  {33, 16, 127},  {1, 129, 128},
    {2, 129, 129}, {4, 26, 576},    {5, 25, 1000}, {33, 50, 130}, {1, 300, 1000}, {131, 27, 1540},
    {4, 5, 2000},  {6, 24, 768},    {7, 23, 769},  {33, 7, 1},    {8, 9, 40},     {9, 131, 64},
    {5, 17, 65},   {140, 53, 2100}, {15, 40, 96},  {16, 31, 33},  {17, 33, 513},  {32, 32, 31},
    {530, 17, 40}, {16, 130, 1025}, {36, 33, 256}, {64, 65, 257}, {128, 33, 300}, {129, 70, 520}};

// 16 chains of fused multiply-adds, added 8, 4, 2, 1 apart: what linear_kernels.h promises.
template <typename GetX, typename GetWeight>
float ChainedDot(int64_t size, GetX x, GetWeight weight) {
  float lanes[16] = {};
  for (int64_t k = 0; k < size; ++k) lanes[k % 16] = std::fma(x(k), weight(k), lanes[k % 16]);
  for (int distance : {8, 4, 2, 1}) {
    for (int lane = 0; lane < distance; ++lane) lanes[lane] += lanes[lane + distance];
  }
  return lanes[0];
}

// The same of bfloat16 numbers: elements 2p and 2p + 1 in chain p mod 16, the odd one first.
template <typename GetX, typename GetWeight>
float PairedDot(int64_t size, GetX x, GetWeight weight) {
  float lanes[16] = {};
  for (int64_t k = 0; k < size; k += 2) {
    float& lane = lanes[k / 2 % 16];
    if (k + 1 < size) lane = std::fma(RoundToBf16(x(k + 1)), weight(k + 1), lane);
    lane = std::fma(RoundToBf16(x(k)), weight(k), lane);
  }
  for (int distance : {8, 4, 2, 1}) {
    for (int lane = 0; lane < distance; ++lane) lanes[lane] += lanes[lane + distance];
  }
  return lanes[0];
}

// The same as AMX adds them: of each 32 elements a chain of the even ones and one of the odd ones,
// which are added up and then added to the sum.
template <typename GetX, typename GetWeight>
float TiledDot(int64_t size, GetX x, GetWeight weight) {
  float sum = 0;
  for (int64_t first = 0; first < size; first += 32) {
    float chains[2] = {};
    for (int64_t k = first; k < first + 32 && k < size; ++k) {
      chains[k % 2] = std::fma(RoundToBf16(x(k)), weight(k), chains[k % 2]);
    }
    sum += chains[0] + chains[1];
  }
  return sum;
}

template <typename GetX, typename GetWeight>
float Dot(Sums sums, int64_t size, GetX x, GetWeight weight) {
  return sums == Sums::kF32     ? ChainedDot(size, x, weight)
         : sums == Sums::kPairs ? PairedDot(size, x, weight)
                                : TiledDot(size, x, weight);
}

std::vector<float> RunLinear(Backend& backend, const std::vector<float>& x, int64_t m,
                             const Matrix& weight, const std::vector<float>* bias,
                             bool keep_f32 = false) {
  std::vector<float> out(m * weight.rows(), NAN);
  LinearArgs args;
  args.x = ViewOf(x, {m, weight.columns()});
  args.weight = weight.view();
  if (bias) args.bias = ViewOf(*bias, {weight.rows()});
  args.out = ViewOf(out, {m, weight.rows()});
  args.keep_f32 = keep_f32;
  backend.Linear(args);
  return out;
}

TEST(Linear, IsTheProductInItsOneOrder) {
  uint32_t seed = 1;
  for (const Storage& storage : kStorages) {
    for (const Sums sums : kAllSums) {
      const bool round = sums != Sums::kF32;
      const auto backends = EqualBackends(sums, storage.scales);
      if (backends.empty()) continue;
      for (const Shape& shape : kShapes) {
        const Matrix weight(storage.type, shape.n, shape.k, ++seed, storage.scales);
        const std::vector<float> x = RandomFloats(shape.m * shape.k, ++seed);
        const std::vector<float> bias = RandomFloats(shape.n, ++seed);
        std::vector<float> expected(shape.m * shape.n);
        std::vector<float> row(shape.k);
        for (int64_t n = 0; n < shape.n; ++n) {
          for (int64_t k = 0; k < shape.k; ++k) row[k] = weight.At(n, k, round);
          for (int64_t m = 0; m < shape.m; ++m) {
            const float* x_row = x.data() + m * shape.k;
            const float sum = Dot(
                sums, shape.k, [&](int64_t k) { return x_row[k]; },
                [&](int64_t k) { return row.data()[k]; });
            expected[m * shape.n + n] = sum + bias[n];
          }
        }
        for (const auto& backend : backends) {
          EXPECT_TRUE(SameBits(RunLinear(*backend, x, shape.m, weight, &bias), expected))
              << backend->Describe() << " " << DTypeName(storage.type) << " [" << shape.m << ", "
              << shape.n << ", " << shape.k << "] rounded " << round;
        }
      }
    }
  }
}

// Of results too many to follow all, some: where sums wait for hundreds of rows of the weight, and
// where x is read in parts.
TEST(Linear, OfManyTilesIsTheProductInItsOneOrder) {
  constexpr Shape kLarge[] = {{500, 430, 2113}, {40, 70, 13200}, {700, 40, 1100}, {20, 40, 17000}};
  for (const Storage& storage :
       {Storage{DType::kF8E4M3, Scales::kArbitrary}, Storage{DType::kU8, Scales::kGroups}}) {
    for (const auto& backend : EqualBackends(Sums::kTiles, storage.scales)) {
      for (const Shape& shape : kLarge) {
        const Matrix weight(storage.type, shape.n, shape.k, 31, storage.scales);
        const std::vector<float> x = RandomFloats(shape.m * shape.k, 32);
        const std::vector<float> out = RunLinear(*backend, x, shape.m, weight, nullptr);
        for (int64_t i = 0; i < shape.m * shape.n; i += 389) {
          const int64_t m = i / shape.n;
          const int64_t n = i % shape.n;
          const float expected = TiledDot(
              shape.k, [&](int64_t k) { return x[m * shape.k + k]; },
              [&](int64_t k) { return weight.At(n, k, true); });
          ASSERT_TRUE(SameBits({out[i]}, {expected}))
              << backend->Describe() << " " << m << " " << n;
        }
      }
    }
  }
}

TEST(Linear, IsNearTheProductInDoubles) {
  const auto backend = CreateCpuBackend({.num_threads = 1});
  for (const Storage& storage : kStorages) {
    for (const Shape& shape : kShapes) {
      const Matrix weight(storage.type, shape.n, shape.k, 3, storage.scales);
      const std::vector<float> x = RandomFloats(shape.m * shape.k, 4);
      const std::vector<float> out = RunLinear(*backend, x, shape.m, weight, nullptr);
      for (int64_t m = 0; m < shape.m; ++m) {
        for (int64_t n = 0; n < shape.n; ++n) {
          double sum = 0;
          double size = 0;
          for (int64_t k = 0; k < shape.k; ++k) {
            const double product = static_cast<double>(x[m * shape.k + k]) * weight.At(n, k, false);
            sum += product;
            size += std::fabs(product);
          }
          ASSERT_NEAR(out[m * shape.n + n], sum, 2e-6 * size + 1e-30);
        }
      }
    }
  }
}

TEST(Linear, GivesARowTheSameBitsAloneAndInABatch) {
  for (const Storage& storage : kStorages) {
    for (Precision precision : {Precision::kF32, Precision::kBf16}) {
      const auto backend = CreateCpuBackend({.num_threads = 2, .precision = precision});
      const int64_t columns = 1000;
      const Matrix weight(storage.type, 150, columns, 11, storage.scales);
      const std::vector<float> x = RandomFloats(140 * columns, 12);
      const std::vector<float> batch = RunLinear(*backend, x, 140, weight, nullptr);
      for (int64_t rows : {1, 2, 3, 4, 5, 8, 9, 15, 16, 17, 33, 140}) {
        const int64_t first = 140 - rows;
        const std::vector<float> part(x.begin() + first * columns, x.end());
        const std::vector<float> expected(batch.begin() + first * 150, batch.end());
        EXPECT_TRUE(SameBits(RunLinear(*backend, part, rows, weight, nullptr), expected)) << rows;
      }
    }
  }
}

TEST(Linear, KeepsWeightsAndResultsInF32WhenAsked) {
  const auto rounding = CreateCpuBackend({.num_threads = 1, .precision = Precision::kBf16});
  const auto exact = CreateCpuBackend({.num_threads = 1, .precision = Precision::kF32});
  const Matrix weight(DType::kF32, 33, 100, 5);
  for (int64_t m : {1, 9}) {
    const std::vector<float> x = RandomFloats(m * 100, 6);
    EXPECT_TRUE(SameBits(RunLinear(*rounding, x, m, weight, nullptr, true),
                         RunLinear(*exact, x, m, weight, nullptr)));
    EXPECT_FALSE(SameBits(RunLinear(*rounding, x, m, weight, nullptr),
                          RunLinear(*exact, x, m, weight, nullptr)));
  }
}

TEST(Linear, ReadsScalesNearTheEndsOfTheFloats) {
  for (const auto& backend : EqualBackends(Sums::kF32)) {
    const Matrix weight(DType::kF8E4M3, 20, 200, 7, Scales::kHuge);
    for (int64_t m : {1, 6}) {
      std::vector<float> x = RandomFloats(m * 200, 8);
      for (float& value : x) value *= 0x1p-20f;
      const std::vector<float> out = RunLinear(*backend, x, m, weight, nullptr);
      for (int64_t i = 0; i < m * 20; ++i) {
        const float expected = ChainedDot(
            200, [&](int64_t k) { return x[i / 20 * 200 + k]; },
            [&](int64_t k) { return weight.At(i % 20, k, false); });
        ASSERT_EQ(out[i], expected);
      }
    }
  }
}

TEST(Linear, LetsANanScaleReachTheResult) {
  std::vector<uint8_t> codes(2 * 128, 0x38);
  std::vector<float> scales = {NAN};
  uint32_t all_ones = 0x7fffffff;
  std::memcpy(&scales[0], &all_ones, 4);
  for (const Sums sums : {Sums::kPairs, Sums::kTiles}) {
    for (const auto& backend : EqualBackends(sums)) {
      for (int64_t m : {1, 6, 17}) {
        const std::vector<float> x(m * 128, 1.0f);
        std::vector<float> out(m * 2);
        LinearArgs args;
        args.x = ViewOf(x, {m, 128});
        args.weight.value = TensorView(codes.data(), DType::kF8E4M3, {2, 128});
        args.weight.scale = ViewOf(scales, {1, 1});
        args.out = ViewOf(out, {m, 2});
        backend->Linear(args);
        for (float value : out) EXPECT_TRUE(std::isnan(value));
      }
    }
  }
}

TEST(Embed, DecodesTheRowsOfTheTokens) {
  for (const Storage& storage : kStorages) {
    for (const Sums sums : kAllSums) {
      const Matrix table(storage.type, 140, 137, 9, storage.scales);
      const std::vector<int32_t> ids = {0, 139, 5, 5, 128};
      for (const auto& backend : EqualBackends(sums, storage.scales)) {
        std::vector<float> hidden(ids.size() * 137, NAN);
        backend->Embed({.token_ids = ViewOf(ids, {5}),
                        .table = table.view(),
                        .hidden = ViewOf(hidden, {5, 137})});
        for (size_t i = 0; i < hidden.size(); ++i) {
          ASSERT_EQ(hidden[i], table.At(ids[i / 137], i % 137, false));
        }
      }
    }
  }
}

// The two products with kv_b_proj, whose heads begin inside blocks of scales.
struct Heads {
  int64_t tokens, heads, nope, value, latent, rope;
};
constexpr Heads kHeads[] = {{1, 2, 128, 128, 512, 64}, {16, 2, 64, 40, 96, 4},
                            {35, 1, 40, 33, 70, 2},    {7, 3, 20, 12, 40, 8},
                            {2, 1, 1, 1, 1, 2},        {13, 2, 33, 65, 200, 6},
                            {1, 3, 19, 50, 137, 4}};

TEST(AbsorbQuery, MultipliesByTheTransposeAndTurnsTheRest) {
  uint32_t seed = 100;
  for (const Storage& storage : kStorages) {
    for (const Sums sums : kAllSums) {
      const bool round = sums != Sums::kF32;
      const auto backends = EqualBackends(sums, storage.scales);
      if (backends.empty()) continue;
      for (const Heads& s : kHeads) {
        const Matrix kv_b(storage.type, s.heads * (s.nope + s.value), s.latent, ++seed,
                          storage.scales);
        const std::vector<float> q = RandomFloats(s.tokens * s.heads * (s.nope + s.rope), ++seed);
        const std::vector<float> angles = RandomFloats(50 * s.rope, ++seed);
        std::vector<int32_t> positions(s.tokens);
        for (int64_t t = 0; t < s.tokens; ++t) positions[t] = static_cast<int32_t>((t * 7) % 50);
        for (bool half_split : {false, true}) {
          std::vector<float> expected;
          for (int64_t t = 0; t < s.tokens; ++t) {
            for (int64_t h = 0; h < s.heads; ++h) {
              const float* head = &q[(t * s.heads + h) * (s.nope + s.rope)];
              for (int64_t c = 0; c < s.latent; ++c) {
                const auto weight = [&](int64_t p) {
                  return kv_b.At(h * (s.nope + s.value) + p, c, round);
                };
                if (sums == Sums::kTiles) {
                  expected.push_back(TiledDot(
                      s.nope, [&](int64_t p) { return head[p]; }, weight));
                  continue;
                }
                float sum = 0;
                const auto add = [&](int64_t p) {
                  sum = std::fma(round ? RoundToBf16(head[p]) : head[p], weight(p), sum);
                };
                // In pairs the odd one comes first.
                for (int64_t p = 0; p < s.nope; ++p) {
                  add(!round ? p : p % 2 ? p - 1 : p + 1 < s.nope ? p + 1 : p);
                }
                expected.push_back(sum);
              }
              const float* cos = &angles[positions[t] * s.rope];
              const float* sin = cos + s.rope / 2;
              std::vector<float> turned(s.rope);
              for (int64_t i = 0; i < s.rope / 2; ++i) {
                const int64_t a = half_split ? i : 2 * i;
                const int64_t b = half_split ? i + s.rope / 2 : 2 * i + 1;
                const float u = head[s.nope + a];
                const float v = head[s.nope + b];
                turned[a] = u * cos[i] - v * sin[i];
                turned[b] = u * sin[i] + v * cos[i];
              }
              expected.insert(expected.end(), turned.begin(), turned.end());
            }
          }
          for (const auto& backend : backends) {
            std::vector<float> out(expected.size(), NAN);
            backend->AbsorbQuery(
                {.q = ViewOf(q, {s.tokens, s.heads, s.nope + s.rope}),
                 .kv_b_proj = kv_b.view(),
                 .positions = ViewOf(positions, {s.tokens}),
                 .rope = {.cos_sin = ViewOf(angles, {50, 2, s.rope / 2}), .half_split = half_split},
                 .v_head_dim = s.value,
                 .out = ViewOf(out, {s.tokens, s.heads, s.latent + s.rope})});
            EXPECT_TRUE(SameBits(out, expected)) << backend->Describe() << " " << s.latent;
          }
        }
      }
    }
  }
}

TEST(ExpandValue, TakesTheLastRowsOfEachHead) {
  uint32_t seed = 200;
  for (const Storage& storage : kStorages) {
    for (const Sums sums : kAllSums) {
      const bool round = sums != Sums::kF32;
      const auto backends = EqualBackends(sums, storage.scales);
      if (backends.empty()) continue;
      for (const Heads& s : kHeads) {
        const Matrix kv_b(storage.type, s.heads * (s.nope + s.value), s.latent, ++seed,
                          storage.scales);
        const std::vector<float> attended = RandomFloats(s.tokens * s.heads * s.latent, ++seed);
        std::vector<float> expected;
        for (int64_t row = 0; row < s.tokens * s.heads; ++row) {
          for (int64_t v = 0; v < s.value; ++v) {
            const int64_t weight_row = row % s.heads * (s.nope + s.value) + s.nope + v;
            expected.push_back(Dot(
                sums, s.latent, [&](int64_t c) { return attended[row * s.latent + c]; },
                [&](int64_t c) { return kv_b.At(weight_row, c, round); }));
          }
        }
        for (const auto& backend : backends) {
          std::vector<float> out(expected.size(), NAN);
          backend->ExpandValue({.attended = ViewOf(attended, {s.tokens, s.heads, s.latent}),
                                .kv_b_proj = kv_b.view(),
                                .qk_nope_head_dim = s.nope,
                                .out = ViewOf(out, {s.tokens, s.heads, s.value})});
          EXPECT_TRUE(SameBits(out, expected)) << backend->Describe() << " " << s.latent;
        }
      }
    }
  }
}

}  // namespace
}  // namespace winnow::cpu
