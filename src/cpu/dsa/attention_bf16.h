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

namespace winnow::cpu::WINNOW_LEVEL {
namespace {

constexpr int64_t kTilePairs = kTileRows / 2;
constexpr int64_t kPairWords = 32;  // bfloat16 values in a register
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

// 32 columns of two rows: each word of two holds a column, the first sixteen of them and the
// others.
struct Interleave {
  __m512i lower, upper;
  Interleave() {
    alignas(64) static constexpr auto kOrder = [] {
      struct {
        uint16_t at[64];
      } order{};
      for (int column = 0; column < 32; ++column) {
        order.at[2 * column] = static_cast<uint16_t>(column);
        order.at[2 * column + 1] = static_cast<uint16_t>(32 + column);
      }
      return order;
    }();
    lower = _mm512_load_si512(kOrder.at);
    upper = _mm512_load_si512(kOrder.at + 32);
  }
};

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

// ---- FP8 rows -----------------------------------------------------------------------------------

// 32 bfloat16 numbers times `scale`, rounded again.
__m512i ScalePairs(__m512i pairs, __m512 scale) {
  const __m512i high = _mm512_set1_epi32(static_cast<int>(0xffff0000u));
  const __m512 even = _mm512_mul_ps(_mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16)), scale);
  const __m512 odd = _mm512_mul_ps(_mm512_castsi512_ps(_mm512_and_si512(pairs, high)), scale);
  // The even ones come out first, then the odd ones.
  const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24,
                                         8, 23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  return _mm512_permutexvar_epi16(order, (__m512i)_mm512_cvtne2ps_pbh(odd, even));
}

// The latent part of an FP8 row, of a multiple of 64 values, to bfloat16.
void DecodeLatent(const uint8_t* row, int64_t latent_dim, uint16_t* out) {
  const __m512i low_bytes[2] = {_mm512_load_si512(kE4m3Bytes.low),
                                _mm512_load_si512(kE4m3Bytes.low + 64)};
  const __m512i high_bytes[2] = {_mm512_load_si512(kE4m3Bytes.high),
                                 _mm512_load_si512(kE4m3Bytes.high + 64)};
  // Unpacking works within quarters: codes are put so that it brings them in order.
  const __m512i quarters = _mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7);
  for (int64_t k = 0; k < latent_dim; k += 64) {
    float scale;
    memcpy(&scale, row + latent_dim + k / kScaleBlock * sizeof(scale), sizeof(scale));
    const __m512i codes = _mm512_permutexvar_epi64(quarters, _mm512_loadu_si512(row + k));
    const __m512i low = _mm512_permutex2var_epi8(low_bytes[0], codes, low_bytes[1]);
    const __m512i magnitude = _mm512_permutex2var_epi8(high_bytes[0], codes, high_bytes[1]);
    // magnitude ^ (codes & 0x80)
    const __m512i high = _mm512_ternarylogic_epi32(magnitude, codes, _mm512_set1_epi8(-128), 0x78);
    const __m512 factor = _mm512_set1_ps(scale);
    _mm512_storeu_si512(out + k, ScalePairs(_mm512_unpacklo_epi8(low, high), factor));
    _mm512_storeu_si512(out + k + 32, ScalePairs(_mm512_unpackhi_epi8(low, high), factor));
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
  float* out = args.out + head * args.latent_dim + vector * kLanes;
  if (args.joins) {
    for (int h = 0; h < kHeads; ++h) {
      for (int v = 0; v < kV; ++v) Prefetch(out + h * args.latent_dim + v * kLanes);
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
      StoreMean(args, head + h, out + h * args.latent_dim + v * kLanes, {sum[h][v]});
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

}  // namespace
}  // namespace winnow::cpu::WINNOW_LEVEL
