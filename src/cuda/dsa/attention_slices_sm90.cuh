// Columns of chosen rows on their way to Hopper's tensor cores, for two_step_attention_sm90.cu:
// slices of 64 rows by 32, 64 or 128 columns, bf16, swizzled so that products read them across.
#pragma once

#include "cuda/dsa/attention_rows_sm90.cuh"
#include "cuda/dsa/sm90.cuh"

namespace winnow::cuda {

constexpr int kGatherers = 3;  // groups of 128 threads, which take tiles in turn
constexpr int kGatherThreads = 128 * kGatherers;
constexpr int kSumStages = 4;
constexpr int kOnesBytes = 16 * 128;  // eight columns of a product, and the room of 64
constexpr int kListBytes = kChunkTiles * kTileRows * 4;

// The shared memory of a block that sums so many columns, 32, 64 or 128.
template <int kColumns>
struct SumLayout {
  // Tiles that are multiplied without a wait between them: a stage.
  static constexpr int kTogether = kColumns == 128 ? 2 : 4;
  static constexpr int kSliceBytes = kTileRows * kColumns * 2;
  static constexpr int kStageBytes = kTogether * kSliceBytes;
  static constexpr int kOnes = kSumStages * kStageBytes;
  static constexpr int kList = kOnes + kOnesBytes;
  static constexpr int kFull = kList + kListBytes;  // barriers, one for each stage
  static constexpr int kFree = kFull + kSumStages * 8;
  static constexpr int kOfWarps = kFree + kSumStages * 8;
  static constexpr int kSharedBytes = kOfWarps + 4 * 4;
};

// Where sixteen bytes of a row lie in a slice.
template <int kColumns>
__device__ __forceinline__ uint32_t SliceOffset(int row, int chunk) {
  if constexpr (kColumns == 32) {
    return static_cast<uint32_t>(row * 64 + ((chunk ^ (row >> 1 & 3)) * 16));
  }
  return static_cast<uint32_t>(chunk / 8 * kBlock) + BlockOffset(row, chunk % 8);
}

// The item that a block sums, and its columns.
struct SumPlace {
  int item;
  int first_column;
  int rows;
};

// All slots of the item's rows, and -1 up to the end of its last tile.
__device__ __forceinline__ void ListSlots(const Items& items, const SumPlace& place, int32_t* list,
                                          int thread) {
  const RowAttentionArgs& args = items.args;
  const int64_t token = items.Token(place.item);
  const int sequence = args.slots == nullptr ? args.sequences[token] : 0;
  const int row = thread % 32;
  for (int tile = thread / 32; tile < Tiles(place.rows); tile += kGatherThreads / 32) {
    int32_t slots[2] = {-1, -1};
    FindSlots(args, token, sequence, tile, row, place.rows - tile * kTileRows - row, slots);
    list[tile * kTileRows + row] = slots[0];
    list[tile * kTileRows + row + 32] = slots[1];
  }
  sm90::NamedBarrier(1, kGatherThreads);
}

// What a thread holds of a slice of FP8 rows: sixteen codes of each of several rows, and scales.
template <int kColumns>
struct RawSlice {
  static constexpr int kUnits = kColumns / 32;
  uint4 codes[kUnits];
  float scales[kUnits];

  static __device__ __forceinline__ int Row(int unit, int thread) {
    return (unit * 128 + thread) / (kColumns / 16);
  }
  static __device__ __forceinline__ int Part(int thread) { return thread % (kColumns / 16); }

