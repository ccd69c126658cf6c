// Attention over chosen cache rows, by clusters of blocks; the header says how work is cut up.
//
// A block is four warpgroups. Two fill its stages: queries, then its tiles. One scores the tiles,
// queries in registers, and sends each other block of the cluster the columns that it sums and the
// tile's weights. One sums its columns over all tiles in ascending order.
//
// A stage belongs to its block, and with it a place in every other block for what is sent there:
// all of it is free again once the block has scored the tile and every block has summed it. Every
// thread arrives for itself, which racecheck can follow, and costs 2 % at most.
#include "cuda/dsa/attention_tiles_sm90.cuh"
#include "cuda/dsa/sm90.cuh"
#include "cuda/dsa/sparse_attention_sm90.h"
#include "cuda/dsa/two_step_attention_sm90.cuh"

namespace winnow::cuda {
namespace {

constexpr int kThreads = 512;
constexpr int kOnesBytes = 256;  // of 16 rows by 8 columns
// Of working memory: sums of a unit, in clusters of 8, and how many units may lie apart.
constexpr int64_t kUnitBytes = 8 * (kLatent / 8 / 8 + 1) * 128 * 16;
constexpr int64_t kMostUnitsApart = 512;

// The shared memory of a block. The weights of its own tiles take the place of their rotary
// columns.
template <int kBlocks>
struct Layout {
  static constexpr int kStages = kBlocks == 8 ? 1 : 2;  // tiles of its own
  static constexpr int kSlots = kBlocks == 2 ? 2 : 1;   // tiles of each other block
  // Whether there are registers for a tile's weights while those of the tile before are in use.
  static constexpr bool kLoadsEarly = kBlocks > 2;
  static constexpr int kColumns = kLatent / kBlocks;             // that a block sums
  static constexpr int kPart = kColumns < 128 ? kColumns : 128;  // of one product
  static constexpr int kParts = kColumns / kPart;
  static constexpr int kSliceBytes = kTileRows * kColumns * 2;
  static constexpr int kPlaces = kSlots * (kBlocks - 1);
  static constexpr int kSlices = kStages * kTileBytes;
  static constexpr int kWeights = kSlices + kPlaces * kSliceBytes;
  static constexpr int kPowers = kWeights + kPlaces * kBlock;
  static constexpr int kOnes = kPowers + kSlots * kBlocks * kPowerBytes;
  static constexpr int kBarriers = kOnes + kOnesBytes;
  static constexpr int kSharedBytes = kBarriers + (3 * kStages + kBlocks * kSlots) * 8;
  static constexpr int kFreeArrivals = 128 * (1 + kBlocks);  // scored, and summed by each block
  static constexpr int kSentBytes = kSliceBytes + kBlock + kPowerBytes;  // of a tile to a block
  static_assert(kSharedBytes <= kSharedLimit);
};

template <int kBlocks>
struct Memory {
  using L = Layout<kBlocks>;
  uint32_t base;

  __device__ __forceinline__ explicit Memory(const uint8_t* shared) {
    // Kept, since to make it again takes a wait.
    asm volatile("mov.u32 %0, %1;" : "=r"(base) : "r"(sm90::SharedAddress(shared)));
  }

