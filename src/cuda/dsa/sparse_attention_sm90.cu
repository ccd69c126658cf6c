// Attention over chosen cache rows, in two kernels.
//
// ScoreRowsKernel    Grid: tiles of a token's list, 64 or 128 heads, tokens. Queries stay in
// registers, a
//                    warpgroup for each 64 heads; a warpgroup gathers rows into shared memory.
// WeighRowsKernel    Grid: columns of the latent, heads, tokens. A block walks its token's tiles; a
//                    warpgroup gathers the rows' columns, the weights come by bulk copy.
//
// Rows lie in shared memory in blocks of 64 columns, [64 rows, 64 columns] bf16, swizzled: the
// first product reads them along the row, the second across. FP8 rows are gathered as they are,
// several tiles ahead, and become bf16 on the way to the tensor cores: an E4M3 code shifted to
// bf16's place is 2^-120 of its value, subnormals included, so one product with 2^120 times the
// block's scale is exact.
#include <cuda_bf16.h>

#include "cuda/dsa/products_sm90.cuh"
#include "cuda/dsa/sm90.cuh"
#include "cuda/dsa/sparse_attention_sm90.h"

namespace winnow::cuda {
namespace {

constexpr int kWarp = 32;
constexpr int kGroupHeads = 64;  // of a warpgroup
constexpr int kTileRows = 64;
constexpr int kLatent = 512;  // C
constexpr int kRow = 576;     // C + R
constexpr int kBlock = 8192;  // bytes of 64 rows by 64 columns
constexpr int kTileWeightBytes = kGroupHeads * kTileRows * 2;

template <RowForm kForm>
constexpr int kRowBytes = kForm == RowForm::kFp8 ? 656 : 1152;

struct Problem {
  RowAttentionArgs args;
  int64_t first_token = 0;  // scratch holds this one and those after it
  int tiles = 0;            // of the longest list
  int groups = 0;           // of 64 heads
  // Scratch. Weights of a tile and group: for each 16 rows and thread of a warpgroup the four
  // registers that the second product wants.
  uint4* weights = nullptr;  // [tokens, groups, tiles, 4, 128]
  float* power = nullptr;    // [tokens, tiles, groups * 64]
  float* sum = nullptr;      // [tokens, tiles, groups * 64]
};

// A token's list of rows.
struct RowList {
  const int32_t* slots;
  const int32_t* pages;
  int count;

  __device__ __forceinline__ RowList(const RowAttentionArgs& args, int64_t token) {
    if (args.slots != nullptr) {
      slots = args.slots + token * args.width;
      pages = nullptr;
      count = args.counts[token];
    } else {
      slots = nullptr;
      pages = args.page_table + args.sequences[token] * args.page_table_stride;
      count = args.positions[token] + 1;
    }
  }
  __device__ __forceinline__ int tiles() const { return (count + kTileRows - 1) / kTileRows; }
  // The slot of row `index`, or -1 past the end.
  __device__ __forceinline__ int32_t Slot(int index) const {
    if (index >= count) return -1;
    return slots != nullptr ? slots[index] : pages[index / 64] * 64 + index % 64;
  }
};

// The byte of 16-byte chunk `chunk` of row `row` in a block of 64 columns.
__device__ __forceinline__ uint32_t BlockOffset(int row, int chunk) {
  return static_cast<uint32_t>(row * 128 + ((chunk ^ (row & 7)) * 16));
}

__device__ __forceinline__ uint32_t MultiplyPair(uint32_t a, uint32_t b) {
  uint32_t d;
  asm("mul.rn.bf16x2 %0, %1, %2;" : "=r"(d) : "r"(a), "r"(b));
  return d;
}
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
// 2^e for a whole number e <= 0, or 0 below -126.
__device__ __forceinline__ float PowerOfTwo(float e) {
  return e < -126.0f ? 0.0f
                     : __uint_as_float(static_cast<uint32_t>(static_cast<int>(e) + 127) << 23);
}

// Sixteen E4M3 codes of one scale, a power of two, as bf16: eight words.
struct Bf16x16 {
  uint4 half[2];
};
__device__ __forceinline__ Bf16x16 Decode(uint4 codes, float scale) {
  // 2^120 * scale is a bf16 up to scale 2^7; larger scales take a second product.
  const float first = (scale > 128.0f ? 128.0f : scale) * 0x1p120f;  // NaN stays
  const uint32_t factor = (__float_as_uint(first) >> 16) * 0x10001u;
  const uint32_t in[4] = {codes.x, codes.y, codes.z, codes.w};
  uint32_t out[8];
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const uint32_t two = __byte_perm(in[i / 2], 0, i % 2 == 0 ? 0x1404 : 0x3424);
    out[i] = MultiplyPair((two & 0x80008000u) | ((two >> 4) & 0x07f007f0u), factor);
  }
  if (scale > 128.0f) {
    const uint32_t rest = (__float_as_uint(scale * 0x1p-7f) >> 16) * 0x10001u;
#pragma unroll
    for (int i = 0; i < 8; ++i) out[i] = MultiplyPair(out[i], rest);
  }
  return {{make_uint4(out[0], out[1], out[2], out[3]), make_uint4(out[4], out[5], out[6], out[7])}};
}
// Columns 16 * place … of a row into a block. Neighbours of four places swap the order of their
// stores, which keeps them on different banks.
__device__ __forceinline__ void StoreDecoded(uint32_t tile, int row, int place, const Bf16x16& v) {
  const uint32_t block = tile + static_cast<uint32_t>(place / 4) * kBlock;
  const int swap = place / 4 & 1;
  sm90::StoreShared16(block + BlockOffset(row, place % 4 * 2 + swap), swap ? v.half[1] : v.half[0]);
  sm90::StoreShared16(block + BlockOffset(row, place % 4 * 2 + 1 - swap),
                      swap ? v.half[0] : v.half[1]);
}

// ---- Scores -------------------------------------------------------------------------------------

constexpr int kTileBytes = kRow / 64 * kBlock;  // 73,728
constexpr int kRawTileBytes = kTileRows * kRowBytes<RowForm::kFp8>;

template <RowForm kForm>
constexpr int kTileStages = kForm == RowForm::kFp8 ? 2 : 3;
constexpr int kRawTiles = 2;
template <RowForm kForm>
constexpr int kScoreSharedBytes = kTileStages<kForm>* kTileBytes +
                                  (kForm == RowForm::kFp8 ? kRawTiles * kRawTileBytes : 0) + 64;

// Use number x of the stages in turn. The first kUsed of them begin with a use of their own:
// queries.
template <int kStages, int kUsed>
struct Ring {
  int stage = kUsed % kStages;
  int round = kUsed / kStages;

