// Norms and feed-forward blocks against plain definitions in doubles, and for equal bits.
#include <algorithm>
#include <cmath>

#include "unit/cpu/cpu_test_support.h"

namespace winnow::cpu {
namespace {

constexpr int64_t kSizes[] = {1, 15, 16, 17, 129, 576, 1000};

// A value that was computed as `exact`, with sums of floats.
::testing::AssertionResult Near(float value, double exact) {
  const double slack = std::fabs(exact) * 1e-5 + 1e-30;
  if (std::fabs(value - exact) <= slack) return ::testing::AssertionSuccess();
  return ::testing::AssertionFailure() << value << ", expected about " << exact;
}

double Rms(const std::vector<double>& x, float eps) {
  double squares = 0;
  for (double value : x) squares += value * value;
  return std::sqrt(squares / static_cast<double>(x.size()) + eps);
}

TEST(RmsNorm, DividesByTheRootMeanSquare) {
  for (const Sums sums : kAllSums) {
    const auto backends = EqualBackends(sums);
    if (backends.empty()) continue;
    for (int64_t size : kSizes) {
      for (int64_t rows : {1, 2, 33}) {
        const std::vector<float> x = RoundedToBf16(RandomFloats(rows * size, 1));
        const std::vector<float> weight = RandomFloats(size, 2);
        std::vector<float> first;
        for (const auto& backend : backends) {
          std::vector<float> out(rows * size, NAN);
          backend->RmsNorm({.x = ViewOf(x, {rows, size}),
                            .weight = ViewOf(weight, {size}),
                            .eps = 1e-3f,
                            .out = ViewOf(out, {rows, size})});
          if (first.empty()) first = out;
          EXPECT_TRUE(SameBits(out, first)) << backend->Describe() << " " << size;
        }
        for (int64_t row = 0; row < rows; ++row) {
          const std::vector<double> values(&x[row * size], &x[row * size] + size);
          const double rms = Rms(values, 1e-3f);
          for (int64_t k = 0; k < size; ++k) {
            ASSERT_TRUE(Near(first[row * size + k], values[k] / rms * weight[k]));
          }
        }
      }
    }
  }
}

TEST(RmsNorm, WorksInPlace) {
  const auto backend = CreateCpuBackend({.num_threads = 2});
  const std::vector<float> x = RandomFloats(5 * 40, 1);
  const std::vector<float> weight = RandomFloats(40, 2);
  std::vector<float> apart(5 * 40);
  backend->RmsNorm({.x = ViewOf(x, {5, 40}),
                    .weight = ViewOf(weight, {40}),
                    .eps = 1e-6f,
                    .out = ViewOf(apart, {5, 40})});
  std::vector<float> place = x;
  backend->RmsNorm({.x = ViewOf(place, {5, 40}),
                    .weight = ViewOf(weight, {40}),
                    .eps = 1e-6f,
                    .out = ViewOf(place, {5, 40})});
  EXPECT_TRUE(SameBits(place, apart));
}

TEST(AddRmsNorm, NormsTheSum) {
  for (const Sums sums : kAllSums) {
    const auto backends = EqualBackends(sums);
    if (backends.empty()) continue;
    for (int64_t size : kSizes) {
      const int64_t rows = 3;
      const std::vector<float> hidden = RoundedToBf16(RandomFloats(rows * size, 3));
      const std::vector<float> branch = RoundedToBf16(RandomFloats(rows * size, 4));
      const std::vector<float> weight(size, 1.0f);
      std::vector<float> first;
      for (const auto& backend : backends) {
        std::vector<float> sum = hidden;
        std::vector<float> out(rows * size, NAN);
        backend->AddRmsNorm({.hidden = ViewOf(sum, {rows, size}),
                             .branch = ViewOf(branch, {rows, size}),
                             .weight = ViewOf(weight, {size}),
                             .eps = 1e-6f,
                             .out = ViewOf(out, {rows, size})});
        for (int64_t i = 0; i < rows * size; ++i) {
          ASSERT_EQ(sum[i], hidden[i] + branch[i]);
        }
        if (first.empty()) first = out;
        EXPECT_TRUE(SameBits(out, first)) << backend->Describe() << " " << size;
      }
      for (int64_t row = 0; row < rows; ++row) {
        std::vector<double> values(size);
        for (int64_t k = 0; k < size; ++k) {
          values[k] = static_cast<double>(hidden[row * size + k]) + branch[row * size + k];
        }
        const double rms = Rms(values, 1e-6f);
        for (int64_t k = 0; k < size; ++k) {
          EXPECT_TRUE(Near(first[row * size + k], values[k] / rms));
        }
      }
    }
  }
}

TEST(AddRmsNorm, OnlyAddsWithoutAnOutput) {
  const auto backend = CreateCpuBackend({.num_threads = 1});
  std::vector<float> hidden = {1, 2, 3};
  const std::vector<float> branch = {10, 20, 30};
  backend->AddRmsNorm({.hidden = ViewOf(hidden, {1, 3}), .branch = ViewOf(branch, {1, 3})});
  EXPECT_EQ(hidden, (std::vector<float>{11, 22, 33}));
}

TEST(AddRmsNorm, LeavesHiddenWithoutABranch) {
  const auto backend = CreateCpuBackend({.num_threads = 1, .precision = Precision::kBf16});
  const std::vector<float> before = {1.00001f, 2, 3};
  std::vector<float> hidden = before;
  const std::vector<float> weight = {1, 1, 1};
  std::vector<float> out(3);
  backend->AddRmsNorm({.hidden = ViewOf(hidden, {1, 3}),
                       .weight = ViewOf(weight, {3}),
                       .eps = 0,
                       .out = ViewOf(out, {1, 3})});
  EXPECT_EQ(hidden, before);
  EXPECT_TRUE(Near(out[1], 2 / std::sqrt(14.0 / 3)));
}

struct Ffn {
  Ffn(DType type, int64_t size, int64_t width, uint32_t seed, Scales scales = Scales::kNone)
      : gate(type, width, size, seed, scales),
        up(type, width, size, seed + 10, scales),
        down(type, size, width, seed + 20, scales),
        weights{gate.view(), up.view(), down.view()} {}
  Matrix gate, up, down;
  FfnWeights weights;
};

TEST(FeedForward, IsDownOfSiluOfGateTimesUp) {
  for (const Storage& storage : kStorages) {
    for (const Sums sums : kAllSums) {
      const bool round = sums != Sums::kF32;
      const auto backends = EqualBackends(sums, storage.scales);
      if (backends.empty()) continue;
      for (auto [tokens, size, width] :
           {std::array<int64_t, 3>{1, 40, 50}, {2, 17, 129}, {4, 30, 31}, {33, 50, 100}}) {
        const Ffn ffn(storage.type, size, width, 5, storage.scales);
        const std::vector<float> x = RoundedToBf16(RandomFloats(tokens * size, 6));
        std::vector<float> first;
        for (const auto& backend : backends) {
          std::vector<float> scratch(tokens * 2 * width, NAN);
          std::vector<float> out(tokens * size, NAN);
          backend->FeedForward({.x = ViewOf(x, {tokens, size}),
                                .weights = &ffn.weights,
                                .scratch = ViewOf(scratch, {tokens, 2 * width}),
                                .out = ViewOf(out, {tokens, size})});
          if (first.empty()) first = out;
          EXPECT_TRUE(SameBits(out, first)) << backend->Describe();
        }
        for (int64_t t = 0; t < tokens; ++t) {
          std::vector<double> hidden(width);
          for (int64_t f = 0; f < width; ++f) {
            double gate = 0;
            double up = 0;
            for (int64_t k = 0; k < size; ++k) {
              gate += static_cast<double>(x[t * size + k]) * ffn.gate.At(f, k, round);
              up += static_cast<double>(x[t * size + k]) * ffn.up.At(f, k, round);
            }
            hidden[f] = gate / (1 + std::exp(-gate)) * up;
          }
          for (int64_t d = 0; d < size; ++d) {
            double sum = 0;
            double magnitude = 0;
            for (int64_t f = 0; f < width; ++f) {
              sum += hidden[f] * ffn.down.At(d, f, round);
              magnitude += std::fabs(hidden[f] * ffn.down.At(d, f, round));
            }
            ASSERT_NEAR(first[t * size + d], sum, magnitude * (round ? 0.02 : 2e-5) + 1e-6);
          }
        }
      }
    }
  }
}

TEST(FeedForward, RoundsWhatItsProductsReadAndNothingElse) {
  // One weight of each kind: every step can be followed by hand.
  const float gate_weight = 1.37f;
  const float up_weight = 0.73f;
  const float down_weight = 1.11f;
  const std::vector<float> g = {gate_weight};
  const std::vector<float> u = {up_weight};
  const std::vector<float> d = {down_weight};
  FfnWeights weights;
  weights.gate_proj.value = ViewOf(g, {1, 1});
  weights.up_proj.value = ViewOf(u, {1, 1});
  weights.down_proj.value = ViewOf(d, {1, 1});
  const auto backend = CreateCpuBackend({.num_threads = 1, .precision = Precision::kBf16});
  for (float value : {0.77f, -2.31f, 13.9f}) {
    const std::vector<float> x = {value};
    std::vector<float> scratch(2);
    std::vector<float> out(1);
    backend->FeedForward({.x = ViewOf(x, {1, 1}),
                          .weights = &weights,
                          .scratch = ViewOf(scratch, {1, 2}),
                          .out = ViewOf(out, {1, 1})});
    // Products of two bfloat16 numbers are exact floats.
    const float read = RoundToBf16(value);
    const double gate = read * RoundToBf16(gate_weight);
    const double up = read * RoundToBf16(up_weight);
    const float hidden = RoundToBf16(static_cast<float>(gate / (1 + std::exp(-gate)) * up));
    EXPECT_EQ(out[0], hidden * RoundToBf16(down_weight));
  }
}

}  // namespace
}  // namespace winnow::cpu
