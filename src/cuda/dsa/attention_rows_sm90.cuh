// Rows of the latent cache on their way to Hopper's tensor cores, for sparse_attention_sm90.cu:
// which rows a token reads, how tiles of 64 are dealt out, and how they come into shared memory.
// Queries come the same way, as a tile of 64 heads.
//
// A tile is nine blocks of 64 columns, [64 rows, 64 columns] bf16, swizzled: the product with
// queries reads them along the row, the one with weights across. Codes of FP8 rows wait in
// registers and become bf16 on their way into shared memory: an E4M3 code shifted to bf16's place
// is 2^-120 of its value, subnormals included, so one product with 2^120 times the block's scale is
// exact.
#pragma once

#include "cuda/dsa/sm90.cuh"
#include "cuda/dsa/sparse_attention_sm90.h"

namespace winnow::cuda {

constexpr int kGroupHeads = 64;  // of an item
constexpr int kTileRows = 64;
constexpr int kLatent = 512;                    // C
constexpr int kRow = 576;                       // C + R
constexpr int kBlock = 8192;                    // bytes of 64 rows by 64 columns
constexpr int kTileBytes = kRow / 64 * kBlock;  // 73,728

template <RowForm kForm>
constexpr int kRowBytes = kForm == RowForm::kFp8 ? 656 : 1152;

// The byte of 16-byte chunk `chunk` of row `row` in a block of 64 columns.
__device__ __forceinline__ uint32_t BlockOffset(int row, int chunk) {
  return static_cast<uint32_t>(row * 128 + ((chunk ^ (row & 7)) * 16));
}

// ---- Which rows ---------------------------------------------------------------------------------

// Items are 64 heads of a token each. The tiles of an item are cut into chunks of 32, or of more in
// a list so long that there would be more than 8 of them.
constexpr int kChunkTiles = 32;
constexpr int kMostChunks = 8;

__host__ __device__ __forceinline__ int Tiles(int rows) {
  return (rows + kTileRows - 1) / kTileRows;
}
// Of a list of so many tiles: those of a chunk, and how many chunks.
__host__ __device__ __forceinline__ int ChunkTiles(int tiles) {
  return tiles <= kMostChunks * kChunkTiles ? kChunkTiles : (tiles + kMostChunks - 1) / kMostChunks;
}
__host__ __device__ __forceinline__ int Chunks(int tiles) {
  return tiles <= kChunkTiles ? 1 : (tiles + ChunkTiles(tiles) - 1) / ChunkTiles(tiles);
}

struct Items {
  RowAttentionArgs args;
  int groups = 0;  // of 64 heads
  int count = 0;
  int most_chunks = 1;  // of any token

  __device__ __forceinline__ int Token(int item) const { return item / groups; }
  __device__ __forceinline__ int Group(int item) const { return item % groups; }
  // How many rows a token reads; none past the last item.
  __device__ __forceinline__ int Rows(int item) const {
    if (item >= count) return 0;
    return args.slots != nullptr ? args.counts[Token(item)] : args.positions[Token(item)] + 1;
  }
};

// Which block this is, and which units are its cluster's.
struct Where {
  int rank;
  int cluster;
  int clusters;
};

// What a cluster takes in turn: items, or where chunks lie apart, chunks of items, the first of
// each item before the second of any. Only the first is taken of a token without rows. The tiles of
// a cluster's units, numbered through, go to its blocks in turn.
template <bool kApart>
class Units {
 public:
  int item = 0;   // of the unit taken, or their count after the last
  int chunk = 0;  // which of its item's
  int first = 0;  // tile
  int rows = 0;   // from there on

  __device__ __forceinline__ Units(const Items& items, const Where& where)
      : items_(items), step_(where.clusters), next_item_(where.cluster) {
    FindNext();
  }
  // The next unit, if there is one.
  __device__ __forceinline__ bool Take() {
    while (next_item_ < items_.count) {
      item = next_item_;
      chunk = next_chunk_;
      rows = next_rows_;
      next_item_ += step_;
      FindNext();
      if (!kApart || CutOut()) return true;
    }
    item = items_.count;
    return false;
  }

 private:
  // Which the next is, and its length: loads wait for the copies before them.
  __device__ __forceinline__ void FindNext() {
    while (kApart && next_item_ >= items_.count && next_chunk_ + 1 < items_.most_chunks) {
      next_item_ -= items_.count;
      ++next_chunk_;
    }
    next_rows_ = items_.Rows(next_item_);
  }
  // Of the item's rows those of the chunk; whether it is one to take.
  __device__ __forceinline__ bool CutOut() {
    const int tiles = Tiles(rows);
    const int length = ChunkTiles(tiles);
    first = chunk * length;
    rows = min(rows - first * kTileRows, length * kTileRows);
    return chunk == 0 || rows > 0;
  }

