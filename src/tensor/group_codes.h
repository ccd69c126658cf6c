// Weights as integers of 8 or 4 bits: each group of 32 in a row shares a bfloat16 scale.
//
// Weight c of a row stands for code(c) * scale(c / 32), which is a float without rounding.
//   int8  codes from -127 to 127, one a byte
//   int4  codes from -8 to 7, stored plus 8. Byte j of a run of 64 weights holds weight j in its
//         low half and weight 32 + j in its high one; the last run is filled up
#pragma once

#include <cstdint>

namespace winnow {

inline constexpr int64_t kCodeGroup = 32;  // weights that share a scale
inline constexpr int64_t kInt4Run = 64;    // weights whose codes lie together

// Static, since kernels of every instruction set have their own.
static inline int64_t NumCodeGroups(int64_t columns) {
  return (columns + kCodeGroup - 1) / kCodeGroup;
}
static inline int64_t Int4RowBytes(int64_t columns) {
  return (columns + kInt4Run - 1) / kInt4Run * (kInt4Run / 2);
}

// Quantize a row of `columns` weights into codes (`columns` bytes for int8, Int4RowBytes for int4)
// and NumCodeGroups scales. False where a weight is no finite number: then both are undefined.
//
// int8: the scale is a 127th of the largest magnitude. int4: of eleven scales between a 6.5th and
// a ninth of the largest weight, by which it becomes a negative code, the one of least squared
// error, the first of equals; codes have one more value below zero than above. A group whose scale
// would be no normal number is zeros. Codes are the nearest, ties to even.
bool QuantizeInt8(const float* row, int64_t columns, uint8_t* codes, uint16_t* scales);
bool QuantizeInt4(const float* row, int64_t columns, uint8_t* codes, uint16_t* scales);

}  // namespace winnow
