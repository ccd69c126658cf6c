// Tokens are the rows of the product, in registers; 128 columns of a head's weight are brought to
// shared memory once and multiplied with all tokens of the block.
#include "cuda/absorb_query_sm90.h"
#include "cuda/device.cuh"
#include "cuda/dsa/products_sm90.cuh"
#include "cuda/dsa/sm90.cuh"
#include "cuda/tensor_codes.cuh"

namespace winnow::cuda {
namespace {

constexpr int kGroupThreads = 128;
constexpr int kGroups = 4;
constexpr int kThreads = kGroups * kGroupThreads;
constexpr int kColumns = 128;    // of a block
constexpr int kTileTokens = 64;  // of a warpgroup at a time
constexpr int kBlockTiles = 8;   // of a block
constexpr int kMaxRows = 256;
constexpr int kSteps = 4;  // of sixteen rows whose queries are loaded together

// The byte of 16-byte chunk `chunk`, of 16 in a row of 128 columns: two blocks of 64.
__device__ __forceinline__ uint32_t ChunkOffset(int row, int chunk, int num_rows) {
  return static_cast<uint32_t>((chunk / 8 * num_rows + row) * 128 + ((chunk % 8 ^ (row & 7)) * 16));
}

// Columns [first, first + kColumns) of rows [row0, row0 + num_rows).
template <int kBytes>
__device__ void FillWeights(const Weight& w, int64_t row0, int first, int num_rows,
                            uint32_t shared) {
  constexpr int kCodes = 16 / kBytes;  // of a load
  constexpr int kLoads = kColumns / kCodes;
  for (int i = threadIdx.x; i < num_rows * kLoads; i += kThreads) {
    const int row = i / kLoads;
    const int column = first + i % kLoads * kCodes;
    uint4 raw = make_uint4(0, 0, 0, 0);
    const int64_t at = (row0 + row) * w.columns + column;
    if (column < w.columns) {
      raw = sm90::LoadStreaming(static_cast<const uint8_t*>(w.data) + at * kBytes);
    }
    const int chunk = i % kLoads * kCodes / 8;
    if constexpr (kBytes == 2) {
      sm90::StoreShared16(shared + ChunkOffset(row, chunk, num_rows), raw);
    } else {
      const float scale = w.scale && column < w.columns
                              ? __ldg(w.scale + (row0 + row) / 128 * w.scale_columns + column / 128)
                              : 1.0f;
      const uint32_t words[4] = {raw.x, raw.y, raw.z, raw.w};
      uint32_t out[8];
#pragma unroll
      for (int k = 0; k < 8; ++k) {
        out[k] = DecodePair(static_cast<uint16_t>(words[k / 2] >> (k % 2 * 16)), scale);
      }
      sm90::StoreShared16(shared + ChunkOffset(row, chunk, num_rows),
                          make_uint4(out[0], out[1], out[2], out[3]));
      sm90::StoreShared16(shared + ChunkOffset(row, chunk + 1, num_rows),
                          make_uint4(out[4], out[5], out[6], out[7]));
    }
  }
}

// Grid: x 128 columns, y a head, z 512 tokens.
template <int kBytes>
__global__ void __launch_bounds__(kThreads, 1)
    AbsorbKernel(const __grid_constant__ AbsorbProduct p) {
  extern __shared__ __align__(1024) uint8_t shared[];
  const int head = blockIdx.y;
  const int column0 = blockIdx.x * kColumns;
  const uint32_t weights = sm90::SharedAddress(shared);
  FillWeights<kBytes>(p.weight, int64_t{head} * p.head_rows, column0, p.num_rows, weights);
  __syncthreads();
  sm90::WaitForPrevious();
  sm90::LetNextBegin();
  sm90::FenceProxyAsync();
  const int group = threadIdx.x / kGroupThreads;
  const int lane = threadIdx.x % kWarp;
  const int quad = lane % 4;
  const int row = threadIdx.x % kGroupThreads / kWarp * 16 + lane / 4;
  const uint64_t b = sm90::SwizzledMatrix(weights, 1024, static_cast<uint32_t>(p.num_rows * 128));
  const int first_tile = blockIdx.z * kBlockTiles;
  for (int tile = first_tile + group; tile < first_tile + kBlockTiles; tile += kGroups) {
    if (tile * kTileTokens >= p.num_x) return;
    const int token = tile * kTileTokens + row;
    const float* x[2];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int64_t known = min(token + 8 * r, p.num_x - 1);
      x[r] = p.x + (known * p.heads + head) * p.x_dim + 2 * quad;
    }
    float sums[kColumns / 2];
    for (int first = 0; first < p.num_rows; first += kSteps * 16) {
      uint32_t a[kSteps][4];
#pragma unroll
      for (int step = 0; step < kSteps; ++step) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int at = first + step * 16 + i / 2 * 8;
          const float2 pair =
              at < p.num_rows ? *reinterpret_cast<const float2*>(x[i % 2] + at) : make_float2(0, 0);
          a[step][i] = PackPair(pair.x, pair.y);
        }
      }
      sm90::ProductFence();
#pragma unroll
      for (int step = 0; step < kSteps; ++step) {
        const int at = first + step * 16;
        if (at >= p.num_rows) break;
        sm90::MultiplyColumns<kColumns>(sums, a[step], b + at * 128 / 16, at > 0);
      }
      sm90::ProductCommit();
      sm90::ProductWait<0>();
      sm90::Pin(sums);
    }
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      if (token + 8 * r >= p.num_x) continue;
      float* out = p.out + (int64_t{token + 8 * r} * p.heads + head) * p.out_dim;
#pragma unroll
      for (int i = 0; i < kColumns / 8; ++i) {
        const int column = column0 + 8 * i + 2 * quad;
        if (column >= p.weight.columns) continue;
        *reinterpret_cast<float2*>(out + column) =
            make_float2(sums[4 * i + 2 * r], sums[4 * i + 2 * r + 1]);
      }
    }
  }
}

}  // namespace

bool HasAbsorbProduct(const AbsorbProduct& p) {
  const int64_t bytes = p.weight.type == DType::kF8E4M3 ? 1 : p.weight.type == DType::kBF16 ? 2 : 0;
  return bytes != 0 && p.num_rows > 0 && p.num_rows % 16 == 0 && p.num_rows <= kMaxRows &&
         p.weight.columns * bytes % 16 == 0 && p.x_dim % 2 == 0 && p.out_dim % 2 == 0 &&
         reinterpret_cast<uintptr_t>(p.weight.data) % 16 == 0;
}

cudaError_t RunAbsorbProduct(const AbsorbProduct& p, cudaStream_t stream) {
  if (p.num_x == 0 || p.heads == 0) return cudaSuccess;
  const sm90::Launch launch = {
      .grid = dim3(static_cast<unsigned>(DivideUp<int64_t>(p.weight.columns, kColumns)),
                   static_cast<unsigned>(p.heads),
                   static_cast<unsigned>(DivideUp(p.num_x, kTileTokens * kBlockTiles))),
      .threads = kThreads,
      .shared_bytes = p.num_rows * kColumns * 2,
      .stream = stream};
  return p.weight.type == DType::kBF16 ? sm90::LaunchOverlapping(AbsorbKernel<2>, launch, p)
                                       : sm90::LaunchOverlapping(AbsorbKernel<1>, launch, p);
}

}  // namespace winnow::cuda
