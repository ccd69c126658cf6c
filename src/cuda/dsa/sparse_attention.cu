// Part 3 of DSA for any number of heads and any form of rows: attention over the rows of a list,
// which is a token's selection or, in dense attention, every row of its sequence up to its own.
//
// Grid: x tokens, y groups of eight heads. A block walks the token's list in tiles of 64 rows:
// rows to shared memory as floats, dots, softmax, mean, and the join with what was gathered.
//
// Numerics  f32 products and sums.
// Order     the CPU's: dots are 16 chains, element k in chain k mod 16; a tile's mean is one chain
//           over its rows; tiles are joined in the order of the list. So results are the CPU's.
// Empty     a token without rows gets zeros.
// Cost      2 * H * (2C + R) operations a row at the rate of plain multiply-adds; rows are read
// once
//           for each eight heads.

#include "cuda/context.h"
#include "cuda/device.cuh"
#include "cuda/dsa/dsa_ops.h"
#include "cuda/dsa/sm90.cuh"
#include "cuda/dsa/sparse_attention_sm90.h"
#include "cuda/tensor_codes.cuh"

namespace winnow::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kHeads = 8;
constexpr int kTileRows = 64;
constexpr int kScoreRows = 4;  // of a half warp
constexpr int kMaxRowDim = 768;
constexpr int kPad = 4;  // floats between rows: half warps, four rows apart, use different banks

struct AttendArgs {
  const float* q;  // [T, H, C+R]
  const uint8_t* rows;
  int64_t row_bytes;
  LatentType type;
  int32_t latent_dim;
  int32_t row_dim;
  int32_t heads;
  const int32_t* slots;   // [T, width], or none: dense
  const int32_t* counts;  // [T]
  int32_t width;
  const int32_t* positions;
  const int32_t* sequences;
  const int32_t* page_table;
  int32_t max_pages;
  int32_t page_size;
  float softmax_scale;
  float* out;  // [T, H, C]
};

// Shared memory of a block, cut up.
struct Tile {
  float* rows;       // [kTileRows, stride]
  float* q;          // [kHeads, padded row_dim]
  float* weights;    // [kTileRows, kHeads]
  float* max;        // [kHeads] of the tile
  float* sum;        // [kHeads]
  int64_t* offsets;  // [kTileRows] bytes to a row
};

__host__ __device__ int Padded(int row_dim) { return DivideUp(row_dim, kChains) * kChains; }
__host__ __device__ int Stride(int row_dim) { return Padded(row_dim) + kPad; }
size_t SharedBytes(int row_dim) {
  return kTileRows * 8 +
         sizeof(float) * (static_cast<size_t>(kTileRows) * Stride(row_dim) +
                          kHeads * Padded(row_dim) + kTileRows * kHeads + 2 * kHeads);
}

__device__ Tile CutUp(int64_t* memory, int row_dim) {
  Tile tile;
  tile.offsets = memory;
  tile.weights = reinterpret_cast<float*>(memory + kTileRows);
  tile.rows = tile.weights + kTileRows * kHeads;
  tile.q = tile.rows + kTileRows * Stride(row_dim);
  tile.max = tile.q + kHeads * Padded(row_dim);
  tile.sum = tile.max + kHeads;
  return tile;
}

__device__ float ReadFloat(const uint8_t* at) {
  uint32_t bits = 0;
  for (int byte = 0; byte < 4; ++byte) bits |= uint32_t{at[byte]} << (8 * byte);
  return BitsToFloat(bits);
}

__device__ float ReadBf16(const uint8_t* at) { return Bf16ToFloat(at[0] | uint32_t{at[1]} << 8); }

// Element k of a row.
__device__ float Element(const AttendArgs& a, const uint8_t* row, int k) {
  switch (a.type) {
    case LatentType::kF32:
      return ReadFloat(row + 4 * k);
    case LatentType::kBf16:
      return ReadBf16(row + 2 * k);
    default:
      break;
  }
  if (k < a.latent_dim) {
    return E4m3ToFloat(row[k]) * ReadFloat(row + a.latent_dim + k / 128 * 4);
  }
  return ReadBf16(row + a.row_bytes - 2 * (a.row_dim - k));
}

