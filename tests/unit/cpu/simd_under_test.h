// simd.h of one instruction set, function by function over arrays, so that tests compiled for no
// set in particular can reach it.
#pragma once

#include <cstdint>

#include "cpu/cpu_backend.h"

namespace winnow::cpu {

struct SimdUnderTest {
  // count is a multiple of 16 everywhere.
  void (*exp)(const float* x, float* out, int64_t count);
  void (*sigmoid)(const float* x, float* out, int64_t count);
  void (*round_to_bf16)(const float* x, float* out, int64_t count);
  void (*round_number_to_bf16)(const float* x, float* out, int64_t count);
  void (*round_to_whole)(const float* x, float* out, int64_t count);
  void (*sqrt)(const float* x, float* out, int64_t count);
  void (*fma)(const float* a, const float* b, const float* c, float* out, int64_t count);
  void (*max)(const float* a, const float* b, float* out, int64_t count);
  void (*min)(const float* a, const float* b, float* out, int64_t count);
  void (*decode_bf16)(const uint16_t* x, float* out, int64_t count);
  void (*decode_f16)(const uint16_t* x, float* out, int64_t count);
  void (*decode_e4m3)(const uint8_t* x, float* out, int64_t count);
  void (*decode_i8)(const int8_t* x, float* out, int64_t count);
  void (*encode_i8)(const float* x, int8_t* out, int64_t count);
  void (*encode_bf16)(const float* x, uint16_t* out, int64_t count);
  float (*sum)(const float* x);
  void (*sum4)(const float* x, float* out);  // x aligned to 64
  float (*max_lane)(const float* x);
  // Bits of less, less or equal, equal, unordered, from 0, 16, 32, 48 on.
  uint64_t (*compare)(const float* a, const float* b);
  void (*select)(uint32_t mask, const float* a, const float* b, float* out);
  // sums[l] += fours[4 l] * low half of pairs[l] + fours[4 l + 2] * high half; with `upper` of
  // fours[4 l + 1] and fours[4 l + 3]
  void (*add_pairs)(const int8_t* fours, bool upper, const int32_t* pairs, int32_t* sums);
  void (*copy_partial)(const float* x, float* out, int64_t n);   // out [16]: x, then zeros
  void (*store_partial)(const float* x, float* out, int64_t n);  // out [n]
};

namespace portable {
extern const SimdUnderTest kSimdUnderTest;
}
namespace avx2 {
extern const SimdUnderTest kSimdUnderTest;
}
namespace avx512 {
extern const SimdUnderTest kSimdUnderTest;
}
namespace avx512_bf16 {
extern const SimdUnderTest kSimdUnderTest;
}
namespace amx {
extern const SimdUnderTest kSimdUnderTest;
}

}  // namespace winnow::cpu