  const Items& items_;
  int step_;
  int next_item_;
  int next_chunk_ = 0;
  int next_rows_ = 0;
};

// Eight threads fill a row; each has one row of a tile, or two that are 32 apart.
template <int kRows>
constexpr int kFillThreads = 8 * kTileRows / kRows;

// What a thread needs to know of a fill of a stage: for queries the item, for a tile the slots of
// its rows, or -1 past the end.
template <int kRows>
struct Fill {
  int item;
  bool queries;
  int32_t slots[kRows];
};

// Of a tile of a token's rows, of which `left` are from `row` on.
template <int kRows>
__device__ __forceinline__ void FindSlots(const RowAttentionArgs& args, int64_t token, int sequence,
                                          int tile, int row, int left, int32_t (&slots)[kRows]) {
  if (args.slots != nullptr) {
    const int32_t* from = args.slots + token * args.width + tile * kTileRows + row;
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      if (left > 32 * i) slots[i] = from[32 * i];
    }
  } else if (left > 0) {
    const int32_t page = args.page_table[sequence * args.page_table_stride + tile];
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      if (left > 32 * i) slots[i] = page * kTileRows + row + 32 * i;
    }
  }
}

// What a block's stages are filled with, in order: of each of its cluster's units the queries, then
// its own tiles.
template <int kBlocks, bool kApart>
class Fills {
 public:
  static constexpr int kRows = 2;

  // For a thread that fills rows `row` and that + 32.
  __device__ __forceinline__ Fills(const Items& items, const Where& where, int row)
      : items_(items), where_(where), units_(items, where), row_(row) {
    Fetch();
  }
  __device__ __forceinline__ Fill<kRows> Get() const {
    Fill<kRows> fill = {.item = units_.item, .queries = tile_ < 0, .slots = {-1, -1}};
    FindSlots(items_.args, token_, sequence_, units_.first + tile_, row_,
              tile_ < 0 ? 0 : units_.rows - tile_ * kTileRows - row_, fill.slots);
    return fill;
  }
  __device__ __forceinline__ void Advance() {
    if (tile_ < 0) sm90::Pin(units_.rows);  // awaited here, and not again
    tile_ = tile_ < 0 ? (where_.rank - number_) & (kBlocks - 1) : tile_ + kBlocks;
    const int tiles = Tiles(units_.rows);
    if (tile_ < tiles) return;
    number_ += tiles;
    tile_ = -1;
    Fetch();
  }

 private:
  // The next unit's list.
  __device__ __forceinline__ void Fetch() {
    token_ = units_.Take() ? items_.Token(units_.item) : 0;
    if (items_.args.slots == nullptr) sequence_ = items_.args.sequences[token_];
  }

  const Items& items_;
  const Where& where_;
  Units<kApart> units_;
  int row_;
  int64_t token_ = 0;
  int sequence_ = 0;
  int number_ = 0;  // of the unit's first tile
  int tile_ = -1;   // of the unit, or queries
};

// ---- FP8 to bf16 --------------------------------------------------------------------------------

__device__ __forceinline__ uint32_t MultiplyPair(uint32_t a, uint32_t b) {
  uint32_t d;
  asm("mul.rn.bf16x2 %0, %1, %2;" : "=r"(d) : "r"(a), "r"(b));
  return d;
}

// Two bf16 of 2^120 * scale, up to scale 2^7, and of what is left of larger ones. NaN stays.
__device__ __forceinline__ uint32_t FirstFactor(float scale) {
  return (__float_as_uint((scale > 128.0f ? 128.0f : scale) * 0x1p120f) >> 16) * 0x10001u;
}
__device__ __forceinline__ uint32_t SecondFactor(float scale) {
  return (__float_as_uint(scale > 128.0f ? scale * 0x1p-7f : 1.0f) >> 16) * 0x10001u;
}
// Four E4M3 codes of one scale, a power of two, as bf16. Between the two of a pair lies the first
// one's sign, so that one shift of the pair fills both with their signs.
template <bool kLarge>
__device__ __forceinline__ uint2 Decode(uint32_t codes, uint32_t first, uint32_t second) {
  uint32_t out[2];
  asm("prmt.b32 %0, %1, 0, 0x1804;" : "=r"(out[0]) : "r"(codes));
  asm("prmt.b32 %0, %1, 0, 0x3a24;" : "=r"(out[1]) : "r"(codes));
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    out[i] = static_cast<uint32_t>(static_cast<int32_t>(out[i]) >> 4) & 0x87f087f0u;
    out[i] = MultiplyPair(out[i], first);
    if constexpr (kLarge) out[i] = MultiplyPair(out[i], second);
  }
  return make_uint2(out[0], out[1]);
}

