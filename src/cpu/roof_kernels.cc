// Loops that do nothing but what is counted; roof_kernels.h says what. No result of theirs is of
// use, so each makes one that the compiler can neither foresee nor leave out.
#include "cpu/roof_kernels.h"

#include "cpu/simd.h"

namespace winnow::cpu::WINNOW_LEVEL {
namespace {

// Enough to cover the time that a product and a sum after it take on any processor of the level;
// few enough to stay in 16 registers together with factor and addend.
constexpr int kChains = 14;

// The portable level has no instruction that fuses, so that two unfused ones are its best.
Native MultiplyAddOnce(Native x, Native factor, Native addend) {
#if defined(__FMA__)
  return FmaNative(x, factor, addend);
#else
  return x * factor + addend;
#endif
}

Native BroadcastNative(float x) {
  float lanes[kNative];
  for (float& lane : lanes) lane = x;
  return LoadNative(lanes);
}

float MultiplyAdd(int64_t rounds, float factor, float addend) {
  const Native factors = BroadcastNative(factor);
  const Native addends = BroadcastNative(addend);
  Native chains[kChains];
  for (int chain = 0; chain < kChains; ++chain) {
    chains[chain] = BroadcastNative(static_cast<float>(chain));
  }
  for (int64_t round = 0; round < rounds; ++round) {
    for (int chain = 0; chain < kChains; ++chain) {
      chains[chain] = MultiplyAddOnce(chains[chain], factors, addends);
    }
  }
  float sum = 0;
  for (const Native& chain : chains) {
    float lanes[kNative];
    StoreNative(lanes, chain);
    for (const float lane : lanes) sum += lane;
  }
  return sum;
}

// What the compiler must take for another value from here on.
#if defined(__AVX512F__)
#define WINNOW_OPAQUE(x) asm("" : "+v"(x))
#elif defined(__AVX2__)
#define WINNOW_OPAQUE(x) asm("" : "+x"(x))
#endif

#if defined(__AVX512BW__) || defined(__AVX2__)
// Pairs of 16-bit products, added: exact for bytes, since 2 * 127 * 127 is far below 2^31. Sums are
// as independent as the chains above.
#if defined(__AVX512BW__)
using Words = __m512i;
Words Widen(const int8_t* p) {
  return _mm512_cvtepi8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
Words PairProducts(Words a, Words b) { return _mm512_madd_epi16(a, b); }
Words AddWords(Words a, Words b) { return _mm512_add_epi32(a, b); }
#else
using Words = __m256i;
Words Widen(const int8_t* p) {
  return _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
Words PairProducts(Words a, Words b) { return _mm256_madd_epi16(a, b); }
Words AddWords(Words a, Words b) { return _mm256_add_epi32(a, b); }
#endif
constexpr int kSums = 8;
constexpr int64_t kInt8OpsPerRound = kSums * static_cast<int64_t>(sizeof(Words)) / 2 * 2;

uint32_t Int8Products(int64_t rounds, const int8_t* a, const int8_t* b) {
  Words left = Widen(a);
  const Words right = Widen(b);
  Words sums[kSums];
  for (Words& sum : sums) sum = left;
  for (int64_t round = 0; round < rounds; ++round) {
    for (int i = 0; i < kSums; ++i) {
      WINNOW_OPAQUE(left);  // or the product would be made once, before the loop
      Words sum = AddWords(sums[i], PairProducts(left, right));
      WINNOW_OPAQUE(sum);  // or the sums would be moved from register to register
      sums[i] = sum;
    }
  }
  for (int i = 1; i < kSums; ++i) sums[0] = AddWords(sums[0], sums[i]);
  uint32_t lanes[sizeof(Words) / 4];
  memcpy(lanes, &sums[0], sizeof(lanes));
  uint32_t sum = 0;
  for (const uint32_t lane : lanes) sum += lane;
  return sum;
}
#else
constexpr int64_t kInt8OpsPerRound = kRoofOperands * 2;

// Whatever the compiler makes of a plain dot product of bytes in the nearest cache.
uint32_t Int8Products(int64_t rounds, const int8_t* a, const int8_t* b) {
  uint32_t total = 0;
  for (int64_t round = 0; round < rounds; ++round) {
    asm("" : "+r"(a), "+r"(b));  // or one round would do for all
    int32_t sum = 0;
    for (int64_t i = 0; i < kRoofOperands; ++i) sum += int32_t{a[i]} * int32_t{b[i]};
    total += static_cast<uint32_t>(sum);
  }
  return total;
}
#endif

uint32_t Read(const uint8_t* data, int64_t bytes) {
  I32x16 sums[2] = {BroadcastInt(0), BroadcastInt(0)};
  constexpr int64_t kBytes = kLanes * 4;
  for (int64_t begin = 0; begin < bytes; begin += kReadUnit) {
    for (int64_t at = 0; at < kReadUnit; at += 2 * kBytes) {
      for (int i = 0; i < 2; ++i) {
        const uint8_t* line = data + begin + at + i * kBytes;
        sums[i] = Xor(sums[i], Bits(Load(reinterpret_cast<const float*>(line))));
      }
    }
  }
  uint32_t lanes[kLanes];
  sums[0] = Xor(sums[0], sums[1]);
  memcpy(lanes, &sums[0], sizeof(lanes));
  uint32_t sum = 0;
  for (const uint32_t lane : lanes) sum ^= lane;
  return sum;
}

}  // namespace

extern const RoofKernels kRoofKernels = {kChains * kNative * 2, kInt8OpsPerRound, MultiplyAdd,
                                         Int8Products, Read};

}  // namespace winnow::cpu::WINNOW_LEVEL
