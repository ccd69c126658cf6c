// Sixteen floats at a time, with equal bits on every instruction set.
//
// A kernel file is compiled once for each level, with WINNOW_LEVEL naming its namespace, and sees
// one F32x16 whatever the machine's registers are. Operations are IEEE, lane by lane; only Fma
// fuses; Sum has one order. Everything is static inline and of the level's own namespace, so that
// no code of a wide level can be linked into a narrow one.
//
// What a level gives (simd_portable.h, simd_avx2.h, simd_avx512.h):
//   F32x16, I32x16
//   Zero() Broadcast(f) BroadcastInt(i)
//   Load(p) Store(p, v)                  unaligned
//   LoadPartial(p, n) StorePartial(p, v, n)   n in [0, 16]; lanes from n on are zero, not touched
//   Add Sub Mul Div Fma(a, b, c) = a*b+c Sqrt
//   Max(a, b) Min(a, b)                  b where either is NaN, or where both are zeros
//   Less LessEqual Equal Unordered       bit l of the Mask16 is lane l
//   Select(mask, a, b)                   a where the bit is set
//   Bits(f) Float(i) ToFloat(i)          reinterpretation both ways; conversion
//   AddInt SubInt And Or Xor AndNot(a, b) = ~a & b, ShiftLeft<n> ShiftRight<n> (logical)
//   EqualInt(a, b) GreaterInt(a, b)      all ones where true (signed)
//   LoadU8 LoadI8 LoadU16                sixteen elements, widened to 32 bits
//   LoadInt(p) StoreInt(p, i)            sixteen 32-bit integers
//   LowBytes(i) HighBytes(i)             of each half of a lane that byte, signed, widened to it
//   AddPairs(a, b, c)                    c + the product of the low halves + that of the high ones,
//                                        halves signed; not both -2^15 in both places
//   StoreU16(p, i)                       the low halves
//   StoreI8(p, i)                        the low bytes
//   LoadF16 LoadE4m3                     exact, subnormals included; NaN stays NaN
//   Exchange<n>(f)                       lane l ^ n in lane l, n = 1, 2, 4, 8
//   Sum(f) MaxLane(f)                    lanes l and l+8, then 4, 2, 1 apart
//   Sum4(p, stride, out)                 Sum of four F32x16 in memory, aligned to 64; or Sum4(p,
//   out) Native                               one register: kNative lanes, with LoadNative
//   StoreNative
//                                        FmaNative
//   Prefetch(p) PrefetchL2(p)
#pragma once

#include <stdint.h>
#include <string.h>

#ifndef WINNOW_LEVEL
#error "simd.h is for kernel files, which are compiled with WINNOW_LEVEL=portable, avx2, avx512…"
#endif

namespace winnow::cpu::WINNOW_LEVEL {
static constexpr int64_t kLanes = 16;
using Mask16 = uint32_t;
}  // namespace winnow::cpu::WINNOW_LEVEL

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__)
#include "cpu/simd_avx512.h"
#elif defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#include "cpu/simd_avx2.h"
#else
#include "cpu/simd_portable.h"
#endif

