// Attention over a tile of rows with products of bfloat16 pairs: what the level avx512_bf16 does
// for AttendArgs in bf16 precision. Included by sparse_attention_kernels.cc only.
//
// A tile says where its rows are: in the cache, if they are bfloat16 there and fill their
// registers, else decoded behind the header. Where many heads attend to it, the latent parts of two
// rows at a time are interleaved as well, for the means: pairs [S / 16, kTileRows / 2, 16, 2]. A
// few heads interleave them in registers as they go.
//
// Scores  24 sums, 3 heads by 8 rows, of which each is sixteen chains along the row. A tree of
//         shuffles adds the lanes of eight at once.
// Means   6 heads by 4 vectors of the latent stay in registers while pairs of rows go by.
#pragma once

#include "cpu/dsa/bf16_rows.h"

namespace winnow::cpu::WINNOW_LEVEL {
namespace {

constexpr int64_t kManyHeads = 24;  // for which interleaving beforehand is worth it

struct TileHeader {
  // Those that would follow the last are the last: scores are made for eight at a time.
  const uint16_t* rows[kTileRows];
  const uint16_t* pairs;  // or null
};
static_assert(sizeof(TileHeader) <= kTileHeader * sizeof(float));

const TileHeader& HeaderOf(const AttendArgs& args) {
  return *static_cast<const TileHeader*>(args.rows);
}

void PackPairs(const TileHeader& tile, int64_t num_rows, int64_t columns, uint16_t* pairs) {
  const Interleave order;
  for (int64_t row = 0; row < num_rows; row += 2) {
    const uint16_t* first = tile.rows[row];
    // Of a last row without a partner, the partner is never used.
    const uint16_t* second = row + 1 < num_rows ? tile.rows[row + 1] : first;
    uint16_t* out = pairs + row / 2 * kPairWords;
    for (int64_t column = 0; column < columns; column += 32) {
      const __m512i a = _mm512_loadu_si512(first + column);
      const __m512i b = _mm512_loadu_si512(second + column);
      _mm512_storeu_si512(out, _mm512_permutex2var_epi16(a, order.lower, b));
      _mm512_storeu_si512(out + kTilePairs * kPairWords,
                          _mm512_permutex2var_epi16(a, order.upper, b));
      out += 2 * kTilePairs * kPairWords;
    }
  }
}

// ---- Scores -------------------------------------------------------------------------------------

// Sum of each of eight registers, in the order of Sum: lanes 8, 4, 2, 1 apart.
inline __attribute__((always_inline)) __m256 SumEach(const __m512* x) {
  __m512 eight[4];
  for (int i = 0; i < 4; ++i) {
    eight[i] = _mm512_add_ps(_mm512_shuffle_f32x4(x[2 * i], x[2 * i + 1], 0x44),
                             _mm512_shuffle_f32x4(x[2 * i], x[2 * i + 1], 0xee));
  }
  __m512 four[2];  // of x[4 * i + quarter]
  for (int i = 0; i < 2; ++i) {
    four[i] = _mm512_add_ps(_mm512_shuffle_f32x4(eight[2 * i], eight[2 * i + 1], 0x88),
                            _mm512_shuffle_f32x4(eight[2 * i], eight[2 * i + 1], 0xdd));
  }
  const __m512 two = _mm512_add_ps(_mm512_shuffle_ps(four[0], four[1], 0x44),
                                   _mm512_shuffle_ps(four[0], four[1], 0xee));
  const __m512 one = _mm512_add_ps(two, _mm512_movehdup_ps(two));
  const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 2, 6, 10, 14, 0, 0, 0, 0, 0, 0, 0, 0);
  return _mm512_castps512_ps256(_mm512_permutexvar_ps(order, one));
}

// Eight rows from `row` on by kHeads heads from `head` on.
template <int kHeads>
void ScoreEight(const AttendArgs& args, int64_t head, int64_t row) {
  const int64_t stride = args.row_stride;
  const uint16_t* q = static_cast<const uint16_t*>(args.q) + head * args.q_stride;
  const uint16_t* rows[8];
  for (int r = 0; r < 8; ++r) rows[r] = HeaderOf(args).rows[row + r];
  __m512 sum[kHeads][8];
  for (int h = 0; h < kHeads; ++h) {
    for (__m512& each : sum[h]) each = _mm512_setzero_ps();
  }
  for (int64_t k = 0; k < stride; k += kPairWords) {
    __m512i query[kHeads];
    for (int h = 0; h < kHeads; ++h) query[h] = _mm512_loadu_si512(q + h * args.q_stride + k);
    for (int r = 0; r < 8; ++r) {
      const __m512i here = _mm512_loadu_si512(rows[r] + k);
      for (int h = 0; h < kHeads; ++h) sum[h][r] = AddBf16Products(sum[h][r], query[h], here);
    }
  }
  float* out = args.weights + head * kTileRows + row;
  for (int h = 0; h < kHeads; ++h) _mm256_storeu_ps(out + h * kTileRows, SumEach(sum[h]));
}

// Queries of three heads come from the second-level cache for as many rows as the first level
// holds.
void ScoreAll(const AttendArgs& args) {
  constexpr int64_t kRows = 32;
  for (int64_t first = 0; first < args.num_rows; first += kRows) {
    const int64_t last = first + kRows < args.num_rows ? first + kRows : args.num_rows;
    for (int64_t row = first; row < last; row += 8) PrefetchAhead(args, row);
    int64_t head = 0;
    for (; head + 3 <= args.num_heads; head += 3) {
      for (int64_t row = first; row < last; row += 8) ScoreEight<3>(args, head, row);
    }
    for (int64_t row = first; row < last; row += 8) {
      if (args.num_heads - head == 2) ScoreEight<2>(args, head, row);
      if (args.num_heads - head == 1) ScoreEight<1>(args, head, row);
    }
  }
}

// ---- Means --------------------------------------------------------------------------------------
// The weights of a head stand in place of its scores, as words of two.

// Pairs of rows that were interleaved beforehand.
struct PackedPairs {
  const uint16_t* values;  // of the first vector
  explicit PackedPairs(const AttendArgs& args, int64_t vector)
      : values(HeaderOf(args).pairs + vector * kTilePairs * kPairWords) {}
  template <int kV>
  __attribute__((always_inline)) void Load(int64_t pair, bool, __m512i* value) const {
    for (int v = 0; v < kV; ++v) {
      value[v] = _mm512_loadu_si512(values + (v * kTilePairs + pair) * kPairWords);
    }
  }
};

// Pairs of rows that are interleaved as they are used.
struct RowPairs {
  const uint16_t* const* rows;
  int64_t column;
  Interleave order;
  RowPairs(const AttendArgs& args, int64_t vector)
      : rows(HeaderOf(args).rows), column(vector * kLanes) {}
  template <int kV>
  __attribute__((always_inline)) void Load(int64_t pair, bool has_second, __m512i* value) const {
    const uint16_t* first = rows[2 * pair] + column;
    const uint16_t* second = has_second ? rows[2 * pair + 1] + column : first;
    for (int v = 0; v < kV; v += 2) {
      const __m512i a = _mm512_loadu_si512(first + v * kLanes);
      const __m512i b = _mm512_loadu_si512(second + v * kLanes);
      value[v] = _mm512_permutex2var_epi16(a, order.lower, b);
      value[v + 1] = _mm512_permutex2var_epi16(a, order.upper, b);
    }
  }
};

template <typename Values, int kHeads, int kV>
void MeanOfPairs(const AttendArgs& args, int64_t head, int64_t vector) {
  const auto words = reinterpret_cast<const int32_t*>(args.weights + head * kTileRows);
  const Values values(args, vector);
  float* out = args.out + head * args.out_stride + vector * kLanes;
  if (args.joins) {
    for (int h = 0; h < kHeads; ++h) {
      for (int v = 0; v < kV; ++v) Prefetch(out + h * args.out_stride + v * kLanes);
    }
  }
  __m512 sum[kHeads][kV];
  for (int h = 0; h < kHeads; ++h) {
    for (int v = 0; v < kV; ++v) sum[h][v] = _mm512_setzero_ps();
  }
  const auto add = [&](int64_t pair, const __m512i* value) __attribute__((always_inline)) {
    for (int h = 0; h < kHeads; ++h) {
      const __m512i weight = _mm512_set1_epi32(words[h * kTileRows + pair]);
      for (int v = 0; v < kV; ++v) sum[h][v] = AddBf16Products(sum[h][v], weight, value[v]);
    }
  };
  const int64_t pairs = args.num_rows / 2;
  __m512i value[kV];
  for (int64_t pair = 0; pair < pairs; ++pair) {
    values.template Load<kV>(pair, true, value);
    add(pair, value);
  }
  // What follows the last row may belong to a token's future.
  if (args.num_rows % 2 == 1) {
    values.template Load<kV>(pairs, false, value);
    for (__m512i& each : value) each = _mm512_and_si512(_mm512_set1_epi32(0xffff), each);
    add(pairs, value);
  }
  for (int h = 0; h < kHeads; ++h) {
    for (int v = 0; v < kV; ++v) {
      StoreMean(args, head + h, out + h * args.out_stride + v * kLanes, {sum[h][v]});
    }
  }
}

template <typename Values, int kV>
void MeansOfPairs(const AttendArgs& args, int64_t vector) {
  int64_t head = 0;
  for (; head + 6 <= args.num_heads; head += 6) MeanOfPairs<Values, 6, kV>(args, head, vector);
  switch (args.num_heads - head) {
    case 1:
      return MeanOfPairs<Values, 1, kV>(args, head, vector);
    case 2:
      return MeanOfPairs<Values, 2, kV>(args, head, vector);
    case 3:
      return MeanOfPairs<Values, 3, kV>(args, head, vector);
    case 4:
      return MeanOfPairs<Values, 4, kV>(args, head, vector);
    case 5:
      return MeanOfPairs<Values, 5, kV>(args, head, vector);
    default:
      return;
  }
}

template <typename Values>
void MeansOf(const AttendArgs& args) {
  const int64_t vectors = args.latent_dim / kLanes;
  int64_t vector = 0;
  for (; vector + 4 <= vectors; vector += 4) MeansOfPairs<Values, 4>(args, vector);
  for (; vector < vectors; vector += 2) MeansOfPairs<Values, 2>(args, vector);
}

void MeanAll(const AttendArgs& args) {
  HeaderOf(args).pairs != nullptr ? MeansOf<PackedPairs>(args) : MeansOf<RowPairs>(args);
}

// ---- Packing ------------------------------------------------------------------------------------

QueryLayout LayOutQueries(int64_t, int64_t row_stride) {
  return {row_stride * int64_t{sizeof(uint16_t)}, row_stride};
}

void PackQueries(const float* q, int64_t num_heads, int64_t row_dim, int64_t row_stride,
                 void* packed) {
  const auto out = static_cast<uint16_t*>(packed);
  for (int64_t head = 0; head < num_heads; ++head) {
    RoundRow(q + head * row_dim, row_dim, row_stride, out + head * row_stride);
  }
}

constexpr bool kTakesGaps = false;

bool PackRows(LatentType type, const uint8_t* const* rows, int64_t num_rows, int64_t num_heads,
              int64_t latent_dim, int64_t rope_dim, float* scratch, void* tile) {
  const int64_t row_dim = latent_dim + rope_dim;
  const int64_t row_stride = RowStride(row_dim);
  auto& header = *static_cast<TileHeader*>(tile);
  const auto memory = reinterpret_cast<uint16_t*>(static_cast<float*>(tile) + kTileHeader);
  const bool in_place = type == LatentType::kBf16 && row_dim == row_stride;
  for (int64_t row = 0; row < num_rows; ++row) {
    uint16_t* decoded = memory + row * row_stride;
    header.rows[row] = in_place ? reinterpret_cast<const uint16_t*>(rows[row]) : decoded;
    if (type == LatentType::kFp8 && latent_dim % 64 == 0) {
      DecodeLatent(rows[row], latent_dim, decoded);
      memcpy(decoded + latent_dim, rows[row] + latent_dim + Fp8ScaleBytes(latent_dim),
             static_cast<size_t>(rope_dim) * sizeof(*decoded));
      for (int64_t k = row_dim; k < row_stride; ++k) decoded[k] = 0;
    } else if (!in_place) {
      RoundCacheRow(type, rows[row], latent_dim, rope_dim, row_stride, scratch, decoded);
    }
  }
  for (int64_t row = num_rows; row % 8 != 0; ++row) header.rows[row] = header.rows[num_rows - 1];
  uint16_t* pairs = memory + kTileRows * row_stride;
  header.pairs = num_heads >= kManyHeads ? pairs : nullptr;
  if (header.pairs != nullptr) PackPairs(header, num_rows, RowStride(latent_dim), pairs);
  return true;
}

}  // namespace
}  // namespace winnow::cpu::WINNOW_LEVEL