__device__ void FindRows(const AttendArgs& a, int64_t token, int first, int count, Tile& tile) {
  if (static_cast<int>(threadIdx.x) >= count) return;
  const int index = first + threadIdx.x;
  int64_t slot;
  if (a.slots) {
    slot = a.slots[token * a.width + index];
  } else {
    const int64_t sequence = a.sequences[token];
    const int64_t page = a.page_table[sequence * a.max_pages + index / a.page_size];
    slot = page * a.page_size + index % a.page_size;
  }
  tile.offsets[threadIdx.x] = slot * a.row_bytes;
}

__device__ void DecodeRows(const AttendArgs& a, int count, Tile& tile) {
  const int warp = threadIdx.x / kWarp;
  const int padded = Padded(a.row_dim);
  for (int r = warp; r < count; r += kThreads / kWarp) {
    const uint8_t* row = a.rows + tile.offsets[r];
    float* to = tile.rows + r * Stride(a.row_dim);
#pragma unroll 4
    for (int k = threadIdx.x % kWarp; k < padded; k += kWarp) {
      to[k] = k < a.row_dim ? Element(a, row, k) : 0.0f;
    }
  }
}

template <int kDistance, int kCount>
__device__ void ExchangeSums(float (&sums)[kHeads * kScoreRows]) {
  const bool upper = threadIdx.x & kDistance;
#pragma unroll
  for (int o = 0; o < kCount / 2; ++o) {
    const float give = upper ? sums[o] : sums[o + kCount / 2];
    const float keep = upper ? sums[o + kCount / 2] : sums[o];
    sums[o] = keep + __shfl_xor_sync(0xffffffff, give, kDistance);
  }
}

// A half warp scores four rows for all heads, a chain a lane. Rows past the last are scored too;
// what comes of them is thrown away.
__device__ void Score(const AttendArgs& a, int count, Tile& tile) {
  const int lane = threadIdx.x % kChains;
  const int row = threadIdx.x / kChains * kScoreRows;
  const int padded = Padded(a.row_dim);
  const float* rows = tile.rows + row * Stride(a.row_dim);
  float sums[kHeads * kScoreRows];
#pragma unroll
  for (float& sum : sums) sum = 0;
  for (int k = lane; k < padded; k += kChains) {
    float here[kScoreRows];
#pragma unroll
    for (int r = 0; r < kScoreRows; ++r) here[r] = rows[r * Stride(a.row_dim) + k];
#pragma unroll
    for (int h = 0; h < kHeads; ++h) {
      const float query = tile.q[h * padded + k];
#pragma unroll
      for (int r = 0; r < kScoreRows; ++r) {
        sums[h * kScoreRows + r] = fmaf(query, here[r], sums[h * kScoreRows + r]);
      }
    }
  }
  ExchangeSums<8, 32>(sums);
  ExchangeSums<4, 16>(sums);
  ExchangeSums<2, 8>(sums);
  ExchangeSums<1, 4>(sums);
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int index = lane * 2 + i;
    const int r = row + index % kScoreRows;
    const float score = r < count ? sums[i] * a.softmax_scale : -INFINITY;
    tile.weights[r * kHeads + index / kScoreRows] = score;
  }
}

// A half warp turns the scores of one head to weights e^(score - max).
__device__ void Softmax(Tile& tile) {
  if (threadIdx.x >= kHeads * kChains) return;
  const int lane = threadIdx.x % kChains;
  const int head = threadIdx.x / kChains;
  float max = -INFINITY;
  float scores[kTileRows / kChains];
#pragma unroll
  for (int i = 0; i < kTileRows / kChains; ++i) {
    scores[i] = tile.weights[(i * kChains + lane) * kHeads + head];
    max = MaxOr(scores[i], max);
  }
#pragma unroll
  for (int distance = 8; distance > 0; distance /= 2) {
    max = MaxOr(max, __shfl_xor_sync(0xffffffff, max, distance));
  }
  const float base = max == -INFINITY ? 0.0f : max;
  float sum = 0;
#pragma unroll
  for (int i = 0; i < kTileRows / kChains; ++i) {
    const float weight = Exp(scores[i] - base);
    tile.weights[(i * kChains + lane) * kHeads + head] = weight;
    sum = sum + weight;
  }
  sum = SumChains(sum);
  if (lane == 0) {
    tile.max[head] = max;
    tile.sum[head] = sum;
  }
}

// A thread's share of the latent: columns threadIdx.x + v * kThreads.
template <int kV>
struct Gathered {
  float max[kHeads];
  float sum[kHeads];
  float out[kHeads][kV];
};

// e^(max - joined), where a maximum of -infinity weighs nothing.
__device__ float Rescale(float max, float joined) {
  return max == -INFINITY ? 0.0f : Exp(max - joined);
}