  __device__ __forceinline__ void Advance() {
    if (++stage == kStages) {
      stage = 0;
      ++round;
    }
  }
  __device__ __forceinline__ uint32_t FullParity() const {
    return static_cast<uint32_t>(stage < kUsed ? round - 1 : round) & 1;
  }
  // Whether there is somebody to wait for before the stage is filled, and the parity of that.
  __device__ __forceinline__ bool MustWait() const { return round > 0; }
  __device__ __forceinline__ uint32_t EmptyParity() const {
    return static_cast<uint32_t>(round - 1) & 1;
  }
};

struct TileBarriers {
  uint64_t full[3];
  uint64_t empty[3];
};

// Gathers whole rows of tiles [first, last): 128 threads, eight a row.
template <RowForm kForm, int kUsed>
__device__ void GatherTiles(const uint8_t* rows, const RowList& list, int first, int last,
                            uint32_t tiles, uint32_t raw, TileBarriers& barriers, int thread) {
  constexpr int kStages = kTileStages<kForm>;
  constexpr int kBytes = kRowBytes<kForm>;
  const int row8 = thread / 8;
  const int part = thread % 8;
  Ring<kStages, kUsed> ring;
  auto slots_of = [&](int tile, int32_t(&slots)[4]) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      slots[i] = tile < last ? list.Slot(tile * kTileRows + i * 16 + row8) : -1;
    }
  };
  int32_t slots[4];
  slots_of(first, slots);
  auto wait_empty = [&]() {
    if (ring.MustWait()) sm90::BarrierWait(&barriers.empty[ring.stage], ring.EmptyParity());
  };
  if constexpr (kForm == RowForm::kBf16) {
    for (int tile = first; tile < last; ++tile) {
      wait_empty();
      const uint32_t to = tiles + static_cast<uint32_t>(ring.stage * kTileBytes);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const uint32_t at = to + BlockOffset(i * 16 + row8, part);
        const bool there = slots[i] >= 0;
        const uint8_t* row = rows + static_cast<int64_t>(there ? slots[i] : 0) * kBytes + part * 16;
#pragma unroll
        for (int block = 0; block < kRow / 64; ++block) {
          sm90::CopyAsync16OrZero(at + block * kBlock, row + block * 128, there);
        }
      }
      sm90::CopyAsyncArrive(&barriers.full[ring.stage]);
      slots_of(tile + 1, slots);
      ring.Advance();
    }
    sm90::CopyAsyncCommit();
    sm90::CopyAsyncWait<0>();
  } else {
    auto copy = [&](int tile) {  // of `slots`; then fetches the next tile's
      if (tile < last) {
        const uint32_t to = raw + static_cast<uint32_t>((tile - first) % kRawTiles * kRawTileBytes);
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          if (slots[i] < 0) continue;
          const uint32_t at = to + static_cast<uint32_t>((i * 16 + row8) * kBytes + part * 16);
          const uint8_t* row = rows + static_cast<int64_t>(slots[i]) * kBytes + part * 16;
#pragma unroll
          for (int k = 0; k < 5; ++k) sm90::CopyAsync16(at + k * 128, row + k * 128);
          if (part == 0) sm90::CopyAsync16(at + 640, row + 640);
        }
      }
      sm90::CopyAsyncCommit();
      slots_of(tile + 1, slots);
    };
    for (int i = 0; i < kRawTiles - 1; ++i) copy(first + i);
    for (int tile = first; tile < last; ++tile) {
      sm90::NamedBarrier(1, 128);  // all have decoded what the next copy overwrites
      copy(tile + kRawTiles - 1);
      sm90::CopyAsyncWait<kRawTiles - 1>();
      sm90::NamedBarrier(1, 128);
      wait_empty();
      const uint32_t from = raw + static_cast<uint32_t>((tile - first) % kRawTiles * kRawTileBytes);
      const uint32_t to = tiles + static_cast<uint32_t>(ring.stage * kTileBytes);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int row = i * 16 + row8;
        const bool there = tile * kTileRows + row < list.count;
        const uint32_t at = from + static_cast<uint32_t>(row * kBytes);
        const uint4 zero = make_uint4(0, 0, 0, 0);
        const uint4 scales = there ? sm90::LoadShared16(at + kLatent) : zero;
        const uint32_t scale[4] = {scales.x, scales.y, scales.z, scales.w};
#pragma unroll
        for (int k = 0; k < 4; ++k) {
          const uint4 codes = there ? sm90::LoadShared16(at + (part + 8 * k) * 16) : zero;
          StoreDecoded(to, row, part + 8 * k, Decode(codes, __uint_as_float(scale[k])));
        }
        const uint4 rotary = there ? sm90::LoadShared16(at + 528 + part * 16) : zero;
        sm90::StoreShared16(to + 8 * kBlock + BlockOffset(row, part), rotary);
      }
      sm90::BarrierArrive(&barriers.full[ring.stage]);
      ring.Advance();
    }
    sm90::CopyAsyncWait<0>();
  }
}

