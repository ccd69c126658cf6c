#include "unit/cpu/simd_under_test.h"

#include "cpu/simd.h"

namespace winnow::cpu::WINNOW_LEVEL {
namespace {

template <F32x16 (*kFunction)(F32x16)>
void Each(const float* x, float* out, int64_t count) {
  for (int64_t i = 0; i < count; i += kLanes) Store(out + i, kFunction(Load(x + i)));
}
template <F32x16 (*kFunction)(F32x16, F32x16)>
void EachTwo(const float* a, const float* b, float* out, int64_t count) {
  for (int64_t i = 0; i < count; i += kLanes) {
    Store(out + i, kFunction(Load(a + i), Load(b + i)));
  }
}
template <typename T, F32x16 (*kFunction)(const T*)>
void Decode(const T* x, float* out, int64_t count) {
  for (int64_t i = 0; i < count; i += kLanes) Store(out + i, kFunction(x + i));
}
void FmaAll(const float* a, const float* b, const float* c, float* out, int64_t count) {
  for (int64_t i = 0; i < count; i += kLanes) {
    Store(out + i, Fma(Load(a + i), Load(b + i), Load(c + i)));
  }
}
void EncodeI8(const float* x, int8_t* out, int64_t count) {
  for (int64_t i = 0; i < count; i += kLanes) StoreI8(out + i, ToInt(Load(x + i)));
}
void EncodeBf16(const float* x, uint16_t* out, int64_t count) {
  for (int64_t i = 0; i < count; i += kLanes) StoreBf16(out + i, Load(x + i));
}
float SumOf(const float* x) { return Sum(Load(x)); }
void Sum4Of(const float* x, float* out) { Sum4(x, kLanes, out); }
float MaxLaneOf(const float* x) { return MaxLane(Load(x)); }
uint64_t Compare(const float* a, const float* b) {
  const F32x16 x = Load(a);
  const F32x16 y = Load(b);
  return uint64_t{Less(x, y)} | uint64_t{LessEqual(x, y)} << 16 | uint64_t{Equal(x, y)} << 32 |
         uint64_t{Unordered(x, y)} << 48;
}
void SelectOf(uint32_t mask, const float* a, const float* b, float* out) {
  Store(out, Select(mask, Load(a), Load(b)));
}
void AddPairsOf(const int8_t* fours, bool upper, const int32_t* pairs, int32_t* sums) {
  I32x16 x;
  memcpy(&x, fours, sizeof(x));
  StoreInt(sums, AddPairs(upper ? HighBytes(x) : LowBytes(x), LoadInt(pairs), LoadInt(sums)));
}
void CopyPartial(const float* x, float* out, int64_t n) { Store(out, LoadPartial(x, n)); }
void StorePartialOf(const float* x, float* out, int64_t n) { StorePartial(out, Load(x), n); }

}  // namespace

extern const SimdUnderTest kSimdUnderTest = {Each<Exp>,
                                             Each<Sigmoid>,
                                             Each<RoundToBf16>,
                                             Each<RoundNumberToBf16>,
                                             Each<RoundToWhole>,
                                             Each<Sqrt>,
                                             FmaAll,
                                             EachTwo<Max>,
                                             EachTwo<Min>,
                                             Decode<uint16_t, LoadBf16>,
                                             Decode<uint16_t, LoadF16>,
                                             Decode<uint8_t, LoadE4m3>,
                                             Decode<int8_t, LoadI8AsFloat>,
                                             EncodeI8,
                                             EncodeBf16,
                                             SumOf,
                                             Sum4Of,
                                             MaxLaneOf,
                                             Compare,
                                             SelectOf,
                                             AddPairsOf,
                                             CopyPartial,
                                             StorePartialOf};

}  // namespace winnow::cpu::WINNOW_LEVEL
