// Attention over a tile of rows with products of AMX tiles: what the level amx does for AttendArgs
// in bf16 precision. Included by sparse_attention_kernels.cc only.
//
// Scores  sixteen rows, without those left out, are A, as they lie in the cache if they lie evenly
//         there, else gathered or decoded behind the header; sixteen heads, packed together, are B.
// Means   sixteen heads' weights are A, pairs of rows, interleaved beforehand, are B; rows left out
//         and those after the last, up to a multiple of 32, are zeros there. Few heads add few rows
//         up by vectors, in the same order.
// All tiles are full: what lies beyond the last head is computed and left out. A row that a head
// does not see weighs 0 there, and sums stay as they are.
#pragma once

#include "cpu/dsa/bf16_rows.h"
#include "cpu/tiles.h"

namespace winnow::cpu::WINNOW_LEVEL {
namespace {

constexpr int64_t kRowGroups = kTileRows / kTileSide;
constexpr int64_t kStepWords = 32;  // bfloat16 numbers in a row of a tile
// So few heads read so few rows of a tile sooner as they are than interleaved.
constexpr int64_t kFewMeans = 8;
constexpr int64_t kFewMeanRows = 48;

// Sixteen rows.
struct RowGroup {
  const uint16_t* first;
  int64_t stride;  // in numbers
};
struct TileHeader {
  RowGroup groups[kRowGroups];
  int64_t num_rows;                 // in groups
  uint64_t places;                  // bit r: row r of the tile is in a group
  const uint16_t* rows[kTileRows];  // by their places
  const uint16_t* pairs;            // [latent / 16, kTilePairs, 16, 2], or null
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

// An odd number of cache lines apart: rows of a tile would fall into a few sets of the cache
// otherwise.
QueryLayout LayOutQueries(int64_t num_heads, int64_t) {
  const int64_t groups = (num_heads + kTileSide - 1) / kTileSide;
  return {sizeof(int32_t), (groups | 1) * kTileSide};
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

// What stands for a row that is not there.
alignas(64) constexpr uint16_t kNoRow[kPairWords] = {};

// Pairs of a step's 32 rows, [columns / 16, 16, 16, 2] of kTilePairs pairs each. Columns come
// first: what is written lies together then. Returns `largest` or, where these are greater, the
// bits of the largest sizes by column.
__m512i PackPairs(const uint16_t* const* rows, int64_t columns, __m512i largest, uint16_t* pairs) {
  const Interleave order;
  const __m512i size = _mm512_set1_epi16(0x7fff);
  for (int64_t column = 0; column < columns; column += 32) {
    uint16_t* out = pairs + column / 16 * kTilePairs * kPairWords;
    for (int64_t row = 0; row < 2 * kTileSide; row += 2, out += kPairWords) {
      const __m512i a = _mm512_loadu_si512(rows[row] + (rows[row] == kNoRow ? 0 : column));
      const __m512i b = _mm512_loadu_si512(rows[row + 1] + (rows[row + 1] == kNoRow ? 0 : column));
      largest = _mm512_max_epu16(largest, _mm512_and_si512(size, a));
      largest = _mm512_max_epu16(largest, _mm512_and_si512(size, b));
      _mm512_store_si512(out, _mm512_permutex2var_epi16(a, order.lower, b));
      _mm512_store_si512(out + kTilePairs * kPairWords,
                         _mm512_permutex2var_epi16(a, order.upper, b));
    }
  }
  return largest;
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

  // Sixteen rows from `first` on, or the last of them, where they are or in `memory`.
  RowGroup Gather(int64_t first, uint16_t* memory) const {
    if (type == LatentType::kBf16 && latent_dim + rope_dim == stride() &&
        first + kTileSide <= num_rows && LieEvenly(rows + first)) {
      return {reinterpret_cast<const uint16_t*>(rows[first]), (rows[first + 1] - rows[first]) / 2};
    }
    for (int64_t row = 0; row < kTileSide && first + row < num_rows; ++row) {
      Decode(first + row, memory + row * stride());
    }
    return {memory, stride()};
  }
};

constexpr bool kTakesGaps = true;

bool PackRows(LatentType type, const uint8_t* const* rows, int64_t num_rows, int64_t num_heads,
              int64_t latent_dim, int64_t rope_dim, float* scratch, void* tile) {
  const uint8_t* there[kTileRows];
  int64_t count = 0;
  uint64_t places = 0;
  for (int64_t row = 0; row < num_rows; ++row) {
    const bool is_there = rows[row] != nullptr;
    there[count] = rows[row];
    count += is_there;
    places |= uint64_t{is_there} << row;
  }
  const StoredRows stored = {type, there, count, latent_dim, rope_dim, scratch};
  auto& header = *static_cast<TileHeader*>(tile);
  const auto memory = reinterpret_cast<uint16_t*>(static_cast<float*>(tile) + kTileHeader);
  uint16_t* pairs = memory + kTileRows * stored.stride();
  header.num_rows = count;
  header.places = places;
  const bool few = num_heads <= kFewMeans && count <= kFewMeanRows;
  header.pairs = few ? nullptr : pairs;
  for (const uint16_t*& row : header.rows) row = kNoRow;
  for (int64_t first = 0; first < count; first += kTileSide) {
    const RowGroup group = stored.Gather(first, memory + first * stored.stride());
    header.groups[first / kTileSide] = group;
    for (int64_t row = 0; row < kTileSide && first + row < count; ++row, places &= places - 1) {
      header.rows[_tzcnt_u64(places)] = group.first + row * group.stride;
    }
  }
  if (few) return false;  // as far as is known
  __m512i largest = _mm512_setzero_si512();
  for (int64_t row = 0; row < num_rows; row += 2 * kTileSide) {
    largest =
        PackPairs(header.rows + row, RowStride(latent_dim), largest, pairs + row / 2 * kPairWords);
  }
  const __m512i infinity = _mm512_set1_epi16(0x7f80);
  return _mm512_cmplt_epu16_mask(largest, infinity) == 0xffffffffu;
}

// ---- Scores -------------------------------------------------------------------------------------

// Tiles: sums of two groups of rows by two groups of heads, the rows, the heads.
constexpr int kScoreSums = 0;
constexpr int kRowTiles = 4;
constexpr int kHeadTiles = 6;

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

template <int kGroup, int kHeads>
void StoreScores(const AttendArgs& args, int64_t head, int64_t group) {
  alignas(64) float dots[2 * kTileWords];
  StoreTile<kScoreSums + 2 * kGroup>(dots, kTileSide * 4);
  if constexpr (kHeads > 1) {
    StoreTile<kScoreSums + 2 * kGroup + 1>(dots + kTileWords, kTileSide * 4);
  }
  for (int i = 0; i < kHeads; ++i, head += kTileSide) {
    const int64_t left = args.num_heads - head;
    StoreDots(dots + i * kTileWords, left < kTileSide ? left : kTileSide,
              args.weights + head * kTileRows + (group + kGroup) * kTileSide);
  }
}

// One or two groups of rows from `group` on by one or two of heads from `head` on.
template <int kGroups, int kHeads>
void ScoreGroups(const AttendArgs& args, int64_t head, int64_t group) {
  const RowGroup first = HeaderOf(args).groups[group];
  const RowGroup second = HeaderOf(args).groups[group + kGroups - 1];
  const float* q = static_cast<const float*>(args.q) + head;
  const int64_t q_stride = args.q_stride;
  const int64_t size = args.row_stride;
  ZeroTile<kScoreSums>();
  if constexpr (kHeads > 1) ZeroTile<kScoreSums + 1>();
  if constexpr (kGroups > 1) ZeroTile<kScoreSums + 2>();
  if constexpr (kGroups * kHeads > 2) ZeroTile<kScoreSums + 3>();
  int64_t ahead = head == 0 ? group / 2 * NumSteps(args) : args.num_ahead;
  for (int64_t k = 0; k < size; k += kStepWords, q += kTileSide * q_stride) {
    PrefetchRow(args, ahead++);
    LoadTile<kHeadTiles>(q, q_stride * 4);
    LoadTile<kRowTiles>(first.first + k, first.stride * 2);
    AddBf16Tiles<kScoreSums, kRowTiles, kHeadTiles>();
    if constexpr (kHeads > 1) {
      LoadTile<kHeadTiles + 1>(q + kTileSide, q_stride * 4);
      AddBf16Tiles<kScoreSums + 1, kRowTiles, kHeadTiles + 1>();
    }
    if constexpr (kGroups > 1) {
      LoadTile<kRowTiles + 1>(second.first + k, second.stride * 2);
      AddBf16Tiles<kScoreSums + 2, kRowTiles + 1, kHeadTiles>();
    }
    if constexpr (kGroups * kHeads > 2) {
      AddBf16Tiles<kScoreSums + 3, kRowTiles + 1, kHeadTiles + 1>();
    }
  }
  StoreScores<0, kHeads>(args, head, group);
  if constexpr (kGroups > 1) StoreScores<1, kHeads>(args, head, group);
}

template <int kGroups>
void ScoreHeadsOf(const AttendArgs& args, int64_t group) {
  int64_t head = 0;
  for (; head + kTileSide < args.num_heads; head += 2 * kTileSide) {
    ScoreGroups<kGroups, 2>(args, head, group);
  }
  if (head < args.num_heads) ScoreGroups<kGroups, 1>(args, head, group);
}

// The scores of rows that stand together to their places; what stands between means nothing.
void SpreadScores(uint64_t places, float* scores) {
  int64_t next = __builtin_popcountll(places);
  // From the last on: those not yet spread stand before.
  for (int64_t row = kTileRows - kLanes; row >= 0; row -= kLanes) {
    const auto here = static_cast<__mmask16>(places >> row);
    next -= __builtin_popcount(here);
    Store(scores + row, {_mm512_maskz_expandloadu_ps(here, scores + next)});
  }
}

// Two groups of rows stay in the first-level cache while heads come from the second.
void ScoreAll(const AttendArgs& args) {
  const TileHeader& header = HeaderOf(args);
  for (int64_t row = 0; row < header.num_rows; row += 2 * kTileSide) {
    header.num_rows - row > kTileSide ? ScoreHeadsOf<2>(args, row / kTileSide)
                                      : ScoreHeadsOf<1>(args, row / kTileSide);
  }
  if (header.num_rows == args.num_rows) return;
  for (int64_t head = 0; head < args.num_heads; ++head) {
    SpreadScores(header.places, args.weights + head * kTileRows);
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
  const int64_t scored = (HeaderOf(args).num_rows + 31) / 32;
  int64_t ahead = head == 0 ? scored * NumSteps(args) : args.num_ahead;
  for (int64_t column = 0; column < args.latent_dim; column += kLanes) {
    PrefetchRow(args, ahead++);
    PrefetchMeans(args, head, kGroups * kTileSide, column + 2 * kLanes);
    ZeroTile<kHeadSums>();
    if constexpr (kGroups > 1) ZeroTile<kHeadSums + 1>();
    LoadTile<kFirstPairs>(pairs, kPairWords * 2);
    AddBf16Tiles<kHeadSums, kFirstWeights, kFirstPairs>();
    if constexpr (kGroups > 1) AddBf16Tiles<kHeadSums + 1, kFirstWeights + 1, kFirstPairs>();
    if constexpr (kTwoSteps) {
      LoadTile<kLastPairs>(pairs + kTileSide * kPairWords, kPairWords * 2);
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

// The same sums by vectors, from rows as they are: of each 32 places the even ones are a chain and
// the odd ones another. Rows left out would add zeros.
using FewWeights = float[kTileRows];

// 32 columns of rows at `places` of 32 from `first` on, those of even and those of odd number.
template <int kHeads>
inline __attribute__((always_inline)) void AddPlaces(const AttendArgs& args,
                                                     const FewWeights* weights, int64_t column,
                                                     int64_t first, uint32_t places,
                                                     F32x16 (*sum)[2]) {
  const I32x16 odd = BroadcastInt(static_cast<int32_t>(0xffff0000u));
  for (; places != 0; places &= places - 1) {
    const int64_t place = first + _tzcnt_u32(places);
    const I32x16 pairs = {_mm512_loadu_si512(HeaderOf(args).rows[place] + column)};
    const F32x16 values[2] = {Float(ShiftLeft<16>(pairs)), Float(And(pairs, odd))};
    for (int head = 0; head < kHeads; ++head) {
      const F32x16 weight = Broadcast(weights[head][place]);
      for (int i = 0; i < 2; ++i) sum[head][i] = Fma(weight, values[i], sum[head][i]);
    }
  }
}

template <int kHeads>
void MeanOfFew(const AttendArgs& args, const FewWeights* weights, int64_t head, int64_t column) {
  F32x16 mean[kHeads][2];
  for (auto& each : mean) each[0] = each[1] = Zero();
  for (int64_t first = 0; first < kTileRows; first += 32) {
    const auto places = static_cast<uint32_t>(HeaderOf(args).places >> first);
    F32x16 even[kHeads][2];
    F32x16 odd[kHeads][2];
    for (int h = 0; h < kHeads; ++h) even[h][0] = even[h][1] = odd[h][0] = odd[h][1] = Zero();
    AddPlaces<kHeads>(args, weights, column, first, places & 0x55555555, even);
    AddPlaces<kHeads>(args, weights, column, first, places & 0xaaaaaaaa, odd);
    for (int h = 0; h < kHeads; ++h) {
      for (int i = 0; i < 2; ++i) mean[h][i] = Add(mean[h][i], Add(even[h][i], odd[h][i]));
    }
  }
  const __m512i lower = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
  const __m512i upper = _mm512_add_epi32(lower, _mm512_set1_epi32(8));
  for (int h = 0; h < kHeads; ++h) {
    float* out = args.out + (head + h) * args.out_stride + column;
    const auto [even, odd] = mean[h];
    StoreMean(args, head + h, out, {_mm512_permutex2var_ps(even.v, lower, odd.v)});
    StoreMean(args, head + h, out + kLanes, {_mm512_permutex2var_ps(even.v, upper, odd.v)});
  }
}

void MeansOfFew(const AttendArgs& args) {
  alignas(64) FewWeights weights[kFewMeans];
  for (int64_t head = 0; head < args.num_heads; ++head) {
    const auto rounded = reinterpret_cast<const uint16_t*>(args.weights + head * kTileRows);
    for (int64_t row = 0; row < kTileRows; row += kLanes) {
      Store(weights[head] + row, LoadBf16(rounded + row));
    }
  }
  int64_t ahead = (HeaderOf(args).num_rows + 31) / 32 * NumSteps(args);
  for (int64_t column = 0; column < args.latent_dim; column += 32) {
    for (int i = 0; i < 4; ++i) PrefetchRow(args, ahead++);
    int64_t head = 0;
    for (; head + 6 <= args.num_heads; head += 6) {
      MeanOfFew<6>(args, weights + head, head, column);
    }
    for (; head < args.num_heads; ++head) MeanOfFew<1>(args, weights + head, head, column);
  }
}

void MeanAll(const AttendArgs& args) {
  if (HeaderOf(args).pairs == nullptr) return MeansOfFew(args);
  args.num_rows > 32 ? MeansOfHeads<true>(args) : MeansOfHeads<false>(args);
}

}  // namespace
}  // namespace winnow::cpu::WINNOW_LEVEL
