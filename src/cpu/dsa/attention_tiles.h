// Attention over a tile of rows with products of AMX tiles: what the level amx does for AttendArgs
// in bf16 precision. Included by sparse_attention_kernels.cc only.
//
// Scores  sixteen rows are A, as they lie in the cache if they lie evenly there, else gathered or
//         decoded behind the header; sixteen heads, packed together, are B.
// Means   sixteen heads' weights are A, pairs of rows, interleaved beforehand, are B; rows after
// the
//         last are zeros up to a multiple of 32.
// All tiles are full: what lies beyond the last head is computed and left out.
#pragma once

#include "cpu/dsa/bf16_rows.h"
#include "cpu/tiles.h"

namespace winnow::cpu::WINNOW_LEVEL {
namespace {

constexpr int64_t kRowGroups = kTileRows / kTileSide;
constexpr int64_t kStepWords = 32;  // bfloat16 numbers in a row of a tile

// Sixteen rows.
struct RowGroup {
  const uint16_t* first;
  int64_t stride;  // in numbers
};
struct TileHeader {
  RowGroup groups[kRowGroups];
  const uint16_t* pairs;  // [latent / 16, kTilePairs, 16, 2]
  int64_t num_rows;
};
static_assert(sizeof(TileHeader) <= kTileHeader * sizeof(float));

const TileHeader& HeaderOf(const AttendArgs& args) {
  return *static_cast<const TileHeader*>(args.rows);
}

TileShapes FullTiles() {
  TileShapes shapes;
  for (int tile = 0; tile < 8; ++tile) shapes.Set(tile, kTileSide, kTileSide);
  return shapes;
}

// ---- Queries ------------------------------------------------------------------------------------
// [row_stride / 2, heads rounded up, 2]

QueryLayout LayOutQueries(int64_t num_heads, int64_t) {
  return {sizeof(int32_t), (num_heads + kTileSide - 1) / kTileSide * kTileSide};
}

// Sixteen heads, or the last of them and zeros.
void PackHeads(const float* q, int64_t num_heads, int64_t row_dim, int64_t row_stride,
               int64_t pitch, float* packed) {
  alignas(64) float rounded[kTileWords] = {};
  for (int64_t k = 0; k < row_stride; k += kStepWords) {
    const int64_t n = row_dim - k < kStepWords ? row_dim - k : kStepWords;
    for (int64_t head = 0; head < num_heads; ++head) {
      const float* x = q + head * row_dim + k;
      float* out = rounded + head * kLanes;
      if (n == kStepWords) {
        Store(out, {(__m512)_mm512_cvtne2ps_pbh(Load(x + kLanes).v, Load(x).v)});
      } else {
        RoundRow(x, n, kStepWords, reinterpret_cast<uint16_t*>(out));
      }
    }
    F32x16 pairs[kLanes];
    TransposeWords(rounded, kLanes, pairs);
    for (int pair = 0; pair < kLanes; ++pair) {
      Store(packed + (k / 2 + pair) * pitch, pairs[pair]);
    }
  }
}

void PackQueries(const float* q, int64_t num_heads, int64_t row_dim, int64_t row_stride,
                 void* packed) {
  const int64_t pitch = LayOutQueries(num_heads, row_stride).stride;
  for (int64_t head = 0; head < num_heads; head += kTileSide) {
    const int64_t left = num_heads - head;
    PackHeads(q + head * row_dim, left < kTileSide ? left : kTileSide, row_dim, row_stride, pitch,
              static_cast<float*>(packed) + head);
  }
}

// ---- Rows ---------------------------------------------------------------------------------------

// Whether sixteen rows are a tile's as they are.
bool LieEvenly(const uint8_t* const* rows) {
  const int64_t stride = rows[1] - rows[0];
  if (stride <= 0 || stride % 64 != 0 || reinterpret_cast<uintptr_t>(rows[0]) % 64 != 0) {
    return false;
  }
  for (int64_t row = 1; row < kTileSide; ++row) {
    if (rows[row] - rows[row - 1] != stride) return false;
  }
  return true;
}

// Pairs of the 32 rows of two groups to those of a step, [latent / 16, 16, 16, 2] of kTilePairs
// pairs each. Columns come first: what is written lies together then.
void PackPairs(const RowGroup* groups, int64_t columns, uint16_t* pairs) {
  const Interleave order;
  for (int64_t column = 0; column < columns; column += 32) {
    uint16_t* out = pairs + column / 16 * kTilePairs * kPairWords;
    for (int g = 0; g < 2; ++g) {
      const uint16_t* row = groups[g].first + column;
      const int64_t stride = groups[g].stride;
      for (int pair = 0; pair < kTileSide / 2; ++pair, row += 2 * stride, out += kPairWords) {
        const __m512i a = _mm512_loadu_si512(row);
        const __m512i b = _mm512_loadu_si512(row + stride);
        _mm512_store_si512(out, _mm512_permutex2var_epi16(a, order.lower, b));
        _mm512_store_si512(out + kTilePairs * kPairWords,
                           _mm512_permutex2var_epi16(a, order.upper, b));
      }
    }
  }
}

// Cache rows of a tile.
struct StoredRows {
  LatentType type;
  const uint8_t* const* rows;
  int64_t num_rows;
  int64_t latent_dim, rope_dim;
  float* scratch;