template <int kV>
__device__ void MeanAndJoin(const AttendArgs& a, int count, bool is_first, const Tile& tile,
                            Gathered<kV>& all) {
  float mean[kHeads][kV] = {};
  for (int r = 0; r < count; ++r) {
    const float* row = tile.rows + r * Stride(a.row_dim);
    float value[kV];
#pragma unroll
    for (int v = 0; v < kV; ++v) {
      const int column = threadIdx.x + v * kThreads;
      value[v] = column < a.latent_dim ? row[column] : 0.0f;
    }
#pragma unroll
    for (int h = 0; h < kHeads; ++h) {
      const float weight = tile.weights[r * kHeads + h];
#pragma unroll
      for (int v = 0; v < kV; ++v) mean[h][v] = fmaf(weight, value[v], mean[h][v]);
    }
  }
#pragma unroll
  for (int h = 0; h < kHeads; ++h) {
    if (is_first) {
      all.max[h] = tile.max[h];
      all.sum[h] = tile.sum[h];
#pragma unroll
      for (int v = 0; v < kV; ++v) all.out[h][v] = mean[h][v];
      continue;
    }
    const float joined = tile.max[h] > all.max[h] ? tile.max[h] : all.max[h];
    const float old_scale = Rescale(all.max[h], joined);
    const float tile_scale = Rescale(tile.max[h], joined);
    all.max[h] = joined;
    all.sum[h] = all.sum[h] * old_scale + tile.sum[h] * tile_scale;
#pragma unroll
    for (int v = 0; v < kV; ++v) {
      all.out[h][v] = fmaf(all.out[h][v], old_scale, mean[h][v] * tile_scale);
    }
  }
}

template <int kV>
__global__ void __launch_bounds__(kThreads) AttendKernel(AttendArgs a) {
  extern __shared__ int64_t memory[];
  Tile tile = CutUp(memory, a.row_dim);
  const int64_t token = blockIdx.x;
  const int first_head = blockIdx.y * kHeads;
  const int heads = min(kHeads, a.heads - first_head);
  const int num_rows = a.slots ? a.counts[token] : a.positions[token] + 1;
  const int padded = Padded(a.row_dim);
  for (int i = threadIdx.x; i < kHeads * padded; i += kThreads) {
    const int h = i / padded;
    const int k = i % padded;
    const bool real = h < heads && k < a.row_dim;
    tile.q[i] = real ? a.q[(token * a.heads + first_head + h) * a.row_dim + k] : 0.0f;
  }
  Gathered<kV> all;
  for (int first = 0; first < num_rows; first += kTileRows) {
    const int count = min(kTileRows, num_rows - first);
    FindRows(a, token, first, count, tile);
    __syncthreads();
    DecodeRows(a, count, tile);
    __syncthreads();
    Score(a, count, tile);
    __syncthreads();
    Softmax(tile);
    __syncthreads();
    MeanAndJoin(a, count, first == 0, tile, all);
    __syncthreads();
  }
  for (int h = 0; h < heads; ++h) {
    float* out = a.out + (token * a.heads + first_head + h) * a.latent_dim;
#pragma unroll
    for (int other = 0; other < kHeads; ++other) {
      if (other != h) continue;
      const float scale = 1.0f / all.sum[other];
#pragma unroll
      for (int v = 0; v < kV; ++v) {
        const int column = threadIdx.x + v * kThreads;
        if (column >= a.latent_dim) continue;
        out[column] = num_rows == 0 ? 0.0f : all.out[other][v] * scale;
      }
    }
  }
}

template <int kV>
void Launch(CudaContext& context, const AttendArgs& a, int64_t tokens) {
  const size_t bytes = SharedBytes(a.row_dim);
  if (!context.Check(
          cudaFuncSetAttribute(AttendKernel<kV>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                               static_cast<int>(bytes)),
          "Attention")) {
    return;
  }
  const dim3 grid(static_cast<unsigned>(tokens), static_cast<unsigned>(DivideUp(a.heads, kHeads)));
  AttendKernel<kV><<<grid, kThreads, bytes, context.stream>>>(a);
  context.Launched("Attention");
}

}  // namespace

namespace {

__global__ void RoundKernel(const float2* x, uint32_t* out, int64_t pairs) {
  sm90::WaitForPrevious();
  sm90::LetNextBegin();
  const int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i < pairs) out[i] = PackPair(x[i].x, x[i].y);
}