// The 64 heads of a group into shared memory as a tile; heads that are not there are zeros.
__device__ void StageQueries(const uint8_t* q, int heads, uint32_t to, int thread) {
#pragma unroll 4
  for (int i = thread; i < kGroupHeads * (kRow / 8); i += 128) {
    const int row = i / (kRow / 8);
    const int chunk = i % (kRow / 8);
    const bool there = row < heads;
    sm90::CopyAsync16OrZero(
        to + static_cast<uint32_t>(chunk / 8) * kBlock + BlockOffset(row, chunk % 8),
        q + (there ? row * kRow * 2 + chunk * 16 : 0), there);
  }
  sm90::CopyAsyncCommit();
  sm90::CopyAsyncWait<0>();
}

// Scores of a tile to weights, the power they are relative to, and their sum.
__device__ void WriteWeights(const Problem& problem, int64_t token, int group, int tile, int rows,
                             float (&scores)[32], int thread) {
  const int quad = thread % 4;
  const float scale = problem.args.softmax_scale * 1.4426950408889634f;
  float max[2] = {-INFINITY, -INFINITY};
#pragma unroll
  for (int i = 0; i < 32; ++i) {
    const bool there = 8 * (i / 4) + 2 * quad + i % 2 < rows;
    scores[i] = there ? scores[i] * scale : -INFINITY;
    max[i / 2 % 2] = fmaxf(max[i / 2 % 2], scores[i]);
  }
  float sum[2];
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    max[r] = fmaxf(max[r], __shfl_xor_sync(0xffffffff, max[r], 1));
    max[r] = fmaxf(max[r], __shfl_xor_sync(0xffffffff, max[r], 2));
    // Without a finite score any power serves: every weight is 0, or NaN.
    max[r] = fabsf(max[r]) < INFINITY ? ceilf(max[r]) : 0.0f;
    sum[r] = 0;
  }
#pragma unroll
  for (int i = 0; i < 32; ++i) {
    scores[i] = Exp2(scores[i] - max[i / 2 % 2]);
    sum[i / 2 % 2] += scores[i];
  }
  uint4* weights =
      problem.weights +
      (((token - problem.first_token) * problem.groups + group) * problem.tiles + tile) *
          (kTileWeightBytes / 16) +
      thread;
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    const float* p = scores + 8 * k;
    weights[k * 128] = make_uint4(PackPair(p[0], p[1]), PackPair(p[2], p[3]), PackPair(p[4], p[5]),
                                  PackPair(p[6], p[7]));
  }
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    sum[r] += __shfl_xor_sync(0xffffffff, sum[r], 1);
    sum[r] += __shfl_xor_sync(0xffffffff, sum[r], 2);
  }
  if (quad < 2) {
    const int head = group * kGroupHeads + thread / 32 * 16 + thread % 32 / 4 + quad * 8;
    const int64_t at =
        ((token - problem.first_token) * problem.tiles + tile) * problem.groups * kGroupHeads +
        head;
    problem.power[at] = quad == 0 ? max[0] : max[1];
    problem.sum[at] = quad == 0 ? sum[0] : sum[1];
  }
}

