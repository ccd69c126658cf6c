// The short formats against definitions written independently: values from sign, exponent and
// mantissa in double, rounding by looking at the neighbours.
#include "tensor/half.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>
#include <vector>

namespace winnow {
namespace {

// The value of a small IEEE-like float. `ieee`: the top exponent means infinity and NaN; otherwise
// only the very top code is NaN.
double Define(uint32_t bits, int exponent_bits, int mantissa_bits, bool ieee) {
  const uint32_t mantissa = bits & ((1u << mantissa_bits) - 1);
  const int exponent = static_cast<int>((bits >> mantissa_bits) & ((1u << exponent_bits) - 1));
  const double sign = (bits >> (exponent_bits + mantissa_bits)) & 1 ? -1.0 : 1.0;
  const int bias = (1 << (exponent_bits - 1)) - 1;
  const int top = (1 << exponent_bits) - 1;
  if (exponent == top && ieee) {
    return mantissa == 0 ? sign * std::numeric_limits<double>::infinity() : std::nan("");
  }
  if (exponent == top && mantissa == (1u << mantissa_bits) - 1) return std::nan("");
  const double fraction = std::ldexp(mantissa, -mantissa_bits);
  return exponent == 0 ? sign * std::ldexp(fraction, 1 - bias)
                       : sign * std::ldexp(1.0 + fraction, exponent - bias);
}

void ExpectSame(float got, double want, uint32_t bits) {
  if (std::isnan(want)) {
    EXPECT_TRUE(std::isnan(got)) << std::hex << bits;
  } else {
    EXPECT_EQ(static_cast<double>(got), want) << std::hex << bits;
    EXPECT_EQ(std::signbit(got), std::signbit(want)) << std::hex << bits;
  }
}

TEST(Bf16, EveryCodeHasItsDefinedValue) {
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    ExpectSame(Bf16ToFloat(static_cast<uint16_t>(bits)), Define(bits, 8, 7, true), bits);
  }
}

TEST(F16, EveryCodeHasItsDefinedValue) {
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    ExpectSame(F16ToFloat(static_cast<uint16_t>(bits)), Define(bits, 5, 10, true), bits);
  }
}

TEST(E4m3, EveryCodeHasItsDefinedValue) {
  for (uint32_t bits = 0; bits < 256; ++bits) {
    ExpectSame(E4m3ToFloat(static_cast<uint8_t>(bits)), Define(bits, 4, 3, false), bits);
  }
  EXPECT_EQ(E4m3ToFloat(0x7e), 448.0f);
  EXPECT_EQ(E4m3ToFloat(0x01), 0x1p-9f);
}

TEST(Bf16, EveryFiniteCodeSurvivesTheRoundTrip) {
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const float value = Bf16ToFloat(static_cast<uint16_t>(bits));
    if (std::isnan(value)) {
      EXPECT_TRUE(std::isnan(RoundToBf16(value)));
    } else {
      EXPECT_EQ(FloatToBf16(value), bits);
    }
  }
}

// Of the two bf16 values around `value`, the nearer; of two equally near, the one with an even
// code.
uint16_t NearestBf16(float value) {
  const uint16_t below = static_cast<uint16_t>(std::bit_cast<uint32_t>(value) >> 16);
  const double magnitude = std::fabs(static_cast<double>(value));
  const double low = std::fabs(Define(below, 8, 7, true));
  // The successor of the largest finite value counts as 2^128, as it would without a top.
  const double above = Define((below & 0x7fff) + 1, 8, 7, true);
  const double high = std::isinf(above) ? 0x1p128 : above;
  const double down = magnitude - low;
  const double up = high - magnitude;
  if (down != up) return static_cast<uint16_t>(down < up ? below : below + 1);
  return static_cast<uint16_t>(below % 2 == 0 ? below : below + 1);
}

TEST(Bf16, RoundsToNearestWithTiesToEven) {
  std::mt19937 random(1);
  for (int count = 0; count < 2000000; ++count) {
    const uint32_t bits = random();
    const float value = std::bit_cast<float>(bits);
    if (!std::isfinite(value)) continue;
    ASSERT_EQ(FloatToBf16(value), NearestBf16(value)) << std::hex << bits;
  }
  for (uint32_t upper = 0; upper < 0x7f80; ++upper) {
    for (const uint32_t lower : {0x0000u, 0x0001u, 0x7fffu, 0x8000u, 0x8001u, 0xffffu}) {
      const float value = std::bit_cast<float>(upper << 16 | lower);
      ASSERT_EQ(FloatToBf16(value), NearestBf16(value)) << std::hex << upper << " " << lower;
      ASSERT_EQ(FloatToBf16(-value), NearestBf16(value) | 0x8000);
    }
  }
}

