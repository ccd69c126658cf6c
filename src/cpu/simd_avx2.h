// The AVX2 level of simd.h: sixteen lanes in two registers. Included by simd.h only.
#pragma once

#include <immintrin.h>

namespace winnow::cpu::WINNOW_LEVEL {

struct F32x16 {
  __m256 lo, hi;
};
struct I32x16 {
  __m256i lo, hi;
};

static inline F32x16 Zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
static inline F32x16 Broadcast(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
static inline I32x16 BroadcastInt(int32_t x) {
  return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)};
}

static inline F32x16 Load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
static inline void Store(float* p, F32x16 x) {
  _mm256_storeu_ps(p, x.lo);
  _mm256_storeu_ps(p + 8, x.hi);
}

// All ones in the lanes below n.
static inline I32x16 FirstLanes(int64_t n) {
  const __m256i count = _mm256_set1_epi32(static_cast<int32_t>(n));
  return {_mm256_cmpgt_epi32(count, _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7)),
          _mm256_cmpgt_epi32(count, _mm256_setr_epi32(8, 9, 10, 11, 12, 13, 14, 15))};
}
static inline F32x16 LoadPartial(const float* p, int64_t n) {
  const I32x16 mask = FirstLanes(n);
  return {_mm256_maskload_ps(p, mask.lo), _mm256_maskload_ps(p + 8, mask.hi)};
}
static inline void StorePartial(float* p, F32x16 x, int64_t n) {
  const I32x16 mask = FirstLanes(n);
  _mm256_maskstore_ps(p, mask.lo, x.lo);
  _mm256_maskstore_ps(p + 8, mask.hi, x.hi);
}

static inline F32x16 Add(F32x16 a, F32x16 b) {
  return {_mm256_add_ps(a.lo, b.lo), _mm256_add_ps(a.hi, b.hi)};
}
static inline F32x16 Sub(F32x16 a, F32x16 b) {
  return {_mm256_sub_ps(a.lo, b.lo), _mm256_sub_ps(a.hi, b.hi)};
}
static inline F32x16 Mul(F32x16 a, F32x16 b) {
  return {_mm256_mul_ps(a.lo, b.lo), _mm256_mul_ps(a.hi, b.hi)};
}
static inline F32x16 Div(F32x16 a, F32x16 b) {
  return {_mm256_div_ps(a.lo, b.lo), _mm256_div_ps(a.hi, b.hi)};
}
static inline F32x16 Fma(F32x16 a, F32x16 b, F32x16 c) {
  return {_mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi)};
}
static inline F32x16 Sqrt(F32x16 x) { return {_mm256_sqrt_ps(x.lo), _mm256_sqrt_ps(x.hi)}; }
static inline F32x16 Max(F32x16 a, F32x16 b) {
  return {_mm256_max_ps(a.lo, b.lo), _mm256_max_ps(a.hi, b.hi)};
}
static inline F32x16 Min(F32x16 a, F32x16 b) {
  return {_mm256_min_ps(a.lo, b.lo), _mm256_min_ps(a.hi, b.hi)};
}

template <int kPredicate>
static inline Mask16 Compare(F32x16 a, F32x16 b) {
  const int lo = _mm256_movemask_ps(_mm256_cmp_ps(a.lo, b.lo, kPredicate));
  const int hi = _mm256_movemask_ps(_mm256_cmp_ps(a.hi, b.hi, kPredicate));
  return static_cast<Mask16>(lo | (hi << 8));
}
static inline Mask16 Less(F32x16 a, F32x16 b) { return Compare<_CMP_LT_OQ>(a, b); }
static inline Mask16 LessEqual(F32x16 a, F32x16 b) { return Compare<_CMP_LE_OQ>(a, b); }
static inline Mask16 Equal(F32x16 a, F32x16 b) { return Compare<_CMP_EQ_OQ>(a, b); }
static inline Mask16 Unordered(F32x16 a, F32x16 b) { return Compare<_CMP_UNORD_Q>(a, b); }

static inline F32x16 Select(Mask16 mask, F32x16 a, F32x16 b) {
  const __m256i bits = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
  const __m256i lo = _mm256_and_si256(_mm256_set1_epi32(static_cast<int32_t>(mask)), bits);
  const __m256i hi = _mm256_and_si256(_mm256_set1_epi32(static_cast<int32_t>(mask >> 8)), bits);
  return {_mm256_blendv_ps(b.lo, a.lo, _mm256_castsi256_ps(_mm256_cmpeq_epi32(lo, bits))),
          _mm256_blendv_ps(b.hi, a.hi, _mm256_castsi256_ps(_mm256_cmpeq_epi32(hi, bits)))};
}

