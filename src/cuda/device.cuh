// What kernels share: the arithmetic of the CPU's simd.h, one number a thread. Compiled with
// -fmad=false -ftz=true: only fmaf fuses, and subnormals are zero, so that results are the CPU's.
#pragma once

#include <cstdint>

#include "tensor/dtype.h"

namespace winnow::cuda {

inline constexpr int kWarp = 32;
inline constexpr int kChains = 16;  // partial sums of a dot product: element k is in chain k mod 16

template <typename T>
__host__ __device__ constexpr T DivideUp(T a, T b) {
  return (a + b - 1) / b;
}

__device__ inline float BitsToFloat(uint32_t bits) { return __uint_as_float(bits); }

// To nearest, ties to even; NaN stays NaN.
__device__ inline uint32_t FloatToBf16(float x) {
  const uint32_t bits = __float_as_uint(x);
  if ((bits & 0x7fffffff) > 0x7f800000) return (bits >> 16) | 0x40;
  return (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
}
__device__ inline float Bf16ToFloat(uint32_t bits) { return BitsToFloat(bits << 16); }
__device__ inline float RoundToBf16(float x) { return BitsToFloat(FloatToBf16(x) << 16); }
__device__ inline float MaybeRound(float x, bool round) { return round ? RoundToBf16(x) : x; }

__device__ inline float F16ToFloat(uint32_t bits) {
  const uint32_t sign = (bits & 0x8000) << 16;
  const uint32_t exponent = (bits >> 10) & 31;
  const uint32_t mantissa = bits & 0x3ff;
  if (exponent == 31) return BitsToFloat(sign | 0x7f800000 | (mantissa << 13));
  if (exponent != 0) return BitsToFloat(sign | ((exponent + 112) << 23) | (mantissa << 13));
  const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;
  return sign ? -magnitude : magnitude;
}

__device__ inline float E4m3ToFloat(uint32_t bits) {
  const uint32_t sign = (bits & 0x80) << 24;
  const uint32_t magnitude = bits & 0x7f;
  if (magnitude == 0x7f) return BitsToFloat(sign | 0x7fc00000);
  if (magnitude >= 8) return BitsToFloat(sign | ((magnitude << 20) + (120u << 23)));
  const float small = static_cast<float>(magnitude) * 0x1p-9f;
  return sign ? -small : small;
}

// The larger of two, or b where either is NaN or both are zeros: Max and Min of simd.h.
__device__ inline float MaxOr(float a, float b) { return a > b ? a : b; }
__device__ inline float MinOr(float a, float b) { return a < b ? a : b; }

// To the nearest whole number, ties to even, for |x| < 2^22; a result of zero is +0.
__device__ inline float RoundToWhole(float x) { return (x + 0x1.8p23f) - 0x1.8p23f; }
__device__ inline int32_t ToInt(float x) {
  return static_cast<int32_t>(__float_as_uint(x + 0x1.8p23f)) - 0x4b400000;
}

// e^x as simd.h computes it, step by step.
__device__ inline float Exp(float x) {
  x = MaxOr(-104.0f, MinOr(89.0f, x));
  const float n = RoundToWhole(x * 0x1.715476p+0f);
  float r = fmaf(n, -0x1.62e4p-1f, x);
  r = fmaf(n, -0x1.7f7d1cp-20f, r);
  float p = 1.0f / 5040;
  p = fmaf(p, r, 1.0f / 720);
  p = fmaf(p, r, 1.0f / 120);
  p = fmaf(p, r, 1.0f / 24);
  p = fmaf(p, r, 1.0f / 6);
  p = fmaf(p, r, 0.5f);
  p = fmaf(p, r * r, r);
  p = p + 1.0f;
  const float half = RoundToWhole(n * 0.5f);
  const float first = BitsToFloat(static_cast<uint32_t>(ToInt(half) + 127) << 23);
  const float second = BitsToFloat(static_cast<uint32_t>(ToInt(n - half) + 127) << 23);
  return (p * first) * second;
}

__device__ inline float Sigmoid(float x) { return 1.0f / (1.0f + Exp(-x)); }

// The sum of sixteen chains, one a lane of a half warp, added 8, 4, 2, 1 apart; in every lane.
__device__ inline float SumChains(float chain) {
#pragma unroll
  for (int distance = 8; distance > 0; distance /= 2) {
    chain = chain + __shfl_xor_sync(0xffffffff, chain, distance);
  }
  return chain;
}

// The largest of a block's values, by way of `shared` [32]; in every thread. All threads call it.
__device__ inline uint32_t BlockMax(uint32_t value, uint32_t* shared) {
  value = __reduce_max_sync(0xffffffff, value);
  __syncthreads();
  if (threadIdx.x % kWarp == 0) shared[threadIdx.x / kWarp] = value;
  __syncthreads();
  uint32_t max = 0;
  for (int warp = 0; warp < static_cast<int>(blockDim.x) / kWarp; ++warp) {
    max = shared[warp] > max ? shared[warp] : max;
  }
  return max;
}

// ---- Stored weights -----------------------------------------------------------------------------

// A stored matrix and how it is read.
struct Weight {
  const void* data = nullptr;  // [any, columns]
  DType type = DType::kF32;    // F32, BF16, F16 or F8_E4M3
  int32_t scale_columns = 0;   // ⌈columns/128⌉
  int64_t columns = 0;
  const float* scale = nullptr;  // [⌈rows/128⌉, ⌈columns/128⌉], or none
};

// What element (row, column) stands for; rounded to bfloat16 where asked.
template <DType kType>
__device__ inline float ReadWeight(const Weight& w, int64_t row, int64_t column, bool round) {
  const int64_t at = row * w.columns + column;
  if constexpr (kType == DType::kF32) {
    return MaybeRound(static_cast<const float*>(w.data)[at], round);
  } else if constexpr (kType == DType::kBF16) {
    return Bf16ToFloat(static_cast<const uint16_t*>(w.data)[at]);
  } else if constexpr (kType == DType::kF16) {
    return MaybeRound(F16ToFloat(static_cast<const uint16_t*>(w.data)[at]), round);
  } else {
    const float code = E4m3ToFloat(static_cast<const uint8_t*>(w.data)[at]);
    if (w.scale == nullptr) return code;
    return MaybeRound(code * w.scale[row / 128 * w.scale_columns + column / 128], round);
  }
}

__device__ inline float ReadAnyWeight(const Weight& w, int64_t row, int64_t column, bool round) {
  switch (w.type) {
    case DType::kF32:
      return ReadWeight<DType::kF32>(w, row, column, round);
    case DType::kBF16:
      return ReadWeight<DType::kBF16>(w, row, column, round);
    case DType::kF16:
      return ReadWeight<DType::kF16>(w, row, column, round);
    default:
      return ReadWeight<DType::kF8E4M3>(w, row, column, round);
  }
}

}  // namespace winnow::cuda