  // Of the block's stages when they are filled for the `fill`-th time.
  __device__ __forceinline__ uint32_t Tile(uint32_t fill) const {
    return base + fill % L::kStages * kTileBytes;
  }
  // The place in block `at` for what block `owner` sends of its tile `number`.
  static __device__ __forceinline__ uint32_t Place(int owner, int at, uint32_t number) {
    return static_cast<uint32_t>(owner < at ? owner : owner - 1) * L::kSlots + number % L::kSlots;
  }
  __device__ __forceinline__ uint32_t Slice(int owner, int at, uint32_t number) const {
    return base + L::kSlices + Place(owner, at, number) * L::kSliceBytes;
  }
  __device__ __forceinline__ uint32_t Weights(int owner, int at, uint32_t number) const {
    return base + L::kWeights + Place(owner, at, number) * kBlock;
  }
  // The same of the block's own tiles, for the block of rank `at`.
  __device__ __forceinline__ uint32_t OwnSlice(int at, uint32_t fill) const {
    return Tile(fill) + static_cast<uint32_t>(at * (L::kColumns / 64) * kBlock);
  }
  __device__ __forceinline__ uint32_t OwnWeights(uint32_t fill) const {
    return Tile(fill) + 8 * kBlock;
  }
  __device__ __forceinline__ uint32_t Powers(int owner, uint32_t number) const {
    return base + L::kPowers +
           (static_cast<uint32_t>(owner) * L::kSlots + number % L::kSlots) * kPowerBytes;
  }
  // A barrier for each part of each stage.
  template <RowForm kForm>
  __device__ __forceinline__ uint32_t Full(uint32_t fill, int part) const {
    return base + L::kBarriers +
           (fill % L::kStages * kFillParts<kForm> + static_cast<uint32_t>(part)) * 8;
  }
  __device__ __forceinline__ uint32_t Free(uint32_t fill) const {
    return base + L::kBarriers + (2 * L::kStages + fill % L::kStages) * 8;
  }
  __device__ __forceinline__ uint32_t Ready(int owner, uint32_t number) const {
    return base + L::kBarriers +
           (3 * L::kStages + static_cast<uint32_t>(owner) * L::kSlots + number % L::kSlots) * 8;
  }
};

// ---- Scores -------------------------------------------------------------------------------------

template <RowForm kForm, int kBlocks, bool kApart>
__device__ __forceinline__ void ScoreTiles(const Items& items, const Where& where,
                                           const Memory<kBlocks>& memory, int thread) {
  using L = Layout<kBlocks>;
  const float scale = items.args.softmax_scale * 1.4426950408889634f;
  uint32_t first = 0;      // number of the unit's first tile
  uint32_t fill = 0;       // of the stages
  uint32_t last_fill = 0;  // with the block's tile before
  Units<kApart> units(items, where);
  while (units.Take()) {
    const int count = units.rows;
    const int tiles = Tiles(count);
    Queries q;
    auto wait_full = [&](int part) {
      sm90::BarrierWait(memory.template Full<kForm>(fill, part), fill / L::kStages & 1);
    };
    for (int part = 0; part < kFillParts<kForm>; ++part) wait_full(part);
    LoadQueries(q, memory.Tile(fill), thread);
    sm90::BarrierArriveTimes(memory.Free(fill), L::kFreeArrivals / 128);
    __syncwarp();
    ++fill;
    int tile = static_cast<int>((static_cast<uint32_t>(where.rank) - first) % kBlocks);
    for (; tile < tiles; tile += kBlocks) {
      const uint32_t number = (first + static_cast<uint32_t>(tile)) / kBlocks;
      const uint32_t ready = memory.Ready(where.rank, number);
      auto send_columns = [&]() {
        if (thread == 0) {
#pragma unroll
          for (int i = 1; i < kBlocks; ++i) {
            const int peer = (where.rank + i) & (kBlocks - 1);
            sm90::BulkCopyToPeer(memory.Slice(where.rank, peer, number),
                                 memory.OwnSlice(peer, fill), L::kSliceBytes, ready,
                                 static_cast<uint32_t>(peer));
          }
        }
        __syncwarp();
      };
      float scores[32];
      BeginScores<kForm>(scores, q, memory.Tile(fill), [&](int part) {
        wait_full(part);
        sm90::FenceProxyAsync();
        if (part == kFillParts<kForm> - 1 && L::kSlots == L::kStages) send_columns();
      });
      // Places are free once the tile before is; so it is where its stage was filled again.
      if (L::kSlots < L::kStages && number > 0 && fill - last_fill < L::kStages) {
        sm90::BarrierWait(memory.Free(last_fill), last_fill / L::kStages & 1);
      }
      if constexpr (L::kSlots < L::kStages) send_columns();
      sm90::ProductWait<0>();
      sm90::Pin(scores);
      sm90::NamedBarrier(1, 128);  // rotary columns have been read
      const uint32_t weights = memory.OwnWeights(fill);
      const uint32_t powers = memory.Powers(where.rank, number);
      MakeWeights(
          scores, count - tile * kTileRows, scale, thread,
          [&](int r, uint32_t power) {
            sm90::StoreShared2(powers + PowerOffset(r, thread), power);
          },
          [&](int k, uint4 v) { sm90::StoreShared16(weights + WeightsOffset(k, thread), v); });
      sm90::FenceProxyAsync();
      sm90::NamedBarrier(1, 128);
      sm90::BarrierArrive(memory.Free(fill));
      sm90::BarrierArrive(ready);
      if (thread == 0) {
#pragma unroll
        for (int i = 1; i < kBlocks; ++i) {
          const int peer = (where.rank + i) & (kBlocks - 1);
          const uint32_t rank = static_cast<uint32_t>(peer);
          sm90::BulkCopyToPeer(memory.Weights(where.rank, peer, number), weights, kBlock, ready,
                               rank);
          sm90::BulkCopyToPeer(powers, powers, kPowerBytes, ready, rank);
        }
      }
      __syncwarp();
      last_fill = fill++;
    }
    first += static_cast<uint32_t>(tiles);
  }
}

// ---- Joining chunks -----------------------------------------------------------------------------

// Sums of a chunk, or of several joined: columns, weights, and the power that both are relative to.
// A place for them in device memory has a thread's numbers four at a time, those of the 128 threads
// next to each other, and last the weights and powers.
template <int kBlocks>
constexpr int kPlace = (Layout<kBlocks>::kColumns / 8 + 1) * 128;

__device__ __forceinline__ float4 PackTotals(const float (&total)[4], const int (&power)[2]) {
  return make_float4(total[0], total[2], __int_as_float(power[0]), __int_as_float(power[1]));
}

template <typename L>
__device__ __forceinline__ void StoreSums(float4* place,
                                          const float (&out)[L::kParts][L::kPart / 2],
                                          const float (&total)[4], const int (&power)[2]) {
#pragma unroll
  for (int part = 0; part < L::kParts; ++part) {
#pragma unroll
    for (int i = 0; i < L::kPart / 8; ++i) {
      const float* p = out[part] + 4 * i;
      __stcg(place + (part * (L::kPart / 8) + i) * 128, make_float4(p[0], p[1], p[2], p[3]));
    }
  }
  __stcg(place + L::kColumns / 8 * 128, PackTotals(total, power));
}

// Sums are joined by scaling both to the larger power and adding them. Which is which makes no
// difference.
struct Join {
  float factor[2];
  float other_factor[2];