template <RowForm kForm, int kGroups>
__global__ __launch_bounds__((kGroups + 1) * 128,
                             1) void ScoreRowsKernel(const __grid_constant__ Problem problem) {
  extern __shared__ __align__(1024) uint8_t shared[];
  constexpr int kStages = kTileStages<kForm>;
  const uint32_t tiles = sm90::SharedAddress(shared);
  const uint32_t raw = tiles + kStages * kTileBytes;
  TileBarriers& barriers = *reinterpret_cast<TileBarriers*>(shared + kScoreSharedBytes<kForm> - 64);
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int thread = static_cast<int>(threadIdx.x) % 128;
  if (threadIdx.x == 0) {
    for (int stage = 0; stage < kStages; ++stage) {
      sm90::BarrierInit(&barriers.full[stage], 128);
      sm90::BarrierInit(&barriers.empty[stage], kGroups * 4);
    }
    sm90::BarrierInitFence();
  }
  __syncthreads();
  sm90::WaitForPrevious();
  sm90::LetNextBegin();
  const int64_t token = problem.first_token + blockIdx.z;
  const RowList list(problem.args, token);
  const int each = (list.tiles() + static_cast<int>(gridDim.x) - 1) / static_cast<int>(gridDim.x);
  const int first = static_cast<int>(blockIdx.x) * each;
  const int last = min(first + each, list.tiles());
  if (first >= last) return;

  if (warp >= kGroups * 4) {
    if constexpr (kGroups == 2) asm volatile("setmaxnreg.dec.sync.aligned.u32 88;");
    GatherTiles<kForm, kGroups>(problem.args.rows, list, first, last, tiles, raw, barriers, thread);
    return;
  }
  if constexpr (kGroups == 2) asm volatile("setmaxnreg.inc.sync.aligned.u32 208;");
  const int in_block = warp / 4;
  const int group = static_cast<int>(blockIdx.y) * kGroups + in_block;
  const uint32_t staged = tiles + static_cast<uint32_t>(in_block * kTileBytes);
  StageQueries(static_cast<const uint8_t*>(problem.args.q) +
                   (token * problem.args.num_heads + group * kGroupHeads) * kRow * 2,
               problem.args.num_heads - group * kGroupHeads, staged, thread);
  sm90::NamedBarrier(2 + in_block, 128);
  uint32_t q[kRow / 16][4];
  {
    const int row = warp % 4 * 16 + lane % 16;
#pragma unroll
    for (int k = 0; k < kRow / 16; ++k) {
      sm90::LoadMatrix4(q[k], staged + static_cast<uint32_t>(k / 4) * kBlock +
                                  BlockOffset(row, k % 4 * 2 + lane / 16));
    }
  }
  __syncwarp();
  if (lane == 0) {
    for (int stage = 0; stage < kGroups; ++stage) sm90::BarrierArrive(&barriers.empty[stage]);
  }
  Ring<kStages, kGroups> ring;
  for (int tile = first; tile < last; ++tile) {
    float scores[32];
    const uint64_t rows =
        sm90::SwizzledMatrix(tiles + static_cast<uint32_t>(ring.stage * kTileBytes), 1024);
    sm90::BarrierWait(&barriers.full[ring.stage], ring.FullParity());
    sm90::FenceProxyAsync();
    sm90::ProductFence();
#pragma unroll
    for (int k = 0; k < kRow / 16; ++k) {
      sm90::MultiplyRows<64>(scores, q[k], rows + (k / 4 * kBlock + k % 4 * 32) / 16, k > 0);
    }
    sm90::ProductCommit();
    sm90::ProductWait<0>();
    sm90::Pin(scores);
    __syncwarp();
    if (lane == 0) sm90::BarrierArrive(&barriers.empty[ring.stage]);
    ring.Advance();
    WriteWeights(problem, token, group, tile, list.count - tile * kTileRows, scores, thread);
  }
}

// ---- Weighted sums ------------------------------------------------------------------------------

constexpr int kWindowTiles = 32;
constexpr int kWindow = kWindowTiles * kTileRows;  // slots at hand

// How a block is cut out of a token's result: kHeads of 16, 64 or 128, kColumns of 64, 128 or 256.
template <RowForm kForm, int kHeads, int kColumns>
struct WeighShape {
  static constexpr int kGroups = kHeads == 128 ? 2 : 1;
  static constexpr int kThreads = (kGroups + 1) * 128;
  static constexpr int kRowsBytes = kColumns / 64 * kBlock;
  static constexpr int kWeightBytes = kHeads * kTileRows * 2;
  static constexpr int kStageBytes = kRowsBytes + kWeightBytes;
  static constexpr int kRawBytes = kForm == RowForm::kFp8 ? kTileRows * (kColumns + 16) : 0;
  static constexpr bool kIsFp8 = kForm == RowForm::kFp8;
  static constexpr int kRaw = kColumns == 256 ? 3 : kColumns == 64 ? 12 : kHeads == 128 ? 4 : 8;
  static constexpr int kStages = kStageBytes >= 49152   ? (kIsFp8 ? 3 : 4)
                                 : kStageBytes >= 32768 ? 5
                                 : kStageBytes >= 24576 ? (kIsFp8 ? 5 : 7)
                                 : kStageBytes >= 16384 ? (kIsFp8 ? 8 : 12)
                                                        : (kIsFp8 ? 8 : 16);
  static constexpr int kSharedBytes =
      kStages * kStageBytes + kRaw * kRawBytes + kWindow * 4 + 2 * kStages * 8;
  static_assert(kSharedBytes <= 232448);
};

