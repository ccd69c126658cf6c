// The work whose rate is a level's ceiling: products that wait for nothing, and plain reading.
// roofs.h measures them.
#pragma once

#include <cstdint>

namespace winnow::cpu {

// Operands of int8_products: this many, in [-127, 127].
inline constexpr int64_t kRoofOperands = 1024;
// read() takes a multiple of this many bytes, aligned to 64.
inline constexpr int64_t kReadUnit = 512;

struct RoofKernels {
  int64_t flops_per_round;  // a multiply-add counts as two
  int64_t int8_ops_per_round;
  // x = x * factor + addend in independent chains held in registers, `rounds` times each. |factor|
  // below 1 keeps them finite. Returns what depends on all chains.
  float (*multiply_add)(int64_t rounds, float factor, float addend);
  // Sums of products of bytes, exact in 32 bits, by the level's best instructions for them.
  // Operands are widened before the rounds begin where an instruction wants them wider.
  uint32_t (*int8_products)(int64_t rounds, const int8_t* a, const int8_t* b);
  // Reads every byte once, in order.
  uint32_t (*read)(const uint8_t* data, int64_t bytes);
};

namespace portable {
extern const RoofKernels kRoofKernels;
}
namespace avx2 {
extern const RoofKernels kRoofKernels;
}
namespace avx512 {
extern const RoofKernels kRoofKernels;
}

}  // namespace winnow::cpu