  // Joins the weights and powers.
  __device__ __forceinline__ Join(float (&total)[4], int (&power)[2], const float4& other) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int other_power = __float_as_int(r == 0 ? other.z : other.w);
      const int joined = max(power[r], other_power);
      factor[r] = PowerOfTwo(power[r] - joined);
      other_factor[r] = PowerOfTwo(other_power - joined);
      power[r] = joined;
      total[2 * r] = Add(r, total[2 * r], r == 0 ? other.x : other.y);
    }
  }
  __device__ __forceinline__ float Add(int r, float sum, float other) const {
    return __fadd_rn(__fmul_rn(sum, factor[r]), __fmul_rn(other, other_factor[r]));
  }
  // Four numbers of a thread's.
  __device__ __forceinline__ void Add(float* sum, const float4& other) const {
    sum[0] = Add(0, sum[0], other.x);
    sum[1] = Add(0, sum[1], other.y);
    sum[2] = Add(1, sum[2], other.z);
    sum[3] = Add(1, sum[3], other.w);
  }
};

// Adds the sums at `place`.
template <typename L>
__device__ __forceinline__ void JoinSums(const float4* place, float (&out)[L::kParts][L::kPart / 2],
                                         float (&total)[4], int (&power)[2]) {
  constexpr int kNumbers = L::kColumns / 8;
  constexpr int kBatch = 8;  // loads under way
  const Join join(total, power, sm90::LoadL2(place + kNumbers * 128));
#pragma unroll
  for (int first = 0; first < kNumbers; first += kBatch) {
    float4 got[kBatch];
#pragma unroll
    for (int i = 0; i < kBatch; ++i) got[i] = sm90::LoadL2(place + (first + i) * 128);
#pragma unroll
    for (int i = first; i < first + kBatch; ++i) {
      join.Add(out[i / (L::kPart / 8)] + i % (L::kPart / 8) * 4, got[i - first]);
    }
  }
}

