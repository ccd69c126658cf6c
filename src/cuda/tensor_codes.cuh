// Numbers on their way to tensor cores, two to a register.
#pragma once

#include <cstdint>

namespace winnow::cuda {

// Rounded to bfloat16, to nearest even.
__device__ __forceinline__ uint32_t PackPair(float low, float high) {
  uint32_t d;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(d) : "f"(high), "f"(low));
  return d;
}

// Two E4M3 codes times their scale, as bfloat16.
__device__ __forceinline__ uint32_t DecodePair(uint16_t codes, float scale) {
  uint32_t halves;
  asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(halves) : "h"(codes));
  float low;
  float high;
  asm("{\n.reg .b16 l, h;\nmov.b32 {l, h}, %2;\ncvt.f32.f16 %0, l;\ncvt.f32.f16 %1, h;\n}\n"
      : "=f"(low), "=f"(high)
      : "r"(halves));
  return PackPair(low * scale, high * scale);
}

}  // namespace winnow::cuda