TEST(Bf16, KeepsInfinityAndNaN) {
  const float infinity = std::numeric_limits<float>::infinity();
  EXPECT_EQ(FloatToBf16(infinity), 0x7f80);
  EXPECT_EQ(FloatToBf16(-infinity), 0xff80);
  EXPECT_TRUE(std::isnan(RoundToBf16(std::bit_cast<float>(0x7f800001u))));
}

// By brute force over all codes of one sign: the nearest, and of two equally near the even one.
uint8_t NearestE4m3(float value) {
  const double magnitude = std::fabs(static_cast<double>(value));
  uint8_t best = 0;
  double best_distance = std::numeric_limits<double>::infinity();
  for (uint8_t code = 0; code < 0x7f; ++code) {
    const double distance = std::fabs(Define(code, 4, 3, false) - magnitude);
    if (distance < best_distance || (distance == best_distance && code % 2 == 0)) {
      best = code;
      best_distance = distance;
    }
  }
  return best | (std::signbit(value) ? 0x80 : 0);
}

TEST(E4m3, RoundsToNearestWithTiesToEvenOverItsWholeRange) {
  std::mt19937 random(2);
  std::uniform_real_distribution<float> exponent(-14.0f, 10.0f);
  for (int count = 0; count < 200000; ++count) {
    const float value = std::exp2(exponent(random)) * (random() % 2 == 0 ? 1.0f : -1.0f);
    ASSERT_EQ(FloatToE4m3(value), NearestE4m3(value)) << std::hexfloat << value;
  }
}

TEST(E4m3, RoundsMidpointsAndTheirNeighboursAsTheDefinitionSays) {
  for (uint32_t code = 0; code < 0x7e; ++code) {
    const float low = static_cast<float>(Define(code, 4, 3, false));
    const float high = static_cast<float>(Define(code + 1, 4, 3, false));
    const float middle = (low + high) / 2;  // exact: four bits more than E4M3 has are enough
    const float infinity = std::numeric_limits<float>::infinity();
    for (const float value :
         {low, std::nextafter(middle, 0.0f), middle, std::nextafter(middle, infinity), high}) {
      ASSERT_EQ(FloatToE4m3(value), NearestE4m3(value)) << std::hexfloat << value;
      ASSERT_EQ(FloatToE4m3(-value), NearestE4m3(-value)) << std::hexfloat << -value;
    }
  }
}

TEST(E4m3, ClampsToItsLargestValueAndNeverMakesNaNOfANumber) {
  const float infinity = std::numeric_limits<float>::infinity();
  for (const float value : {448.0f, 463.9f, 464.0f, 480.0f, 1e30f, infinity}) {
    EXPECT_EQ(FloatToE4m3(value), 0x7e) << value;
    EXPECT_EQ(FloatToE4m3(-value), 0xfe) << value;
  }
  EXPECT_EQ(FloatToE4m3(std::numeric_limits<float>::quiet_NaN()), 0x7f);
}

TEST(E4m3, KeepsTheSignOfZeroAndFlushesTheSmallest) {
  EXPECT_EQ(FloatToE4m3(0.0f), 0x00);
  EXPECT_EQ(FloatToE4m3(-0.0f), 0x80);
  EXPECT_EQ(FloatToE4m3(0x1p-10f), 0x00);  // a tie between 0 and 2^-9: zero is even
  EXPECT_EQ(FloatToE4m3(0x1.000002p-10f), 0x01);
  EXPECT_EQ(FloatToE4m3(std::numeric_limits<float>::denorm_min()), 0x00);
}

TEST(RoundUpToPowerOfTwo, GivesTheSmallestThatIsNotBelow) {
  EXPECT_EQ(RoundUpToPowerOfTwo(1.0f), 1.0f);
  EXPECT_EQ(RoundUpToPowerOfTwo(std::nextafter(1.0f, 2.0f)), 2.0f);
  EXPECT_EQ(RoundUpToPowerOfTwo(std::nextafter(1.0f, 0.0f)), 1.0f);
  EXPECT_EQ(RoundUpToPowerOfTwo(0.3f), 0.5f);
  EXPECT_EQ(RoundUpToPowerOfTwo(448.0f), 512.0f);
  std::mt19937 random(3);
  std::uniform_real_distribution<float> exponent(-120.0f, 120.0f);
  for (int count = 0; count < 10000; ++count) {
    const float value = std::exp2(exponent(random));
    const float power = RoundUpToPowerOfTwo(value);
    int unused;
    ASSERT_EQ(std::frexp(power, &unused), 0.5f);
    ASSERT_GE(power, value);
    ASSERT_LT(power / 2, value);
  }
}

}  // namespace
}  // namespace winnow