// Joins the chunks that clusters of kBlocks have summed apart, in their order. A block takes 32
// columns of an item.
constexpr int kJoinColumns = 32;
template <int kBlocks>
__global__ __launch_bounds__(128) void JoinKernel(const __grid_constant__ Items items) {
  constexpr int kNumbers = kJoinColumns / 8;
  constexpr int kAhead = 4;  // chunks under way
  constexpr int kColumns = Layout<kBlocks>::kColumns;
  sm90::WaitForPrevious();
  sm90::LetNextBegin();
  const int item = static_cast<int>(blockIdx.x) / (kLatent / kJoinColumns);
  const int first_column = static_cast<int>(blockIdx.x) % (kLatent / kJoinColumns) * kJoinColumns;
  const int thread = static_cast<int>(threadIdx.x);
  const int rows = items.Rows(item);
  const int chunks = Chunks(Tiles(rows));
  const float4* places =
      static_cast<const float4*>(items.args.partial_sums) + thread +
      static_cast<int64_t>(item * items.most_chunks * kBlocks + first_column / kColumns) *
          kPlace<kBlocks>;
  float out[kJoinColumns / 2];
  float total[4] = {-0.0f, 0, -0.0f, 0};  // -0 + x is x, -0 too
  int power[2] = {INT32_MIN / 2, INT32_MIN / 2};
#pragma unroll
  for (float& x : out) x = -0.0f;
  for (int first = 0; first < chunks; first += kAhead) {
    float4 got[kAhead][kNumbers + 1];
#pragma unroll
    for (int c = 0; c < kAhead; ++c) {
      if (first + c >= chunks) break;
      const float4* place = places + static_cast<int64_t>(first + c) * kBlocks * kPlace<kBlocks>;
#pragma unroll
      for (int i = 0; i < kNumbers; ++i) {
        got[c][i] = __ldcg(place + (first_column % kColumns / 8 + i) * 128);
      }
      got[c][kNumbers] = __ldcg(place + kColumns / 8 * 128);
    }
#pragma unroll
    for (int c = 0; c < kAhead; ++c) {
      if (first + c >= chunks) break;
      const Join join(total, power, got[c][kNumbers]);
#pragma unroll
      for (int i = 0; i < kNumbers; ++i) join.Add(out + 4 * i, got[c][i]);
    }
  }
  const float scale[2] = {rows > 0 ? 1.0f / total[0] : 0.0f, rows > 0 ? 1.0f / total[2] : 0.0f};
  WriteOut<kJoinColumns>(items.args, items.Token(item),
                         items.Group(item) * kGroupHeads + thread / kWarp * 16 + thread % kWarp / 4,
                         first_column, out, scale, thread % 4);
}

// ---- Summing ------------------------------------------------------------------------------------

