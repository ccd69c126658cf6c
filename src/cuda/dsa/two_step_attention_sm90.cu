// Attention of few tokens in two steps; two_step_attention_sm90.cuh says what for.
//
// Scoring   a block takes every so many-th tile of an item: four warpgroups fill its stages,
// queries
//           first, one multiplies and writes weights to device memory.
// Summing   a block takes 32, 64 or 128 columns of an item's result: three warpgroups gather those
//           columns of its rows, while scoring still runs, and one multiplies.
#include "cuda/dsa/attention_slices_sm90.cuh"
#include "cuda/dsa/attention_tiles_sm90.cuh"
#include "cuda/dsa/sm90.cuh"
#include "cuda/dsa/two_step_attention_sm90.cuh"

namespace winnow::cuda {
namespace {

constexpr int kMostTiles = kChunkTiles;  // of an item
constexpr int kWeightBytes = kTileRows * kGroupHeads * 2;

// What scoring leaves of an item: of each tile weights and powers, as 128 threads hold them; and of
// each head the largest power of each tile, twice, and one more where all four are that.
struct ItemWeights {
  struct Tile {
    uint8_t weights[kWeightBytes];
    uint8_t powers[kPowerBytes];
  };
  Tile tiles[kMostTiles];
  int32_t most[kGroupHeads][kMostTiles];
};

// ---- Scoring ------------------------------------------------------------------------------------

constexpr int kScoreStages = 2;
constexpr int kScoreThreads = 128 + kFillThreads<1>;
constexpr int kScoreRegisters = 208;
constexpr int kScoreFillRegisters = 64;
constexpr int kScoreBytes = kScoreStages * kTileBytes + 3 * kScoreStages * 8;

// The tiles of an item that are a block's, and the item's queries before them; nothing where it has
// no tile. Slots are fetched a tile ahead, before it is known how many there are.
class DealtTiles {
 public:
  static constexpr int kRows = 1;

  __device__ __forceinline__ DealtTiles(const Items& items, int item, int first, int step,
                                        const Filler& filler)
      : args_(items.args),
        token_(items.Token(item)),
        sequence_(args_.slots == nullptr ? args_.sequences[token_] : 0),
        row_(filler.row),
        next_(first),
        step_(step),
        end_(items.count) {
    FetchNext();
    rows_ = items.Rows(item);
    item_ = first * kTileRows < rows_ ? item : end_;
  }
  __device__ __forceinline__ Fill<kRows> Get() const {
    const bool there = tile_ >= 0 && tile_ * kTileRows + row_ < rows_;
    return {.item = item_, .queries = tile_ < 0, .slots = {there ? slot_[0] : -1}};
  }
  __device__ __forceinline__ void Advance() {
    tile_ = next_;
    next_ += step_;
    slot_[0] = next_slot_[0];
    if (tile_ * kTileRows >= rows_) item_ = end_;
    FetchNext();
  }

 private:
  __device__ __forceinline__ void FetchNext() {
    const int64_t room = args_.slots != nullptr ? args_.width : args_.page_table_stride * kTileRows;
    FindSlots(args_, token_, sequence_, next_, row_,
              static_cast<int>(room) - next_ * kTileRows - row_, next_slot_);
  }

