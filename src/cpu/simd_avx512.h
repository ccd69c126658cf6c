// The AVX-512 level of simd.h: sixteen lanes in one register. Included by simd.h only.
#pragma once

#include <immintrin.h>

namespace winnow::cpu::WINNOW_LEVEL {

struct F32x16 {
  __m512 v;
};
struct I32x16 {
  __m512i v;
};

static inline F32x16 Zero() { return {_mm512_setzero_ps()}; }
static inline F32x16 Broadcast(float x) { return {_mm512_set1_ps(x)}; }
static inline I32x16 BroadcastInt(int32_t x) { return {_mm512_set1_epi32(x)}; }

static inline __mmask16 FirstLanes(int64_t n) {
  return static_cast<__mmask16>((uint32_t{1} << n) - 1);
}
static inline F32x16 Load(const float* p) { return {_mm512_loadu_ps(p)}; }
static inline void Store(float* p, F32x16 x) { _mm512_storeu_ps(p, x.v); }
static inline F32x16 LoadPartial(const float* p, int64_t n) {
  return {_mm512_maskz_loadu_ps(FirstLanes(n), p)};
}
static inline void StorePartial(float* p, F32x16 x, int64_t n) {
  _mm512_mask_storeu_ps(p, FirstLanes(n), x.v);
}

static inline F32x16 Add(F32x16 a, F32x16 b) { return {_mm512_add_ps(a.v, b.v)}; }
static inline F32x16 Sub(F32x16 a, F32x16 b) { return {_mm512_sub_ps(a.v, b.v)}; }
static inline F32x16 Mul(F32x16 a, F32x16 b) { return {_mm512_mul_ps(a.v, b.v)}; }
static inline F32x16 Div(F32x16 a, F32x16 b) { return {_mm512_div_ps(a.v, b.v)}; }
static inline F32x16 Fma(F32x16 a, F32x16 b, F32x16 c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
static inline F32x16 Sqrt(F32x16 x) { return {_mm512_sqrt_ps(x.v)}; }
static inline F32x16 Max(F32x16 a, F32x16 b) { return {_mm512_max_ps(a.v, b.v)}; }
static inline F32x16 Min(F32x16 a, F32x16 b) { return {_mm512_min_ps(a.v, b.v)}; }

static inline Mask16 Less(F32x16 a, F32x16 b) { return _mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ); }
static inline Mask16 LessEqual(F32x16 a, F32x16 b) {
  return _mm512_cmp_ps_mask(a.v, b.v, _CMP_LE_OQ);
}
static inline Mask16 Equal(F32x16 a, F32x16 b) { return _mm512_cmp_ps_mask(a.v, b.v, _CMP_EQ_OQ); }
static inline Mask16 Unordered(F32x16 a, F32x16 b) {
  return _mm512_cmp_ps_mask(a.v, b.v, _CMP_UNORD_Q);
}
static inline F32x16 Select(Mask16 mask, F32x16 a, F32x16 b) {
  return {_mm512_mask_blend_ps(static_cast<__mmask16>(mask), b.v, a.v)};
}

static inline I32x16 Bits(F32x16 x) { return {_mm512_castps_si512(x.v)}; }
static inline F32x16 Float(I32x16 x) { return {_mm512_castsi512_ps(x.v)}; }
static inline F32x16 ToFloat(I32x16 x) { return {_mm512_cvtepi32_ps(x.v)}; }
static inline I32x16 AddInt(I32x16 a, I32x16 b) { return {_mm512_add_epi32(a.v, b.v)}; }
static inline I32x16 SubInt(I32x16 a, I32x16 b) { return {_mm512_sub_epi32(a.v, b.v)}; }
static inline I32x16 And(I32x16 a, I32x16 b) { return {_mm512_and_si512(a.v, b.v)}; }
static inline I32x16 Or(I32x16 a, I32x16 b) { return {_mm512_or_si512(a.v, b.v)}; }
static inline I32x16 Xor(I32x16 a, I32x16 b) { return {_mm512_xor_si512(a.v, b.v)}; }
static inline I32x16 AndNot(I32x16 a, I32x16 b) { return {_mm512_andnot_si512(a.v, b.v)}; }
template <int kBits>
static inline I32x16 ShiftLeft(I32x16 x) {
  return {_mm512_slli_epi32(x.v, kBits)};
}
template <int kBits>
static inline I32x16 ShiftRight(I32x16 x) {
  return {_mm512_srli_epi32(x.v, kBits)};
}
static inline I32x16 EqualInt(I32x16 a, I32x16 b) {
  return {_mm512_movm_epi32(_mm512_cmpeq_epi32_mask(a.v, b.v))};
}
static inline I32x16 GreaterInt(I32x16 a, I32x16 b) {
  return {_mm512_movm_epi32(_mm512_cmpgt_epi32_mask(a.v, b.v))};
}

static inline __m128i Load16Bytes(const void* p) {
  return _mm_loadu_si128(static_cast<const __m128i*>(p));
}
static inline __m256i Load32Bytes(const void* p) {
  return _mm256_loadu_si256(static_cast<const __m256i*>(p));
}
static inline I32x16 LoadU8(const uint8_t* p) { return {_mm512_cvtepu8_epi32(Load16Bytes(p))}; }
static inline I32x16 LoadI8(const int8_t* p) { return {_mm512_cvtepi8_epi32(Load16Bytes(p))}; }
static inline I32x16 LoadU16(const uint16_t* p) { return {_mm512_cvtepu16_epi32(Load32Bytes(p))}; }
static inline I32x16 LoadInt(const int32_t* p) { return {_mm512_loadu_si512(p)}; }
static inline void StoreInt(int32_t* p, I32x16 x) { _mm512_storeu_si512(p, x.v); }
static inline I32x16 HighBytes(I32x16 x) { return {_mm512_srai_epi16(x.v, 8)}; }
static inline I32x16 LowBytes(I32x16 x) { return HighBytes({_mm512_slli_epi16(x.v, 8)}); }
static inline I32x16 AddPairs(I32x16 a, I32x16 b, I32x16 c) {
  return {_mm512_add_epi32(c.v, _mm512_madd_epi16(a.v, b.v))};
}
static inline void StoreU16(uint16_t* p, I32x16 x) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi32_epi16(x.v));
}
static inline void StoreI8(int8_t* p, I32x16 x) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(x.v));
}

