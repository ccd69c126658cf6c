// Sparse attention's inner loops: cache rows to floats, one tile of rows for some heads, and the
// joining of tiles.
//
// Scores  sixteen chains along the row, made in passes of one register's lanes, so that 3 heads by
//         4 rows of accumulators, 3 heads and a row fill the 16 registers of AVX2.
// Output  6 heads by kVectors vectors of the latent stay in registers while the rows go by.
// At C = 512, R = 64 a decoded tile is 144 KB: it lives in the second-level cache and serves all
// heads.
#include "cpu/dsa/dsa_kernels.h"
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
  const uint8_t* rotary = scales + num_blocks * sizeof(float);
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
  const float* q = args.q + head * args.q_stride;
  const float* rows = args.rows + row * args.row_stride;
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

// Eight rows of 576 floats stay in the first-level cache while the heads go by.
void ScoreHeads(const AttendArgs& args) {
  for (int64_t row = 0; row < args.num_rows; row += 8) {
    const int64_t last = row + 8 < args.num_rows ? row + 8 : args.num_rows;
    int64_t head = 0;
    for (; head + kScoreHeads <= args.num_heads; head += kScoreHeads) {
      ScoreRows<kScoreHeads>(args, head, row, last);
    }
    for (; head < args.num_heads; ++head) ScoreRows<1>(args, head, row, last);
  }
}

// ---- Softmax ------------------------------------------------------------------------------------

// Dots of one head to weights e^(score - max); the lanes past the last row get weight 0.
void SoftmaxTile(const AttendArgs& args, int64_t head) {
  float* weights = args.weights + head * kTileRows;
  const F32x16 scale = Broadcast(args.softmax_scale);
  for (int64_t row = 0; row < args.num_rows; row += kLanes) {
    Store(weights + row, Mul(Load(weights + row), scale));
  }
  for (int64_t row = args.num_rows; row < kTileRows; ++row) weights[row] = -__builtin_inff();
  F32x16 lanes = Broadcast(-__builtin_inff());
  for (int64_t row = 0; row < kTileRows; row += kLanes) lanes = Max(Load(weights + row), lanes);
  const float max = MaxLane(lanes);
  // With no score above -infinity all weights are 0.
  const F32x16 base = Broadcast(max == -__builtin_inff() ? 0.0f : max);
  F32x16 sum = Zero();
  for (int64_t row = 0; row < kTileRows; row += kLanes) {
    const F32x16 weight = Exp(Sub(Load(weights + row), base));
    Store(weights + row, weight);
    sum = Add(sum, weight);
  }
  args.max[head] = max;
  args.sum[head] = Sum(sum);
}

// ---- Output -------------------------------------------------------------------------------------

template <int kHeads, int kV>
void MeanTile(const AttendArgs& args, int64_t head, int64_t column) {
  // By value: the compiler takes vector stores for writes to anything.
  const float* weights = args.weights + head * kTileRows;
  const float* rows = args.rows + column;
  const int64_t row_stride = args.row_stride;
  const int64_t out_stride = args.latent_dim;
  float* out = args.out + head * out_stride + column;
  F32x16 sum[kHeads][kV];
  for (int h = 0; h < kHeads; ++h) {
    for (int v = 0; v < kV; ++v) sum[h][v] = Zero();
  }
  for (int64_t left = args.num_rows; left > 0; --left) {
    F32x16 value[kV];
    for (int v = 0; v < kV; ++v) value[v] = Load(rows + v * kLanes);
    for (int h = 0; h < kHeads; ++h) {
      const F32x16 weight = Broadcast(weights[h * kTileRows]);
      for (int v = 0; v < kV; ++v) sum[h][v] = Fma(weight, value[v], sum[h][v]);
    }
    rows += row_stride;
    ++weights;
  }
  for (int h = 0; h < kHeads; ++h) {
    for (int v = 0; v < kV; ++v) Store(out + h * out_stride + v * kLanes, sum[h][v]);
  }
}

template <int kV>
void MeanColumn(const AttendArgs& args, int64_t column) {
  int64_t head = 0;
  for (; head + 6 <= args.num_heads; head += 6) MeanTile<6, kV>(args, head, column);
  switch (args.num_heads - head) {
    case 1:
      return MeanTile<1, kV>(args, head, column);
    case 2:
      return MeanTile<2, kV>(args, head, column);
    case 3:
      return MeanTile<3, kV>(args, head, column);
    case 4:
      return MeanTile<4, kV>(args, head, column);
    case 5:
      return MeanTile<5, kV>(args, head, column);
    default:
      return;
  }
}

void Attend(const AttendArgs& args) {
  ScoreHeads(args);
  for (int64_t head = 0; head < args.num_heads; ++head) SoftmaxTile(args, head);
  int64_t column = 0;
  for (; column + kVectors * kLanes <= args.latent_dim; column += kVectors * kLanes) {
    MeanColumn<kVectors>(args, column);
  }
  for (; column < args.latent_dim; column += kLanes) MeanColumn<1>(args, column);
}

// ---- Joining ------------------------------------------------------------------------------------

// e^(max - joined), where a maximum of -infinity weighs nothing.
float Rescale(float max, float joined) {
  if (max == -__builtin_inff()) return 0;
  float lanes[kLanes];
  Store(lanes, Exp(Broadcast(max - joined)));
  return lanes[0];
}

void Join(const JoinArgs& args) {
  for (int64_t head = 0; head < args.num_heads; ++head) {
    const float joined =
        args.tile_max[head] > args.max[head] ? args.tile_max[head] : args.max[head];
    const float old_scale = Rescale(args.max[head], joined);
    const float tile_scale = Rescale(args.tile_max[head], joined);
    args.max[head] = joined;
    args.sum[head] = args.sum[head] * old_scale + args.tile_sum[head] * tile_scale;
    float* out = args.out + head * args.latent_dim;
    const float* tile = args.tile_out + head * args.latent_dim;
    for (int64_t c = 0; c < args.latent_dim; c += kLanes) {
      const F32x16 added = Mul(Load(tile + c), Broadcast(tile_scale));
      Store(out + c, Fma(Load(out + c), Broadcast(old_scale), added));
    }
  }
}

void Finish(const float* gathered, float sum, float* out, int64_t latent_dim) {
  const F32x16 scale = Broadcast(1.0f / sum);
  for (int64_t c = 0; c < latent_dim; c += kLanes) {
    const int64_t lanes = latent_dim - c < kLanes ? latent_dim - c : kLanes;
    StorePartial(out + c, Mul(Load(gathered + c), scale), lanes);
  }
}

}  // namespace

extern const SparseAttentionKernels kSparseAttentionKernels = {DecodeRow, Attend, Join, Finish};

}  // namespace winnow::cpu::WINNOW_LEVEL