  const RowAttentionArgs& args_;
  int64_t token_;
  int sequence_;
  int row_;
  int next_;
  int step_;
  int end_;
  int rows_ = 0;
  int item_ = 0;
  int tile_ = -1;
  int32_t slot_[kRows] = {-1};
  int32_t next_slot_[kRows] = {-1};
};

// The largest of the powers of a head's four threads, twice, and one more where all are that.
__device__ __forceinline__ int32_t MostOfFour(uint32_t power) {
  const int own = static_cast<int16_t>(power);
  int most = max(own, __shfl_xor_sync(0xffffffff, own, 1));
  most = max(most, __shfl_xor_sync(0xffffffff, most, 2));
  const uint32_t four = __ballot_sync(0xffffffff, own == most) >> (threadIdx.x % kWarp & ~3u) & 15;
  return most * 2 + (four == 15 ? 1 : 0);
}

template <RowForm kForm>
__device__ __forceinline__ void ScoreDealtTiles(const Items& items, int item, int first, int step,
                                                uint32_t stages, uint32_t full, uint32_t free,
                                                ItemWeights* weights, int thread) {
  const float scale = items.args.softmax_scale * 1.4426950408889634f;
  const int rows = sm90::Uniform(items.Rows(item));
  if (first * kTileRows >= rows) return;
  uint32_t fill = 0;
  auto tile_at = [&]() { return stages + fill % kScoreStages * kTileBytes; };
  auto wait_full = [&](int part) {
    const uint32_t stage = fill % kScoreStages * kFillParts<kForm> + static_cast<uint32_t>(part);
    sm90::BarrierWait(full + stage * 8, fill / kScoreStages & 1);
  };
  Queries q;
  for (int part = 0; part < kFillParts<kForm>; ++part) wait_full(part);
  LoadQueries(q, tile_at(), thread);
  sm90::BarrierArrive(free + fill % kScoreStages * 8);
  ++fill;
  for (int tile = first; tile * kTileRows < rows; tile += step) {
    float scores[32];
    BeginScores<kForm>(scores, q, tile_at(), [&](int part) {
      wait_full(part);
      sm90::FenceProxyAsync();
    });
    sm90::ProductWait<0>();
    sm90::Pin(scores);
    sm90::BarrierArrive(free + fill % kScoreStages * 8);
    ++fill;
    ItemWeights::Tile& to = weights[item].tiles[tile];
    MakeWeights(
        scores, rows - tile * kTileRows, scale, thread,
        [&](int r, uint32_t power) {
          const uint32_t at = PowerOffset(r, thread);
          *reinterpret_cast<uint16_t*>(to.powers + at) = static_cast<uint16_t>(power);
          const int32_t most = MostOfFour(power);
          if (thread % 4 == 0) weights[item].most[at / 8][tile] = most;
        },
        [&](int k, uint4 v) {
          *reinterpret_cast<uint4*>(to.weights + WeightsOffset(k, thread)) = v;
        });
  }
}

template <RowForm kForm>
__global__ __launch_bounds__(kScoreThreads, 1) void ScoreKernel(const __grid_constant__ Items items,
                                                                int blocks, ItemWeights* weights) {
  extern __shared__ __align__(1024) uint8_t shared[];
  const uint32_t stages = sm90::SharedAddress(shared);
  const uint32_t full = stages + kScoreStages * kTileBytes;  // barriers, two for each stage
  const uint32_t free = full + 2 * kScoreStages * 8;
  if (threadIdx.x == 0) {
    for (uint32_t stage = 0; stage < kScoreStages; ++stage) {
      for (uint32_t part = 0; part < kFillParts<kForm>; ++part) {
        sm90::BarrierInit(full + (stage * kFillParts<kForm> + part) * 8,
                          kFillThreads<1> * (part + 1));
      }
      sm90::BarrierInit(free + stage * 8, 128);
    }
    sm90::BarrierInitFence();
  }
  __syncthreads();
  sm90::WaitForPrevious();
  sm90::LetNextBegin();
  const int item = static_cast<int>(blockIdx.x) / blocks;
  const int first = static_cast<int>(blockIdx.x) % blocks;
  const int thread = static_cast<int>(threadIdx.x);
  if (sm90::Uniform(thread) < 128) {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kScoreRegisters));
    ScoreDealtTiles<kForm>(items, item, first, blocks, stages, full, free, weights, thread);
  } else {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kScoreFillRegisters));
    const Filler filler(thread - 128);
    FillStages<kForm, kScoreStages, true>(items, DealtTiles(items, item, first, blocks, filler),
                                          stages, full, free, filler);
  }
}

// ---- Summing ------------------------------------------------------------------------------------