template <int kBlocks, bool kApart>
__device__ __forceinline__ void SumTiles(const Items& items, const Where& where,
                                         const Memory<kBlocks>& memory, int thread) {
  using L = Layout<kBlocks>;
  const int lane = thread % kWarp;
  const int quad = lane % 4;
  const int row = thread / kWarp * 16 + lane / 4;
  float out[L::kParts][L::kPart / 2];
  int power[2];           // in units
  float total[4];         // of weights: a product with ones
  uint32_t position = 0;  // of the tile among the cluster's
  uint32_t before = 0;    // how often stages were filled with queries
  bool held = false;      // the tile before is being multiplied
  const uint64_t ones = sm90::PlainMatrix(memory.base + L::kOnes, 128, 128);
  // Waits for that, and tells its block.
  auto let_go = [&]() {
    sm90::ProductWait<0>();
#pragma unroll
    for (int part = 0; part < L::kParts; ++part) sm90::Pin(out[part]);
    sm90::Pin(total);
    if (held) {
      const uint32_t fill = (position - 1) / kBlocks + before;
      sm90::BarrierArrivePeer(sm90::PeerAddress(memory.Free(fill), (position - 1) % kBlocks));
    }
    held = false;
    __syncwarp();
  };
  auto sum = [&]() {
    const int owner = static_cast<int>(position % kBlocks);
    const uint32_t number = position / kBlocks;  // among the owner's
    const bool own = owner == where.rank;
    const uint32_t ready = memory.Ready(owner, number);
    const uint32_t parity = number / L::kSlots & 1;
    // All four warps do one or the other: products are awaited by a warpgroup together.
    if (!sm90::NamedBarrierAll(2, 128, sm90::BarrierPassed(ready, parity))) {
      let_go();
      sm90::BarrierWait(ready, parity);
    }
    if (!own && thread == 0) sm90::BarrierExpect(ready, L::kSentBytes);
    __syncwarp();
    const uint32_t at = memory.Powers(owner, number) + PowerOffset(0, thread & ~3);
    const uint2 powers[2] = {sm90::LoadShared8(at), sm90::LoadShared8(at + 8 * 8)};
    const TileFactors factors(power, powers, quad);
    if constexpr (!L::kLoadsEarly) let_go();
    const uint32_t stored =
        own ? memory.OwnWeights(number + before) : memory.Weights(owner, where.rank, number);
    uint4 loaded[4];
#pragma unroll
    for (int k = 0; k < 4; ++k) loaded[k] = sm90::LoadShared16(stored + WeightsOffset(k, thread));
    if constexpr (L::kLoadsEarly) let_go();
    uint32_t a[4][4];
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      a[k][0] = loaded[k].x;
      a[k][1] = loaded[k].y;
      a[k][2] = loaded[k].z;
      a[k][3] = loaded[k].w;
      factors.Scale(a[k]);
    }
    Rescale(out, factors.sums);
#pragma unroll
    for (int i = 0; i < 4; ++i) total[i] *= factors.sums[i / 2];
    const uint64_t rows = sm90::SwizzledMatrix(own ? memory.OwnSlice(where.rank, number + before)
                                                   : memory.Slice(owner, where.rank, number),
                                               1024, kBlock);
    sm90::ProductFence();
#pragma unroll
    for (int k = 0; k < 4; ++k) {
#pragma unroll
      for (int part = 0; part < L::kParts; ++part) {
        sm90::MultiplyColumns<L::kPart>(
            out[part], a[k], rows + (k * 2048 + part * (L::kPart / 64) * kBlock) / 16, 1);
      }
      sm90::MultiplyRows<8>(total, a[k], ones, 1);
    }
    sm90::ProductCommit();
    held = true;
    ++position;
  };
  float4* const places = static_cast<float4*>(items.args.partial_sums) + thread;
  Units<kApart> units(items, where);
  while (units.Take()) {
    const int tiles = Tiles(units.rows);
    ++before;
    int first = 0;
    do {
#pragma unroll
      for (int part = 0; part < L::kParts; ++part) {
#pragma unroll
        for (int i = 0; i < L::kPart / 2; ++i) out[part][i] = 0;
      }
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        power[r] = INT32_MIN / 2;
        total[2 * r] = total[2 * r + 1] = 0;
      }
      int left = tiles;
      if constexpr (!kApart) left = min(ChunkTiles(tiles), tiles - first);
      first += left;
      for (; left > 0; --left) sum();
      let_go();
      if constexpr (!kApart && kBlocks == 2) {
        int cluster = where.cluster;
        sm90::Pin(cluster);  // no register is kept for the place
        float4* place = places + (cluster * kBlocks + where.rank) * kPlace<kBlocks>;
        if (first > ChunkTiles(tiles)) JoinSums<L>(place, out, total, power);
        if (first < tiles) StoreSums<L>(place, out, total, power);
      }
    } while (first < tiles);
    if constexpr (kApart) {
      const int block = (units.item * items.most_chunks + units.chunk) * kBlocks + where.rank;
      StoreSums<L>(places + static_cast<int64_t>(block) * kPlace<kBlocks>, out, total, power);
    } else {
      float scale[2];
#pragma unroll
      for (int r = 0; r < 2; ++r) scale[r] = tiles > 0 ? 1.0f / total[2 * r] : 0.0f;
#pragma unroll
      for (int part = 0; part < L::kParts; ++part) {
        WriteOut<L::kPart>(items.args, items.Token(units.item),
                           items.Group(units.item) * kGroupHeads + row,
                           where.rank * L::kColumns + part * L::kPart, out[part], scale, quad);
      }
    }
  }
}

