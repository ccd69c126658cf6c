// Bf16 precision on a GPU, where products, attention and selection run on tensor cores: near what
// the definitions give for numbers rounded to bfloat16, the same selections as the CPU's, and every
// token's bits its own, whatever it is computed with.
#include <gtest/gtest.h>

#include <array>
#include <cmath>

#include "unit/cpu/cpu_test_support.h"
#include "unit/cpu/dsa/dsa_problem.h"
#include "unit/cuda/staged_backend.h"

namespace winnow::cpu {
namespace {

Backend& Gpu() {
  static Backend* backend = cuda::MakeStagedBackend(Precision::kBf16).release();
  return *backend;
}
Backend& Cpu() {
  static Backend* backend =
      CreateCpuBackend({.num_threads = 4, .precision = Precision::kBf16}).release();
  return *backend;
}

// A sum in f32 of products of size `size` together is off by a few last places of it.
constexpr double kSumError = 4e-6;

struct Shape {
  int64_t n, k;
};
// One row, ends of tiles and of blocks of columns and scales, every number of slices, and columns
// that fill no load: those are not made on tensor cores.
constexpr Shape kShapes[] = {{1, 16},     {7, 48},     {64, 64},     {65, 80},    {129, 128},
                             {257, 1040}, {300, 2000}, {576, 7168},  {130, 4112}, {2500, 512},
                             {63, 8},     {33, 100},   {4352, 1536}, {16, 1}};
constexpr Storage kForms[] = {
    {DType::kBF16, Scales::kNone},          {DType::kF8E4M3, Scales::kNone},
    {DType::kF8E4M3, Scales::kPowersOfTwo}, {DType::kF8E4M3, Scales::kArbitrary},
    {DType::kF32, Scales::kNone},           {DType::kF16, Scales::kNone}};

std::vector<float> RunLinear(Backend& backend, const float* x, int64_t m, const Matrix& weight,
                             const std::vector<float>& bias) {
  std::vector<float> out(m * weight.rows(), NAN);
  backend.Linear({.x = TensorView(x, DType::kF32, {m, weight.columns()}),
                  .weight = weight.view(),
                  .bias = ViewOf(bias, {weight.rows()}),
                  .out = ViewOf(out, {m, weight.rows()})});
  return out;
}

TEST(Bf16Linear, IsNearTheProductOfRoundedNumbersAndEveryRowItsOwn) {
  constexpr int64_t kRows = 131;
  uint32_t seed = 1;
  for (const Storage& form : kForms) {
    for (const Shape& shape : kShapes) {
      const Matrix weight(form.type, shape.n, shape.k, ++seed, form.scales);
      const std::vector<float> x = RandomFloats(kRows * shape.k, ++seed);
      const std::vector<float> bias = RandomFloats(shape.n, ++seed);
      const std::vector<float> all = RunLinear(Gpu(), x.data(), kRows, weight, bias);
      const std::string what = std::string(DTypeName(form.type)) + " [" + std::to_string(shape.n) +
                               ", " + std::to_string(shape.k) + "]";
      for (int64_t i = 0; i < 2000; ++i) {
        const int64_t at = i * 7919 % (kRows * shape.n);
        const int64_t m = at / shape.n;
        const int64_t n = at % shape.n;
        double sum = bias[n];
        double size = std::fabs(sum);
        for (int64_t k = 0; k < shape.k; ++k) {
          const double product = double{RoundToBf16(x[m * shape.k + k])} * weight.At(n, k, true);
          sum += product;
          size += std::fabs(product);
        }
        ASSERT_NEAR(all[at], sum, kSumError * size) << what << " at " << m << ", " << n;
      }
      for (int64_t rows : {1, 2, 8, 9, 17, 33, 64, 65, 128, 129}) {
        const int64_t first = kRows - rows;
        const std::vector<float> expected(all.begin() + first * shape.n, all.end());
        ASSERT_TRUE(
            SameBits(RunLinear(Gpu(), x.data() + first * shape.k, rows, weight, bias), expected))
            << what << ", " << rows << " rows";
      }
    }
  }
}

TEST(Bf16Linear, LetsNanAndInfinityThrough) {
  for (const DType type : {DType::kBF16, DType::kF8E4M3}) {
    const Matrix weight(type, 70, 128, 3);
    std::vector<float> x = RandomFloats(3 * 128, 4);
    x[5] = NAN;
    x[128 + 77] = INFINITY;
    const std::vector<float> out =
        RunLinear(Gpu(), x.data(), 3, weight, std::vector<float>(70, 0.0f));
    for (int64_t n = 0; n < 70; ++n) {
      EXPECT_TRUE(std::isnan(out[n]));
      EXPECT_FALSE(std::isfinite(out[70 + n]));
      EXPECT_TRUE(std::isfinite(out[140 + n]));
    }
  }
}

struct Heads {
  int64_t heads, nope, value, latent, rope;
};
constexpr Heads kHeads[] = {{5, 128, 128, 512, 64}, {3, 192, 256, 512, 64}, {2, 64, 32, 128, 16},
                            {3, 16, 48, 80, 8},     {2, 20, 12, 40, 8},     {1, 256, 8, 272, 2}};

std::vector<float> Absorb(Backend& backend, const Heads& s, const Matrix& kv_b, const float* q,
                          int64_t tokens) {
  const std::vector<float> angles = RandomFloats(50 * s.rope, 7);
  std::vector<int32_t> positions(tokens, 9);
  std::vector<float> out(tokens * s.heads * (s.latent + s.rope), NAN);
  backend.AbsorbQuery({.q = TensorView(q, DType::kF32, {tokens, s.heads, s.nope + s.rope}),
                       .kv_b_proj = kv_b.view(),
                       .positions = ViewOf(positions, {tokens}),
                       .rope = {TensorView(angles.data(), DType::kF32, {50, 2, s.rope / 2}), false},
                       .v_head_dim = s.value,
                       .out = ViewOf(out, {tokens, s.heads, s.latent + s.rope})});
  return out;
}

TEST(Bf16AbsorbQuery, IsTheCpusButForTheOrderOfSums) {
  constexpr int64_t kTokens = 700;
  uint32_t seed = 200;
  for (const Storage& form : kForms) {
    for (const Heads& s : kHeads) {
      const Matrix kv_b(form.type, s.heads * (s.nope + s.value), s.latent, ++seed, form.scales);
      const int64_t q_size = s.heads * (s.nope + s.rope);
      const std::vector<float> q = RandomFloats(kTokens * q_size, ++seed);
      const std::vector<float> all = Absorb(Gpu(), s, kv_b, q.data(), kTokens);
      const int64_t size = s.heads * (s.latent + s.rope);
      const std::vector<float> expected = Absorb(Cpu(), s, kv_b, q.data(), 65);
      double largest = 0;
      for (float value : expected) largest = std::max(largest, std::fabs(double{value}));
      for (size_t i = 0; i < expected.size(); ++i) {
        ASSERT_NEAR(all[i], expected[i], 2e-6 * largest) << DTypeName(form.type) << " at " << i;
      }
      for (int64_t tokens : {1, 63, 64, 65, 513}) {
        const int64_t first = kTokens - tokens;
        const std::vector<float> part(all.begin() + first * size, all.end());
        ASSERT_TRUE(SameBits(Absorb(Gpu(), s, kv_b, q.data() + first * q_size, tokens), part))
            << tokens;
      }
    }
  }
}

std::vector<float> Expand(Backend& backend, const Heads& s, const Matrix& kv_b,
                          const float* attended, int64_t tokens) {
  std::vector<float> out(tokens * s.heads * s.value, NAN);
  backend.ExpandValue({.attended = TensorView(attended, DType::kF32, {tokens, s.heads, s.latent}),
                       .kv_b_proj = kv_b.view(),
                       .qk_nope_head_dim = s.nope,
                       .out = ViewOf(out, {tokens, s.heads, s.value})});
  return out;
}

TEST(Bf16ExpandValue, IsTheCpusButForTheOrderOfSums) {
  constexpr int64_t kTokens = 140;
  uint32_t seed = 300;
  for (const Storage& form : kForms) {
    for (const Heads& s : kHeads) {
      const Matrix kv_b(form.type, s.heads * (s.nope + s.value), s.latent, ++seed, form.scales);
      const int64_t x_size = s.heads * s.latent;
      const std::vector<float> x = RandomFloats(kTokens * x_size, ++seed);
      const std::vector<float> all = Expand(Gpu(), s, kv_b, x.data(), kTokens);
      const std::vector<float> expected = Expand(Cpu(), s, kv_b, x.data(), kTokens);
      double largest = 0;
      for (float value : expected) largest = std::max(largest, std::fabs(double{value}));
      for (size_t i = 0; i < expected.size(); ++i) {
        ASSERT_NEAR(all[i], expected[i], 2e-6 * largest) << DTypeName(form.type) << " at " << i;
      }
      for (int64_t tokens : {1, 9, 65}) {
        const int64_t first = kTokens - tokens;
        const std::vector<float> part(all.begin() + first * s.heads * s.value, all.end());
        ASSERT_TRUE(SameBits(Expand(Gpu(), s, kv_b, x.data() + first * x_size, tokens), part))
            << tokens;
      }
    }
  }
}

// A layer of experts with a shared one.
class Experts {
 public:
  Experts(Storage form, int64_t experts, int64_t chosen, int64_t size, int64_t width, uint32_t seed)
      : chosen_(chosen), size_(size), gate_(DType::kF32, experts, size, seed) {
    for (int64_t e = 0; e <= experts; ++e) {
      for (int part = 0; part < 3; ++part) {
        matrices_.push_back(std::make_unique<Matrix>(
            form.type, part == 2 ? size : width, part == 2 ? width : size, ++seed, form.scales));
      }
      const size_t at = matrices_.size() - 3;
      blocks_.push_back(
          {matrices_[at]->view(), matrices_[at + 1]->view(), matrices_[at + 2]->view()});
    }
    bias_ = std::vector<float>(experts, 0.0f);
  }