constexpr int kSumThreads = 128 + kGatherThreads;
constexpr int kSumRegisters = 208;
constexpr int kGatherRegisters = 96;
// A bit for each tile whose weights are added as they are: all relative to the power of the sums
// before them, and that for all heads.
__device__ __forceinline__ uint32_t PlainTiles(const ItemWeights& weights, int tiles,
                                               uint32_t* of_warps, int thread) {
  constexpr int kHalf = kMostTiles / 2;  // a thread's, of a head
  const int first = thread % 2 * kHalf;
  const uint4* from = reinterpret_cast<const uint4*>(&weights.most[thread / 2][first]);
  int most[kHalf];
#pragma unroll
  for (int i = 0; i < kHalf; i += 4) {
    const uint4 v = sm90::LoadL2(from + i / 4);
    most[i] = static_cast<int>(v.x);
    most[i + 1] = static_cast<int>(v.y);
    most[i + 2] = static_cast<int>(v.z);
    most[i + 3] = static_cast<int>(v.w);
  }
  int of_half = INT32_MIN;
#pragma unroll
  for (int i = 0; i < kHalf; ++i) {
    if (first + i < tiles) of_half = max(of_half, most[i] >> 1);
  }
  const int other = __shfl_xor_sync(0xffffffff, of_half, 1);
  int before = first == 0 ? most[0] >> 1 : other;
  uint32_t plain = 0;
#pragma unroll
  for (int i = 0; i < kHalf; ++i) {
    if (most[i] == before * 2 + 1) plain |= 1u << i;
    before = max(before, most[i] >> 1);
  }
  plain = first == 0 ? plain | 0xffff0000u : plain << kHalf | 0xffffu;
  plain = __reduce_and_sync(0xffffffff, plain);
  if (thread % kWarp == 0) of_warps[thread / kWarp] = plain;
  sm90::NamedBarrier(2, 128);
  return of_warps[0] & of_warps[1] & of_warps[2] & of_warps[3];
}

template <int kColumns>
class SliceSums {
 public:
  __device__ __forceinline__ SliceSums(const ItemWeights& weights, uint32_t base, int tiles,
                                       uint32_t plain, int thread)
      : weights_(weights), base_(base), tiles_(tiles), plain_(plain), thread_(thread) {}

  __device__ __forceinline__ void AddAll() {
    Weights even, odd;
    Load(even, 0);
    for (int first = 0; first < tiles_; first += 2 * kTogether) {
      Load(odd, first + kTogether);
      Add(even, first);
      Load(even, first + 2 * kTogether);
      if (first + kTogether < tiles_) Add(odd, first + kTogether);
    }
  }
  // The columns and, of two heads, the weights.
  __device__ __forceinline__ void Get(float (&out)[kColumns / 2], float (&total)[2]) const {
#pragma unroll
    for (int i = 0; i < kColumns / 2; ++i) out[i] = sums_[0][i];
    total[0] = sums_[0][kColumns / 2];
    total[1] = sums_[0][kColumns / 2 + 2];
  }

 private:
  using L = SumLayout<kColumns>;
  static constexpr int kTogether = L::kTogether;
  using Weights = uint32_t[kTogether][4][4];

