// Attention over a tile of rows with products of bfloat16 pairs: what the level avx512_bf16 does
// for AttendArgs in bf16 precision. Included by sparse_attention_kernels.cc only.
//
// A tile holds its rows as they are, for the scores, and the latent parts of two rows at a time
// interleaved, for the means:  rows [kTileRows, S], pairs [S / 16, kTileRows / 2, 16, 2], S a
// multiple of 32.
//
// Scores  16 sums, 2 heads by 8 rows, of which each is sixteen chains along the row. A tree of
//         shuffles adds all their lanes at once.
// Means   6 heads by 4 vectors of the latent stay in registers while pairs of rows go by.
#pragma once

namespace winnow::cpu::WINNOW_LEVEL {
namespace {

constexpr int64_t kTilePairs = kTileRows / 2;
constexpr int64_t kPairWords = 32;  // bfloat16 values in a register

uint16_t* PairsOf(void* tile, int64_t row_stride) {
  return static_cast<uint16_t*>(tile) + kTileRows * row_stride;
}

void PackPairs(uint16_t* rows, int64_t num_rows, int64_t row_stride, int64_t columns) {
  uint16_t* pairs = PairsOf(rows, row_stride);
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
  const __m512i lower = _mm512_load_si512(kOrder.at);
  const __m512i upper = _mm512_load_si512(kOrder.at + 32);
  for (int64_t row = 0; row < num_rows; row += 2) {
    const uint16_t* first = rows + row * row_stride;
    // Of a last row without a partner, the partner is never used.
    const uint16_t* second = row + 1 < num_rows ? first + row_stride : first;
    uint16_t* out = pairs + row / 2 * kPairWords;
    for (int64_t column = 0; column < columns; column += 32) {
      const __m512i a = _mm512_loadu_si512(first + column);
      const __m512i b = _mm512_loadu_si512(second + column);
      _mm512_storeu_si512(out, _mm512_permutex2var_epi16(a, lower, b));
      _mm512_storeu_si512(out + kTilePairs * kPairWords, _mm512_permutex2var_epi16(a, upper, b));
      out += 2 * kTilePairs * kPairWords;
    }
  }
}

// ---- Scores -------------------------------------------------------------------------------------

// Sum of each of sixteen registers, in the order of Sum: lanes 8, 4, 2, 1 apart. Register
// 4 * (p % 4) + p / 4 goes to lane p.
__m512 SumEach(const __m512* x) {
  __m512 eight[8];
  for (int i = 0; i < 8; ++i) {
    eight[i] = _mm512_add_ps(_mm512_shuffle_f32x4(x[2 * i], x[2 * i + 1], 0x44),
                             _mm512_shuffle_f32x4(x[2 * i], x[2 * i + 1], 0xee));
  }
  __m512 four[4];
  for (int i = 0; i < 4; ++i) {
    four[i] = _mm512_add_ps(_mm512_shuffle_f32x4(eight[2 * i], eight[2 * i + 1], 0x88),
                            _mm512_shuffle_f32x4(eight[2 * i], eight[2 * i + 1], 0xdd));
  }
  __m512 two[2];
  for (int i = 0; i < 2; ++i) {
    two[i] = _mm512_add_ps(_mm512_shuffle_ps(four[2 * i], four[2 * i + 1], 0x44),
                           _mm512_shuffle_ps(four[2 * i], four[2 * i + 1], 0xee));
  }
  return _mm512_add_ps(_mm512_shuffle_ps(two[0], two[1], 0x88),
                       _mm512_shuffle_ps(two[0], two[1], 0xdd));
}

// Eight rows from `row` on by kHeads heads from `head` on.
template <int kHeads>
void ScoreEight(const AttendArgs& args, int64_t head, int64_t row) {
  const int64_t stride = args.row_stride;
  const uint16_t* q = static_cast<const uint16_t*>(args.q) + head * args.q_stride;
  const uint16_t* rows = static_cast<const uint16_t*>(args.rows) + row * stride;
  __m512 sum[16];
  for (__m512& each : sum) each = _mm512_setzero_ps();
  for (int64_t k = 0; k < stride; k += kPairWords) {
    __m512i query[kHeads];
    for (int h = 0; h < kHeads; ++h) query[h] = _mm512_loadu_si512(q + h * args.q_stride + k);
    for (int r = 0; r < 8; ++r) {
      const __m512i here = _mm512_loadu_si512(rows + r * stride + k);
      for (int h = 0; h < kHeads; ++h) {
        const int place = 8 * h + r;
        __m512& chains = sum[4 * (place % 4) + place / 4];
        chains = AddBf16Products(chains, query[h], here);
      }
    }
  }
  const __m512 scores = SumEach(sum);
  float* out = args.weights + head * kTileRows + row;
  _mm256_storeu_ps(out, _mm512_castps512_ps256(scores));
  if (kHeads == 2) _mm256_storeu_ps(out + kTileRows, _mm512_extractf32x8_ps(scores, 1));
}

void ScoreAll(const AttendArgs& args) {
  for (int64_t row = 0; row < args.num_rows; row += 8) {
    int64_t head = 0;
    for (; head + 2 <= args.num_heads; head += 2) ScoreEight<2>(args, head, row);
    if (head < args.num_heads) ScoreEight<1>(args, head, row);
  }
}

// ---- Means --------------------------------------------------------------------------------------
// The weights of a head stand in place of its scores, as words of two.

template <int kHeads, int kV>
void MeanOfPairs(const AttendArgs& args, int64_t head, int64_t vector) {
  const auto words = reinterpret_cast<const int32_t*>(args.weights + head * kTileRows);
  const uint16_t* values =
      PairsOf(const_cast<void*>(args.rows), args.row_stride) + vector * kTilePairs * kPairWords;
  __m512 sum[kHeads][kV];
  for (int h = 0; h < kHeads; ++h) {
    for (int v = 0; v < kV; ++v) sum[h][v] = _mm512_setzero_ps();
  }
  const auto add = [&](int64_t pair, __m512i mask) __attribute__((always_inline)) {
    __m512i value[kV];
    for (int v = 0; v < kV; ++v) {
      value[v] =
          _mm512_and_si512(mask, _mm512_loadu_si512(values + (v * kTilePairs + pair) * kPairWords));
    }
    for (int h = 0; h < kHeads; ++h) {
      const __m512i weight = _mm512_set1_epi32(words[h * kTileRows + pair]);
      for (int v = 0; v < kV; ++v) sum[h][v] = AddBf16Products(sum[h][v], weight, value[v]);
    }
  };
  const int64_t pairs = args.num_rows / 2;
  for (int64_t pair = 0; pair < pairs; ++pair) add(pair, _mm512_set1_epi32(-1));
  // What follows the last row may belong to a token's future.
  if (args.num_rows % 2 == 1) add(pairs, _mm512_set1_epi32(0xffff));
  for (int h = 0; h < kHeads; ++h) {
    float* out = args.out + (head + h) * args.latent_dim + vector * kLanes;
    for (int v = 0; v < kV; ++v) StoreMean(args, head + h, out + v * kLanes, {sum[h][v]});
  }
}

template <int kV>
void MeansOfPairs(const AttendArgs& args, int64_t vector) {
  int64_t head = 0;
  for (; head + 6 <= args.num_heads; head += 6) MeanOfPairs<6, kV>(args, head, vector);
  switch (args.num_heads - head) {
    case 1:
      return MeanOfPairs<1, kV>(args, head, vector);
    case 2:
      return MeanOfPairs<2, kV>(args, head, vector);
    case 3:
      return MeanOfPairs<3, kV>(args, head, vector);
    case 4:
      return MeanOfPairs<4, kV>(args, head, vector);
    case 5:
      return MeanOfPairs<5, kV>(args, head, vector);
    default:
      return;
  }
}

void MeanAll(const AttendArgs& args) {
  const int64_t vectors = args.latent_dim / kLanes;
  int64_t vector = 0;
  for (; vector + 4 <= vectors; vector += 4) MeansOfPairs<4>(args, vector);
  for (; vector < vectors; vector += 2) MeansOfPairs<2>(args, vector);
}

}  // namespace
}  // namespace winnow::cpu::WINNOW_LEVEL