// ---- Gathering ----------------------------------------------------------------------------------

// A stage is filled in one part, or with FP8 rows in two: blocks 0 to 3, and the others, for which
// threads arrive twice since some of them are copied.
template <RowForm kForm>
constexpr int kFillParts = kForm == RowForm::kFp8 ? 2 : 1;

// Rows of 576 bf16 into a tile, eight threads a row. `index` says which rows of `from`, or -1 for
// zeros.
template <int kRows>
__device__ __forceinline__ void CopyRows(const void* from, const int32_t (&index)[kRows],
                                         uint32_t tile, int first_row, int part) {
#pragma unroll
  for (int i = 0; i < kRows; ++i) {
    const uint32_t at = tile + BlockOffset(i * 32 + first_row, part);
    const bool there = index[i] >= 0;
    const uint8_t* row = static_cast<const uint8_t*>(from) +
                         static_cast<int64_t>(there ? index[i] : 0) * (kRow * 2) + part * 16;
#pragma unroll
    for (int block = 0; block < kRow / 64; ++block) {
      sm90::CopyAsync16OrZero(at + block * kBlock, row + block * 128, there);
    }
  }
}

// The 64 heads of an item's queries as a tile; heads that are not there are zeros.
template <int kRows>
__device__ __forceinline__ void CopyQueries(const Items& items, int item, uint32_t tile,
                                            int first_row, int part) {
  const int heads = items.args.num_heads;
  const int head = items.Group(item) * kGroupHeads + first_row;
  int32_t index[kRows];
#pragma unroll
  for (int i = 0; i < kRows; ++i) index[i] = head + 32 * i < heads ? head + 32 * i : -1;
  CopyRows(static_cast<const uint8_t*>(items.args.q) +
               static_cast<int64_t>(items.Token(item)) * heads * (kRow * 2),
           index, tile, first_row, part);
}

// What one of eight threads holds of an FP8 row: four times sixteen codes and one of the four
// scales. Zeros for a row that is not there.
struct RawRow {
  uint4 codes[4];
  float scale;

  __device__ __forceinline__ void Load(const uint8_t* rows, int32_t slot, int part) {
    if (slot < 0) {
      *this = {};
      return;
    }
    const uint8_t* row = rows + static_cast<int64_t>(slot) * kRowBytes<RowForm::kFp8>;
    scale = sm90::LoadStreamingFloat(row + kLatent + part % 4 * 4);
#pragma unroll
    for (int k = 0; k < 4; ++k) codes[k] = sm90::LoadStreaming(row + part * 16 + k * 128);
  }
};

// Where a thread's first sixteen columns go in a tile, their halves in the order of the stores:
// neighbours of four parts swap them, which keeps them on different banks.
struct Halves {
  uint32_t first;
  uint32_t second;
  bool swapped;

  __device__ __forceinline__ Halves(int row, int part) {
    swapped = part >= 4;
    const uint32_t block = static_cast<uint32_t>(part / 4) * kBlock;
    first = block + BlockOffset(row, part % 4 * 2 + (swapped ? 1 : 0));
    second = block + BlockOffset(row, part % 4 * 2 + (swapped ? 0 : 1));
  }
};

// Rows, 32 apart, as bf16 into a tile, and word of it: blocks 0 to 3 first.
template <bool kLarge, int kRows>
__device__ __forceinline__ void StoreRows(const RawRow (&raw)[kRows], uint32_t tile,
                                          const Halves& halves, const uint32_t* full) {
  uint32_t first[kRows][4];
#pragma unroll
  for (int i = 0; i < kRows; ++i) {
    const uint32_t own = FirstFactor(raw[i].scale);
#pragma unroll
    for (int k = 0; k < 4; ++k) first[i][k] = __shfl_sync(0xffffffff, own, k, 8);
  }
#pragma unroll
  for (int k = 0; k < 4; ++k) {
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      const uint32_t second =
          kLarge ? __shfl_sync(0xffffffff, SecondFactor(raw[i].scale), k, 8) : 0;
      const uint2 a = Decode<kLarge>(raw[i].codes[k].x, first[i][k], second);
      const uint2 b = Decode<kLarge>(raw[i].codes[k].y, first[i][k], second);
      const uint2 c = Decode<kLarge>(raw[i].codes[k].z, first[i][k], second);
      const uint2 d = Decode<kLarge>(raw[i].codes[k].w, first[i][k], second);
      const uint4 low = make_uint4(a.x, a.y, b.x, b.y);
      const uint4 high = make_uint4(c.x, c.y, d.x, d.y);
      const uint32_t to = tile + static_cast<uint32_t>(i * 32 * 128 + k * 2 * kBlock);
      sm90::StoreShared16(to + halves.first, halves.swapped ? high : low);
      sm90::StoreShared16(to + halves.second, halves.swapped ? low : high);
    }
    if (k % 2 == 1) sm90::BarrierArrive(full[k / 2]);
  }
}