  __device__ __forceinline__ void Load(Weights& to, int first) const {
#pragma unroll
    for (int i = 0; i < kTogether; ++i) {
      if (first + i >= tiles_) break;
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        const uint8_t* from = weights_.tiles[first + i].weights + WeightsOffset(k, thread_);
        const uint4 v = sm90::LoadL2(reinterpret_cast<const uint4*>(from));
        to[i][k][0] = v.x;
        to[i][k][1] = v.y;
        to[i][k][2] = v.z;
        to[i][k][3] = v.w;
      }
    }
  }
  // Up to kTogether tiles.
  __device__ __forceinline__ void Add(Weights& weights, int first) {
    const int count = min(kTogether, tiles_ - first);
    const uint32_t number = static_cast<uint32_t>(first) / kTogether;
    const uint32_t stage = number % kSumStages;
    sm90::BarrierWait(base_ + L::kFull + stage * 8, number / kSumStages & 1);
    sm90::FenceProxyAsync();
    if (first == 0) Join(0);
    if (count == kTogether && (plain_ >> first & kAllTogether) == kAllTogether) {
      sm90::ProductFence();
#pragma unroll
      for (int i = 0; i < kTogether; ++i) Multiply(weights[i], stage, i);
      Finish();
    } else {
#pragma unroll
      for (int i = 0; i < kTogether; ++i) {
        if (i >= count) break;
        const TileFactors factors = Join(first + i);
#pragma unroll
        for (int k = 0; k < 4; ++k) factors.Scale(weights[i][k]);
        Rescale(sums_, factors.sums);
        sm90::ProductFence();
        Multiply(weights[i], stage, i);
        Finish();
      }
    }
    sm90::BarrierArrive(base_ + L::kFree + stage * 8);
  }
  __device__ __forceinline__ TileFactors Join(int tile) {
    const uint8_t* from = weights_.tiles[tile].powers + PowerOffset(0, thread_ & ~3);
    const uint2 powers[2] = {sm90::LoadL2(reinterpret_cast<const uint2*>(from)),
                             sm90::LoadL2(reinterpret_cast<const uint2*>(from + 8 * 8))};
    return TileFactors(power_, powers, thread_ % 4);
  }
  // Up to 64 columns, eight of ones are the columns after the slice's: the product's next block.
  // They stay where they are, so the way to them from sixteen rows is shorter than from those
  // before.
  __device__ __forceinline__ void Multiply(const uint32_t (&weights)[4][4], uint32_t stage,
                                           int tile) {
    const uint32_t slice =
        base_ + stage * L::kStageBytes + static_cast<uint32_t>(tile) * L::kSliceBytes;
    const uint32_t ones = base_ + L::kOnes;
    constexpr uint64_t kStep = 2048 / 16;
    if constexpr (kColumns == 128) {
      const uint64_t matrix = sm90::SwizzledMatrix(slice, 1024, kBlock);
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        sm90::MultiplyColumns<128>(reinterpret_cast<float(&)[64]>(sums_[0]), weights[k],
                                   matrix + k * kStep, 1);
        sm90::MultiplyRows<8>(reinterpret_cast<float(&)[4]>(sums_[0][64]), weights[k],
                              sm90::PlainMatrix(ones, 128, 128), 1);
      }
    } else if constexpr (kColumns == 64) {
      const uint64_t matrix = sm90::SwizzledMatrix(slice, 1024, ones - slice);
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        sm90::MultiplyColumns<72>(sums_[0], weights[k], matrix + k * (kStep - (kStep << 16)), 1);
      }
    } else {
      const uint64_t matrix = sm90::SwizzledNarrowMatrix(slice, 512, ones - slice);
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        sm90::MultiplyColumns<40>(sums_[0], weights[k],
                                  matrix + k * (kStep / 2 - (kStep / 2 << 16)), 1);
      }
    }
  }
  __device__ __forceinline__ void Finish() {
    sm90::ProductCommit();
    sm90::ProductWait<0>();
    sm90::Pin(sums_[0]);
  }

  static constexpr uint32_t kAllTogether = (1u << kTogether) - 1;

  const ItemWeights& weights_;
  uint32_t base_;
  int tiles_;
  uint32_t plain_;
  int thread_;
  float sums_[1][kColumns / 2 + 4] = {};  // the last four of weights
  int power_[2] = {INT32_MIN / 2, INT32_MIN / 2};
};

template <int kColumns>
__device__ __forceinline__ void SumSlices(const Items& items, const SumPlace& place,
                                          const ItemWeights& weights, uint32_t base,
                                          uint32_t* of_warps, int thread) {
  const int tiles = Tiles(place.rows);
  const uint32_t plain = sm90::Uniform(PlainTiles(weights, tiles, of_warps, thread));
  SliceSums<kColumns> sums(weights, base, tiles, plain, thread);
  sums.AddAll();
  float out[kColumns / 2], total[2];
  sums.Get(out, total);
  const float scale[2] = {tiles > 0 ? 1.0f / total[0] : 0.0f, tiles > 0 ? 1.0f / total[1] : 0.0f};
  WriteOut<kColumns>(
      items.args, items.Token(place.item),
      items.Group(place.item) * kGroupHeads + thread / kWarp * 16 + thread % kWarp / 4,
      place.first_column, out, scale, thread % 4);
}