static inline I32x16 Bits(F32x16 x) {
  return {_mm256_castps_si256(x.lo), _mm256_castps_si256(x.hi)};
}
static inline F32x16 Float(I32x16 x) {
  return {_mm256_castsi256_ps(x.lo), _mm256_castsi256_ps(x.hi)};
}
static inline F32x16 ToFloat(I32x16 x) {
  return {_mm256_cvtepi32_ps(x.lo), _mm256_cvtepi32_ps(x.hi)};
}
static inline I32x16 AddInt(I32x16 a, I32x16 b) {
  return {_mm256_add_epi32(a.lo, b.lo), _mm256_add_epi32(a.hi, b.hi)};
}
static inline I32x16 SubInt(I32x16 a, I32x16 b) {
  return {_mm256_sub_epi32(a.lo, b.lo), _mm256_sub_epi32(a.hi, b.hi)};
}
static inline I32x16 And(I32x16 a, I32x16 b) {
  return {_mm256_and_si256(a.lo, b.lo), _mm256_and_si256(a.hi, b.hi)};
}
static inline I32x16 Or(I32x16 a, I32x16 b) {
  return {_mm256_or_si256(a.lo, b.lo), _mm256_or_si256(a.hi, b.hi)};
}
static inline I32x16 Xor(I32x16 a, I32x16 b) {
  return {_mm256_xor_si256(a.lo, b.lo), _mm256_xor_si256(a.hi, b.hi)};
}
static inline I32x16 AndNot(I32x16 a, I32x16 b) {
  return {_mm256_andnot_si256(a.lo, b.lo), _mm256_andnot_si256(a.hi, b.hi)};
}
template <int kBits>
static inline I32x16 ShiftLeft(I32x16 x) {
  return {_mm256_slli_epi32(x.lo, kBits), _mm256_slli_epi32(x.hi, kBits)};
}
template <int kBits>
static inline I32x16 ShiftRight(I32x16 x) {
  return {_mm256_srli_epi32(x.lo, kBits), _mm256_srli_epi32(x.hi, kBits)};
}
static inline I32x16 EqualInt(I32x16 a, I32x16 b) {
  return {_mm256_cmpeq_epi32(a.lo, b.lo), _mm256_cmpeq_epi32(a.hi, b.hi)};
}
static inline I32x16 GreaterInt(I32x16 a, I32x16 b) {
  return {_mm256_cmpgt_epi32(a.lo, b.lo), _mm256_cmpgt_epi32(a.hi, b.hi)};
}

static inline __m128i Load8Bytes(const void* p) {
  return _mm_loadl_epi64(static_cast<const __m128i*>(p));
}
static inline __m128i Load16Bytes(const void* p) {
  return _mm_loadu_si128(static_cast<const __m128i*>(p));
}
static inline I32x16 LoadU8(const uint8_t* p) {
  return {_mm256_cvtepu8_epi32(Load8Bytes(p)), _mm256_cvtepu8_epi32(Load8Bytes(p + 8))};
}
static inline I32x16 LoadI8(const int8_t* p) {
  return {_mm256_cvtepi8_epi32(Load8Bytes(p)), _mm256_cvtepi8_epi32(Load8Bytes(p + 8))};
}
static inline I32x16 LoadU16(const uint16_t* p) {
  return {_mm256_cvtepu16_epi32(Load16Bytes(p)), _mm256_cvtepu16_epi32(Load16Bytes(p + 8))};
}
static inline I32x16 LoadInt(const int32_t* p) {
  return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)),
          _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + 8))};
}
static inline void StoreInt(int32_t* p, I32x16 x) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), x.lo);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p + 8), x.hi);
}
static inline I32x16 HighBytes(I32x16 x) {
  return {_mm256_srai_epi16(x.lo, 8), _mm256_srai_epi16(x.hi, 8)};
}
static inline I32x16 LowBytes(I32x16 x) {
  return HighBytes({_mm256_slli_epi16(x.lo, 8), _mm256_slli_epi16(x.hi, 8)});
}
// As one step: left to itself, gcc makes all the products of a tile before the first sum and keeps
// the sums in memory.
static inline __m256i AddPairs8(__m256i a, __m256i b, __m256i c) {
  __m256i product;
  asm("vpmaddwd %[b], %[a], %[product]\n\t"
      "vpaddd %[product], %[c], %[c]"
      : [c] "+x"(c), [product] "=&x"(product)
      : [a] "x"(a), [b] "xm"(b));
  return c;
}
static inline I32x16 AddPairs(I32x16 a, I32x16 b, I32x16 c) {
  return {AddPairs8(a.lo, b.lo, c.lo), AddPairs8(a.hi, b.hi, c.hi)};
}
static inline void StoreU16(uint16_t* p, I32x16 x) {
  const __m256i low = _mm256_set1_epi32(0xffff);
  const __m256i packed =
      _mm256_packus_epi32(_mm256_and_si256(x.lo, low), _mm256_and_si256(x.hi, low));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm256_permute4x64_epi64(packed, 0xd8));
}
static inline void StoreI8(int8_t* p, I32x16 x) {
  const __m256i low = _mm256_set1_epi32(0xff);
  const __m256i words = _mm256_permute4x64_epi64(
      _mm256_packus_epi32(_mm256_and_si256(x.lo, low), _mm256_and_si256(x.hi, low)), 0xd8);
  _mm_storeu_si128(
      reinterpret_cast<__m128i*>(p),
      _mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1)));
}