  __device__ __forceinline__ void Load(const uint8_t* rows, int first_column, const int32_t* list,
                                       int thread) {
    const int column = first_column + Part(thread) * 16;
#pragma unroll
    for (int unit = 0; unit < kUnits; ++unit) {
      const int32_t slot = list[Row(unit, thread)];
      codes[unit] = {};
      scales[unit] = 0;
      if (slot < 0) continue;
      const uint8_t* row = rows + static_cast<int64_t>(slot) * kRowBytes<RowForm::kFp8>;
      codes[unit] = sm90::LoadStreaming(row + column);
      scales[unit] = sm90::LoadStreamingFloat(row + kLatent + column / 128 * 4);
    }
  }
  template <bool kLarge>
  __device__ __forceinline__ void Store(uint32_t slice, int thread) const {
#pragma unroll
    for (int unit = 0; unit < kUnits; ++unit) {
      const uint32_t first = FirstFactor(scales[unit]);
      const uint32_t second = kLarge ? SecondFactor(scales[unit]) : 0;
      const uint2 a = Decode<kLarge>(codes[unit].x, first, second);
      const uint2 b = Decode<kLarge>(codes[unit].y, first, second);
      const uint2 c = Decode<kLarge>(codes[unit].z, first, second);
      const uint2 d = Decode<kLarge>(codes[unit].w, first, second);
      const int row = Row(unit, thread);
      const int chunk = Part(thread) * 2;
      sm90::StoreShared16(slice + SliceOffset<kColumns>(row, chunk),
                          make_uint4(a.x, a.y, b.x, b.y));
      sm90::StoreShared16(slice + SliceOffset<kColumns>(row, chunk + 1),
                          make_uint4(c.x, c.y, d.x, d.y));
    }
  }
  __device__ __forceinline__ void Store(uint32_t slice, int thread) const {
    float most = 0;
#pragma unroll
    for (int unit = 0; unit < kUnits; ++unit) most = fmaxf(most, scales[unit]);
    if (__any_sync(0xffffffff, most > 128.0f)) {
      Store<true>(slice, thread);
    } else {
      Store<false>(slice, thread);
    }
  }
};

// Of bf16 rows.
template <int kColumns>
__device__ __forceinline__ void CopySlice(const uint8_t* rows, int first_column,
                                          const int32_t* list, uint32_t slice, int thread) {
  constexpr int kChunks = kColumns / 8;  // of a row
#pragma unroll
  for (int unit = 0; unit < kTileRows * kChunks / 128; ++unit) {
    const int row = (unit * 128 + thread) / kChunks;
    const int chunk = thread % kChunks;
    const int32_t slot = list[row];
    sm90::CopyAsync16OrZero(slice + SliceOffset<kColumns>(row, chunk),
                            rows + static_cast<int64_t>(slot < 0 ? 0 : slot) * (kRow * 2) +
                                first_column * 2 + chunk * 16,
                            slot >= 0);
  }
}

template <RowForm kForm, int kColumns>
__device__ __forceinline__ void GatherSlices(const Items& items, const SumPlace& place,
                                             uint32_t base, const int32_t* list, int gatherer,
                                             int thread) {
  using L = SumLayout<kColumns>;
  const uint8_t* rows = items.args.rows;
  const int tiles = Tiles(place.rows);
  constexpr int kTogether = L::kTogether;
  const int end = (tiles + kTogether - 1) / kTogether * kTogether;
  auto slice_of = [&](int tile) {
    return base + static_cast<uint32_t>(tile % (kSumStages * kTogether) * L::kSliceBytes);
  };
  auto full = [&](int tile) {
    return base + L::kFull + static_cast<uint32_t>(tile / kTogether % kSumStages) * 8;
  };
  auto wait_free = [&](int tile) {
    const int stage = tile / kTogether;
    if (stage < kSumStages) return;
    sm90::BarrierWait(base + L::kFree + static_cast<uint32_t>(stage % kSumStages) * 8,
                      static_cast<uint32_t>(stage / kSumStages - 1) & 1);
  };
  if constexpr (kForm == RowForm::kBf16) {
    for (int tile = gatherer; tile < end; tile += kGatherers) {
      wait_free(tile);
      if (tile < tiles) {
        CopySlice<kColumns>(rows, place.first_column, list + tile * kTileRows, slice_of(tile),
                            thread);
      }
      sm90::CopyAsyncArrive(full(tile));
    }
    sm90::CopyAsyncCommit();
    sm90::CopyAsyncWait<0>();
  } else {
    constexpr int kAhead = 4 / RawSlice<kColumns>::kUnits;  // tiles under way
    RawSlice<kColumns> raw[kAhead];
    auto load = [&](RawSlice<kColumns>& to, int tile) {
      if (tile < tiles) to.Load(rows, place.first_column, list + tile * kTileRows, thread);
    };
#pragma unroll
    for (int i = 0; i < kAhead; ++i) load(raw[i], gatherer + i * kGatherers);
    for (int first = gatherer; first < end; first += kAhead * kGatherers) {
#pragma unroll
      for (int i = 0; i < kAhead; ++i) {
        const int tile = first + i * kGatherers;
        if (tile >= end) break;
        wait_free(tile);
        if (tile < tiles) raw[i].Store(slice_of(tile), thread);
        sm90::BarrierArrive(full(tile));
        load(raw[i], tile + kAhead * kGatherers);
      }
    }
  }
}

}  // namespace winnow::cuda
