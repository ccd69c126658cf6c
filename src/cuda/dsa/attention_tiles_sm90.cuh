// A tile's way through attention on Hopper's tensor cores, the same operations in the same order
// whoever does them: scores, weights, joining them to the sums before, and the result.
#pragma once

#include "cuda/dsa/attention_rows_sm90.cuh"
#include "cuda/dsa/products_sm90.cuh"
#include "cuda/dsa/sm90.cuh"

namespace winnow::cuda {

constexpr int kWarp = 32;
// Weights are relative to 2^m, m a multiple of 64 in sixteen bits, for each of a head's four
// threads: a bf16 weight has room for 2^32 above and 2^-126 below.
constexpr float kPowerUnit = 64;
constexpr int kPowerBytes = kGroupHeads * 4 * 2;  // of a tile
constexpr int kSharedLimit = 232448;
constexpr uint32_t kOnePair = 0x3f803f80;  // of bf16

__device__ __forceinline__ uint32_t PackPair(float low, float high) {
  uint32_t d;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(d) : "f"(high), "f"(low));
  return d;
}
__device__ __forceinline__ float Exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
// 2^(kPowerUnit * n) for n <= 0, or 0 where no float is as small: from -2 on.
__device__ __forceinline__ float PowerOfTwo(int n) {
  return __int_as_float(max(0x3f800000 + max(n, -2) * (64 << 23), 0));
}
// Of four neighbouring lanes, lane i gets what each holds at i, in their order.
__device__ __forceinline__ void Transpose(uint32_t (&x)[4], int quad) {
  auto exchange = [&](uint32_t& low, uint32_t& high, int distance) {
    const bool upper = (quad & distance) != 0;
    const uint32_t got = __shfl_xor_sync(0xffffffff, upper ? low : high, distance);
    (upper ? low : high) = got;
  };
  exchange(x[0], x[1], 1);
  exchange(x[2], x[3], 1);
  exchange(x[0], x[2], 2);
  exchange(x[1], x[3], 2);
}

// ---- Scores -------------------------------------------------------------------------------------

using Queries = uint32_t[kRow / 16][4];

// Of 64 heads, from where they were copied.
__device__ __forceinline__ void LoadQueries(Queries& q, uint32_t tile, int thread) {
#pragma unroll
  for (int k = 0; k < kRow / 16; ++k) {
    sm90::LoadMatrix4(
        q[k], tile + static_cast<uint32_t>(k / 4) * kBlock +
                  BlockOffset(thread / kWarp * 16 + thread % 16, k % 4 * 2 + thread % kWarp / 16));
  }
}

// Begins the product of queries and a tile. `await` is called with each part of the tile before it
// is read.
template <RowForm kForm, typename Await>
__device__ __forceinline__ void BeginScores(float (&scores)[32], const Queries& q, uint32_t tile,
                                            Await await) {
  const uint64_t rows = sm90::SwizzledMatrix(tile, 1024);
#pragma unroll
  for (int part = 0; part < kFillParts<kForm>; ++part) {
    await(part);
    sm90::ProductFence();
#pragma unroll
    for (int k = part * 16; k < (part < kFillParts<kForm> - 1 ? 16 : kRow / 16); ++k) {
      sm90::MultiplyRows<64>(scores, q[k], rows + (k / 4 * kBlock + k % 4 * 32) / 16, k > 0);
    }
  }
  sm90::ProductCommit();
}

// Scores of a tile to weights, as the second product wants them, and the powers that they are
// relative to: the multiple of 64 next to the largest of a thread's sixteen of a head. Below -2^21
// or above it none is near: weights vanish, or are infinite. `store_power` gets two, of a thread's
// first head and its second, `store_weights` four times sixteen bytes.
template <typename StorePower, typename StoreWeights>
__device__ __forceinline__ void MakeWeights(float (&scores)[32], int rows, float scale, int thread,
                                            StorePower store_power, StoreWeights store_weights) {
  const int quad = thread % 4;
  if (rows < kTileRows) {
#pragma unroll
    for (int i = 0; i < 32; ++i) {
      if (8 * (i / 4) + 2 * quad + i % 2 >= rows) scores[i] = -INFINITY;
    }
  }
  constexpr float kWhole = 0x1.8p23f;  // added, rounds to a whole number, which is the last bits
  float power[2];
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    float part[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float* p = scores + 8 * i + 2 * r;
      part[i] = fmaxf(fmaxf(p[0], p[1]), fmaxf(p[4], p[5]));
    }
    const float most = fmaxf(fmaxf(part[0], part[1]), fmaxf(part[2], part[3]));
    const float units = fminf(fmaxf(most * (scale / kPowerUnit), -32768.0f), 32767.0f) + kWhole;
    power[r] = (units - kWhole) * kPowerUnit;
    store_power(r, __float_as_uint(units));
  }