  int64_t stride() const { return RowStride(latent_dim + rope_dim); }

  // One row to [stride] numbers.
  void Decode(int64_t row, uint16_t* out) const {
    if (type != LatentType::kFp8 || latent_dim % 64 != 0) {
      return RoundCacheRow(type, rows[row], latent_dim, rope_dim, stride(), scratch, out);
    }
    DecodeLatent(rows[row], latent_dim, out);
    memcpy(out + latent_dim, rows[row] + latent_dim + Fp8ScaleBytes(latent_dim),
           static_cast<size_t>(rope_dim) * sizeof(*out));
    for (int64_t k = latent_dim + rope_dim; k < stride(); ++k) out[k] = 0;
  }

  // Sixteen rows from `first` on, where they are or, with zeros after the last, in `memory`.
  RowGroup Gather(int64_t first, uint16_t* memory) const {
    if (type == LatentType::kBf16 && latent_dim + rope_dim == stride() &&
        first + kTileSide <= num_rows && LieEvenly(rows + first)) {
      return {reinterpret_cast<const uint16_t*>(rows[first]), (rows[first + 1] - rows[first]) / 2};
    }
    for (int64_t row = 0; row < kTileSide; ++row) {
      uint16_t* out = memory + row * stride();
      if (first + row < num_rows) {
        Decode(first + row, out);
      } else {
        memset(out, 0, static_cast<size_t>(stride()) * sizeof(*out));
      }
    }
    return {memory, stride()};
  }
};

void PackRows(LatentType type, const uint8_t* const* rows, int64_t num_rows, int64_t,
              int64_t latent_dim, int64_t rope_dim, float* scratch, void* tile) {
  const StoredRows stored = {type, rows, num_rows, latent_dim, rope_dim, scratch};
  auto& header = *static_cast<TileHeader*>(tile);
  const auto memory = reinterpret_cast<uint16_t*>(static_cast<float*>(tile) + kTileHeader);
  uint16_t* pairs = memory + kTileRows * stored.stride();
  header.pairs = pairs;
  header.num_rows = num_rows;
  for (int64_t first = 0; first < num_rows; first += 2 * kTileSide) {
    RowGroup* groups = header.groups + first / kTileSide;
    for (int64_t i = 0; i < 2; ++i) {
      const int64_t row = first + i * kTileSide;
      groups[i] = stored.Gather(row, memory + row * stored.stride());
    }
    PackPairs(groups, RowStride(latent_dim), pairs + first / 2 * kPairWords);
  }
}

// ---- Scores -------------------------------------------------------------------------------------

// Tiles: sums of two groups of rows, the groups, heads.
constexpr int kRowSums = 0;
constexpr int kRowTiles = 2;
constexpr int kHeadTile = 4;

// Rows of the tile to come are asked for one by one, between the products of the first heads: many
// at once would keep the products waiting for their own.
void PrefetchRow(const AttendArgs& args, int64_t row) {
  if (row >= args.num_ahead) return;
  for (int64_t byte = 0; byte < args.ahead_bytes; byte += 64) PrefetchL2(args.ahead[row] + byte);
}
int64_t NumSteps(const AttendArgs& args) { return args.row_stride / kStepWords; }

// Dots of sixteen rows by heads [16, 16] to the weights' places of `num_heads` heads.
void StoreDots(const float* dots, int64_t num_heads, float* weights) {
  F32x16 heads[kTileSide];
  TransposeWords(dots, kTileSide, heads);
  for (int64_t head = 0; head < num_heads; ++head) Store(weights + head * kTileRows, heads[head]);
}

// Sixteen heads from `head` on by one or two groups of rows from `group` on.
template <int kGroups>
void ScoreGroups(const AttendArgs& args, int64_t head, int64_t group) {
  alignas(64) float dots[2 * kTileWords];
  const RowGroup& first = HeaderOf(args).groups[group];
  const RowGroup& second = HeaderOf(args).groups[group + kGroups - 1];
  const float* q = static_cast<const float*>(args.q) + head;
  ZeroTile<kRowSums>();
  if constexpr (kGroups > 1) ZeroTile<kRowSums + 1>();
  int64_t ahead = head == 0 ? group / 2 * NumSteps(args) : args.num_ahead;
  for (int64_t k = 0; k < args.row_stride; k += kStepWords, q += kTileSide * args.q_stride) {
    PrefetchRow(args, ahead++);
    LoadTile<kHeadTile>(q, args.q_stride * 4);
    LoadTile<kRowTiles>(first.first + k, first.stride * 2);
    AddBf16Tiles<kRowSums, kRowTiles, kHeadTile>();
    if constexpr (kGroups > 1) {
      LoadTile<kRowTiles + 1>(second.first + k, second.stride * 2);
      AddBf16Tiles<kRowSums + 1, kRowTiles + 1, kHeadTile>();
    }
  }
  StoreTile<kRowSums>(dots, kTileSide * 4);
  if constexpr (kGroups > 1) StoreTile<kRowSums + 1>(dots + kTileWords, kTileSide * 4);
  const int64_t left = args.num_heads - head;
  for (int i = 0; i < kGroups; ++i) {
    StoreDots(dots + i * kTileWords, left < kTileSide ? left : kTileSide,
              args.weights + head * kTileRows + (group + i) * kTileSide);
  }
}

// Two groups of rows stay in the first-level cache while heads come from the second.
void ScoreAll(const AttendArgs& args) {
  for (int64_t row = 0; row < args.num_rows; row += 2 * kTileSide) {
    for (int64_t head = 0; head < args.num_heads; head += kTileSide) {
      args.num_rows - row > kTileSide ? ScoreGroups<2>(args, head, row / kTileSide)
                                      : ScoreGroups<1>(args, head, row / kTileSide);
    }
  }
}

// ---- Means --------------------------------------------------------------------------------------

// Tiles: sums of two groups of heads, their weights for the first 32 rows and for the others, pairs
// of rows likewise.
constexpr int kHeadSums = 0;
constexpr int kFirstWeights = 2;
constexpr int kLastWeights = 4;
constexpr int kFirstPairs = 6;
constexpr int kLastPairs = 7;

// The last 16 pairs of rows of a vector of columns. Where the tile has rows that these heads do not
// see, those are replaced by zeros, in `memory`: they may be anything but finite.
const uint16_t* SeenPairs(const AttendArgs& args, const uint16_t* pairs, uint16_t* memory) {
  if (args.num_rows == HeaderOf(args).num_rows) return pairs;
  const int64_t seen = (args.num_rows - 1) % 32 + 1;
  for (int64_t pair = 0; pair < kTileSide; ++pair) {
    const int64_t words = seen - 2 * pair;
    const int32_t mask = words >= 2 ? -1 : words == 1 ? 0xffff : 0;
    _mm512_store_si512(
        memory + pair * kPairWords,
        _mm512_and_si512(_mm512_loadu_si512(pairs + pair * kPairWords), _mm512_set1_epi32(mask)));
  }
  return memory;
}

// Sixteen columns of some of sixteen heads' means, as a tile leaves them.
void StoreMeans(const AttendArgs& args, int64_t head, int64_t column, const float* means) {
  const int64_t left = args.num_heads - head;
  float* out = args.out + head * args.out_stride + column;
  for (int64_t h = 0; h < left && h < kTileSide; ++h) {
    StoreMean(args, head + h, out + h * args.out_stride, Load(means + h * kTileSide));
  }
}

// Asks for what StoreMeans joins with: heads lie too far apart for the processor to foresee it.
void PrefetchMeans(const AttendArgs& args, int64_t head, int64_t num_heads, int64_t column) {
  if (!args.joins || column >= args.latent_dim) return;
  const int64_t last = head + num_heads < args.num_heads ? head + num_heads : args.num_heads;
  const float* out = args.out + column;
  for (int64_t h = head; h < last; ++h) Prefetch(out + h * args.out_stride);
}

// One or two groups of heads from `head` on. Each head's weights are the first half of its place.
template <int kGroups, bool kTwoSteps>
void MeansOf(const AttendArgs& args, int64_t head) {
  alignas(64) float means[2 * kTileWords];
  alignas(64) uint16_t memory[kTileSide * kPairWords];
  constexpr int64_t kPlace = kTileRows * sizeof(float);
  const float* weights = args.weights + head * kTileRows;
  LoadTile<kFirstWeights>(weights, kPlace);
  if constexpr (kTwoSteps) LoadTile<kLastWeights>(weights + kLanes, kPlace);
  if constexpr (kGroups > 1) {
    weights += kTileSide * kTileRows;
    LoadTile<kFirstWeights + 1>(weights, kPlace);
    if constexpr (kTwoSteps) LoadTile<kLastWeights + 1>(weights + kLanes, kPlace);
  }
  const uint16_t* pairs = HeaderOf(args).pairs;
  int64_t ahead = head == 0 ? (args.num_rows + 31) / 32 * NumSteps(args) : args.num_ahead;
  for (int64_t column = 0; column < args.latent_dim; column += kLanes) {
    PrefetchRow(args, ahead++);
    PrefetchMeans(args, head, kGroups * kTileSide, column + 2 * kLanes);
    const uint16_t* last = SeenPairs(args, kTwoSteps ? pairs + 16 * kPairWords : pairs, memory);
    ZeroTile<kHeadSums>();
    if constexpr (kGroups > 1) ZeroTile<kHeadSums + 1>();
    LoadTile<kFirstPairs>(kTwoSteps ? pairs : last, kPairWords * 2);
    AddBf16Tiles<kHeadSums, kFirstWeights, kFirstPairs>();
    if constexpr (kGroups > 1) AddBf16Tiles<kHeadSums + 1, kFirstWeights + 1, kFirstPairs>();
    if constexpr (kTwoSteps) {
      LoadTile<kLastPairs>(last, kPairWords * 2);
      AddBf16Tiles<kHeadSums, kLastWeights, kLastPairs>();
      if constexpr (kGroups > 1) AddBf16Tiles<kHeadSums + 1, kLastWeights + 1, kLastPairs>();
    }
    StoreTile<kHeadSums>(means, kTileSide * 4);
    if constexpr (kGroups > 1) StoreTile<kHeadSums + 1>(means + kTileWords, kTileSide * 4);
    for (int64_t group = 0; group < kGroups; ++group) {
      StoreMeans(args, head + group * kTileSide, column, means + group * kTileWords);
    }
    pairs += kTilePairs * kPairWords;
  }
  for (; ahead < args.num_ahead; ++ahead) PrefetchRow(args, ahead);
}

template <bool kTwoSteps>
void MeansOfHeads(const AttendArgs& args) {
  int64_t head = 0;
  for (; head + kTileSide < args.num_heads; head += 2 * kTileSide)
    MeansOf<2, kTwoSteps>(args, head);
  if (head < args.num_heads) MeansOf<1, kTwoSteps>(args, head);
}

void MeanAll(const AttendArgs& args) {
  args.num_rows > 32 ? MeansOfHeads<true>(args) : MeansOfHeads<false>(args);
}

}  // namespace
}  // namespace winnow::cpu::WINNOW_LEVEL