// Gathers columns [first_column, first_column + kColumns) of all tiles, and the weights: 128
// threads.
template <RowForm kForm, int kHeads, int kColumns>
__device__ void GatherColumns(const Problem& problem, const RowList& list, const uint8_t* weights,
                              int first_column, uint8_t* shared, uint64_t* full, uint64_t* empty,
                              int thread) {
  using Shape = WeighShape<kForm, kHeads, kColumns>;
  constexpr int kStages = Shape::kStages;
  constexpr int kBytes = kRowBytes<kForm>;
  constexpr int kChunks = kForm == RowForm::kFp8 ? kColumns / 16 : kColumns / 8;  // of a row
  constexpr int kStep = 128 / kChunks;      // rows between those of a thread
  constexpr int kRows = kTileRows / kStep;  // of a thread
  const int row0 = thread / kChunks;
  const int part = thread % kChunks;
  const int last = list.tiles();
  const uint32_t base = sm90::SharedAddress(shared);
  const uint32_t raw = base + kStages * Shape::kStageBytes;
  int32_t* window = reinterpret_cast<int32_t*>(shared + kStages * Shape::kStageBytes +
                                               Shape::kRaw * Shape::kRawBytes);
  // Tiles are asked for in order, so the slots of the next 32 are fetched together.
  auto fetch_window = [&](int tile) {
    if (tile % kWindowTiles != 0) return;
    sm90::NamedBarrier(1, 128);
#pragma unroll
    for (int i = 0; i < kWindow; i += 128)
      window[i + thread] = list.Slot(tile * kTileRows + i + thread);
    sm90::NamedBarrier(1, 128);
  };
  auto slot_of = [&](int tile, int row) { return window[tile % kWindowTiles * kTileRows + row]; };
  Ring<kStages, 0> ring;
  // Waits for the stage and sends for the weights; the rest of the stage is up to the caller.
  auto begin_stage = [&](int tile) {
    if (ring.MustWait()) sm90::BarrierWait(&empty[ring.stage], ring.EmptyParity());
    if (thread == 0) {
      uint8_t* to = shared + ring.stage * Shape::kStageBytes + Shape::kRowsBytes;
      const uint8_t* from = weights + static_cast<int64_t>(tile) * kTileWeightBytes;
      sm90::BarrierExpect(&full[ring.stage], Shape::kWeightBytes);
      if constexpr (kHeads == 16) {
        for (int k = 0; k < 4; ++k) {
          sm90::BulkCopy(to + k * 512, from + k * 2048, 512, &full[ring.stage]);
        }
      } else {
        for (int group = 0; group < Shape::kGroups; ++group) {
          sm90::BulkCopy(to + group * kTileWeightBytes,
                         from + static_cast<int64_t>(group) * problem.tiles * kTileWeightBytes,
                         kTileWeightBytes, &full[ring.stage]);
        }
      }
    }
  };
  if constexpr (kForm == RowForm::kBf16) {
    for (int tile = 0; tile < last; ++tile) {
      fetch_window(tile);
      begin_stage(tile);
      const uint32_t to = base + static_cast<uint32_t>(ring.stage * Shape::kStageBytes);
#pragma unroll
      for (int i = 0; i < kRows; ++i) {
        const int row = i * kStep + row0;
        const int32_t slot = slot_of(tile, row);
        sm90::CopyAsync16OrZero(
            to + static_cast<uint32_t>(part / 8) * kBlock + BlockOffset(row, part % 8),
            problem.args.rows + static_cast<int64_t>(slot < 0 ? 0 : slot) * kBytes +
                first_column * 2 + part * 16,
            slot >= 0);
      }
      sm90::CopyAsyncArrive(&full[ring.stage]);
      ring.Advance();
    }
    sm90::CopyAsyncCommit();
    sm90::CopyAsyncWait<0>();
  } else {
    constexpr int kRaw = Shape::kRaw;
    // A raw row: kColumns codes and the scales of their blocks.
    constexpr int kRawRow = kColumns + 16;
    auto copy = [&](int tile) {
      if (tile < last) {
        fetch_window(tile);
        const uint32_t to = raw + static_cast<uint32_t>(tile % kRaw * Shape::kRawBytes);
#pragma unroll
        for (int i = 0; i < kRows; ++i) {
          const int32_t slot = slot_of(tile, i * kStep + row0);
          if (slot < 0) continue;
          const uint32_t at = to + static_cast<uint32_t>((i * kStep + row0) * kRawRow);
          const uint8_t* row = problem.args.rows + static_cast<int64_t>(slot) * kBytes;
          sm90::CopyAsync16(at + part * 16, row + first_column + part * 16);
          if (part == 0) sm90::CopyAsync16(at + kColumns, row + kLatent);  // all four scales
        }
      }
      sm90::CopyAsyncCommit();
    };
    for (int tile = 0; tile < kRaw - 1; ++tile) copy(tile);
    for (int tile = 0; tile < last; ++tile) {
      sm90::NamedBarrier(1, 128);
      copy(tile + kRaw - 1);
      sm90::CopyAsyncWait<kRaw - 1>();
      sm90::NamedBarrier(1, 128);
      begin_stage(tile);
      const uint32_t from = raw + static_cast<uint32_t>(tile % kRaw * Shape::kRawBytes);
      const uint32_t to = base + static_cast<uint32_t>(ring.stage * Shape::kStageBytes);
#pragma unroll
      for (int i = 0; i < kRows; ++i) {
        const int row = i * kStep + row0;
        const bool there = tile * kTileRows + row < list.count;
        const uint32_t at = from + static_cast<uint32_t>(row * kRawRow);
        const uint4 codes = there ? sm90::LoadShared16(at + part * 16) : make_uint4(0, 0, 0, 0);
        const float scale =
            there ? sm90::LoadSharedFloat(at + kColumns + (first_column / 16 + part) / 8 * 4)
                  : 0.0f;
        StoreDecoded(to, row, part, Decode(codes, scale));
      }
      sm90::BarrierArrive(&full[ring.stage]);
      ring.Advance();
    }
    sm90::CopyAsyncWait<0>();
  }
}

