// The inner part of products, for one block of threads. Whatever the tile, an output element is 16
// chains of fused multiply-adds, column k in chain k mod 16, added 8, 4, 2, 1 apart, so that a row
// of x gives the same bits alone and in any batch, here and on the CPU.
//
// One or a few rows of x: a half warp makes a row of the weight, a chain a lane; each weight is
// read once. Many rows, here of experts and elsewhere in product_tiles.cu: a block makes 32 rows of
// x by 32 of the weight, both through shared memory, a thread 8 by 8 of one chain: 16 loads for 64
// multiply-adds.
#pragma once

#include "cuda/product.h"

namespace winnow::cuda {

inline constexpr int kFewX = 8;  // up to so many rows of x, reading the weights is the cost
inline constexpr int kFewThreads = 128;
inline constexpr int kFewRows = kFewThreads / kChains;  // of the weight, for a block
inline constexpr int kTile = 32;                        // rows of x, and of the weight
inline constexpr int kManyThreads = 256;
inline constexpr int kPart = 128;          // columns brought to shared memory at a time
inline constexpr int kPadded = kPart + 2;  // 8 rows apart is 16 banks apart: half warps do not meet

struct ManyShared {
  float x[kTile][kPadded];
  float weight[kTile][kPadded];
};

__device__ inline const float* RowOfX(const Product& p, int m) {
  return p.x + (p.x_rows ? p.x_rows[m] : int64_t{m}) * p.x_stride;
}

__device__ inline void StoreOut(const Product& p, int m, int n, float sum) {
  if (p.bias) sum = sum + p.bias[p.first_row + n];
  p.out[int64_t{m} * p.out_stride + n] = sum;
}

// Rows [0, num_x) of x, at most kX, by row `first + half warp` of the weight's rows.
template <DType kType, int kX>
__device__ void RunFewOf(const Product& p, int first) {
  const int lane = threadIdx.x % kChains;
  const int n = first + threadIdx.x / kChains;
  const int64_t row = p.first_row + min(n, p.num_rows - 1);
  const float* x[kX];
  float chain[kX];
#pragma unroll
  for (int m = 0; m < kX; ++m) {
    x[m] = RowOfX(p, min(m, p.num_x - 1));
    chain[m] = 0;
  }
  const int columns = static_cast<int>(p.weight.columns);
  int k = lane;
  for (; k + 7 * kChains < columns; k += 8 * kChains) {
    float w[8];
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      w[i] = ReadWeight<kType>(p.weight, row, k + i * kChains, p.round);
    }
#pragma unroll
    for (int i = 0; i < 8; ++i) {
#pragma unroll
      for (int m = 0; m < kX; ++m)
        chain[m] = fmaf(MaybeRound(x[m][k + i * kChains], p.round), w[i], chain[m]);
    }
  }
  for (; k < columns; k += kChains) {
    const float w = ReadWeight<kType>(p.weight, row, k, p.round);
#pragma unroll
    for (int m = 0; m < kX; ++m) chain[m] = fmaf(MaybeRound(x[m][k], p.round), w, chain[m]);
  }
#pragma unroll
  for (int m = 0; m < kX; ++m) {
    const float sum = SumChains(chain[m]);
    if (lane == 0 && m < p.num_x && n < p.num_rows) StoreOut(p, m, n, sum);
  }
}

template <int kX>
__device__ void RunFew(const Product& p, int first) {
  switch (p.weight.type) {
    case DType::kF32:
      return RunFewOf<DType::kF32, kX>(p, first);
    case DType::kBF16:
      return RunFewOf<DType::kBF16, kX>(p, first);
    case DType::kF16:
      return RunFewOf<DType::kF16, kX>(p, first);
    default:
      return RunFewOf<DType::kF8E4M3, kX>(p, first);
  }
}

