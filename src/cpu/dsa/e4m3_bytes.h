// E4M3 codes to bfloat16 by looking bytes up, for kernel files: exact, subnormals and NaN included.
#pragma once

#include <cstdint>

namespace winnow::cpu {
namespace {

// The bytes of the bfloat16 that each E4M3 code without its sign stands for.
struct E4m3Bytes {
  uint8_t low[128];
  uint8_t high[128];
};
constexpr E4m3Bytes MakeE4m3Bytes() {
  E4m3Bytes bytes{};
  for (int code = 1; code < 128; ++code) {
    int exponent = code >> 3;
    int mantissa = code & 7;
    if (exponent == 0) {
      // Steps of 2^-9, brought to 1.xxx.
      exponent = 1;
      for (; mantissa < 8; mantissa *= 2) --exponent;
      mantissa &= 7;
    }
    const int bits = code == 0x7f ? 0x7fc0 : (exponent + 120) << 7 | mantissa << 4;
    bytes.low[code] = static_cast<uint8_t>(bits & 0xff);
    bytes.high[code] = static_cast<uint8_t>(bits >> 8);
  }
  return bytes;
}
alignas(64) constexpr E4m3Bytes kE4m3Bytes = MakeE4m3Bytes();

}  // namespace
}  // namespace winnow::cpu
