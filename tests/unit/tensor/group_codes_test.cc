// Codes of groups against what their definition asks for.
#include "tensor/group_codes.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <vector>

#include "tensor/half.h"

namespace winnow {
namespace {

std::vector<float> Weights(int64_t count, uint32_t seed) {
  std::mt19937 bits(seed);
  std::normal_distribution<float> normal(0, 0.02f);
  std::vector<float> weights(static_cast<size_t>(count));
  for (float& weight : weights) weight = normal(bits);
  return weights;
}

struct Quantized {
  std::vector<int> codes;
  std::vector<float> scales;
  bool finite = false;
};

Quantized Int8(const std::vector<float>& row) {
  const int64_t columns = static_cast<int64_t>(row.size());
  std::vector<uint8_t> codes(row.size());
  std::vector<uint16_t> scales(static_cast<size_t>((columns + 31) / 32));
  Quantized quantized;
  quantized.finite = QuantizeInt8(row.data(), columns, codes.data(), scales.data());
  for (const uint8_t code : codes) quantized.codes.push_back(static_cast<int8_t>(code));
  for (const uint16_t scale : scales) quantized.scales.push_back(Bf16ToFloat(scale));
  return quantized;
}

// As the header lays them out: byte j of a run of 64 has weight j below and weight 32 + j above.
Quantized Int4(const std::vector<float>& row) {
  const int64_t columns = static_cast<int64_t>(row.size());
  std::vector<uint8_t> bytes(static_cast<size_t>((columns + 63) / 64 * 32), 0xab);
  std::vector<uint16_t> scales(static_cast<size_t>((columns + 31) / 32));
  Quantized quantized;
  quantized.finite = QuantizeInt4(row.data(), columns, bytes.data(), scales.data());
  for (int64_t c = 0; c < static_cast<int64_t>(2 * bytes.size()); ++c) {
    const uint8_t byte = bytes[static_cast<size_t>(c / 64 * 32 + c % 32)];
    const int code = (c % 64 < 32 ? byte & 15 : byte >> 4) - 8;
    if (c < columns) {
      quantized.codes.push_back(code);
    } else {
      EXPECT_EQ(code, 0) << "beyond the row";
    }
  }
  for (const uint16_t scale : scales) quantized.scales.push_back(Bf16ToFloat(scale));
  return quantized;
}

constexpr int64_t kSizes[] = {1, 31, 32, 33, 63, 64, 65, 95, 97, 128, 1000};

TEST(GroupCodes, OfEightBitsAreTheNearestToEachWeight) {
  for (const int64_t size : kSizes) {
    const std::vector<float> row = Weights(size, static_cast<uint32_t>(size));
    const Quantized quantized = Int8(row);
    ASSERT_TRUE(quantized.finite);
    for (int64_t c = 0; c < size; ++c) {
      float largest = 0;
      for (int64_t i = c / 32 * 32; i < std::min(size, c / 32 * 32 + 32); ++i) {
        largest = std::max(largest, std::fabs(row[i]));
      }
      const float scale = quantized.scales[c / 32];
      EXPECT_EQ(scale, RoundToBf16(largest / 127));
      const double exact = static_cast<double>(row[c]) / scale;
      EXPECT_LE(std::fabs(exact - quantized.codes[c]), std::fabs(exact) > 127 ? 0.51 : 0.5001);
      EXPECT_LE(std::abs(quantized.codes[c]), 127);
    }
  }
}

TEST(GroupCodes, OfFourBitsTakeTheScaleOfLeastError) {
  for (const int64_t size : kSizes) {
    const std::vector<float> row = Weights(size, static_cast<uint32_t>(size) + 7);
    const Quantized quantized = Int4(row);
    ASSERT_TRUE(quantized.finite);
    for (int64_t first = 0; first < size; first += 32) {
      const int64_t end = std::min(size, first + 32);
      // The error of a scale with the best codes for it.
      const auto error = [&](double scale, bool chosen) {
        double sum = 0;
        for (int64_t c = first; c < end; ++c) {
          const double code =
              chosen ? quantized.codes[c] : std::clamp(std::nearbyint(row[c] / scale), -8.0, 7.0);
          sum += (row[c] - code * scale) * (row[c] - code * scale);
        }
        return sum;
      };
      float largest = 0;
      for (int64_t c = first; c < end; ++c) {
        if (std::fabs(row[c]) > std::fabs(largest)) largest = row[c];
      }
      const double found = error(quantized.scales[first / 32], true);
      for (double part = 6.5; part <= 9; part += 0.25) {
        const double candidate = RoundToBf16(largest / -static_cast<float>(part));
        EXPECT_LE(found, error(candidate, false) * 1.001 + 1e-12) << size << " " << part;
      }
    }
  }
}

TEST(GroupCodes, OfZerosAndOfNumbersTooSmallForAScaleAreZeros) {
  for (const float value : {0.0f, -0.0f, 0x1p-130f, 0x1p-126f}) {
    const std::vector<float> row(40, value);
    for (const Quantized& quantized : {Int8(row), Int4(row)}) {
      EXPECT_TRUE(quantized.finite);
      for (const float scale : quantized.scales) EXPECT_EQ(scale, 0.0f);
      for (const int code : quantized.codes) EXPECT_EQ(code, 0);
    }
  }
}

TEST(GroupCodes, KeepARowOfOneMagnitudeAsGoodAsTheScaleAllows) {
  std::vector<float> row(64, 0.5f);
  for (size_t c = 0; c < row.size(); c += 3) row[c] = -0.5f;
  const Quantized eight = Int8(row);
  const Quantized four = Int4(row);
  for (size_t c = 0; c < row.size(); ++c) {
    EXPECT_NEAR(eight.codes[c] * eight.scales[c / 32], row[c], 0.5 / 256);
    EXPECT_NEAR(four.codes[c] * four.scales[c / 32], row[c], 0.5 / 16);
  }
}

TEST(GroupCodes, RefuseWhatIsNoFiniteNumber) {
  for (const float value : {NAN, INFINITY, -INFINITY}) {
    for (const size_t place : {0u, 31u, 32u, 69u}) {
      std::vector<float> row(70, 1.0f);
      row[place] = value;
      EXPECT_FALSE(Int8(row).finite) << place;
      EXPECT_FALSE(Int4(row).finite) << place;
    }
  }
}

}  // namespace
}  // namespace winnow
