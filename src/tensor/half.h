// The short floating-point formats, converted one number at a time and exactly as their definitions
// say. Kernels have vector forms of these; tests hold them to this file.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>

namespace winnow {

// bfloat16: the upper half of a float.
inline float Bf16ToFloat(uint16_t bits) { return std::bit_cast<float>(uint32_t{bits} << 16); }

// To nearest, ties to even. NaN stays NaN (quiet).
inline uint16_t FloatToBf16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7fffffff) > 0x7f800000) return static_cast<uint16_t>((bits >> 16) | 0x40);
  return static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

inline float RoundToBf16(float value) { return Bf16ToFloat(FloatToBf16(value)); }

// IEEE half precision, subnormals and infinities included.
inline float F16ToFloat(uint16_t bits) {
  const uint32_t sign = uint32_t{bits & 0x8000u} << 16;
  const uint32_t exponent = (bits >> 10) & 31;
  const uint32_t mantissa = bits & 0x3ff;
  if (exponent == 31) return std::bit_cast<float>(sign | 0x7f800000 | (mantissa << 13));
  if (exponent != 0)
    return std::bit_cast<float>(sign | ((exponent + 112) << 23) | (mantissa << 13));
  const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;
  return sign ? -magnitude : magnitude;
}

// To the nearest half-precision number, ties to even; above 65,504 and its rounding range,
// infinity.
inline float RoundToF16(float value) {
  const float magnitude = std::fabs(value);
  if (!(magnitude < 65520.0f)) return std::isnan(value) ? value : std::copysign(INFINITY, value);
  const int exponent =
      std::max(-14, static_cast<int>(std::bit_cast<uint32_t>(magnitude) >> 23) - 127);
  const float step = std::bit_cast<float>(static_cast<uint32_t>(exponent - 10 + 127) << 23);
  return std::copysign(std::nearbyint(magnitude / step) * step, value);
}

// E4M3 as the checkpoints use it (E4M3FN): bias 7, no infinities, 0x7f and 0xff are NaN, largest
// 448.
inline float E4m3ToFloat(uint8_t bits) {
  const uint32_t sign = uint32_t{bits & 0x80u} << 24;
  const uint32_t exponent = (bits >> 3) & 15;
  const uint32_t mantissa = bits & 7;
  if (exponent == 15 && mantissa == 7) return std::bit_cast<float>(sign | 0x7fc00000);
  if (exponent != 0)
    return std::bit_cast<float>(sign | ((exponent + 120) << 23) | (mantissa << 20));
  const float magnitude = static_cast<float>(mantissa) * 0x1p-9f;
  return sign ? -magnitude : magnitude;
}

// To nearest, ties to even, clamped to ±448; NaN gives 0x7f.
inline uint8_t FloatToE4m3(float value) {
  const uint8_t sign = std::signbit(value) ? 0x80 : 0;
  if (std::isnan(value)) return 0x7f;
  const float magnitude = std::fmin(std::fabs(value), 448.0f);
  // Below 2^-6 the step is 2^-9; above, three bits of mantissa. Adding a number whose last place is
  // the step rounds to it.
  const int exponent =
      std::max(-6, static_cast<int>(std::bit_cast<uint32_t>(magnitude) >> 23) - 127);
  const float step = std::bit_cast<float>(static_cast<uint32_t>(exponent - 3 + 127) << 23);
  const float steps = std::nearbyint(magnitude / step);
  const float rounded = steps * step;
  if (rounded < 0x1p-6f) return sign | static_cast<uint8_t>(steps);
  const uint32_t bits = std::bit_cast<uint32_t>(rounded);
  return sign | static_cast<uint8_t>((((bits >> 23) - 120) << 3) | ((bits >> 20) & 7));
}

// The smallest power of two that is not below `value` > 0: how UE8M0 scales are rounded.
inline float RoundUpToPowerOfTwo(float value) {
  uint32_t bits = std::bit_cast<uint32_t>(value);
  if (bits & 0x7fffff) bits = (bits & 0x7f800000) + 0x800000;
  return std::bit_cast<float>(bits);
}

}  // namespace winnow