// Over the tiles of heads `head` and head + 8: the largest power, and the sum of all weights
// relative to it. Four neighbouring lanes take every fourth tile each, and add up (0 + 1) + (2 +
// 3). `power` and `sum` are the first head's, tiles are `stride` apart.
__device__ __forceinline__ void JoinTiles(const float* power, const float* sum, int64_t stride,
                                          int tiles, int quad, float (&largest)[2],
                                          float (&total)[2]) {
  constexpr int kBatch = 8;  // loads in flight
  auto load = [&](const float* from, int first, float missing, float(&out)[2][kBatch]) {
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      const int tile = first + 4 * i + quad;
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        out[r][i] = tile < tiles ? from[tile * stride + 8 * r] : missing;
      }
    }
  };
  float powers[2][kBatch];
  float sums[2][kBatch];
  largest[0] = largest[1] = -INFINITY;
  for (int first = 0; first < tiles; first += 4 * kBatch) {
    load(power, first, -INFINITY, powers);
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      largest[0] = fmaxf(largest[0], powers[0][i]);
      largest[1] = fmaxf(largest[1], powers[1][i]);
    }
  }
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    largest[r] = fmaxf(largest[r], __shfl_xor_sync(0xffffffff, largest[r], 1));
    largest[r] = fmaxf(largest[r], __shfl_xor_sync(0xffffffff, largest[r], 2));
    total[r] = 0;
  }
  for (int first = 0; first < tiles; first += 4 * kBatch) {
    load(sum, first, 0, sums);
    load(power, first, -INFINITY, powers);
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        total[r] = fmaf(sums[r][i], PowerOfTwo(powers[r][i] - largest[r]), total[r]);
      }
    }
  }
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    total[r] += __shfl_xor_sync(0xffffffff, total[r], 1);
    total[r] += __shfl_xor_sync(0xffffffff, total[r], 2);
  }
}