// Whether the kernels for tensor cores take rows like these.
bool AttendsOnTensorCores(const AttentionArgs& args) {
  const LatentCacheView& cache = args.cache;
  return cache.type != LatentType::kF32 && IsRowAttentionShape(cache.latent_dim, cache.rope_dim) &&
         (args.selection.slots || args.batch.page_size == 64);
}

void AttendOnTensorCores(CudaContext& context, const AttentionArgs& args) {
  const int64_t tokens = args.q.dims[0];
  const int64_t heads = args.q.dims[1];
  const int64_t pairs = tokens * heads * args.q.dims[2] / 2;
  uint32_t* q = context.Get<uint32_t>(Scratch::kQueries, pairs, "Attention");
  if (q == nullptr) return;
  const dim3 grid(static_cast<unsigned>(DivideUp<int64_t>(pairs, 256)));
  if (!context.Check(sm90::LaunchOverlapping(
                         RoundKernel, {.grid = grid, .threads = 256, .stream = context.stream},
                         args.q.As<float2>(), q, pairs),
                     "Attention")) {
    return;
  }
  RowAttentionArgs rows;
  rows.form = args.cache.type == LatentType::kFp8 ? RowForm::kFp8 : RowForm::kBf16;
  rows.q = q;
  rows.num_tokens = tokens;
  rows.num_heads = static_cast<int>(heads);
  rows.rows = args.cache.rows.As<uint8_t>();
  if (args.selection.slots) {
    rows.slots = args.selection.slots.As<int32_t>();
    rows.counts = args.selection.counts.As<int32_t>();
    rows.width = args.selection.slots.dims[1];
  } else {
    rows.positions = args.batch.positions.As<int32_t>();
    rows.sequences = args.batch.sequences.As<int32_t>();
    rows.page_table = args.batch.page_table.As<int32_t>();
    rows.page_table_stride = args.batch.page_table.dims[1];
  }
  const int64_t most_rows =
      args.selection.slots ? rows.width : rows.page_table_stride * args.batch.page_size;
  rows.partial_sums = context.Get<uint8_t>(
      Scratch::kSums, RowAttentionBytes(tokens, rows.num_heads, most_rows), "Attention");
  if (!context.failure.ok()) return;
  rows.softmax_scale = args.softmax_scale;
  rows.out = args.out.As<float>();
  context.Check(RowAttention(rows, context.stream), "Attention");
}

}  // namespace

void Attention(CudaContext& context, const AttentionArgs& args) {
  const int64_t tokens = args.q.dims[0];
  const int64_t row_dim = args.q.dims[2];
  if (tokens == 0 || args.q.dims[1] == 0) return;
  if (context.rounds() && AttendsOnTensorCores(args)) return AttendOnTensorCores(context, args);
  if (row_dim > kMaxRowDim) {
    context.Fail(Unsupported("cuda: latent rows of " + std::to_string(row_dim) +
                             " elements, expected at most " + std::to_string(kMaxRowDim)));
    return;
  }
  AttendArgs a = {};
  a.q = args.q.As<float>();
  a.rows = args.cache.rows.As<uint8_t>();
  a.row_bytes = args.cache.row_bytes;
  a.type = args.cache.type;
  a.latent_dim = static_cast<int32_t>(args.cache.latent_dim);
  a.row_dim = static_cast<int32_t>(row_dim);
  a.heads = static_cast<int32_t>(args.q.dims[1]);
  if (args.selection.slots) {
    a.slots = args.selection.slots.As<int32_t>();
    a.counts = args.selection.counts.As<int32_t>();
    a.width = static_cast<int32_t>(args.selection.slots.dims[1]);
  } else {
    a.positions = args.batch.positions.As<int32_t>();
    a.sequences = args.batch.sequences.As<int32_t>();
    a.page_table = args.batch.page_table.As<int32_t>();
    a.max_pages = static_cast<int32_t>(args.batch.page_table.dims[1]);
    a.page_size = static_cast<int32_t>(args.batch.page_size);
  }
  a.softmax_scale = args.softmax_scale;
  a.out = args.out.As<float>();
  if (a.latent_dim <= kThreads) {
    Launch<1>(context, a, tokens);
  } else if (a.latent_dim <= 2 * kThreads) {
    Launch<2>(context, a, tokens);
  } else {
    Launch<3>(context, a, tokens);
  }
}

}  // namespace winnow::cuda