template <DType kType>
__device__ void FillWeights(const Product& p, int first_n, int first_k, ManyShared& shared) {
  const int k = threadIdx.x % kPart;
  const bool inside = first_k + k < p.weight.columns;
#pragma unroll
  for (int i = 0; i < kTile * kPart / kManyThreads; ++i) {
    const int n = threadIdx.x / kPart + i * (kManyThreads / kPart);
    const bool real = inside && first_n + n < p.num_rows;
    shared.weight[n][k] =
        real ? ReadWeight<kType>(p.weight, p.first_row + first_n + n, first_k + k, p.round) : 0.0f;
  }
}

__device__ inline void FillAnyWeights(const Product& p, int first_n, int first_k,
                                      ManyShared& shared) {
  switch (p.weight.type) {
    case DType::kF32:
      return FillWeights<DType::kF32>(p, first_n, first_k, shared);
    case DType::kBF16:
      return FillWeights<DType::kBF16>(p, first_n, first_k, shared);
    case DType::kF16:
      return FillWeights<DType::kF16>(p, first_n, first_k, shared);
    default:
      return FillWeights<DType::kF8E4M3>(p, first_n, first_k, shared);
  }
}

__device__ inline void FillX(const Product& p, int first_m, int first_k, ManyShared& shared) {
  const int k = threadIdx.x % kPart;
  const bool inside = first_k + k < p.weight.columns;
#pragma unroll
  for (int i = 0; i < kTile * kPart / kManyThreads; ++i) {
    const int m = threadIdx.x / kPart + i * (kManyThreads / kPart);
    const bool real = inside && first_m + m < p.num_x;
    shared.x[m][k] = real ? MaybeRound(RowOfX(p, first_m + m)[first_k + k], p.round) : 0.0f;
  }
}

// Half of a lane's sums go to the lane kDistance away, which has the same half of its own to give:
// after all four distances every lane has four whole sums.
template <int kDistance, int kCount>
__device__ inline void ExchangeSums(float (&sums)[64]) {
  const bool upper = threadIdx.x & kDistance;
#pragma unroll
  for (int o = 0; o < kCount / 2; ++o) {
    const float give = upper ? sums[o] : sums[o + kCount / 2];
    const float keep = upper ? sums[o + kCount / 2] : sums[o];
    sums[o] = keep + __shfl_xor_sync(0xffffffff, give, kDistance);
  }
}

// Rows [first_m, first_m + kTile) of x by rows [first_n, first_n + kTile) of the weight.
__device__ inline void RunMany(const Product& p, int first_m, int first_n, ManyShared& shared) {
  const int lane = threadIdx.x % kChains;
  const int group = threadIdx.x / kChains;
  const int m0 = group / 4 * 8;
  const int n0 = group % 4 * 8;
  float sums[64];
#pragma unroll
  for (int o = 0; o < 64; ++o) sums[o] = 0;
  for (int first_k = 0; first_k < p.weight.columns; first_k += kPart) {
    __syncthreads();
    FillX(p, first_m, first_k, shared);
    FillAnyWeights(p, first_n, first_k, shared);
    __syncthreads();
    const int steps = static_cast<int>(
        min(int64_t{kPart / kChains}, (p.weight.columns - first_k + kChains - 1) / kChains));
    for (int step = 0; step < steps; ++step) {
      float x[8];
      float w[8];
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        x[i] = shared.x[m0 + i][step * kChains + lane];
        w[i] = shared.weight[n0 + i][step * kChains + lane];
      }
#pragma unroll
      for (int i = 0; i < 8; ++i) {
#pragma unroll
        for (int j = 0; j < 8; ++j) sums[i * 8 + j] = fmaf(x[i], w[j], sums[i * 8 + j]);
      }
    }
  }
  ExchangeSums<8, 64>(sums);
  ExchangeSums<4, 32>(sums);
  ExchangeSums<2, 16>(sums);
  ExchangeSums<1, 8>(sums);
  const int m = first_m + m0 + lane / 2;
  const int n = first_n + n0 + lane % 2 * 4;
  if (m >= p.num_x) return;
#pragma unroll
  for (int r = 0; r < 4; ++r) {
    if (n + r < p.num_rows) StoreOut(p, m, n + r, sums[r]);
  }
}

}  // namespace winnow::cuda