#pragma unroll
  for (int i = 0; i < 32; ++i) scores[i] = Exp2(fmaf(scores[i], scale, -power[i / 2 % 2]));
  uint32_t pairs[16];
#pragma unroll
  for (int i = 0; i < 16; ++i) pairs[i] = PackPair(scores[2 * i], scores[2 * i + 1]);
  sm90::Pin(pairs);  // a store holds its registers for long
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    store_weights(k,
                  make_uint4(pairs[4 * k], pairs[4 * k + 1], pairs[4 * k + 2], pairs[4 * k + 3]));
  }
}
// Where a thread's power of its head `r` of two lies among a tile's, and its weights.
__device__ __forceinline__ uint32_t PowerOffset(int r, int thread) {
  const int head = thread / kWarp * 16 + thread % kWarp / 4 + 8 * r;
  return static_cast<uint32_t>((head * 4 + thread % 4) * 2);
}
__device__ __forceinline__ uint32_t WeightsOffset(int k, int thread) {
  return static_cast<uint32_t>((k * 128 + thread) * 16);
}

// ---- Weighted sums ------------------------------------------------------------------------------

// A tile joined to the sums before it: both are scaled to the larger power.
struct TileFactors {
  float sums[2];
  uint32_t weights[2];  // a pair of bf16

  // `powers` are those of the tile, four of each of two heads.
  __device__ __forceinline__ TileFactors(int (&power)[2], const uint2 (&powers)[2], int quad) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const uint2 v = powers[r];
      const uint32_t pair = quad < 2 ? v.x : v.y;
      const int of_thread = static_cast<int>(quad % 2 == 0 ? pair << 16 : pair) >> 16;
      const uint32_t most = __vmaxs2(v.x, v.y);
      const int joined =
          max(power[r], max(static_cast<int>(most << 16), static_cast<int>(most)) >> 16);
      sums[r] = PowerOfTwo(power[r] - joined);
      weights[r] = (__float_as_uint(PowerOfTwo(of_thread - joined)) >> 16) * 0x10001u;
      power[r] = joined;
    }
  }
  // Four pairs of a thread's.
  __device__ __forceinline__ void Scale(uint32_t (&pairs)[4]) const {
#pragma unroll
    for (int i = 0; i < 4; ++i) pairs[i] = MultiplyPair(pairs[i], weights[i % 2]);
  }
};

// Columns of the result as its type, those of four neighbouring lanes put together.
template <int kColumns>
__device__ __forceinline__ void WriteOut(const RowAttentionArgs& args, int64_t token, int head,
                                         int first_column, float (&out)[kColumns / 2],
                                         const float (&scale)[2], int quad) {
#pragma unroll
  for (int i = 0; i < kColumns / 2; ++i) out[i] *= scale[i / 2 % 2];
  sm90::Pin(out);
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const bool there = head + 8 * r < args.num_heads;
    const int64_t at = (token * args.num_heads + head + 8 * r) * kLatent + first_column + 8 * quad;
    if (args.out_bf16) {
      uint4* to = reinterpret_cast<uint4*>(static_cast<uint16_t*>(args.out) + at);
#pragma unroll
      for (int i = 0; i < kColumns / 32; ++i) {
        uint32_t x[4];
#pragma unroll
        for (int k = 0; k < 4; ++k) {
          const float* p = out + 16 * i + 4 * k + 2 * r;
          x[k] = PackPair(p[0], p[1]);
        }
        Transpose(x, quad);
        if (there) to[4 * i] = make_uint4(x[0], x[1], x[2], x[3]);
      }
    } else {
      uint4* to = reinterpret_cast<uint4*>(static_cast<float*>(args.out) + at);
#pragma unroll
      for (int i = 0; i < kColumns / 32; ++i) {
        uint32_t x[4], y[4];
#pragma unroll
        for (int k = 0; k < 4; ++k) {
          const float* p = out + 16 * i + 4 * k + 2 * r;
          const uint32_t pair = PackPair(p[0], p[1]);
          x[k] = args.round_out ? pair << 16 : __float_as_uint(p[0]);
          y[k] = args.round_out ? pair & 0xffff0000u : __float_as_uint(p[1]);
        }
        Transpose(x, quad);
        Transpose(y, quad);
        if (!there) continue;
        to[8 * i] = make_uint4(x[0], y[0], x[1], y[1]);
        to[8 * i + 1] = make_uint4(x[2], y[2], x[3], y[3]);
      }
    }
  }
}

// Multiplies by powers of two, 1 for most.
template <int kParts, int kSize>
__device__ __forceinline__ void Rescale(float (&out)[kParts][kSize], const float (&factor)[2]) {
  if (!__any_sync(0xffffffff, factor[0] != 1.0f || factor[1] != 1.0f)) return;
#pragma unroll
  for (int part = 0; part < kParts; ++part) {
#pragma unroll
    for (int i = 0; i < kSize; ++i) out[part][i] *= factor[i / 2 % 2];
  }
}

}  // namespace winnow::cuda