static inline F32x16 LoadF16(const uint16_t* p) { return {_mm512_cvtph_ps(Load32Bytes(p))}; }
// By way of half precision, of which E4M3 over 256 is a part: its conversion knows subnormals even
// where floats flush them.
static inline F32x16 LoadE4m3(const uint8_t* p) {
  const __m256i codes = _mm256_cvtepu8_epi16(Load16Bytes(p));
  const __m256i magnitude = _mm256_and_si256(codes, _mm256_set1_epi16(0x7f));
  const __mmask16 nan = _mm256_cmpeq_epi16_mask(magnitude, _mm256_set1_epi16(0x7f));
  const __m256i sign = _mm256_slli_epi16(_mm256_srli_epi16(codes, 7), 15);
  const __m256i number = _mm256_or_si256(sign, _mm256_slli_epi16(magnitude, 7));
  const __m256i quiet = _mm256_or_si256(sign, _mm256_set1_epi16(0x7e00));
  return Mul({_mm512_cvtph_ps(_mm256_mask_blend_epi16(nan, number, quiet))}, Broadcast(256.0f));
}

static inline float Sum(F32x16 x) {
  const __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(x.v), _mm512_extractf32x8_ps(x.v, 1));
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
  if (kDistance == 1) return {_mm512_permute_ps(x.v, 0xb1)};
  if (kDistance == 2) return {_mm512_permute_ps(x.v, 0x4e)};
  if (kDistance == 4) return {_mm512_shuffle_f32x4(x.v, x.v, 0xb1)};
  return {_mm512_shuffle_f32x4(x.v, x.v, 0x4e)};
}
static inline float MaxLane(F32x16 x) {
  const __m256 eight = _mm256_max_ps(_mm512_castps512_ps256(x.v), _mm512_extractf32x8_ps(x.v, 1));
  const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_shuffle_ps(two, two, 1)));
}

using Native = __m512;
static constexpr int64_t kNative = 16;
static inline Native LoadNative(const float* p) { return _mm512_loadu_ps(p); }
static inline void StoreNative(float* p, Native x) { _mm512_storeu_ps(p, x); }
static inline Native FmaNative(Native a, Native b, Native c) { return _mm512_fmadd_ps(a, b, c); }

#if defined(__AVX512BF16__) && defined(__AVX512VNNI__)
// sum plus the four products of unsigned bytes and signed ones in each 32 bits. Written out: from
// the intrinsic, gcc 12 copies every sum before it adds to it, which halves the speed. Sums are
// taken and given by value, so that arrays of them stay in registers.
static inline __m512i AddByteProducts(__m512i sum, __m512i unsigned_bytes, __m512i signed_bytes) {
  asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(unsigned_bytes), "v"(signed_bytes));
  return sum;
}
// sum plus the two products of bfloat16 in each 32 bits: fma(low, low, fma(high, high, sum)),
// rounded to nearest twice, with subnormals as zeros.
static inline __m512 AddBf16Products(__m512 sum, __m512i a, __m512i b) {
  asm("vdpbf16ps %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));
  return sum;
}
#endif

// Always inlined: GCC takes a call that only prefetches for one without effect.
static inline __attribute__((always_inline)) void Prefetch(const void* p) {
  _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T0);
}
static inline __attribute__((always_inline)) void PrefetchL2(const void* p) {
  _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T1);
}

}  // namespace winnow::cpu::WINNOW_LEVEL