  std::vector<float> Run(Backend& backend, const float* x, int64_t tokens) const {
    std::vector<float> out(tokens * size_, NAN);
    MoeArgs args;
    args.x = TensorView(x, DType::kF32, {tokens, size_});
    args.gate = gate_.view();
    args.e_score_correction_bias = ViewOf(bias_, {static_cast<int64_t>(bias_.size())});
    args.experts = {blocks_.data(), blocks_.size() - 1};
    args.shared_experts = &blocks_.back();
    args.num_experts_per_tok = chosen_;
    args.out = ViewOf(out, {tokens, size_});
    backend.Moe(args);
    return out;
  }

 private:
  int64_t chosen_;
  int64_t size_;
  Matrix gate_;
  std::vector<float> bias_;
  std::vector<std::unique_ptr<Matrix>> matrices_;
  std::vector<FfnWeights> blocks_;
};

TEST(Bf16Moe, IsTheCpusButForTheOrderOfSums) {
  constexpr int64_t kTokens = 600;
  uint32_t seed = 400;
  for (const Storage& form : kForms) {
    for (const auto [experts, chosen, size, width] : {std::array<int64_t, 4>{8, 2, 256, 128},
                                                      {64, 6, 192, 96},
                                                      {3, 3, 64, 272},
                                                      {5, 2, 40, 20}}) {
      const Experts moe(form, experts, chosen, size, width, seed += 1000);
      const std::vector<float> x = RandomFloats(kTokens * size, ++seed);
      const std::vector<float> all = moe.Run(Gpu(), x.data(), kTokens);
      // The hidden numbers are rounded to bfloat16 again: one that falls the other way moves a
      // result by 2^-9 of a product.
      const std::vector<float> expected = moe.Run(Cpu(), x.data(), 40);
      double largest = 0;
      for (float value : expected) largest = std::max(largest, std::fabs(double{value}));
      for (size_t i = 0; i < expected.size(); ++i) {
        ASSERT_NEAR(all[i], expected[i], 1e-3 * largest) << DTypeName(form.type) << " at " << i;
      }
      for (int64_t tokens : {1, 2, 8, 9, 33, 100, 300}) {
        const int64_t first = kTokens - tokens;
        const std::vector<float> part(all.begin() + first * size, all.end());
        ASSERT_TRUE(SameBits(moe.Run(Gpu(), x.data() + first * size, tokens), part))
            << DTypeName(form.type) << ", " << tokens << " tokens of " << experts << " experts";
      }
    }
  }
}

std::vector<int32_t> Range(int32_t first, int32_t last) {
  std::vector<int32_t> positions;
  for (int32_t position = first; position < last; ++position) positions.push_back(position);
  return positions;
}

TEST(Bf16SelectTokens, SelectsWhatTheDefinitionSelects) {
  unsigned seed = 0;
  for (Values values : {Values::kNormal, Values::kFew, Values::kAllSame, Values::kHostile,
                        Values::kAllNan, Values::kRising, Values::kFalling}) {
    for (IndexKeyType type : {IndexKeyType::kInt8, IndexKeyType::kE4m3, IndexKeyType::kBf16}) {
      for (int64_t heads : {1, 4, 8, 33, 64}) {
        const SelectCase problem(
            {.type = type,
             .index_heads = heads,
             .topk = 70,
             .values = values,
             .sequences = {{300, {299, 69, 70, 71, 0, 255, 256}}, {129, Range(100, 129)}}},
            ++seed);
        const Selected expected = problem.Expected();
        for (int64_t chunk : {int64_t{1} << 30, int64_t{1}, int64_t{7}}) {
          EXPECT_TRUE(problem.Run(Gpu(), chunk) == expected)
              << Name(type) << ", " << heads << " heads, values " << static_cast<int>(values)
              << ", " << chunk;
        }
      }
    }
  }
}

TEST(Bf16SelectTokens, SelectsFromLongContextsAloneAndTogether) {
  for (Values values : {Values::kNormal, Values::kFew, Values::kHostile}) {
    std::vector<int32_t> positions = Range(9000, 9040);
    positions.insert(positions.end(), {2047, 2048, 8191, 8192, 8193, 19999});
    const SelectCase problem(
        {.index_heads = 4, .topk = 2048, .values = values, .sequences = {{20000, positions}}}, 5);
    const Selected expected = problem.Expected();
    for (int64_t chunk : {int64_t{1} << 30, int64_t{5}}) {
      EXPECT_TRUE(problem.Run(Gpu(), chunk) == expected) << chunk;
    }
  }
}

void ExpectAttention(const AttentionProblem& problem, const std::string& what) {
  static unsigned seed = 0;
  const AttentionCase problem_case(problem, ++seed);
  const std::vector<float> expected = problem_case.Expected();
  const std::vector<float> first = problem_case.Run(Gpu());
  const float scores = problem.q_size * problem.softmax_scale *
                       std::sqrt(static_cast<float>(problem.latent_dim + problem.rope_dim));
  for (size_t k = 0; k < expected.size(); ++k) {
    ASSERT_NEAR(first[k], expected[k], 0x1p-9f * (4 + 8 * scores) * (1 + std::fabs(expected[k])))
        << what << " at " << k;
  }
  for (int64_t chunk : {int64_t{1}, int64_t{7}}) {
    ASSERT_TRUE(SameBits(problem_case.Run(Gpu(), chunk), first)) << what << ", " << chunk;
  }
}

TEST(Bf16Attention, IsNearTheDefinitionAndEveryTokenItsOwn) {
  for (LatentType type : {LatentType::kBf16, LatentType::kFp8, LatentType::kF32}) {
    for (int64_t heads : {1, 8, 16, 64, 65, 128}) {
      const std::string what = std::string(Name(type)) + ", " + std::to_string(heads) + " heads";
      ExpectAttention({.type = type,
                       .num_heads = heads,
                       .topk = 70,
                       .sequences = {{200, {199, 3, 0, 63, 64, 65}}, {150, Range(120, 130)}}},
                      what + ", sparse");
      ExpectAttention({.type = type,
                       .num_heads = heads,
                       .sequences = {{200, {199, 3, 0}}, {150, Range(60, 70)}}},
                      what + ", dense");
    }
    ExpectAttention(
        {.type = type, .num_heads = 128, .topk = 2048, .sequences = {{3000, {2999, 9}}}},
        "many rows");
  }
}

// Here all weights used to vanish, and the result was NaN.
TEST(Bf16Attention, StaysFiniteWithScoresOfTensOfThousands) {
  for (LatentType type : {LatentType::kBf16, LatentType::kFp8}) {
    AttentionProblem problem = {
        .type = type, .num_heads = 16, .topk = 70, .sequences = {{200, {199, 63, 3}}}};
    problem.q_size = 20000;
    ExpectAttention(problem, std::string(Name(type)));
  }
}

}  // namespace
}  // namespace winnow::cpu