template <RowForm kForm, int kHeads, int kColumns>
__global__ __launch_bounds__((WeighShape<kForm, kHeads, kColumns>::kThreads),
                             1) void WeighRowsKernel(const __grid_constant__ Problem problem) {
  using Shape = WeighShape<kForm, kHeads, kColumns>;
  constexpr int kStages = Shape::kStages;
  extern __shared__ __align__(1024) uint8_t shared[];
  uint64_t* full = reinterpret_cast<uint64_t*>(shared + Shape::kSharedBytes) - 2 * kStages;
  uint64_t* empty = full + kStages;
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int thread = static_cast<int>(threadIdx.x) % 128;
  if (threadIdx.x == 0) {
    for (int stage = 0; stage < kStages; ++stage) {
      sm90::BarrierInit(&full[stage], 129);
      sm90::BarrierInit(&empty[stage], Shape::kGroups * 4);
    }
    sm90::BarrierInitFence();
  }
  __syncthreads();
  sm90::WaitForPrevious();
  sm90::LetNextBegin();
  const int64_t local = blockIdx.z;
  const int64_t token = problem.first_token + local;
  const RowList list(problem.args, token);
  const int tiles = list.tiles();
  const int first_head = static_cast<int>(blockIdx.y) * kHeads;
  const int first_column = static_cast<int>(blockIdx.x) * kColumns;

  if (warp >= Shape::kGroups * 4) {
    if constexpr (Shape::kGroups == 2) asm volatile("setmaxnreg.dec.sync.aligned.u32 88;");
    const uint8_t* weights =
        reinterpret_cast<const uint8_t*>(problem.weights) +
        (local * problem.groups + first_head / kGroupHeads) * problem.tiles * kTileWeightBytes +
        first_head % kGroupHeads / 16 * 512;
    GatherColumns<kForm, kHeads, kColumns>(problem, list, weights, first_column, shared, full,
                                           empty, thread);
    return;
  }
  if constexpr (Shape::kGroups == 2) asm volatile("setmaxnreg.inc.sync.aligned.u32 208;");
  const int quad = lane % 4;
  // A warp without heads multiplies zeros: of 16 heads only the first has any.
  const bool has_heads =
      (kHeads != 16 || warp == 0) &&
      first_head + warp / 4 * kGroupHeads + warp % 4 * 16 < problem.args.num_heads;
  const int head = first_head + warp / 4 * kGroupHeads + warp % 4 * 16 + lane / 4;
  const int64_t stride = static_cast<int64_t>(problem.groups) * kGroupHeads;
  const float* power = problem.power + local * problem.tiles * stride + head;
  const float* sum = problem.sum + local * problem.tiles * stride + head;
  float largest[2] = {0, 0};
  float total[2] = {0, 0};
  if (has_heads) {
    JoinTiles(power, sum, stride, tiles, quad, largest, total);
  }

  float out[kColumns / 2];
#pragma unroll
  for (int i = 0; i < kColumns / 2; ++i) out[i] = 0;
  uint32_t weights[2][4][4] = {};
  float next[2] = {0, 0};
  if (has_heads && tiles > 0) {
    next[0] = power[0];
    next[1] = power[8];
    power += stride;
  }
  Ring<kStages, 0> ring;
  int last_stage = 0;
  auto weigh = [&](int tile, uint32_t(&a)[4][4]) {
    uint32_t factor[2];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      factor[r] = (__float_as_uint(PowerOfTwo(next[r] - largest[r])) >> 16) * 0x10001u;
    }
    const uint8_t* stage = shared + ring.stage * Shape::kStageBytes;
    sm90::BarrierWait(&full[ring.stage], ring.FullParity());
    if (has_heads) {
      const uint4* stored =
          reinterpret_cast<const uint4*>(stage + Shape::kRowsBytes + warp / 4 * kTileWeightBytes);
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        const uint4 v = kHeads == 16 ? stored[k * 32 + lane] : stored[k * 128 + thread];
        a[k][0] = MultiplyPair(v.x, factor[0]);
        a[k][1] = MultiplyPair(v.y, factor[1]);
        a[k][2] = MultiplyPair(v.z, factor[0]);
        a[k][3] = MultiplyPair(v.w, factor[1]);
      }
    }
    const uint64_t rows = sm90::SwizzledMatrix(sm90::SharedAddress(stage), 1024, kBlock);
    sm90::FenceProxyAsync();
    sm90::ProductFence();
#pragma unroll
    for (int k = 0; k < 4; ++k) sm90::MultiplyColumns<kColumns>(out, a[k], rows + k * 2048 / 16, 1);
    sm90::ProductCommit();
    if (has_heads && tile + 1 < tiles) {
      next[0] = power[0];
      next[1] = power[8];
      power += stride;
    }
    sm90::ProductWait<1>();  // the tile before is done
    if (tile > 0) {
      __syncwarp();
      if (lane == 0) sm90::BarrierArrive(&empty[last_stage]);
    }
    last_stage = ring.stage;
    ring.Advance();
  };
  for (int tile = 0; tile < tiles; tile += 2) {
    weigh(tile, weights[0]);
    if (tile + 1 < tiles) weigh(tile + 1, weights[1]);
  }
  sm90::ProductWait<0>();
  sm90::Pin(out);

  if (!has_heads) return;
  const RowAttentionArgs& args = problem.args;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    if (head + 8 * r >= args.num_heads) continue;
    const float scale = tiles > 0 ? 1.0f / total[r] : 0.0f;
    const int64_t at = (token * args.num_heads + head + 8 * r) * kLatent + first_column + 2 * quad;
#pragma unroll
    for (int i = 0; i < kColumns / 8; ++i) {
      const float low = out[4 * i + 2 * r] * scale;
      const float high = out[4 * i + 2 * r + 1] * scale;
      const uint32_t pair = PackPair(low, high);
      if (args.out_bf16) {
        *reinterpret_cast<uint32_t*>(static_cast<uint16_t*>(args.out) + at + 8 * i) = pair;
      } else {
        *reinterpret_cast<float2*>(static_cast<float*>(args.out) + at + 8 * i) =
            args.round_out
                ? make_float2(__uint_as_float(pair << 16), __uint_as_float(pair & 0xffff0000u))
                : make_float2(low, high);
      }
    }
  }
}

// ---- Launches -----------------------------------------------------------------------------------

