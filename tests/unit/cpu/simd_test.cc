// simd.h against the definitions of half.h and <cmath>, on every instruction set of this machine.
#include <bit>
#include <cfenv>
#include <limits>

#include "base/thread_pool.h"
#include "unit/cpu/cpu_test_support.h"
#include "unit/cpu/simd_under_test.h"

namespace winnow::cpu {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

const SimdUnderTest& Of(InstructionSet set) {
#if defined(__x86_64__)
  if (set == InstructionSet::kAmx) return amx::kSimdUnderTest;
  if (set == InstructionSet::kAvx512Bf16) return avx512_bf16::kSimdUnderTest;
  if (set == InstructionSet::kAvx512) return avx512::kSimdUnderTest;
  if (set == InstructionSet::kAvx2) return avx2::kSimdUnderTest;
#endif
  return portable::kSimdUnderTest;
}

class Simd : public testing::TestWithParam<InstructionSet> {
 protected:
  const SimdUnderTest& simd() const { return Of(GetParam()); }
};
INSTANTIATE_TEST_SUITE_P(Sets, Simd, testing::ValuesIn(SupportedSets()),
                         [](const auto& info) { return InstructionSetName(info.param); });

bool SameNumber(float a, float b) {
  return std::bit_cast<uint32_t>(a) == std::bit_cast<uint32_t>(b) ||
         (std::isnan(a) && std::isnan(b));
}

// Floats of every sign and exponent with a few mantissas, and the special ones.
std::vector<float> FloatsOfEveryExponent() {
  std::vector<float> values;
  for (uint32_t upper = 0; upper < 512; ++upper) {
    for (uint32_t mantissa :
         {0x0u, 0x1u, 0x7fffu, 0x8000u, 0x8001u, 0x18000u, 0x3fffffu, 0x400000u, 0x555555u,
          0x7f7fffu, 0x7f8000u, 0x7fffffu, 0x2aaaaau, 0x123456u, 0x654321u, 0x7ffffeu}) {
      values.push_back(std::bit_cast<float>(upper << 23 | mantissa));
    }
  }
  return values;
}

TEST_P(Simd, DecodesEveryE4m3Code) {
  std::vector<uint8_t> codes(256);
  for (int code = 0; code < 256; ++code) codes[code] = static_cast<uint8_t>(code);
  std::vector<float> values(256);
  FlushSubnormals flush;
  simd().decode_e4m3(codes.data(), values.data(), 256);
  for (int code = 0; code < 256; ++code) {
    EXPECT_TRUE(SameNumber(values[code], E4m3ToFloat(codes[code]))) << code;
  }
}

TEST_P(Simd, DecodesEveryHalfAndBfloat16) {
  std::vector<uint16_t> codes(65536);
  for (int code = 0; code < 65536; ++code) codes[code] = static_cast<uint16_t>(code);
  std::vector<float> halves(65536);
  std::vector<float> brains(65536);
  FlushSubnormals flush;
  simd().decode_f16(codes.data(), halves.data(), 65536);
  simd().decode_bf16(codes.data(), brains.data(), 65536);
  for (int code = 0; code < 65536; ++code) {
    ASSERT_TRUE(SameNumber(halves[code], F16ToFloat(codes[code]))) << code;
    ASSERT_TRUE(SameNumber(brains[code], Bf16ToFloat(codes[code]))) << code;
  }
}

TEST_P(Simd, DecodesAndEncodesEveryInt8) {
  std::vector<int8_t> codes(256);
  for (int code = 0; code < 256; ++code) codes[code] = static_cast<int8_t>(code - 128);
  std::vector<float> values(256);
  std::vector<int8_t> back(256);
  simd().decode_i8(codes.data(), values.data(), 256);
  simd().encode_i8(values.data(), back.data(), 256);
  for (int code = 0; code < 256; ++code) EXPECT_EQ(values[code], code - 128);
  EXPECT_EQ(back, codes);
}

TEST_P(Simd, RoundsToBfloat16AsDefined) {
  const std::vector<float> values = FloatsOfEveryExponent();
  const int64_t count = static_cast<int64_t>(values.size());
  std::vector<float> rounded(count);
  std::vector<float> rounded_numbers(count);
  std::vector<uint16_t> codes(count);
  simd().round_to_bf16(values.data(), rounded.data(), count);
  simd().round_number_to_bf16(values.data(), rounded_numbers.data(), count);
  simd().encode_bf16(rounded.data(), codes.data(), count);
  for (int64_t i = 0; i < count; ++i) {
    const float expected = RoundToBf16(values[i]);
    EXPECT_TRUE(SameNumber(rounded[i], expected)) << values[i];
    if (!std::isnan(values[i])) {
      EXPECT_TRUE(SameNumber(rounded_numbers[i], expected)) << values[i];
      EXPECT_EQ(codes[i], FloatToBf16(values[i])) << values[i];
    }
  }
  std::vector<float> nans(16, kNan);
  simd().round_number_to_bf16(nans.data(), nans.data(), 16);
  for (float value : nans) EXPECT_TRUE(std::isnan(value));
}

TEST_P(Simd, RoundsToWholeNumbersTiesToEven) {
  const std::vector<float> values = {0.5f,       1.5f, 2.5f,  -0.5f,  -1.5f,  -2.5f,
                                     0.49f,      3.7f, -3.7f, 126.5f, 127.5f, 100000.5f,
                                     -100001.5f, 0.0f, 7.0f,  -7.0f};
  std::vector<float> whole(16);
  simd().round_to_whole(values.data(), whole.data(), 16);
  for (int lane = 0; lane < 16; ++lane) EXPECT_EQ(whole[lane], std::nearbyint(values[lane]));
}

TEST_P(Simd, ExpIsWithinTwoUnitsInTheLastPlace) {
  std::vector<float> values;
  for (float x : FloatsOfEveryExponent()) {
    if (std::fabs(x) < 100) values.push_back(x);
  }
  for (int i = -8720; i <= 8872; ++i) values.push_back(static_cast<float>(i) * 0.01f);
  for (float x : RandomFloats(20000, 1)) values.push_back(x * 88);
  while (values.size() % 16) values.push_back(0);
  std::vector<float> results(values.size());
  FlushSubnormals flush;
  simd().exp(values.data(), results.data(), static_cast<int64_t>(values.size()));
  double worst = 0;
  for (size_t i = 0; i < values.size(); ++i) {
    const double exact = std::exp(static_cast<double>(values[i]));
    if (exact < 0x1p-126) {
      EXPECT_LE(results[i], 0x1p-126f) << values[i];
      continue;
    }
    if (exact >= 0x1p128) {
      EXPECT_EQ(results[i], kInfinity) << values[i];
      continue;
    }
    const double unit = std::ldexp(1.0, std::ilogb(exact) - 23);
    worst = std::max(worst, std::fabs(results[i] - exact) / unit);
  }
  EXPECT_LT(worst, 2.0);
}

TEST_P(Simd, ExpAndSigmoidGoToTheirLimits) {
  const std::vector<float> x = {0.0f,    -0.0f,  -kInfinity, kInfinity, kNan,  -104.0f,
                                -105.0f, -1e30f, 89.0f,      1e30f,     88.8f, 88.7f,
                                -87.3f,  1.0f,   -1.0f,      -1e-30f};
  std::vector<float> y(16);
  std::vector<float> s(16);
  FlushSubnormals flush;
  simd().exp(x.data(), y.data(), 16);
  simd().sigmoid(x.data(), s.data(), 16);
  EXPECT_EQ(y[0], 1.0f);
  EXPECT_EQ(y[1], 1.0f);
  EXPECT_EQ(y[2], 0.0f);
  EXPECT_EQ(y[3], kInfinity);
  EXPECT_TRUE(std::isnan(y[4]));
  EXPECT_EQ(y[5], 0.0f);
  EXPECT_EQ(y[6], 0.0f);
  EXPECT_EQ(y[7], 0.0f);
  EXPECT_EQ(y[8], kInfinity);
  EXPECT_EQ(y[9], kInfinity);
  EXPECT_EQ(y[10], kInfinity);
  EXPECT_LT(y[11], kInfinity);
  EXPECT_EQ(y[15], 1.0f);
  EXPECT_EQ(s[0], 0.5f);
  EXPECT_EQ(s[2], 0.0f);
  EXPECT_EQ(s[3], 1.0f);
  EXPECT_TRUE(std::isnan(s[4]));
}

// Products and addends whose exact sum lies on, just above or just below a tie of floats.
TEST_P(Simd, FusesMultiplyAdd) {
  std::vector<float> a;
  std::vector<float> b;
  std::vector<float> c;
  const std::vector<float> random = RandomFloats(3 * 16 * 4000, 7);
  for (size_t i = 0; i + 2 < random.size(); i += 3) {
    const int scale = static_cast<int>(i / 3 % 61) - 30;
    a.push_back(random[i]);
    b.push_back(random[i + 1]);
    c.push_back(std::ldexp(random[i + 2], scale));
  }
  // (1 + 2^-23)(1 + 2^-23) = 1 + 2^-22 + 2^-46, and 2^24 + 1 + tiny: both decide by the last bit.
  const float above = 1 + 0x1p-23f;
  for (float tiny : {0x1p-60f, -0x1p-60f, 0.0f, 0x1p-100f}) {
    for (float sign : {1.0f, -1.0f}) {
      a.insert(a.end(), {sign, above, sign * 0x1p-12f, sign * 3});
      b.insert(b.end(), {0x1p24f + 2, above, 0x1p-12f + 0x1p-30f, 0x1p24f});
      c.insert(c.end(), {1 + tiny, -1 + tiny, 1, sign + tiny});
    }
  }
  for (float special : {kInfinity, -kInfinity, kNan, 0x1p127f}) {
    a.push_back(special);
    b.push_back(2.0f);
    c.push_back(1.0f);
    a.push_back(1.0f);
    b.push_back(2.0f);
    c.push_back(special);
  }
  while (a.size() % 16) {
    a.push_back(-1.0f);
    b.push_back(0.0f);
    c.push_back(0.0f);
  }
  std::vector<float> result(a.size());
  FlushSubnormals flush;
  simd().fma(a.data(), b.data(), c.data(), result.data(), static_cast<int64_t>(a.size()));
  for (size_t i = 0; i < a.size(); ++i) {
    const float expected = std::fma(a[i], b[i], c[i]);
    ASSERT_TRUE(SameNumber(result[i], expected)) << a[i] << " * " << b[i] << " + " << c[i];
  }
}

TEST_P(Simd, MaxAndMinGiveTheSecondOperandForNanAndZeros) {
  const std::vector<float> a = {1, 2, kNan, 1, 0.0f, -0.0f, kNan, -kInfinity,
                                5, 5, 5,    5, 5,    5,     5,    5};
  const std::vector<float> b = {2, 1, 1, kNan, -0.0f, 0.0f, kNan, kInfinity,
                                5, 5, 5, 5,    5,     5,    5,    5};
  std::vector<float> max(16);
  std::vector<float> min(16);
  simd().max(a.data(), b.data(), max.data(), 16);
  simd().min(a.data(), b.data(), min.data(), 16);
  for (int lane = 0; lane < 16; ++lane) {
    EXPECT_TRUE(SameNumber(max[lane], a[lane] > b[lane] ? a[lane] : b[lane])) << lane;
    EXPECT_TRUE(SameNumber(min[lane], a[lane] < b[lane] ? a[lane] : b[lane])) << lane;
  }
}

TEST_P(Simd, ComparesLaneByLane) {
  const std::vector<float> a = {1, 2, 3, kNan, -1, 0.0f, kInfinity, 1, 2, 2, 2, 2, 9, 8, 7, 6};
  const std::vector<float> b = {2, 2, 2, 0, kNan, -0.0f, kInfinity, 0, 3, 1, 2, 2, 8, 9, 7, 7};
  const uint64_t bits = simd().compare(a.data(), b.data());
  for (int lane = 0; lane < 16; ++lane) {
    EXPECT_EQ(bits >> lane & 1, a[lane] < b[lane] ? 1u : 0u) << lane;
    EXPECT_EQ(bits >> (16 + lane) & 1, a[lane] <= b[lane] ? 1u : 0u) << lane;
    EXPECT_EQ(bits >> (32 + lane) & 1, a[lane] == b[lane] ? 1u : 0u) << lane;
    EXPECT_EQ(bits >> (48 + lane) & 1, std::isunordered(a[lane], b[lane]) ? 1u : 0u) << lane;
  }
}

TEST_P(Simd, SelectsByBits) {
  const std::vector<float> a = RandomFloats(16, 3);
  const std::vector<float> b = RandomFloats(16, 4);
  for (uint32_t mask : {0u, 0xffffu, 0x1u, 0x8000u, 0x00ffu, 0xa5c3u}) {
    std::vector<float> out(16);
    simd().select(mask, a.data(), b.data(), out.data());
    for (int lane = 0; lane < 16; ++lane) {
      EXPECT_EQ(out[lane], mask >> lane & 1 ? a[lane] : b[lane]);
    }
  }
}

TEST_P(Simd, AddsProductsOfPairs) {
  std::mt19937 random(7);
  std::uniform_int_distribution<int> byte(-128, 127);
  std::uniform_int_distribution<int> word(-32768, 32767);
  for (int round = 0; round < 50; ++round) {
    const bool upper = round % 2 == 1;
    int8_t fours[64];
    for (int8_t& code : fours) code = static_cast<int8_t>(byte(random));
    int32_t pairs[16];
    int32_t sums[16];
    int32_t expected[16];
    for (int lane = 0; lane < 16; ++lane) {
      const int low = word(random);
      const int high = word(random);
      pairs[lane] = static_cast<int32_t>(static_cast<uint32_t>(high) << 16 | (low & 0xffff));
      sums[lane] = word(random);
      const int8_t* four = fours + 4 * lane + (upper ? 1 : 0);
      expected[lane] = sums[lane] + four[0] * low + four[2] * high;
    }
    simd().add_pairs(fours, upper, pairs, sums);
    for (int lane = 0; lane < 16; ++lane) EXPECT_EQ(sums[lane], expected[lane]);
  }
}

TEST_P(Simd, AddsLanesInOneOrder) {
  alignas(64) float x[64];
  const std::vector<float> random = RandomFloats(64, 5);
  std::copy(random.begin(), random.end(), x);
  x[3] = 1e7f;  // an order that differs shows
  x[11] = -1e7f;
  x[20] = 3e6f;
  float sums[4];
  simd().sum4(x, sums);
  for (int row = 0; row < 4; ++row) {
    float lanes[16];
    std::copy(x + 16 * row, x + 16 * row + 16, lanes);
    for (int distance : {8, 4, 2, 1}) {
      for (int lane = 0; lane < distance; ++lane) lanes[lane] += lanes[lane + distance];
    }
    EXPECT_EQ(simd().sum(x + 16 * row), lanes[0]);
    EXPECT_EQ(sums[row], lanes[0]);
    EXPECT_EQ(simd().max_lane(x + 16 * row), *std::max_element(x + 16 * row, x + 16 * row + 16));
  }
}

TEST_P(Simd, PartialLoadsAndStoresTouchOnlyTheirElements) {
  for (int64_t n = 0; n <= 16; ++n) {
    const std::vector<float> x = RandomFloats(n, 6);  // as long as n: a sanitizer sees one more
    std::vector<float> loaded(16, 9.0f);
    simd().copy_partial(x.data(), loaded.data(), n);
    for (int64_t lane = 0; lane < 16; ++lane) EXPECT_EQ(loaded[lane], lane < n ? x[lane] : 0.0f);

    std::vector<float> stored(17, 9.0f);
    const std::vector<float> full = RandomFloats(16, 8);
    simd().store_partial(full.data(), stored.data(), n);
    for (int64_t lane = 0; lane < 17; ++lane) {
      EXPECT_EQ(stored[lane], lane < n ? full[lane] : 9.0f);
    }
  }
}

TEST_P(Simd, TakesSquareRootsExactly) {
  std::vector<float> x = RandomFloats(160, 9);
  for (float& value : x) value = std::fabs(value) * 1000;
  std::vector<float> roots(x.size());
  simd().sqrt(x.data(), roots.data(), 160);
  for (size_t i = 0; i < x.size(); ++i) EXPECT_EQ(roots[i], std::sqrt(x[i]));
}

TEST(SimdSets, GiveEqualBits) {
  std::vector<float> x = FloatsOfEveryExponent();
  for (float value : RandomFloats(16000, 10)) x.push_back(value * 20);
  const int64_t count = static_cast<int64_t>(x.size());
  for (InstructionSet set : SupportedSets()) {
    std::vector<float> mine(count);
    std::vector<float> plain(count);
    FlushSubnormals flush;
    for (auto function :
         {&SimdUnderTest::exp, &SimdUnderTest::sigmoid, &SimdUnderTest::round_to_bf16}) {
      (Of(set).*function)(x.data(), mine.data(), count);
      (portable::kSimdUnderTest.*function)(x.data(), plain.data(), count);
      for (int64_t i = 0; i < count; ++i) {
        ASSERT_TRUE(SameNumber(mine[i], plain[i])) << InstructionSetName(set) << " " << x[i];
      }
    }
  }
}

}  // namespace
}  // namespace winnow::cpu