template <RowForm kForm, int kColumns>
__global__ __launch_bounds__(kSumThreads, 1) void SumKernel(const __grid_constant__ Items items,
                                                            const ItemWeights* weights) {
  using L = SumLayout<kColumns>;
  extern __shared__ __align__(1024) uint8_t shared[];
  const uint32_t base = sm90::SharedAddress(shared);
  const int thread = static_cast<int>(threadIdx.x);
  if (thread == 0) {
    for (uint32_t stage = 0; stage < kSumStages; ++stage) {
      sm90::BarrierInit(base + L::kFull + stage * 8, L::kTogether * 128);
      sm90::BarrierInit(base + L::kFree + stage * 8, 128);
    }
  }
  for (int i = thread; i < kOnesBytes / 4; i += kSumThreads) {
    *reinterpret_cast<uint32_t*>(shared + L::kOnes + i * 4) = kOnePair;
  }
  __syncthreads();
  const int block = static_cast<int>(blockIdx.x);
  const int item = block / (kLatent / kColumns);
  // The lists of rows and the rows were there before scoring began, which has begun: it waited for
  // all before it. So only its weights are waited for.
  const SumPlace place = {item, block % (kLatent / kColumns) * kColumns,
                          sm90::Uniform(items.Rows(item))};
  if (sm90::Uniform(thread) < 128) {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kSumRegisters));
    sm90::WaitForPrevious();
    sm90::LetNextBegin();
    SumSlices<kColumns>(items, place, weights[item], base,
                        reinterpret_cast<uint32_t*>(shared + L::kOfWarps), thread);
  } else {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kGatherRegisters));
    int32_t* const list = reinterpret_cast<int32_t*>(shared + L::kList);
    ListSlots(items, place, list, thread - 128);
    GatherSlices<kForm, kColumns>(items, place, base, list, thread / 128 - 1, thread % 128);
  }
}

// ---- Both ---------------------------------------------------------------------------------------

template <RowForm kForm>
cudaError_t Score(const Items& items, int most_tiles, ItemWeights* weights, cudaStream_t stream) {
  sm90::Launch launch = {
      .grid = dim3(1), .threads = kScoreThreads, .shared_bytes = kScoreBytes, .stream = stream};
  static const int at_once = sm90::ClustersAtOnce(ScoreKernel<kForm>, launch);
  int blocks = at_once / items.count;
  blocks = blocks < 1 ? 1 : blocks > most_tiles ? most_tiles : blocks;
  launch.grid = dim3(static_cast<unsigned>(items.count * blocks));
  return sm90::LaunchOverlapping(ScoreKernel<kForm>, launch, items, blocks, weights);
}

template <RowForm kForm, int kColumns>
cudaError_t Sum(const Items& items, const ItemWeights* weights, cudaStream_t stream) {
  const auto blocks = static_cast<unsigned>(items.count * (kLatent / kColumns));
  return sm90::LaunchOverlapping(SumKernel<kForm, kColumns>,
                                 {.grid = dim3(blocks),
                                  .threads = kSumThreads,
                                  .shared_bytes = SumLayout<kColumns>::kSharedBytes,
                                  .stream = stream},
                                 items, weights);
}

// Where more blocks can run at once than there are, they take fewer columns.
template <RowForm kForm>
cudaError_t Attend(const Items& items, int most_tiles, cudaStream_t stream) {
  ItemWeights* const weights = static_cast<ItemWeights*>(items.args.partial_sums);
  const cudaError_t error = Score<kForm>(items, most_tiles, weights, stream);
  if (error != cudaSuccess) return error;
  if (items.count <= 4) return Sum<kForm, 32>(items, weights, stream);
  return items.count <= 16 ? Sum<kForm, 64>(items, weights, stream)
                           : Sum<kForm, 128>(items, weights, stream);
}

}  // namespace

int64_t TwoStepAttentionBytes(int64_t items) {
  return items * static_cast<int64_t>(sizeof(ItemWeights));
}

cudaError_t TwoStepAttention(const Items& items, int64_t most_rows, cudaStream_t stream) {
  const int tiles = Tiles(static_cast<int>(most_rows));
  return items.args.form == RowForm::kFp8 ? Attend<RowForm::kFp8>(items, tiles, stream)
                                          : Attend<RowForm::kBf16>(items, tiles, stream);
}

}  // namespace winnow::cuda