template <RowForm kForm, int kGroups>
cudaError_t LaunchScores(const Problem& problem, int64_t tokens, int chunks, cudaStream_t stream) {
  return sm90::LaunchOverlapping(
      ScoreRowsKernel<kForm, kGroups>,
      {.grid = dim3(static_cast<unsigned>(chunks), static_cast<unsigned>(problem.groups / kGroups),
                    static_cast<unsigned>(tokens)),
       .threads = (kGroups + 1) * 128,
       .shared_bytes = kScoreSharedBytes<kForm>,
       .stream = stream},
      problem);
}

template <RowForm kForm, int kHeads, int kColumns>
cudaError_t LaunchWeigh(const Problem& problem, int64_t tokens, cudaStream_t stream) {
  using Shape = WeighShape<kForm, kHeads, kColumns>;
  return sm90::LaunchOverlapping(
      WeighRowsKernel<kForm, kHeads, kColumns>,
      {.grid = dim3(kLatent / kColumns,
                    static_cast<unsigned>((problem.args.num_heads + kHeads - 1) / kHeads),
                    static_cast<unsigned>(tokens)),
       .threads = Shape::kThreads,
       .shared_bytes = Shape::kSharedBytes,
       .stream = stream},
      problem);
}

// The coarsest cut that still gives most multiprocessors a block.
template <RowForm kForm>
cudaError_t Attend(const Problem& problem, int64_t tokens, int multiprocessors,
                   cudaStream_t stream) {
  const int64_t enough = multiprocessors * 7 / 8;
  const bool pairs = problem.groups % 2 == 0;
  const int64_t blocks = tokens * problem.groups / 2;
  const bool wide = pairs && blocks * problem.tiles >= 2 * multiprocessors;
  const int64_t columns = wide ? blocks : tokens * problem.groups;
  int64_t chunks = multiprocessors / columns;
  chunks = chunks < 1 ? 1 : chunks > problem.tiles ? problem.tiles : chunks;
  const cudaError_t error =
      wide ? LaunchScores<kForm, 2>(problem, tokens, static_cast<int>(chunks), stream)
           : LaunchScores<kForm, 1>(problem, tokens, static_cast<int>(chunks), stream);
  if (error != cudaSuccess) return error;
  if (pairs && blocks * 2 >= enough) return LaunchWeigh<kForm, 128, 256>(problem, tokens, stream);
  if (pairs && blocks * 4 >= enough) return LaunchWeigh<kForm, 128, 128>(problem, tokens, stream);
  const int64_t groups = tokens * problem.groups;
  if (groups * 4 >= enough) return LaunchWeigh<kForm, 64, 128>(problem, tokens, stream);
  if (groups * 8 >= enough) return LaunchWeigh<kForm, 64, 64>(problem, tokens, stream);
  return LaunchWeigh<kForm, 16, 64>(problem, tokens, stream);
}

int64_t TokenScratchBytes(int num_heads, int64_t width) {
  const int64_t groups = (num_heads + kGroupHeads - 1) / kGroupHeads;
  const int64_t tiles = (width + kTileRows - 1) / kTileRows;
  return groups * tiles * (kTileWeightBytes + 2 * kGroupHeads * 4);
}

}  // namespace

int64_t RowAttentionScratchBytes(int64_t tokens, int num_heads, int64_t width) {
  return tokens * TokenScratchBytes(num_heads, width);
}

cudaError_t RowAttention(const RowAttentionArgs& args, void* scratch, int64_t scratch_bytes,
                         int multiprocessors, cudaStream_t stream) {
  if (args.num_tokens == 0 || args.num_heads == 0) return cudaSuccess;
  const int64_t fit = scratch_bytes / TokenScratchBytes(args.num_heads, args.width);
  if (fit < 1) return cudaErrorInvalidValue;
  // Whole waves: a block scores for one token, or two blocks do.
  const int64_t half = multiprocessors / 2;
  const int64_t in_waves = half > 0 && fit > half ? fit / half * half : fit;
  const int64_t at_once = in_waves < 65535 ? in_waves : 65535;
  Problem problem;
  problem.args = args;
  problem.tiles = static_cast<int>((args.width + kTileRows - 1) / kTileRows);
  problem.groups = (args.num_heads + kGroupHeads - 1) / kGroupHeads;
  for (int64_t first = 0; first < args.num_tokens; first += at_once) {
    const int64_t left = args.num_tokens - first;
    const int64_t tokens = left < at_once ? left : at_once;
    const int64_t cells = tokens * problem.tiles * problem.groups;
    problem.first_token = first;
    problem.weights = static_cast<uint4*>(scratch);
    problem.power =
        reinterpret_cast<float*>(static_cast<uint8_t*>(scratch) + cells * kTileWeightBytes);
    problem.sum = problem.power + cells * kGroupHeads;
    const cudaError_t error =
        args.form == RowForm::kFp8
            ? Attend<RowForm::kFp8>(problem, tokens, multiprocessors, stream)
            : Attend<RowForm::kBf16>(problem, tokens, multiprocessors, stream);
    if (error != cudaSuccess) return error;
  }
  return cudaSuccess;
}

}  // namespace winnow::cuda
