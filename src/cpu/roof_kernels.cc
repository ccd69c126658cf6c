// Loops that do nothing but what is counted; roof_kernels.h says what. No result of theirs is of
// use, so each makes one that the compiler can neither foresee nor leave out.
#include "cpu/roof_kernels.h"

#include "cpu/simd.h"

#if defined(__AMX_TILE__)
#include "cpu/tiles.h"
#endif

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

#if defined(__AMX_TILE__)
constexpr int64_t kTileProducts = 4;
constexpr int64_t kBf16OpsPerRound = kTileProducts * kTileSide * kTileSide * 32 * 2;
constexpr int64_t kInt8OpsPerRound = 2 * kBf16OpsPerRound;

// kTileProducts sums in tiles; `add` adds to them once. Every word of the factors is `word`.
template <typename Add>
uint32_t TileProducts(int64_t rounds, int32_t word, const Add& add) {
  TileShapes shapes;
  for (int tile = 0; tile < 8; ++tile) shapes.Set(tile, kTileSide, kTileSide);
  alignas(64) int32_t words[kTileWords];
  for (int32_t& each : words) each = word;
  const TileScope scope(shapes);
  ZeroTile<0>();
  ZeroTile<1>();
  ZeroTile<2>();
  ZeroTile<3>();
  LoadTile<4>(words, 64);
  LoadTile<5>(words, 64);
  LoadTile<6>(words, 64);
  LoadTile<7>(words, 64);
  for (int64_t round = 0; round < rounds; ++round) add();
  int32_t sum = 0;
  const auto take = [&] {
    for (const int32_t each : words) sum ^= each;
  };
  StoreTile<0>(words, 64);
  take();
  StoreTile<1>(words, 64);
  take();
  StoreTile<2>(words, 64);
  take();
  StoreTile<3>(words, 64);
  take();
  return static_cast<uint32_t>(sum);
}

float Bf16Products(int64_t rounds, float factor) {
  int32_t word;
  memcpy(&word, &factor, sizeof(word));
  const uint32_t sum = TileProducts(rounds, word, [] {
    AddBf16Tiles<0, 4, 6>();
    AddBf16Tiles<1, 4, 7>();
    AddBf16Tiles<2, 5, 6>();
    AddBf16Tiles<3, 5, 7>();
  });
  return static_cast<float>(sum >> 16);
}

uint32_t Int8Products(int64_t rounds, int32_t factors) {
  return TileProducts(rounds, factors & 0x01010101, [] {
    AddInt8Tiles<0, 4, 6>();
    AddInt8Tiles<1, 4, 7>();
    AddInt8Tiles<2, 5, 6>();
    AddInt8Tiles<3, 5, 7>();
  });
}
#elif defined(__AVX512BF16__)
constexpr int64_t kBf16OpsPerRound = kChains * kNative * 4;

float Bf16Products(int64_t rounds, float factor) {
  const __m512i factors = _mm512_castps_si512(_mm512_set1_ps(factor));
  __m512 chains[kChains];
  for (int chain = 0; chain < kChains; ++chain) {
    chains[chain] = _mm512_set1_ps(static_cast<float>(chain));
  }
  for (int64_t round = 0; round < rounds; ++round) {
    for (int chain = 0; chain < kChains; ++chain) {
      chains[chain] = AddBf16Products(chains[chain], _mm512_castps_si512(chains[chain]), factors);
    }
  }
  float sum = 0;
  for (const __m512 chain : chains) sum += Sum({chain});
  return sum;
}
#else
constexpr int64_t kBf16OpsPerRound = 0;
constexpr float (*Bf16Products)(int64_t, float) = nullptr;
#endif

#if !defined(__AMX_TILE__)
// One register of small numbers, or of 32-bit sums. AddProducts is the best that a level has for
// exact products of bytes: as they are, or as pairs of 16-bit numbers, AddPairs of simd.h. The sum
// is written out: left to itself the compiler moves sums from register to register, and through
// memory.
#if defined(__AVX512VNNI__)
using Words = __m512i;
Words AddProducts(Words x, Words factors) { return AddByteProducts(x, x, factors); }
#elif defined(__AVX512BW__)
using Words = __m512i;
Words AddProducts(Words x, Words factors) {
  asm("vpaddd %1, %0, %0" : "+v"(x) : "v"(_mm512_madd_epi16(x, factors)));
  return x;
}
#elif defined(__AVX2__)
using Words = __m256i;
Words AddProducts(Words x, Words factors) {
  asm("vpaddd %1, %0, %0" : "+x"(x) : "x"(_mm256_madd_epi16(x, factors)));
  return x;
}
#elif defined(__SSE2__)
using Words = __m128i;
Words AddProducts(Words x, Words factors) {
  asm("paddd %1, %0" : "+x"(x) : "x"(_mm_madd_epi16(x, factors)));
  return x;
}
#else
using Words = I32x16;
Words AddProducts(Words x, Words factors) { return AddPairs(x, factors, x); }
#endif
constexpr int kSums = 12;
#if defined(__AVX512VNNI__)
using Factor = int8_t;
#else
using Factor = int16_t;
#endif
constexpr int64_t kInt8OpsPerRound = kSums * sizeof(Words) / sizeof(Factor) * 2;

uint32_t Int8Products(int64_t rounds, int32_t factors) {
  int32_t lanes[sizeof(Words) / sizeof(int32_t)];
  Words pairs;
  for (int32_t& lane : lanes) lane = factors;
  memcpy(&pairs, lanes, sizeof(pairs));
  Words sums[kSums];
  for (int i = 0; i < kSums; ++i) {
    lanes[0] = i;
    memcpy(&sums[i], lanes, sizeof(lanes));
  }
  for (int64_t round = 0; round < rounds; ++round) {
    for (int i = 0; i < kSums; ++i) sums[i] = AddProducts(sums[i], pairs);
  }
  uint32_t sum = 0;
  for (const Words& each : sums) {
    memcpy(lanes, &each, sizeof(lanes));
    for (const int32_t lane : lanes) sum += static_cast<uint32_t>(lane);
  }
  return sum;
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

extern const RoofKernels kRoofKernels = {kChains * kNative * 2,
                                         kBf16OpsPerRound,
                                         kInt8OpsPerRound,
                                         MultiplyAdd,
                                         Bf16Products,
                                         Int8Products,
                                         Read};

}  // namespace winnow::cpu::WINNOW_LEVEL