// The same number, which the compiler keeps instead of making it again, for which it would wait.
__device__ __forceinline__ int Held(int thread) {
  return __shfl_sync(0xffffffff, thread, thread % kWarp);
}

// ---- The kernel ---------------------------------------------------------------------------------

// Registers of a thread. One of each warpgroup, two that fill, may have 512 together.
constexpr int kScoreRegisters = 208;
template <RowForm kForm, int kBlocks>
constexpr int kSumRegisters = kBlocks > 2              ? 160
                              : kForm == RowForm::kFp8 ? 176
                                                       : 184;
template <RowForm kForm, int kBlocks>
constexpr int kFillRegisters = kBlocks > 2              ? 72
                               : kForm == RowForm::kFp8 ? 64
                                                        : 56;

template <RowForm kForm, int kBlocks, bool kApart>
__global__ __launch_bounds__(kThreads, 1) void AttendKernel(const __grid_constant__ Items items) {
  using L = Layout<kBlocks>;
  extern __shared__ __align__(1024) uint8_t shared[];
  const Memory<kBlocks> memory(shared);
  const Where where = {static_cast<int>(sm90::ClusterRank()),
                       static_cast<int>(blockIdx.x) / kBlocks,
                       static_cast<int>(gridDim.x) / kBlocks};
  if (threadIdx.x == 0) {
    for (uint32_t stage = 0; stage < L::kStages; ++stage) {
      for (int part = 0; part < kFillParts<kForm>; ++part) {
        sm90::BarrierInit(memory.template Full<kForm>(stage, part), kFillThreads<2> * (part + 1));
      }
      sm90::BarrierInit(memory.Free(stage), L::kFreeArrivals);
    }
    for (int owner = 0; owner < kBlocks; ++owner) {
      for (uint32_t number = 0; number < L::kSlots; ++number) {
        sm90::BarrierInit(memory.Ready(owner, number), owner == where.rank ? 128 : 1);  // or copies
        if (owner != where.rank) sm90::BarrierExpect(memory.Ready(owner, number), L::kSentBytes);
      }
    }
    sm90::BarrierInitFence();
  }
  if (threadIdx.x < kOnesBytes / 4) {
    *reinterpret_cast<uint32_t*>(shared + L::kOnes + threadIdx.x * 4) = kOnePair;
    sm90::FenceProxyAsync();
  }
  sm90::ClusterSync();
  sm90::WaitForPrevious();
  sm90::LetNextBegin();
  const int thread = static_cast<int>(threadIdx.x);
  if (thread < 128) {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kScoreRegisters));
    ScoreTiles<kForm, kBlocks, kApart>(items, where, memory, Held(thread));
  } else if (thread < 256) {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kSumRegisters<kForm, kBlocks>));
    SumTiles<kBlocks, kApart>(items, where, memory, Held(thread - 128));
  } else {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kFillRegisters<kForm, kBlocks>));
    const Filler filler(thread - 256);
    FillStages<kForm, L::kStages, false>(items, Fills<kBlocks, kApart>(items, where, filler.row),
                                         memory.Tile(0), memory.template Full<kForm>(0, 0),
                                         memory.Free(0), filler);
  }
  sm90::ClusterSync();  // nobody sends to a block that is gone
}

