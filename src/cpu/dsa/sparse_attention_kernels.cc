// Sparse attention's inner loops: cache rows to floats, one tile of rows for some heads, and the
// joining of tiles.
//
// Scores  sixteen chains along the row, made in passes of one register's lanes, so that 3 heads by
//         4 rows of accumulators, 3 heads and a row fill the 16 registers of AVX2.
// Output  6 heads by kVectors vectors of the latent stay in registers while the rows go by.
// At C = 512, R = 64 a decoded tile is 144 KB: it lives in the second-level cache and serves all
// heads.
#include "cpu/dsa/dsa_kernels.h"
#include "cpu/dsa/e4m3_bytes.h"
#include "cpu/simd.h"

namespace winnow::cpu::WINNOW_LEVEL {
namespace {

constexpr int64_t kPasses = kLanes / kNative;
constexpr int64_t kScaleBlock = 128;  // values of a latent that share a scale
constexpr int kVectors = kNative == 16 ? 4 : 1;
constexpr int kScoreHeads = kNative == 16 ? 6 : 3;

// ---- Rows ---------------------------------------------------------------------------------------

// `count` bfloat16 values, and zeros up to a multiple of 16.
void DecodeBf16(const uint16_t* values, int64_t count, float* out) {
  int64_t k = 0;
  for (; k + kLanes <= count; k += kLanes) Store(out + k, LoadBf16(values + k));
  if (k < count) Store(out + k, LoadBf16Partial(values + k, count - k));
}

// Of the scales behind the codes of a row.
int64_t Fp8ScaleBytes(int64_t latent_dim) {
  return (latent_dim + kScaleBlock - 1) / kScaleBlock * int64_t{sizeof(float)};
}

void DecodeFp8(const uint8_t* row, int64_t latent_dim, int64_t rope_dim, float* out) {
  const int64_t num_blocks = (latent_dim + kScaleBlock - 1) / kScaleBlock;
  const uint8_t* scales = row + latent_dim;
  for (int64_t block = 0; block < num_blocks; ++block) {
    float scale;
    memcpy(&scale, scales + block * sizeof(scale), sizeof(scale));
    const int64_t end =
        latent_dim < (block + 1) * kScaleBlock ? latent_dim : (block + 1) * kScaleBlock;
    for (int64_t k = block * kScaleBlock; k < end; k += kLanes) {
      const F32x16 codes =
          k + kLanes <= end ? LoadE4m3(row + k) : LoadE4m3Partial(row + k, end - k);
      Store(out + k, Mul(codes, Broadcast(scale)));
    }
  }
  const uint8_t* rotary = scales + Fp8ScaleBytes(latent_dim);
  for (int64_t k = 0; k < rope_dim; k += kLanes) {
    const int64_t lanes = rope_dim - k < kLanes ? rope_dim - k : kLanes;
    uint16_t values[kLanes] = {};
    memcpy(values, rotary + 2 * k, static_cast<size_t>(2 * lanes));
    StorePartial(out + latent_dim + k, LoadBf16(values), lanes);
  }
}

void DecodeRow(LatentType type, const uint8_t* row, int64_t latent_dim, int64_t rope_dim,
               float* out) {
  const int64_t row_dim = latent_dim + rope_dim;
  switch (type) {
    case LatentType::kF32:
      memcpy(out, row, static_cast<size_t>(row_dim) * sizeof(float));
      break;
    case LatentType::kBf16:
      return DecodeBf16(reinterpret_cast<const uint16_t*>(row), row_dim, out);
    case LatentType::kFp8:
      DecodeFp8(row, latent_dim, rope_dim, out);
      break;
  }
  for (int64_t k = row_dim; k % kLanes != 0; ++k) out[k] = 0;
}

// ---- Scores -------------------------------------------------------------------------------------

// Rows [row, row + kRows) by heads [head, head + kHeads).
template <int kHeads, int kRows>
inline __attribute__((always_inline)) void ScoreTile(const AttendArgs& args, int64_t head,
                                                     int64_t row) {
  alignas(64) float lanes[kHeads][kRows][kLanes];
  const float* q = static_cast<const float*>(args.q) + head * args.q_stride;
  const float* rows = static_cast<const float*>(args.rows) + row * args.row_stride;
  for (int64_t pass = 0; pass < kPasses; ++pass) {
    Native sum[kHeads][kRows] = {};
    for (int64_t k = pass * kNative; k < args.row_stride; k += kLanes) {
      Native query[kHeads];
      for (int h = 0; h < kHeads; ++h) query[h] = LoadNative(q + h * args.q_stride + k);
      for (int r = 0; r < kRows; ++r) {
        const Native here = LoadNative(rows + r * args.row_stride + k);
        for (int h = 0; h < kHeads; ++h) sum[h][r] = FmaNative(query[h], here, sum[h][r]);
      }
    }
    for (int h = 0; h < kHeads; ++h) {
      for (int r = 0; r < kRows; ++r) StoreNative(lanes[h][r] + pass * kNative, sum[h][r]);
    }
  }
  for (int h = 0; h < kHeads; ++h) {
    float* scores = args.weights + (head + h) * kTileRows + row;
    if constexpr (kRows == 4) {
      Sum4(lanes[h][0], kLanes, scores);
    } else {
      for (int r = 0; r < kRows; ++r) scores[r] = Sum(Load(lanes[h][r]));
    }
  }
}

// Rows [row, last) by kHeads heads.
template <int kHeads>
void ScoreRows(const AttendArgs& args, int64_t head, int64_t row, int64_t last) {
  for (; row + 4 <= last; row += 4) ScoreTile<kHeads, 4>(args, head, row);
  for (; row < last; ++row) ScoreTile<kHeads, 1>(args, head, row);
}

// Asks for those of the rows to come whose turn it is when eight rows from `row` on are scored.
void PrefetchAhead(const AttendArgs& args, int64_t row) {
  const int64_t last = row + 8 < args.num_rows ? row + 8 : args.num_ahead;
  for (int64_t r = row; r < last && r < args.num_ahead; ++r) {
    for (int64_t byte = 0; byte < args.ahead_bytes; byte += 64) PrefetchL2(args.ahead[r] + byte);
  }
}

// Eight rows of 576 floats stay in the first-level cache while the heads go by.
void ScoreHeads(const AttendArgs& args) {
  for (int64_t row = 0; row < args.num_rows; row += 8) {
    PrefetchAhead(args, row);
    const int64_t last = row + 8 < args.num_rows ? row + 8 : args.num_rows;
    int64_t head = 0;
    for (; head + kScoreHeads <= args.num_heads; head += kScoreHeads) {
      ScoreRows<kScoreHeads>(args, head, row, last);
    }
    for (; head < args.num_heads; ++head) ScoreRows<1>(args, head, row, last);
  }
}

// ---- Gaps ---------------------------------------------------------------------------------------

uint64_t Mark(const int32_t* positions, int64_t count, int32_t first) {
  uint64_t marks = 0;
  int64_t i = 0;
#if defined(__AVX512F__)
  const __m256i from = _mm256_set1_epi32(first);
  __m512i bits = _mm512_setzero_si512();
  for (; i + 8 <= count && positions[i] - first < kTileRows; i += 8) {
    const __m256i eight = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(positions + i));
    // A shift by more than 63 leaves nothing.
    const __m512i places = _mm512_cvtepi32_epi64(_mm256_sub_epi32(eight, from));
    bits = _mm512_or_si512(bits, _mm512_sllv_epi64(_mm512_set1_epi64(1), places));
  }
  marks = static_cast<uint64_t>(_mm512_reduce_or_epi64(bits));
#endif
  for (; i < count && positions[i] - first < kTileRows; ++i) {
    marks |= uint64_t{1} << (positions[i] - first);
  }
  return marks;
}

// ---- Softmax ------------------------------------------------------------------------------------

// Of one head: scales dots, and gives their maximum; those of rows not seen become -infinity.
float ScaleDots(const AttendArgs& args, uint64_t seen, float* weights) {
  const F32x16 scale = Broadcast(args.softmax_scale);
  const F32x16 nothing = Broadcast(-__builtin_inff());
  F32x16 lanes = nothing;
  for (int64_t row = 0; row < kTileRows; row += kLanes, seen >>= kLanes) {
    const auto here = static_cast<Mask16>(seen & 0xffff);
    const F32x16 scaled = Select(here, Mul(Load(weights + row), scale), nothing);
    Store(weights + row, scaled);
    lanes = Max(scaled, lanes);
  }
  return MaxLane(lanes);
}

// Scaled dots of one head to weights e^(score - max), rounded to bfloat16 with kBf16; rows not
// seen get weight 0. Returns their sum.
template <bool kBf16>
float WeighDots(float max, float* weights) {
  // With no score above -infinity all weights are 0.
  const F32x16 base = Broadcast(max == -__builtin_inff() ? 0.0f : max);
  F32x16 sum = Zero();
  for (int64_t row = 0; row < kTileRows; row += kLanes) {
    F32x16 weight = Exp(Sub(Load(weights + row), base));
    if (kBf16) weight = RoundNumberToBf16(weight);
    sum = Add(sum, weight);
#if defined(__AVX512BF16__)
    if (kBf16) {
      StoreBf16(reinterpret_cast<uint16_t*>(weights) + row, weight);
      continue;
    }
#endif
    Store(weights + row, weight);
  }
  return Sum(sum);
}

// The softmax of `heads` heads from `first` on. All maxima come first: heads do not wait for
// one another then.
template <bool kBf16>
void SoftmaxHeads(const AttendArgs& args, int64_t first, int64_t heads, float* max, float* sum) {
  float* weights = args.weights + first * kTileRows;
  for (int64_t head = 0; head < heads; ++head) {
    const uint64_t seen = args.seen[(first + head) / args.heads_per_token];
    max[head] = ScaleDots(args, seen, weights + head * kTileRows);
  }
  for (int64_t head = 0; head < heads; ++head) {
    sum[head] = WeighDots<kBf16>(max[head], weights + head * kTileRows);
  }
}

// ---- Output -------------------------------------------------------------------------------------

// Sixteen columns of a head's mean, joined with those gathered if need be.
inline __attribute__((always_inline)) void StoreMean(const AttendArgs& args, int64_t head,
                                                     float* out, F32x16 mean) {
  if (args.joins) {
    const float* scales = args.scales + 2 * head;
    mean = Fma(Load(out), Broadcast(scales[0]), Mul(mean, Broadcast(scales[1])));
  }
  Store(out, mean);
}

// With kBf16 rows go by in the order of attend_bf16.
template <bool kBf16, int kHeads, int kV>
void MeanTile(const AttendArgs& args, int64_t head, int64_t column) {
  // By value: the compiler takes vector stores for writes to anything.
  const float* weights = args.weights + head * kTileRows;
  const float* rows = static_cast<const float*>(args.rows) + column;
  const int64_t row_stride = args.row_stride;
  const int64_t out_stride = args.out_stride;
  float* out = args.out + head * out_stride + column;
  F32x16 sum[kHeads][kV];
  for (int h = 0; h < kHeads; ++h) {
    for (int v = 0; v < kV; ++v) sum[h][v] = Zero();
  }
  const auto add = [&](int64_t row) {
    F32x16 value[kV];
    for (int v = 0; v < kV; ++v) value[v] = Load(rows + row * row_stride + v * kLanes);
    for (int h = 0; h < kHeads; ++h) {
      const F32x16 weight = Broadcast(weights[h * kTileRows + row]);
      for (int v = 0; v < kV; ++v) sum[h][v] = Fma(weight, value[v], sum[h][v]);
    }
  };
  int64_t row = 0;
  if (kBf16) {
    for (; row + 2 <= args.num_rows; row += 2) {
      add(row + 1);
      add(row);
    }
    if (row < args.num_rows) {
      for (int h = 0; h < kHeads; ++h) {
        for (int v = 0; v < kV; ++v) sum[h][v] = Add(Zero(), sum[h][v]);
      }
    }
  }
  for (; row < args.num_rows; ++row) add(row);
  for (int h = 0; h < kHeads; ++h) {
    for (int v = 0; v < kV; ++v)
      StoreMean(args, head + h, out + h * out_stride + v * kLanes, sum[h][v]);
  }
}

template <bool kBf16, int kV>
void MeanColumn(const AttendArgs& args, int64_t column) {
  int64_t head = 0;
  for (; head + 6 <= args.num_heads; head += 6) MeanTile<kBf16, 6, kV>(args, head, column);
  switch (args.num_heads - head) {
    case 1:
      return MeanTile<kBf16, 1, kV>(args, head, column);
    case 2:
      return MeanTile<kBf16, 2, kV>(args, head, column);
    case 3:
      return MeanTile<kBf16, 3, kV>(args, head, column);
    case 4:
      return MeanTile<kBf16, 4, kV>(args, head, column);
    case 5:
      return MeanTile<kBf16, 5, kV>(args, head, column);
    default:
      return;
  }
}

template <bool kBf16>
void MeanColumns(const AttendArgs& args) {
  int64_t column = 0;
  for (; column + kVectors * kLanes <= args.latent_dim; column += kVectors * kLanes) {
    MeanColumn<kBf16, kVectors>(args, column);
  }
  for (; column < args.latent_dim; column += kLanes) MeanColumn<kBf16, 1>(args, column);
}

void Attend(const AttendArgs& args) {
  ScoreHeads(args);
  SoftmaxHeads<false>(args, 0, args.num_heads, args.max, args.sum);
  MeanColumns<false>(args);
}

// ---- Joining ------------------------------------------------------------------------------------

// e^(max - joined), where a maximum of -infinity weighs nothing.
F32x16 Rescale(F32x16 max, F32x16 joined) {
  const Mask16 nothing = Equal(max, Broadcast(-__builtin_inff()));
  return Select(nothing, Zero(), Exp(Sub(max, joined)));
}

// Of up to sixteen heads: what is gathered so far, one more tile, and what to scale both by.
struct Joined {
  F32x16 max, sum, old_scale, tile_scale;
};
Joined JoinSums(F32x16 max, F32x16 sum, F32x16 tile_max, F32x16 tile_sum) {
  Joined joined;
  joined.max = Max(tile_max, max);
  joined.old_scale = Rescale(max, joined.max);
  joined.tile_scale = Rescale(tile_max, joined.max);
  joined.sum = Add(Mul(sum, joined.old_scale), Mul(tile_sum, joined.tile_scale));
  return joined;
}

void Join(const JoinArgs& args) {
  for (int64_t first = 0; first < args.num_heads; first += kLanes) {
    const int64_t heads = args.num_heads - first < kLanes ? args.num_heads - first : kLanes;
    const Joined joined = JoinSums(
        LoadPartial(args.max + first, heads), LoadPartial(args.sum + first, heads),
        LoadPartial(args.tile_max + first, heads), LoadPartial(args.tile_sum + first, heads));
    StorePartial(args.max + first, joined.max, heads);
    StorePartial(args.sum + first, joined.sum, heads);
    float old_scale[kLanes];
    float tile_scale[kLanes];
    Store(old_scale, joined.old_scale);
    Store(tile_scale, joined.tile_scale);
    for (int64_t head = 0; head < heads; ++head) {
      float* out = args.out + (first + head) * args.latent_dim;
      const float* tile = args.tile_out + (first + head) * args.latent_dim;
      for (int64_t c = 0; c < args.latent_dim; c += kLanes) {
        const F32x16 added = Mul(Load(tile + c), Broadcast(tile_scale[head]));
        Store(out + c, Fma(Load(out + c), Broadcast(old_scale[head]), added));
      }
    }
  }
}

// ---- bf16 precision -----------------------------------------------------------------------------
// Where there is no instruction for products of bfloat16, they are those of floats, of which each
// 32 stand as the sixteen odd ones and then the sixteen even ones: chains of pairs become the
// chains of f32 precision.

// `x` [size], rounded, with zeros after it up to row_stride.
void RoundRow(const float* x, int64_t size, int64_t row_stride, uint16_t* out) {
  int64_t k = 0;
#if defined(__AVX512BF16__)
  for (; k + 2 * kLanes <= size; k += 2 * kLanes) {
    _mm512_storeu_si512(out + k,
                        (__m512i)_mm512_cvtne2ps_pbh(Load(x + k + kLanes).v, Load(x + k).v));
  }
#endif
  for (; k < size; k += kLanes) {
    const int64_t lanes = size - k < kLanes ? size - k : kLanes;
    StoreBf16(out + k, RoundToBf16(LoadPartial(x + k, lanes)));
  }
  for (; k < row_stride; ++k) out[k] = 0;
}

void RoundCacheRow(LatentType type, const uint8_t* row, int64_t latent_dim, int64_t rope_dim,
                   int64_t row_stride, float* scratch, uint16_t* out) {
  const int64_t row_dim = latent_dim + rope_dim;
  if (type == LatentType::kBf16) {
    memcpy(out, row, static_cast<size_t>(row_dim) * sizeof(*out));
    for (int64_t k = row_dim; k < row_stride; ++k) out[k] = 0;
    return;
  }
  DecodeRow(type, row, latent_dim, rope_dim, scratch);
  RoundRow(scratch, row_dim, row_stride, out);
}

int64_t RowStride(int64_t row_dim) {
  const int64_t unit = RowUnit(true);
  return (row_dim + unit - 1) / unit * unit;
}

}  // namespace
}  // namespace winnow::cpu::WINNOW_LEVEL

