// Sums of products of bfloat16 numbers by pairs, with equal bits on every instruction set.
//
// Sixteen chains take 32 numbers: chain l the numbers 2l and 2l + 1, the odd one first, each by one
// fused multiply-add. That is what the processors' instruction for bfloat16 pairs does. Thirty-two
// numbers are kParts registers of sixteen 32-bit lanes each:
//   with that instruction   one part; lane l holds both numbers of chain l
//   without                 two parts, of floats: the odd numbers, then the even ones
// and FmaPart over the parts in order adds them to the chains. Subnormal factors count as zero.
//
//   Pairs Pack(a, b)             rounds 32 floats in order
//   Pairs PackNumbers(a, b)      the same for numbers that are no subnormals
//   Pairs LoadBf16Pairs(p)       32 bfloat16 numbers in order
//   InterleaveRows(even, odd, out)  of 32 numbers of two rows: out[0] has number l of both in chain
//                                l, out[1] number 16 + l; that of `even` comes last in its chain
//   FmaPart(a, b, c)             chains c, parts a and b; FmaPartNative for one register
//   BroadcastPart(p, chain, part)   one lane of packed numbers at p
#pragma once

#include "cpu/simd.h"

namespace winnow::cpu::WINNOW_LEVEL {

#if defined(__AVX512BF16__)
static constexpr int kParts = 1;
#else
static constexpr int kParts = 2;
#endif
static constexpr int64_t kPairsFloats = kParts * kLanes;  // of memory for 32 numbers

struct Pairs {
  F32x16 part[kParts];
};

static inline void StorePairs(float* p, const Pairs& x) {
  for (int part = 0; part < kParts; ++part) Store(p + part * kLanes, x.part[part]);
}
static inline F32x16 BroadcastPart(const float* p, int64_t chain, int part) {
  return Broadcast(p[part * kLanes + chain]);
}

#if defined(__AVX512BF16__)

static inline F32x16 FmaPart(F32x16 a, F32x16 b, F32x16 c) {
  return {_mm512_dpbf16_ps(c.v, (__m512bh)a.v, (__m512bh)b.v)};
}
static inline Native FmaPartNative(Native a, Native b, Native c) {
  return _mm512_dpbf16_ps(c, (__m512bh)a, (__m512bh)b);
}
static inline Pairs Pack(F32x16 a, F32x16 b) { return {{{(__m512)_mm512_cvtne2ps_pbh(b.v, a.v)}}}; }
static inline Pairs PackNumbers(F32x16 a, F32x16 b) { return Pack(a, b); }
static inline Pairs LoadBf16Pairs(const uint16_t* p) {
  return {{Load(reinterpret_cast<const float*>(p))}};
}
static inline void InterleaveRows(const Pairs& even, const Pairs& odd, Pairs* out) {
  const __m512i first = _mm512_set_epi16(47, 15, 46, 14, 45, 13, 44, 12, 43, 11, 42, 10, 41, 9, 40,
                                         8, 39, 7, 38, 6, 37, 5, 36, 4, 35, 3, 34, 2, 33, 1, 32, 0);
  const __m512i second = _mm512_add_epi16(first, _mm512_set1_epi16(16));
  const __m512i a = _mm512_castps_si512(even.part[0].v);
  const __m512i b = _mm512_castps_si512(odd.part[0].v);
  out[0] = {{{_mm512_castsi512_ps(_mm512_permutex2var_epi16(a, first, b))}}};
  out[1] = {{{_mm512_castsi512_ps(_mm512_permutex2var_epi16(a, second, b))}}};
}

#else

static inline F32x16 FmaPart(F32x16 a, F32x16 b, F32x16 c) { return Fma(a, b, c); }
static inline Native FmaPartNative(Native a, Native b, Native c) { return FmaNative(a, b, c); }

// The numbers of even and of odd place among 32 in order.
static inline Pairs OddAndEven(F32x16 a, F32x16 b) {
#if defined(__AVX512F__)
  const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
  const __m512i odd = _mm512_or_si512(even, _mm512_set1_epi32(1));
  return {{{_mm512_permutex2var_ps(a.v, odd, b.v)}, {_mm512_permutex2var_ps(a.v, even, b.v)}}};
#elif defined(__AVX2__)
  const auto order = [](__m256 x) {
    return _mm256_castpd_ps(_mm256_permute4x64_pd(_mm256_castps_pd(x), 0xd8));
  };
  return {
      {{order(_mm256_shuffle_ps(a.lo, a.hi, 0xdd)), order(_mm256_shuffle_ps(b.lo, b.hi, 0xdd))},
       {order(_mm256_shuffle_ps(a.lo, a.hi, 0x88)), order(_mm256_shuffle_ps(b.lo, b.hi, 0x88))}}};
#else
  float in[2 * kLanes], out[2 * kLanes];
  Store(in, a);
  Store(in + kLanes, b);
  for (int64_t lane = 0; lane < kLanes; ++lane) {
    out[lane] = in[2 * lane + 1];
    out[kLanes + lane] = in[2 * lane];
  }
  return {{Load(out), Load(out + kLanes)}};
#endif
}

static inline F32x16 RoundToPart(F32x16 x) {
  return RoundToBf16(Select(Less(Abs(x), Broadcast(0x1p-126f)), Zero(), x));
}
static inline Pairs Pack(F32x16 a, F32x16 b) { return OddAndEven(RoundToPart(a), RoundToPart(b)); }
static inline Pairs PackNumbers(F32x16 a, F32x16 b) {
  return OddAndEven(RoundNumberToBf16(a), RoundNumberToBf16(b));
}
static inline Pairs LoadBf16Pairs(const uint16_t* p) {
  int32_t words[kLanes];
  memcpy(words, p, sizeof(words));
  const I32x16 both = LoadInt(words);
  return {{Float(And(both, BroadcastInt(static_cast<int32_t>(0xffff0000u)))),
           Float(ShiftLeft<16>(both))}};
}
// The reverse of OddAndEven.
static inline void InOrder(const Pairs& x, F32x16* a, F32x16* b) {
#if defined(__AVX512F__)
  const __m512i first = _mm512_setr_epi32(16, 0, 17, 1, 18, 2, 19, 3, 20, 4, 21, 5, 22, 6, 23, 7);
  const __m512i second = _mm512_add_epi32(first, _mm512_set1_epi32(8));
  *a = {_mm512_permutex2var_ps(x.part[0].v, first, x.part[1].v)};
  *b = {_mm512_permutex2var_ps(x.part[0].v, second, x.part[1].v)};
#elif defined(__AVX2__)
  const auto interleave = [](__m256 even, __m256 odd) {
    const __m256 low = _mm256_unpacklo_ps(even, odd);
    const __m256 high = _mm256_unpackhi_ps(even, odd);
    return F32x16{_mm256_permute2f128_ps(low, high, 0x20), _mm256_permute2f128_ps(low, high, 0x31)};
  };
  *a = interleave(x.part[1].lo, x.part[0].lo);
  *b = interleave(x.part[1].hi, x.part[0].hi);
#else
  float in[2 * kLanes], out[2 * kLanes];
  StorePairs(in, x);
  for (int64_t lane = 0; lane < kLanes; ++lane) {
    out[2 * lane] = in[kLanes + lane];
    out[2 * lane + 1] = in[lane];
  }
  *a = Load(out);
  *b = Load(out + kLanes);
#endif
}
static inline void InterleaveRows(const Pairs& even, const Pairs& odd, Pairs* out) {
  InOrder(even, &out[0].part[1], &out[1].part[1]);
  InOrder(odd, &out[0].part[0], &out[1].part[0]);
}

#endif

// Lane i is Sum(x[i]); only where sixteen lanes are a register.
#if defined(__AVX512F__)
static inline F32x16 Sum16(const F32x16* x) {
  // Lanes 8 apart, then 4: a register with four sums of four lanes each, of x[j + 4 * quarter].
  F32x16 fours[4];
  for (int i = 0; i < 4; ++i) {
    const F32x16 ab = Add({_mm512_shuffle_f32x4(x[i].v, x[4 + i].v, 0x44)},
                          {_mm512_shuffle_f32x4(x[i].v, x[4 + i].v, 0xee)});
    const F32x16 cd = Add({_mm512_shuffle_f32x4(x[8 + i].v, x[12 + i].v, 0x44)},
                          {_mm512_shuffle_f32x4(x[8 + i].v, x[12 + i].v, 0xee)});
    fours[i] =
        Add({_mm512_shuffle_f32x4(ab.v, cd.v, 0x88)}, {_mm512_shuffle_f32x4(ab.v, cd.v, 0xdd)});
  }
  const auto twos = [](F32x16 a, F32x16 b) {
    const __m512d low = _mm512_unpacklo_pd(_mm512_castps_pd(a.v), _mm512_castps_pd(b.v));
    const __m512d high = _mm512_unpackhi_pd(_mm512_castps_pd(a.v), _mm512_castps_pd(b.v));
    return Add({_mm512_castpd_ps(low)}, {_mm512_castpd_ps(high)});
  };
  const F32x16 first = twos(fours[0], fours[1]);
  const F32x16 second = twos(fours[2], fours[3]);
  return Add({_mm512_shuffle_ps(first.v, second.v, 0x88)},
             {_mm512_shuffle_ps(first.v, second.v, 0xdd)});
}
#endif

}  // namespace winnow::cpu::WINNOW_LEVEL