namespace winnow::cpu::WINNOW_LEVEL {

// How many of sixteen lanes from `element` on are within `size`.
static inline int64_t LanesAt(int64_t element, int64_t size) {
  return size - element < kLanes ? size - element : kLanes;
}

static inline F32x16 Abs(F32x16 x) { return Float(And(Bits(x), BroadcastInt(0x7fffffff))); }
static inline F32x16 Negate(F32x16 x) {
  return Float(Xor(Bits(x), BroadcastInt(static_cast<int32_t>(0x80000000u))));
}

static inline void Sum4(const float* p, float* out) { Sum4(p, kLanes, out); }

static inline F32x16 LoadBf16(const uint16_t* p) { return Float(ShiftLeft<16>(LoadU16(p))); }
static inline F32x16 BroadcastBf16(const uint16_t* p) {
  return Float(BroadcastInt(static_cast<int32_t>(uint32_t{*p} << 16)));
}
// x holds bfloat16 values, as RoundToBf16 gives them.
static inline void StoreBf16(uint16_t* p, F32x16 x) { StoreU16(p, ShiftRight<16>(Bits(x))); }
static inline F32x16 LoadI8AsFloat(const int8_t* p) { return ToFloat(LoadI8(p)); }

// The first n of sixteen short elements, zeros after them.
static inline F32x16 LoadBf16Partial(const uint16_t* p, int64_t n) {
  uint16_t lanes[16] = {};
  memcpy(lanes, p, static_cast<size_t>(n) * sizeof(*p));
  return LoadBf16(lanes);
}
static inline F32x16 LoadF16Partial(const uint16_t* p, int64_t n) {
  uint16_t lanes[16] = {};
  memcpy(lanes, p, static_cast<size_t>(n) * sizeof(*p));
  return LoadF16(lanes);
}
static inline F32x16 LoadI8AsFloatPartial(const int8_t* p, int64_t n) {
  int8_t lanes[16] = {};
  memcpy(lanes, p, static_cast<size_t>(n));
  return LoadI8AsFloat(lanes);
}
static inline F32x16 LoadE4m3Partial(const uint8_t* p, int64_t n) {
  uint8_t lanes[16] = {};
  memcpy(lanes, p, static_cast<size_t>(n));
  return LoadE4m3(lanes);
}

// To nearest, ties to even; NaN stays NaN.
static inline F32x16 RoundToBf16(F32x16 x) {
  const I32x16 bits = Bits(x);
  const I32x16 odd = And(ShiftRight<16>(bits), BroadcastInt(1));
  const I32x16 rounded = AddInt(AddInt(bits, BroadcastInt(0x7fff)), odd);
  const I32x16 magnitude = And(bits, BroadcastInt(0x7fffffff));
  const I32x16 nan = GreaterInt(magnitude, BroadcastInt(0x7f800000));
  const I32x16 quiet = And(nan, Or(bits, BroadcastInt(0x400000)));
  return Float(
      And(Or(AndNot(nan, rounded), quiet), BroadcastInt(static_cast<int32_t>(0xffff0000u))));
}

// The same for numbers, infinities, and the NaN that decoding and arithmetic give, whose low bits
// are few enough not to carry over.
static inline F32x16 RoundNumberToBf16(F32x16 x) {
  const I32x16 bits = Bits(x);
  const I32x16 odd = And(ShiftRight<16>(bits), BroadcastInt(1));
  const I32x16 rounded = AddInt(bits, AddInt(odd, BroadcastInt(0x7fff)));
  return Float(And(rounded, BroadcastInt(static_cast<int32_t>(0xffff0000u))));
}

// To the nearest whole number, ties to even, for |x| < 2^22; a result of zero is +0.
static inline F32x16 RoundToWhole(F32x16 x) {
  const F32x16 big = Broadcast(0x1.8p23f);
  return Sub(Add(x, big), big);
}

// The whole number x holds, |x| < 2^22, as an integer.
static inline I32x16 ToInt(F32x16 x) {
  return SubInt(Bits(Add(x, Broadcast(0x1.8p23f))), BroadcastInt(0x4b400000));
}

// e^x to 2 units in the last place. 0 below -104, infinity where floats end, NaN through.
//
// e^x = 2^n e^r with |r| <= ln(2) / 2; ln(2) is taken in two parts, of which the first times n is
// exact; e^r is its series to the seventh power, whose rest is a tenth of a unit. 2^n goes in by
// two factors, since 2^128 is no float.
static inline F32x16 Exp(F32x16 x) {
  x = Max(Broadcast(-104.0f), Min(Broadcast(89.0f), x));
  const F32x16 n = RoundToWhole(Mul(x, Broadcast(0x1.715476p+0f)));
  F32x16 r = Fma(n, Broadcast(-0x1.62e4p-1f), x);
  r = Fma(n, Broadcast(-0x1.7f7d1cp-20f), r);
  F32x16 p = Broadcast(1.0f / 5040);
  p = Fma(p, r, Broadcast(1.0f / 720));
  p = Fma(p, r, Broadcast(1.0f / 120));
  p = Fma(p, r, Broadcast(1.0f / 24));
  p = Fma(p, r, Broadcast(1.0f / 6));
  p = Fma(p, r, Broadcast(0.5f));
  p = Fma(p, Mul(r, r), r);
  p = Add(p, Broadcast(1.0f));
  const F32x16 half = RoundToWhole(Mul(n, Broadcast(0.5f)));
  const I32x16 bias = BroadcastInt(127);
  const F32x16 first = Float(ShiftLeft<23>(AddInt(ToInt(half), bias)));
  const F32x16 second = Float(ShiftLeft<23>(AddInt(ToInt(Sub(n, half)), bias)));
  return Mul(Mul(p, first), second);
}

// 1 / (1 + e^-x)
static inline F32x16 Sigmoid(F32x16 x) {
  const F32x16 one = Broadcast(1.0f);
  return Div(one, Add(one, Exp(Negate(x))));
}

}  // namespace winnow::cpu::WINNOW_LEVEL
