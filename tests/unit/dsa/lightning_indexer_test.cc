// The indexer's definition against sums made by hand and against its own algebra; the quantizers
// against a search for the nearest code.
#include "dsa/lightning_indexer.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <random>
#include <vector>

namespace winnow::dsa {
namespace {

std::vector<float> RandomVector(int64_t size, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values(size);
  for (float& value : values) value = normal(random);
  return values;
}

// What an E4M3 code stands for, from the definition of the format in doubles.
double E4m3Value(int code) {
  const int exponent = (code >> 3) & 15;
  const int mantissa = code & 7;
  const double magnitude =
      exponent == 0 ? std::ldexp(mantissa, -9) : std::ldexp(8 + mantissa, exponent - 10);
  return code & 0x80 ? -magnitude : magnitude;
}

// The nearest E4M3 number to `x`, the even code of two equally near.
double NearestE4m3(double x) {
  int best = 0;
  for (int code = 0; code < 0x7f; ++code) {
    const double distance = std::fabs(E4m3Value(code) - std::fabs(x));
    const double best_distance = std::fabs(E4m3Value(best) - std::fabs(x));
    if (distance < best_distance || (distance == best_distance && code % 2 == 0)) best = code;
  }
  return std::copysign(E4m3Value(best), x);
}

TEST(IndexScore, AddsWeightedAgreement) {
  // Heads agree by 1*3 + 2*4 = 11 and by -11, which counts nothing.
  const float q[] = {1, 2, -1, -2};
  const float weights[] = {0.5f, 100};
  const float key[] = {3, 4};
  EXPECT_EQ(IndexScore(q, weights, key, 2, 2, 2), 11.0f);
}

TEST(IndexScore, CountsNegativeWeights) {
  const float q[] = {1, 2};
  const float weights[] = {-0.5f};
  const float key[] = {3, 4};
  EXPECT_EQ(IndexScore(q, weights, key, 1, 1, 2), -5.5f);
}

TEST(IndexScore, FusesProductsAndSums) {
  // 1 - (1 + e)(1 - e) = e^2, which is lost when the product is rounded first. The second dimension
  // comes first.
  const float e = 0x1p-20f;
  const float q[] = {-(1 + e), 1};
  const float key[] = {1 - e, 1};
  const float weights[] = {1};
  EXPECT_EQ(IndexScore(q, weights, key, 1, 1, 2), e * e);
}

TEST(IndexScore, AddsHeadsInFourChainsOfPairs) {
  // Agreement is 1 for all; the weights 2^25 and -2^25 swallow a 1 that lies between them in the
  // same chain. Heads 0, 1, 8 are of chain 0, head 2 is of chain 1.
  std::vector<float> q(16, 1.0f);
  const float key[] = {1};
  std::vector<float> weights(16, 0.0f);
  weights[0] = 0x1p25f;
  weights[1] = 1;
  weights[8] = -0x1p25f;
  EXPECT_EQ(IndexScore(q.data(), weights.data(), key, 1, 16, 1), 0.0f);
  std::swap(weights[1], weights[2]);
  EXPECT_EQ(IndexScore(q.data(), weights.data(), key, 1, 16, 1), 1.0f);
  std::swap(weights[2], weights[7]);
  EXPECT_EQ(IndexScore(q.data(), weights.data(), key, 1, 16, 1), 1.0f);
  std::swap(weights[7], weights[8]);  // now -2^25 of chain 3 meets 2^25 last
  EXPECT_EQ(IndexScore(q.data(), weights.data(), key, 1, 16, 1), 0.0f);
}

TEST(IndexScore, NeverGivesNegativeZero) {
  const float q[] = {1};
  const float key[] = {-1};
  const float weights[] = {-3};
  EXPECT_FALSE(std::signbit(IndexScore(q, weights, key, 1, 1, 1)));
  const float agree[] = {1};
  const float small[] = {-1};
  EXPECT_FALSE(std::signbit(IndexScore(q, small, agree, 0, 1, 1)));
}

TEST(IndexScore, LetsNanThrough) {
  const float q[] = {1, 1};
  const float key[] = {NAN, 1};
  const float weights[] = {1};
  EXPECT_TRUE(std::isnan(IndexScore(q, weights, key, 1, 1, 2)));
  const float finite[] = {1, 1};
  EXPECT_TRUE(std::isnan(IndexScore(q, weights, finite, NAN, 1, 2)));
}

TEST(LightningIndexer, ScoresEveryTokenAgainstEveryKey) {
  std::vector<float> q = {1, 0, 0, 1};  // two tokens, one head, two dims
  std::vector<float> weights = {1, 10};
  std::vector<float> keys = {1, 2, 3, 4, -5, 6};
  std::vector<float> key_scale = {1, 2, 1};
  std::vector<float> scores(6);
  LightningIndexerReference({.q = {q.data(), DType::kF32, {2, 1, 2}},
                             .weights = {weights.data(), DType::kF32, {2, 1}},
                             .keys = {keys.data(), DType::kF32, {3, 2}},
                             .key_scale = {key_scale.data(), DType::kF32, {3}},
                             .scores = {scores.data(), DType::kF32, {2, 3}}});
  EXPECT_EQ(scores, (std::vector<float>{1, 6, 0, 20, 80, 60}));
}

TEST(HadamardTransform, IsTheSylvesterMatrix) {
  for (int64_t size : {1, 2, 16, 128}) {
    for (int64_t column = 0; column < size; ++column) {
      std::vector<float> x(size, 0.0f);
      x[column] = 1;
      HadamardTransform(x.data(), size);
      for (int64_t row = 0; row < size; ++row) {
        const int sign = std::popcount(static_cast<uint64_t>(row & column)) % 2 ? -1 : 1;
        ASSERT_EQ(x[row], sign * static_cast<float>(1 / std::sqrt(static_cast<double>(size))));
      }
    }
  }
}

TEST(HadamardTransform, IsItsOwnInverse) {
  const std::vector<float> x = RandomVector(128, 1);
  std::vector<float> y = x;
  HadamardTransform(y.data(), 128);
  HadamardTransform(y.data(), 128);
  for (int j = 0; j < 128; ++j) EXPECT_NEAR(y[j], x[j], 1e-5);
}

TEST(QuantizeIndexVector, FindsTheNearestE4m3CodeOfEveryBfloat16) {
  for (uint32_t high = 0; high < 0x10000; ++high) {
    const float value = std::bit_cast<float>(high << 16);
    if (!std::isfinite(value) || std::fabs(value) > 448) continue;
    float x[] = {448, value};
    ASSERT_EQ(QuantizeIndexVector(IndexKeyType::kE4m3, x, 2), 1.0f);
    ASSERT_EQ(x[0], 448.0f);
    ASSERT_EQ(x[1], NearestE4m3(value)) << value;
  }
}

TEST(QuantizeIndexVector, TakesThePowerOfTwoAboveTheE4m3Scale) {
  for (float max = 3e-5f; max < 1e6f; max *= 1.07f) {
    float x[] = {-max, max / 3};
    const float scale = QuantizeIndexVector(IndexKeyType::kE4m3, x, 2);
    const float ratio = std::max(max, 1e-4f) * (1.0f / 448);
    ASSERT_EQ(scale, std::exp2(std::ceil(std::log2(static_cast<double>(ratio)))));
    ASSERT_EQ(x[0], NearestE4m3(-static_cast<double>(max) / scale));
  }
  float exact[] = {448 * 4, 0};
  EXPECT_EQ(QuantizeIndexVector(IndexKeyType::kE4m3, exact, 2), 4.0f);
  float zeros[] = {0, -0.0f};
  EXPECT_EQ(QuantizeIndexVector(IndexKeyType::kE4m3, zeros, 2), 0x1p-22f);
}

TEST(QuantizeIndexVector, RoundsInt8CodesToNearestEven) {
  float x[] = {127, 0.5f, 1.5f, -2.5f, -126.6f, 0};
  EXPECT_EQ(QuantizeIndexVector(IndexKeyType::kInt8, x, 6), 1.0f);
  const float expected[] = {127, 0, 2, -2, -127, 0};
  for (int j = 0; j < 6; ++j) EXPECT_EQ(x[j], expected[j]);
}

TEST(QuantizeIndexVector, KeepsInt8CodesWithinHalfAStep) {
  const std::vector<float> x = RandomVector(128, 2);
  std::vector<float> codes = x;
  const float scale = QuantizeIndexVector(IndexKeyType::kInt8, codes.data(), 128);
  float largest = 0;
  for (int j = 0; j < 128; ++j) {
    EXPECT_EQ(codes[j], std::round(codes[j]));
    EXPECT_NEAR(codes[j] * scale, x[j], scale * 0.5001f);
    largest = std::max(largest, std::fabs(codes[j]));
  }
  EXPECT_EQ(largest, 127);
}

TEST(QuantizeIndexVector, GivesZerosForAVectorOfZeros) {
  float x[] = {0, -0.0f, 0};
  EXPECT_EQ(QuantizeIndexVector(IndexKeyType::kInt8, x, 3), 0.0f);
  for (float code : x) EXPECT_EQ(code, 0.0f);
}

TEST(QuantizeIndexVector, MarksVectorsThatAreNotFinite) {
  for (IndexKeyType type : {IndexKeyType::kE4m3, IndexKeyType::kInt8}) {
    for (float bad : {NAN, INFINITY, -INFINITY}) {
      float x[] = {1, bad, 2};
      EXPECT_TRUE(std::isnan(QuantizeIndexVector(type, x, 3)));
      for (float code : x) EXPECT_EQ(code, 0.0f);
    }
  }
}

TEST(QuantizeIndexVector, RoundsToBfloat16OrNotAtAll) {
  float x[] = {1 + 0x1p-8f, 1 + 0x1.8p-7f};  // both halfway: down to even, up to even
  EXPECT_EQ(QuantizeIndexVector(IndexKeyType::kF32, x, 2), 1.0f);
  EXPECT_EQ(x[0], 1 + 0x1p-8f);
  EXPECT_EQ(QuantizeIndexVector(IndexKeyType::kBf16, x, 2), 1.0f);
  EXPECT_EQ(x[0], 1.0f);
  EXPECT_EQ(x[1], 1 + 0x1p-6f);
}

}  // namespace
}  // namespace winnow::dsa
