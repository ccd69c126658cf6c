#include "tensor/group_codes.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "tensor/half.h"

namespace winnow {
namespace {

// To the nearest whole number, ties to even, for |x| < 2^22: without a call, so that loops become
// vectors.
float Nearest(float x) { return (x + 0x1.8p23f) - 0x1.8p23f; }

// The weight of largest magnitude, the first of equals; NaN where one is no finite number.
float Largest(const float* weights, int64_t count) {
  float largest = 0;
  for (int64_t i = 0; i < count; ++i) {
    if (!std::isfinite(weights[i])) return NAN;
    if (std::fabs(weights[i]) > std::fabs(largest)) largest = weights[i];
  }
  return largest;
}

// As a scale is stored; 0 where it would be no normal number.
uint16_t StoredScale(float scale) {
  const float rounded = RoundToBf16(scale);
  return std::fabs(rounded) < 0x1p-126f ? uint16_t{0} : FloatToBf16(rounded);
}

// The codes of `count` weights, as floats between `least` and `most`.
void NearestCodes(const float* weights, int64_t count, uint16_t scale, float least, float most,
                  float* codes) {
  const float value = Bf16ToFloat(scale);
  const float inverse = value == 0 ? 0.0f : 1.0f / value;
  for (int64_t i = 0; i < count; ++i) {
    codes[i] = Nearest(std::min(std::max(weights[i] * inverse, least), most));
  }
}

float SquaredError(const float* weights, int64_t count, uint16_t scale, const float* codes) {
  const float value = Bf16ToFloat(scale);
  float errors[4] = {};
  for (int64_t i = 0; i < count; ++i) {
    const float error = weights[i] - codes[i] * value;
    errors[i % 4] += error * error;
  }
  return (errors[0] + errors[1]) + (errors[2] + errors[3]);
}

// Sets the scale and the codes of least error.
void FitInt4(const float* weights, int64_t count, float largest, uint16_t* scale, float* codes) {
  float least_error = INFINITY;
  *scale = 0;
  std::fill(codes, codes + count, 0.0f);
  for (int step = 0; step <= 10; ++step) {
    const uint16_t candidate = StoredScale(largest / -(6.5f + 0.25f * static_cast<float>(step)));
    if (candidate == 0) continue;
    float tried[kCodeGroup];
    NearestCodes(weights, count, candidate, -8, 7, tried);
    const float error = SquaredError(weights, count, candidate, tried);
    if (!(error < least_error)) continue;
    least_error = error;
    *scale = candidate;
    std::copy(tried, tried + count, codes);
  }
}

}  // namespace

bool QuantizeInt8(const float* row, int64_t columns, uint8_t* codes, uint16_t* scales) {
  for (int64_t first = 0; first < columns; first += kCodeGroup) {
    const int64_t count = std::min(kCodeGroup, columns - first);
    const float largest = Largest(row + first, count);
    if (std::isnan(largest)) return false;
    const uint16_t scale = StoredScale(std::fabs(largest) / 127);
    float nearest[kCodeGroup];
    NearestCodes(row + first, count, scale, -127, 127, nearest);
    for (int64_t i = 0; i < count; ++i) {
      codes[first + i] = static_cast<uint8_t>(static_cast<int8_t>(nearest[i]));
    }
    *scales++ = scale;
  }
  return true;
}

bool QuantizeInt4(const float* row, int64_t columns, uint8_t* codes, uint16_t* scales) {
  std::memset(codes, 0x88, static_cast<size_t>(Int4RowBytes(columns)));
  for (int64_t first = 0; first < columns; first += kCodeGroup) {
    const int64_t count = std::min(kCodeGroup, columns - first);
    const float largest = Largest(row + first, count);
    if (std::isnan(largest)) return false;
    float nearest[kCodeGroup];
    FitInt4(row + first, count, largest, scales++, nearest);
    uint8_t* bytes = codes + first / kInt4Run * (kInt4Run / 2);
    const bool high = first % kInt4Run != 0;
    for (int64_t i = 0; i < count; ++i) {
      const int code = static_cast<int>(nearest[i]) + 8;
      bytes[i] =
          static_cast<uint8_t>(high ? (bytes[i] & 0x0f) | code << 4 : (bytes[i] & 0xf0) | code);
    }
  }
  return true;
}

}  // namespace winnow