// Clusters of kBlocks for all units, or as many as run at once.
template <RowForm kForm, int kBlocks, bool kApart>
struct Clusters {
  static sm90::Launch Of(int clusters, cudaStream_t stream) {
    return {.grid = dim3(static_cast<unsigned>(clusters * kBlocks)),
            .threads = kThreads,
            .shared_bytes = Layout<kBlocks>::kSharedBytes,
            .cluster = kBlocks,
            .stream = stream};
  }
  static int AtOnce() {
    static const int clusters =
        sm90::ClustersAtOnce(AttendKernel<kForm, kBlocks, kApart>, Of(1, nullptr));
    return clusters;
  }
  static cudaError_t Run(const Items& items, cudaStream_t stream) {
    const int units = items.count * (kApart ? items.most_chunks : 1);
    const int clusters = units < AtOnce() ? units : AtOnce();
    return sm90::LaunchOverlapping(AttendKernel<kForm, kBlocks, kApart>, Of(clusters, stream),
                                   items);
  }
};

// Of chunks apart, which are joined then; or of items of one chunk each.
template <RowForm kForm, int kBlocks>
cudaError_t RunChunks(const Items& items, cudaStream_t stream) {
  if (items.most_chunks == 1) return Clusters<kForm, kBlocks, false>::Run(items, stream);
  const cudaError_t error = Clusters<kForm, kBlocks, true>::Run(items, stream);
  if (error != cudaSuccess) return error;
  const auto pieces = static_cast<unsigned>(items.count * (kLatent / kJoinColumns));
  return sm90::LaunchOverlapping(JoinKernel<kBlocks>,
                                 {.grid = dim3(pieces), .threads = 128, .stream = stream}, items);
}

// Chunks apart where that takes fewer rounds of chunks, and the largest clusters that still take
// all at once.
template <RowForm kForm>
cudaError_t Attend(const Items& items, cudaStream_t stream) {
  const int units = items.count * items.most_chunks;
  if (units <= Clusters<kForm, 8, true>::AtOnce()) return RunChunks<kForm, 8>(items, stream);
  if (units <= Clusters<kForm, 4, true>::AtOnce()) return RunChunks<kForm, 4>(items, stream);
  const int clusters = Clusters<kForm, 2, false>::AtOnce();
  auto rounds = [&](int count) { return (count + clusters - 1) / clusters; };
  if (units <= kMostUnitsApart && rounds(units) < rounds(items.count) * items.most_chunks) {
    return RunChunks<kForm, 2>(items, stream);
  }
  return Clusters<kForm, 2, false>::Run(items, stream);
}

// Of a token that reads as many rows as its list or its pages may hold.
int MostChunks(int64_t rows) { return Chunks(Tiles(static_cast<int>(rows))); }

}  // namespace

int64_t RowAttentionBytes(int64_t num_tokens, int num_heads, int64_t most_rows) {
  const int64_t items = num_tokens * ((num_heads + kGroupHeads - 1) / kGroupHeads);
  const int64_t few = items < kMostTwoStepItems ? items : kMostTwoStepItems;
  const int64_t two_steps = TwoStepAttentionBytes(few);
  const int chunks = MostChunks(most_rows);
  if (chunks == 1) return two_steps;
  const int64_t units = items * chunks < kMostUnitsApart ? items * chunks : kMostUnitsApart;
  return units * kUnitBytes > two_steps ? units * kUnitBytes : two_steps;
}

cudaError_t RowAttention(const RowAttentionArgs& args, cudaStream_t stream) {
  if (args.num_tokens == 0 || args.num_heads == 0) return cudaSuccess;
  const int64_t most_rows = args.slots != nullptr ? args.width : args.page_table_stride * kTileRows;
  Items items;
  items.args = args;
  items.groups = (args.num_heads + kGroupHeads - 1) / kGroupHeads;
  items.count = static_cast<int>(args.num_tokens) * items.groups;
  items.most_chunks = MostChunks(most_rows);
  if (items.most_chunks == 1 && items.count <= kMostTwoStepItems && most_rows > 0) {
    return TwoStepAttention(items, most_rows, stream);
  }
  return args.form == RowForm::kFp8 ? Attend<RowForm::kFp8>(items, stream)
                                    : Attend<RowForm::kBf16>(items, stream);
}

}  // namespace winnow::cuda