#if defined(__AMX_TILE__)
#include "cpu/dsa/attention_tiles.h"
#elif defined(__AVX512BF16__)
#include "cpu/dsa/attention_bf16.h"
#endif

namespace winnow::cpu::WINNOW_LEVEL {
namespace {

#if defined(__AVX512BF16__)

void ScoreBf16(const AttendArgs& args) { ScoreAll(args); }
void MeanBf16(const AttendArgs& args) { MeanAll(args); }

constexpr bool kGathersInOrder = true;
int64_t Gathered(int64_t column) { return column; }

#else

QueryLayout LayOutQueries(int64_t, int64_t row_stride) {
  return {row_stride * int64_t{sizeof(float)}, row_stride};
}

// 32 values to sixteen odd ones and sixteen even ones.
void SplitPairs(const uint16_t* values, int64_t row_stride, float* out) {
  for (int64_t k = 0; k < row_stride; k += 2 * kLanes) {
    I32x16 pairs;
    memcpy(&pairs, values + k, sizeof(pairs));
    Store(out + k, Float(And(pairs, BroadcastInt(static_cast<int32_t>(0xffff0000u)))));
    Store(out + k + kLanes, Float(ShiftLeft<16>(pairs)));
  }
}

// A row is rounded at the end of its place and then spread over all of it.
uint16_t* BeforeSplit(float* place, int64_t row_stride) {
  return reinterpret_cast<uint16_t*>(place) + row_stride;
}

void PackQueries(const float* q, int64_t num_heads, int64_t row_dim, int64_t row_stride,
                 void* packed) {
  for (int64_t head = 0; head < num_heads; ++head) {
    float* out = static_cast<float*>(packed) + head * row_stride;
    uint16_t* rounded = BeforeSplit(out, row_stride);
    RoundRow(q + head * row_dim, row_dim, row_stride, rounded);
    SplitPairs(rounded, row_stride, out);
  }
}

constexpr bool kTakesGaps = false;

bool PackRows(LatentType type, const uint8_t* const* rows, int64_t num_rows, int64_t,
              int64_t latent_dim, int64_t rope_dim, float* scratch, void* tile) {
  const int64_t row_stride = RowStride(latent_dim + rope_dim);
  for (int64_t row = 0; row < num_rows; ++row) {
    float* out = static_cast<float*>(tile) + row * row_stride;
    uint16_t* rounded = BeforeSplit(out, row_stride);
    RoundCacheRow(type, rows[row], latent_dim, rope_dim, row_stride, scratch, rounded);
    SplitPairs(rounded, row_stride, out);
  }
  return true;
}

void ScoreBf16(const AttendArgs& args) { ScoreHeads(args); }
void MeanBf16(const AttendArgs& args) { MeanColumns<true>(args); }

// The place of a column among those gathered.
constexpr bool kGathersInOrder = false;
int64_t Gathered(int64_t column) {
  return column / 32 * 32 + (column % 2 == 0 ? kLanes : 0) + column % 32 / 2;
}

#endif

void AttendBf16(const AttendArgs& args) {
#if defined(__AMX_TILE__)
  const TileScope tiles(FullTiles());
#endif
  ScoreBf16(args);
  for (int64_t first = 0; first < args.num_heads; first += kLanes) {
    const int64_t heads = args.num_heads - first < kLanes ? args.num_heads - first : kLanes;
    float lanes[2][kLanes] = {};
    SoftmaxHeads<true>(args, first, heads, lanes[0], lanes[1]);
    F32x16 max = Load(lanes[0]);
    F32x16 sum = Load(lanes[1]);
    if (args.joins) {
      const Joined joined = JoinSums(LoadPartial(args.max + first, heads),
                                     LoadPartial(args.sum + first, heads), max, sum);
      Store(lanes[0], joined.old_scale);
      Store(lanes[1], joined.tile_scale);
      for (int64_t head = 0; head < heads; ++head) {
        for (int i = 0; i < 2; ++i) args.scales[2 * (first + head) + i] = lanes[i][head];
      }
      max = joined.max;
      sum = joined.sum;
    }
    StorePartial(args.max + first, max, heads);
    StorePartial(args.sum + first, sum, heads);
  }
  MeanBf16(args);
}

void Finish(const float* gathered, float sum, float* out, int64_t latent_dim, bool bf16) {
  const F32x16 scale = Broadcast(1.0f / sum);
  for (int64_t c = 0; c < latent_dim; c += kLanes) {
    const int64_t lanes = latent_dim - c < kLanes ? latent_dim - c : kLanes;
    if (!bf16 || kGathersInOrder) {
      StorePartial(out + c, Mul(Load(gathered + c), scale), lanes);
      continue;
    }
    float columns[kLanes];
    for (int64_t lane = 0; lane < kLanes; ++lane) columns[lane] = gathered[Gathered(c + lane)];
    StorePartial(out + c, Mul(Load(columns), scale), lanes);
  }
}

}  // namespace

extern const SparseAttentionKernels kSparseAttentionKernels = {
    DecodeRow,   Attend,   kTakesGaps, Mark, LayOutQueries,
    PackQueries, PackRows, AttendBf16, Join, Finish};

}  // namespace winnow::cpu::WINNOW_LEVEL
