// The portable level of simd.h: sixteen lanes in four vectors of the compiler's own, for any
// machine. Included by simd.h only.
#pragma once

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

namespace winnow::cpu::WINNOW_LEVEL {

typedef float F32x4 __attribute__((vector_size(16)));
typedef int32_t I32x4 __attribute__((vector_size(16)));
typedef uint32_t U32x4 __attribute__((vector_size(16)));
typedef int16_t I16x8 __attribute__((vector_size(16)));
typedef uint16_t U16x8 __attribute__((vector_size(16)));

struct F32x16 {
  F32x4 v[4];
};
struct I32x16 {
  I32x4 v[4];
};

// The four vectors of a result, made by `expression` of the index i.
#define WINNOW_EACH(type, expression) \
  type result;                        \
  for (int i = 0; i < 4; ++i) {       \
    result.v[i] = (expression);       \
  }                                   \
  return result

static inline F32x16 Broadcast(float x) { WINNOW_EACH(F32x16, (F32x4{x, x, x, x})); }
static inline F32x16 Zero() { return Broadcast(0.0f); }
static inline I32x16 BroadcastInt(int32_t x) { WINNOW_EACH(I32x16, (I32x4{x, x, x, x})); }

static inline F32x16 Load(const float* p) {
  F32x16 result;
  memcpy(&result, p, sizeof(result));
  return result;
}
static inline void Store(float* p, F32x16 x) { memcpy(p, &x, sizeof(x)); }
static inline F32x16 LoadPartial(const float* p, int64_t n) {
  F32x16 result = Zero();
  if (n > 0) memcpy(&result, p, static_cast<size_t>(n) * sizeof(float));
  return result;
}
static inline void StorePartial(float* p, F32x16 x, int64_t n) {
  if (n > 0) memcpy(p, &x, static_cast<size_t>(n) * sizeof(float));
}

static inline F32x16 Add(F32x16 a, F32x16 b) { WINNOW_EACH(F32x16, a.v[i] + b.v[i]); }
static inline F32x16 Sub(F32x16 a, F32x16 b) { WINNOW_EACH(F32x16, a.v[i] - b.v[i]); }
static inline F32x16 Mul(F32x16 a, F32x16 b) { WINNOW_EACH(F32x16, a.v[i] * b.v[i]); }
static inline F32x16 Div(F32x16 a, F32x16 b) { WINNOW_EACH(F32x16, a.v[i] / b.v[i]); }

#if defined(__SSE2__)
// A fused multiply-add of floats by way of doubles: the product is exact, and the sum is rounded to
// odd, so that rounding it once more to float gives what one rounding would.
static inline __m128d FmaToOdd(__m128d a, __m128d b, __m128d c) {
  const __m128d product = _mm_mul_pd(a, b);
  const __m128d sum = _mm_add_pd(product, c);
  const __m128d part = _mm_sub_pd(sum, product);
  const __m128d error = _mm_add_pd(_mm_sub_pd(product, _mm_sub_pd(sum, part)), _mm_sub_pd(c, part));
  // Where the sum is inexact and even, one step toward the true value makes it odd.
  const __m128d zero = _mm_setzero_pd();
  const __m128i inexact =
      _mm_castpd_si128(_mm_or_pd(_mm_cmplt_pd(error, zero), _mm_cmpgt_pd(error, zero)));
  const __m128i one = _mm_set1_epi64x(1);
  const __m128i bits = _mm_castpd_si128(sum);
  const __m128i even = _mm_sub_epi64(_mm_setzero_si128(), _mm_andnot_si128(bits, one));
  const __m128i inward = _mm_srli_epi64(_mm_xor_si128(bits, _mm_castpd_si128(error)), 63);
  const __m128i step = _mm_sub_epi64(one, _mm_add_epi64(inward, inward));
  return _mm_castsi128_pd(_mm_add_epi64(bits, _mm_and_si128(step, _mm_and_si128(inexact, even))));
}
static inline F32x4 Fma4(F32x4 a, F32x4 b, F32x4 c) {
  const __m128 low = _mm_cvtpd_ps(FmaToOdd(_mm_cvtps_pd(a), _mm_cvtps_pd(b), _mm_cvtps_pd(c)));
  const __m128 high =
      _mm_cvtpd_ps(FmaToOdd(_mm_cvtps_pd(_mm_movehl_ps(a, a)), _mm_cvtps_pd(_mm_movehl_ps(b, b)),
                            _mm_cvtps_pd(_mm_movehl_ps(c, c))));
  return _mm_movelh_ps(low, high);
}
#else
static inline F32x4 Fma4(F32x4 a, F32x4 b, F32x4 c) {
  F32x4 result;
  for (int lane = 0; lane < 4; ++lane) {
    result[lane] = __builtin_fmaf(a[lane], b[lane], c[lane]);
  }
  return result;
}
#endif
static inline F32x16 Fma(F32x16 a, F32x16 b, F32x16 c) {
  WINNOW_EACH(F32x16, Fma4(a.v[i], b.v[i], c.v[i]));
}
static inline F32x16 Sqrt(F32x16 x) {
  F32x16 result;
  for (int lane = 0; lane < 16; ++lane) {
    result.v[lane / 4][lane % 4] = __builtin_sqrtf(x.v[lane / 4][lane % 4]);
  }
  return result;
}

static inline F32x16 Max(F32x16 a, F32x16 b) {
  WINNOW_EACH(F32x16, a.v[i] > b.v[i] ? a.v[i] : b.v[i]);
}
static inline F32x16 Min(F32x16 a, F32x16 b) {
  WINNOW_EACH(F32x16, a.v[i] < b.v[i] ? a.v[i] : b.v[i]);
}

static inline Mask16 Gather(I32x16 lanes) {
  Mask16 mask = 0;
  for (int lane = 0; lane < 16; ++lane) mask |= (lanes.v[lane / 4][lane % 4] & 1u) << lane;
  return mask;
}
static inline I32x16 Scatter(Mask16 mask) {
  I32x16 lanes;
  for (int lane = 0; lane < 16; ++lane) {
    lanes.v[lane / 4][lane % 4] = -static_cast<int32_t>((mask >> lane) & 1);
  }
  return lanes;
}
static inline I32x16 LessLanes(F32x16 a, F32x16 b) { WINNOW_EACH(I32x16, a.v[i] < b.v[i]); }
static inline I32x16 LessEqualLanes(F32x16 a, F32x16 b) { WINNOW_EACH(I32x16, a.v[i] <= b.v[i]); }
static inline I32x16 EqualLanes(F32x16 a, F32x16 b) { WINNOW_EACH(I32x16, a.v[i] == b.v[i]); }
static inline I32x16 NumberLanes(F32x16 a, F32x16 b) {
  WINNOW_EACH(I32x16, (a.v[i] == a.v[i]) & (b.v[i] == b.v[i]));
}
static inline Mask16 Less(F32x16 a, F32x16 b) { return Gather(LessLanes(a, b)); }
static inline Mask16 LessEqual(F32x16 a, F32x16 b) { return Gather(LessEqualLanes(a, b)); }
static inline Mask16 Equal(F32x16 a, F32x16 b) { return Gather(EqualLanes(a, b)); }
static inline Mask16 Unordered(F32x16 a, F32x16 b) { return 0xffff & ~Gather(NumberLanes(a, b)); }

static inline F32x16 Select(Mask16 mask, F32x16 a, F32x16 b) {
  const I32x16 lanes = Scatter(mask);
  WINNOW_EACH(F32x16, lanes.v[i] ? a.v[i] : b.v[i]);
}

static inline I32x16 Bits(F32x16 x) { WINNOW_EACH(I32x16, (I32x4)x.v[i]); }
static inline F32x16 Float(I32x16 x) { WINNOW_EACH(F32x16, (F32x4)x.v[i]); }
static inline F32x16 ToFloat(I32x16 x) {
  WINNOW_EACH(F32x16, __builtin_convertvector(x.v[i], F32x4));
}
static inline I32x16 AddInt(I32x16 a, I32x16 b) {
  WINNOW_EACH(I32x16, (I32x4)((U32x4)a.v[i] + (U32x4)b.v[i]));
}
static inline I32x16 SubInt(I32x16 a, I32x16 b) {
  WINNOW_EACH(I32x16, (I32x4)((U32x4)a.v[i] - (U32x4)b.v[i]));
}
static inline I32x16 And(I32x16 a, I32x16 b) { WINNOW_EACH(I32x16, a.v[i] & b.v[i]); }
static inline I32x16 Or(I32x16 a, I32x16 b) { WINNOW_EACH(I32x16, a.v[i] | b.v[i]); }
static inline I32x16 Xor(I32x16 a, I32x16 b) { WINNOW_EACH(I32x16, a.v[i] ^ b.v[i]); }
static inline I32x16 AndNot(I32x16 a, I32x16 b) { WINNOW_EACH(I32x16, ~a.v[i] & b.v[i]); }
template <int kBits>
static inline I32x16 ShiftLeft(I32x16 x) {
  WINNOW_EACH(I32x16, (I32x4)((U32x4)x.v[i] << kBits));
}
template <int kBits>
static inline I32x16 ShiftRight(I32x16 x) {
  WINNOW_EACH(I32x16, (I32x4)((U32x4)x.v[i] >> kBits));
}
static inline I32x16 EqualInt(I32x16 a, I32x16 b) { WINNOW_EACH(I32x16, a.v[i] == b.v[i]); }
static inline I32x16 GreaterInt(I32x16 a, I32x16 b) { WINNOW_EACH(I32x16, a.v[i] > b.v[i]); }
static inline I32x4 AddPairs4(I32x4 a, I32x4 b, I32x4 c) {
#if defined(__SSE2__)
  return c + (I32x4)_mm_madd_epi16((__m128i)a, (__m128i)b);
#else
  const I32x4 low = ((I32x4)((U32x4)a << 16) >> 16) * ((I32x4)((U32x4)b << 16) >> 16);
  return c + low + (a >> 16) * (b >> 16);
#endif
}
static inline I32x16 AddPairs(I32x16 a, I32x16 b, I32x16 c) {
  WINNOW_EACH(I32x16, AddPairs4(a.v[i], b.v[i], c.v[i]));
}

static inline I32x16 HighBytes(I32x16 x) { WINNOW_EACH(I32x16, (I32x4)((I16x8)x.v[i] >> 8)); }
static inline I32x16 LowBytes(I32x16 x) {
  WINNOW_EACH(I32x16, (I32x4)((I16x8)((U16x8)x.v[i] << 8) >> 8));
}

#undef WINNOW_EACH

static inline I32x16 LoadInt(const int32_t* p) {
  I32x16 result;
  memcpy(&result, p, sizeof(result));
  return result;
}
static inline void StoreInt(int32_t* p, I32x16 x) { memcpy(p, &x, sizeof(x)); }

template <typename T>
static inline I32x16 LoadWidened(const T* p) {
  I32x16 result;
  for (int lane = 0; lane < 16; ++lane) result.v[lane / 4][lane % 4] = p[lane];
  return result;
}
static inline I32x16 LoadU8(const uint8_t* p) { return LoadWidened(p); }
static inline I32x16 LoadI8(const int8_t* p) { return LoadWidened(p); }
static inline I32x16 LoadU16(const uint16_t* p) { return LoadWidened(p); }
static inline void StoreU16(uint16_t* p, I32x16 x) {
  for (int lane = 0; lane < 16; ++lane) p[lane] = static_cast<uint16_t>(x.v[lane / 4][lane % 4]);
}
static inline void StoreI8(int8_t* p, I32x16 x) {
  for (int lane = 0; lane < 16; ++lane) p[lane] = static_cast<int8_t>(x.v[lane / 4][lane % 4]);
}

// A short float given by its magnitude, already shifted so that its mantissa ends where a float's
// does, and its sign in the top bit. `rebias` is the difference of the exponent biases, `smallest`
// the least normal number. Subnormals come from a subtraction: as floats they would be flushed.
static inline F32x16 WidenFloat(I32x16 sign, I32x16 shifted, int32_t rebias, float smallest) {
  const I32x16 normal = AddInt(shifted, BroadcastInt(rebias << 23));
  const F32x16 above = Float(AddInt(shifted, BroadcastInt((rebias + 1) << 23)));
  const I32x16 subnormal = Bits(Sub(above, Broadcast(smallest)));
  const I32x16 is_normal = GreaterInt(shifted, BroadcastInt(0x7fffff));
  return Float(Or(sign, Or(And(is_normal, normal), AndNot(is_normal, subnormal))));
}
static inline F32x16 LoadF16(const uint16_t* p) {
  const I32x16 bits = LoadU16(p);
  const I32x16 sign = ShiftLeft<16>(And(bits, BroadcastInt(0x8000)));
  const I32x16 magnitude = And(bits, BroadcastInt(0x7fff));
  const I32x16 shifted = ShiftLeft<13>(magnitude);
  const I32x16 finite = Bits(WidenFloat(sign, shifted, 112, 0x1p-14f));
  const I32x16 special = GreaterInt(magnitude, BroadcastInt(0x7bff));
  const I32x16 quiet = And(GreaterInt(magnitude, BroadcastInt(0x7c00)), BroadcastInt(0x400000));
  const I32x16 infinite = Or(Or(sign, quiet), Or(shifted, BroadcastInt(0x7f800000)));
  return Float(Or(And(special, infinite), AndNot(special, finite)));
}
static inline F32x16 LoadE4m3(const uint8_t* p) {
  const I32x16 bits = LoadU8(p);
  const I32x16 magnitude = And(bits, BroadcastInt(0x7f));
  const I32x16 sign = ShiftLeft<24>(And(bits, BroadcastInt(0x80)));
  const I32x16 number = Bits(WidenFloat(sign, ShiftLeft<20>(magnitude), 120, 0x1p-6f));
  const I32x16 nan = EqualInt(magnitude, BroadcastInt(0x7f));
  return Float(Or(number, And(nan, BroadcastInt(0x7fc00000))));
}
static inline float Sum(F32x16 x) {
  const F32x4 four = (x.v[0] + x.v[2]) + (x.v[1] + x.v[3]);
  return (four[0] + four[2]) + (four[1] + four[3]);
}
static inline void Sum4(const float* p, int64_t stride, float* out) {
  for (int row = 0; row < 4; ++row) out[row] = Sum(Load(p + row * stride));
}
template <int kDistance>
static inline F32x16 Exchange(F32x16 x) {
  F32x16 out;
  for (int lane = 0; lane < 16; ++lane) {
    const int from = lane ^ kDistance;
    out.v[lane / 4][lane % 4] = x.v[from / 4][from % 4];
  }
  return out;
}
static inline float MaxLane(F32x16 x) {
  F32x4 even = x.v[0] > x.v[2] ? x.v[0] : x.v[2];
  F32x4 odd = x.v[1] > x.v[3] ? x.v[1] : x.v[3];
  const F32x4 four = even > odd ? even : odd;
  const float low = four[0] > four[2] ? four[0] : four[2];
  const float high = four[1] > four[3] ? four[1] : four[3];
  return low > high ? low : high;
}

using Native = F32x4;
static constexpr int64_t kNative = 4;
static inline Native LoadNative(const float* p) {
  Native result;
  memcpy(&result, p, sizeof(result));
  return result;
}
static inline void StoreNative(float* p, Native x) { memcpy(p, &x, sizeof(x)); }
static inline Native FmaNative(Native a, Native b, Native c) { return Fma4(a, b, c); }

static inline void Prefetch(const void* p) { __builtin_prefetch(p); }
static inline void PrefetchL2(const void* p) { __builtin_prefetch(p, 0, 2); }

}  // namespace winnow::cpu::WINNOW_LEVEL