static inline F32x16 LoadF16(const uint16_t* p) {
  return {_mm256_cvtph_ps(Load16Bytes(p)), _mm256_cvtph_ps(Load16Bytes(p + 8))};
}
// By way of bfloat16, of which E4M3 is a part. Each code is doubled into both bytes of a word; the
// words of codes 0-3 and 8-11 lie in the low half of the register, those of 4-7 and 12-15 in the
// high half, where unpacking to floats brings them in order.
//   normal     exponent bias 120 more, mantissa in place: 0x3c00 + magnitude * 16
//   subnormal  a table of what to add to that; the index of other codes has its top bit set, which
//              gives 0
static inline F32x16 LoadE4m3(const uint8_t* p) {
  const __m256i both = _mm256_broadcastsi128_si256(Load16Bytes(p));
  const __m256i codes = _mm256_shuffle_epi8(
      both, _mm256_setr_epi8(0, 0, 1, 1, 2, 2, 3, 3, 8, 8, 9, 9, 10, 10, 11, 11,  //
                             4, 4, 5, 5, 6, 6, 7, 7, 12, 12, 13, 13, 14, 14, 15, 15));
  const __m256i doubled = _mm256_add_epi8(codes, codes);  // the sign falls off
  const __m256i index = _mm256_adds_epu8(doubled, _mm256_set1_epi16(0x7170));
  const __m256i correction = _mm256_shuffle_epi8(
      _mm256_setr_epi16(-0x3c00, -0x110, -0xa0, -0x70, -0x40, -0x30, -0x20, -0x10,  //
                        -0x3c00, -0x110, -0xa0, -0x70, -0x40, -0x30, -0x20, -0x10),
      index);
  const __m256i normal = _mm256_add_epi16(_mm256_maddubs_epi16(doubled, _mm256_set1_epi16(0x0008)),
                                          _mm256_set1_epi16(0x3c00));
  const __m256i nan = _mm256_and_si256(_mm256_cmpeq_epi8(doubled, _mm256_set1_epi16(-0x0102)),
                                       _mm256_set1_epi16(0x7fc0));
  const __m256i sign = _mm256_and_si256(codes, _mm256_set1_epi16(-0x8000));
  const __m256i words =
      _mm256_or_si256(_mm256_add_epi16(normal, correction), _mm256_or_si256(sign, nan));
  const __m256i zero = _mm256_setzero_si256();
  return {_mm256_castsi256_ps(_mm256_unpacklo_epi16(zero, words)),
          _mm256_castsi256_ps(_mm256_unpackhi_epi16(zero, words))};
}

static inline float Sum(F32x16 x) {
  const __m256 eight = _mm256_add_ps(x.lo, x.hi);
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
}
static inline void Sum4(const float* p, int64_t stride, float* out) {
  __m128 four[4];
  for (int row = 0; row < 4; ++row) {
    const __m256 eight =
        _mm256_add_ps(_mm256_load_ps(p + row * stride), _mm256_load_ps(p + row * stride + 8));
    four[row] = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  }
  const __m128 first = _mm_add_ps(_mm_movelh_ps(four[0], four[1]), _mm_movehl_ps(four[1], four[0]));
  const __m128 second =
      _mm_add_ps(_mm_movelh_ps(four[2], four[3]), _mm_movehl_ps(four[3], four[2]));
  _mm_storeu_ps(
      out, _mm_add_ps(_mm_shuffle_ps(first, second, 0x88), _mm_shuffle_ps(first, second, 0xdd)));
}
template <int kDistance>
static inline F32x16 Exchange(F32x16 x) {
  if (kDistance == 8) return {x.hi, x.lo};
  const auto exchange = [](__m256 half) {
    if (kDistance == 1) return _mm256_permute_ps(half, 0xb1);
    if (kDistance == 2) return _mm256_permute_ps(half, 0x4e);
    return _mm256_permute2f128_ps(half, half, 1);
  };
  return {exchange(x.lo), exchange(x.hi)};
}
static inline float MaxLane(F32x16 x) {
  const __m256 eight = _mm256_max_ps(x.lo, x.hi);
  const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_shuffle_ps(two, two, 1)));
}

using Native = __m256;
static constexpr int64_t kNative = 8;
static inline Native LoadNative(const float* p) { return _mm256_loadu_ps(p); }
static inline void StoreNative(float* p, Native x) { _mm256_storeu_ps(p, x); }
static inline Native FmaNative(Native a, Native b, Native c) { return _mm256_fmadd_ps(a, b, c); }

// Always inlined: GCC takes a call that only prefetches for one without effect.
static inline __attribute__((always_inline)) void Prefetch(const void* p) {
  _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T0);
}
static inline __attribute__((always_inline)) void PrefetchL2(const void* p) {
  _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T1);
}

}  // namespace winnow::cpu::WINNOW_LEVEL