// The rotary columns of FP8 rows.
template <int kRows>
__device__ __forceinline__ void CopyRotary(const uint8_t* rows, const int32_t (&slots)[kRows],
                                           uint32_t tile, int first_row, int part) {
#pragma unroll
  for (int i = 0; i < kRows; ++i) {
    const bool there = slots[i] >= 0;
    sm90::CopyAsync16OrZero(
        tile + 8 * kBlock + BlockOffset(i * 32 + first_row, part),
        rows + static_cast<int64_t>(there ? slots[i] : 0) * kRowBytes<RowForm::kFp8> + kLatent +
            16 + part * 16,
        there);
  }
}

// The lines of FP8 rows, on their way to the second-level cache.
template <int kRows>
__device__ __forceinline__ void PrefetchRows(const uint8_t* rows, const int32_t (&slots)[kRows],
                                             int part) {
  constexpr int kBytes = kRowBytes<RowForm::kFp8>;
#pragma unroll
  for (int i = 0; i < kRows; ++i) {
    if (slots[i] < 0) continue;
    sm90::Prefetch(rows + static_cast<int64_t>(slots[i]) * kBytes + min(part * 128, kBytes - 16));
  }
}

// Where a thread of those that fill belongs: its first row, and its part of eight.
struct Filler {
  int row;
  int part;

  __device__ __forceinline__ explicit Filler(int thread) : row(thread / 8), part(thread % 8) {}
};

// Fills the block's stages in turn. `full` has a barrier for each part of
// each stage; a stage is filled again once its barrier in `free` says so. kAhead: there are
// registers for the codes of the next tile while those of this one are stored.
template <RowForm kForm, int kStages, bool kAhead, typename Sequence>
__device__ __forceinline__ void FillStages(const Items& items, Sequence fills, uint32_t stages,
                                           uint32_t full, uint32_t free, const Filler& filler) {
  constexpr bool kIsFp8 = kForm == RowForm::kFp8;
  const uint8_t* rows = items.args.rows;
  constexpr int kRows = Sequence::kRows;
  const int first_row = filler.row;
  const int part = filler.part;
  Fill<kRows> fill = fills.Get();
  RawRow raw[kRows] = {};  // the next tile's, of FP8
  for (uint32_t number = 0; fill.item < items.count; ++number) {
    const uint32_t stage = number % kStages;
    const uint32_t tile = stages + stage * kTileBytes;
    uint32_t here[kFillParts<kForm>];
#pragma unroll
    for (int i = 0; i < kFillParts<kForm>; ++i) {
      here[i] = full + (stage * kFillParts<kForm> + static_cast<uint32_t>(i)) * 8;
    }
    auto wait_free = [&]() {
      if (number >= kStages) sm90::BarrierWait(free + stage * 8, (number / kStages - 1) & 1);
    };
    const Fill<kRows> now = fill;
    if (now.queries) {
      wait_free();
      CopyQueries<kRows>(items, now.item, tile, first_row, part);
#pragma unroll
      for (int i = 0; i < kFillParts<kForm>; ++i) sm90::CopyAsyncArrive(here[i]);
    }
    fills.Advance();
    fill = fills.Get();
    if constexpr (kIsFp8) {
      RawRow next[kRows] = {};
      auto load_next = [&](RawRow(&to)[kRows]) {
#pragma unroll
        for (int i = 0; i < kRows; ++i) to[i].Load(rows, fill.slots[i], part);
      };
      if constexpr (kAhead) load_next(next);
      if (now.queries) {
        sm90::BarrierArrive(here[kFillParts<kForm> - 1]);
      } else {
        if constexpr (!kAhead) PrefetchRows(rows, fill.slots, part);
        wait_free();
        CopyRotary(rows, now.slots, tile, first_row, part);
        sm90::CopyAsyncArrive(here[kFillParts<kForm> - 1]);
        if (__any_sync(0xffffffff, fmaxf(raw[0].scale, raw[kRows - 1].scale) > 128.0f)) {
          StoreRows<true>(raw, tile, Halves(first_row, part), here);
        } else {
          StoreRows<false>(raw, tile, Halves(first_row, part), here);
        }
      }
      if constexpr (kAhead) {
#pragma unroll
        for (int i = 0; i < kRows; ++i) raw[i] = next[i];
      } else {
        load_next(raw);
      }
    } else if (!now.queries) {
      wait_free();
      CopyRows(rows, now.slots, tile, first_row, part);
      sm90::CopyAsyncArrive(here[0]);
    }
  }
  sm90::CopyAsyncCommit();
  sm90::CopyAsyncWait<0>();
}

}  // namespace winnow::cuda
