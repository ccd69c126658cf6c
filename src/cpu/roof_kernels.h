// The work whose rate is a level's ceiling: products that wait for nothing, and plain reading.
// roofs.h measures them.
#pragma once

#include <cstdint>

namespace winnow::cpu {

// read() takes a multiple of this many bytes, aligned to 64.
inline constexpr int64_t kReadUnit = 512;

struct RoofKernels {
  int64_t flops_per_round;  // a multiply-add counts as two
  int64_t bf16_ops_per_round;
  int64_t int8_ops_per_round;
  // x = x * factor + addend in independent chains held in registers, `rounds` times each. |factor|
  // below 1 keeps them finite. Returns what depends on all chains.
  float (*multiply_add)(int64_t rounds, float factor, float addend);
  // x += the products of two pairs of bfloat16, those in x's own bits with those in `factor`'s, in
  // every lane and in independent chains; null where the level has no instruction for it.
  float (*bf16_products)(int64_t rounds, float factor);
  // x += products of small integers with those of `factors`, in every lane and in independent
  // chains: pairs of 16 bits, or fours of 8 where the level has an instruction for them.
  uint32_t (*int8_products)(int64_t rounds, int32_t factors);
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
namespace avx512_bf16 {
extern const RoofKernels kRoofKernels;
}
namespace amx {
extern const RoofKernels kRoofKernels;
}

}  // namespace winnow::cpu
