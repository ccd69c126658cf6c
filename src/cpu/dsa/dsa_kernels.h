// The inner loops of DSA, for one thread, compiled once for each instruction set. Equal bits on all
// of them: each declaration says in which order sums are made.
#pragma once

#include <cstdint>

#include "winnow/types.h"

namespace winnow::cpu {

enum class InstructionSet;  // cpu_backend.h

// Index keys are decoded and scored in groups of this many, one key a lane.
inline constexpr int64_t kKeyGroup = 16;

// Codes of int8 keys and queries are multiplied as integers, which are exact as floats up to this
// many dimensions: 127 * 127 * 1024 < 2^24. So the order of their sum does not matter.
inline constexpr int64_t kMaxCodeDim = 1024;
inline bool ScoresCodes(IndexKeyType type, int64_t index_dim) {
  return type == IndexKeyType::kInt8 && index_dim <= kMaxCodeDim;
}
// Codes of consecutive dimensions that lie together in a page of index keys, [J / n, page_size, n]
// for the n given here; J counts as rounded up to a multiple of kIndexDimUnit, with zeros there.
inline int64_t CodesTogether(IndexKeyType type) {
  if (type == IndexKeyType::kInt8) return 4;
  return type == IndexKeyType::kBf16 ? 2 : 1;
}

// Scores of consecutive keys of a page for rows of heads; the order is that of
// dsa/lightning_indexer.h.
struct ScoreArgs {
  IndexKeyType type = IndexKeyType::kInt8;
  const void* q = nullptr;         // [num_tokens, index_heads] queries as pack_queries leaves them
  const float* weights = nullptr;  // [num_tokens, index_heads]
  int64_t num_tokens = 0;
  int64_t index_heads = 0;
  int64_t index_dim = 0;
  const uint8_t* page = nullptr;
  int64_t page_size = 0;
  int64_t first_key = 0;             // of the page; a multiple of kKeyGroup, as page_size is
  int64_t num_groups = 0;            // of keys
  const float* key_scale = nullptr;  // [num_groups * 16]
  void* keys = nullptr;     // scratch [num_groups * 16, J rounded up] floats, aligned to 64 bytes
  float* scores = nullptr;  // out: token t's from scores + t * scores_stride on
  int64_t scores_stride = 0;
};

// A score and its position as one number: the better candidate of two is the larger. The upper half
// orders floats, the lower half is the complement of the position.
using Candidate = uint64_t;

struct CandidateRange {
  Candidate worst, best;
};

// Candidates that filter may write beyond those it appends.
inline constexpr int64_t kFilterSlack = 16;

struct LightningIndexerKernels {
  // Queries [rows, J], values or codes of `type`, to the words that score wants: J + 4 a row at
  // most. Returns how many were written.
  int64_t (*pack_queries)(IndexKeyType type, const float* q, int64_t rows, int64_t index_dim,
                          void* words);
  void (*score)(const ScoreArgs& args);
  // Appends to `out` the candidates among `num_scores` scores, which are those of the positions
  // from first_position on: all but NaN, or with a threshold those greater. `out` has room for all
  // and kFilterSlack more. Returns how many were appended.
  int64_t (*filter)(const float* scores, int64_t num_scores, int32_t first_position,
                    const float* threshold, Candidate* out);
  // The candidates from `pivot` up to `out`, in their order; returns how many they are. `out` has
  // room for `count` and may be `candidates`.
  int64_t (*keep)(const Candidate* candidates, int64_t count, Candidate pivot, Candidate* out);
  // How many are at least `pivot`.
  int64_t (*count_from)(const Candidate* candidates, int64_t count, Candidate pivot);
  // The worst and the best of at least one.
  CandidateRange (*find_range)(const Candidate* candidates, int64_t count);
  // out = (x - mean) / sqrt(variance + eps) * weight + bias, of `size` numbers; sums are sixteen
  // chains, element k in chain k mod 16, added 8, 4, 2, 1 apart.
  void (*layer_norm)(const float* x, const float* weight, const float* bias, float eps,
                     int64_t size, float* out);
  // HadamardTransform of dsa/lightning_indexer.h, to the same bits.
  void (*hadamard)(float* x, int64_t size);
  // FiniteMax and QuantizeByScale of dsa/lightning_indexer.h, to the same bits.
  float (*finite_max)(const float* x, int64_t size);
  void (*quantize)(IndexKeyType type, float scale, float* x, int64_t size);
};

// Cache rows are attended to in tiles of this many, counted along the list of rows of a token.
inline constexpr int64_t kTileRows = 64;
// Floats before the rows of a tile, for what a level wants to know of it.
inline constexpr int64_t kTileHeader = 160;

// Some heads, of one or several tokens, attend to the same tile of rows. In f32 precision q and
// rows are floats; in bf16 precision they are as pack_queries and pack_rows leave them.
struct AttendArgs {
  // In f32 precision [num_heads, q_stride], zeros from row_dim up to row_stride.
  const void* q = nullptr;
  int64_t q_stride = 0;
  int64_t num_heads = 0;
  // In f32 precision [num_rows, row_stride], zeros from row_dim to row_stride.
  const void* rows = nullptr;
  int64_t row_stride = 0;  // row_dim rounded up to a multiple of RowUnit
  int64_t num_rows = 0;    // 1 … kTileRows
  // Which rows count, bit r for row r: seen[t] is for the heads of token t, of which there are
  // heads_per_token. Without takes_gaps, the first num_rows for every token.
  const uint64_t* seen = nullptr;
  int64_t heads_per_token = 0;
  int64_t latent_dim = 0;  // rounded up likewise
  float softmax_scale = 0;
  float* weights = nullptr;  // scratch [num_heads, kTileRows]
  float* scales = nullptr;   // scratch [num_heads, 2], for `joins`
  // Out: of the tile, or with `joins` of what was there before and the tile.
  float* max = nullptr;  // [num_heads]: the largest scaled score
  float* sum = nullptr;  // [num_heads]: of e^(score - max)
  float* out = nullptr;  // [num_heads, out_stride]: sum of e^(score - max) * row
  int64_t out_stride = 0;
  bool joins = false;  // in bf16 precision only
  // Rows of a tile to come, which may be asked for while this one is worked on; bf16 precision.
  const uint8_t* const* ahead = nullptr;  // [num_ahead], at most kTileRows
  int64_t num_ahead = 0;
  int64_t ahead_bytes = 0;  // of each
};
inline constexpr int64_t kMaxAttendHeads = 128;
inline int64_t RowUnit(bool bf16) { return bf16 ? 32 : 16; }

// What heads have gathered so far, joined with one more tile.
struct JoinArgs {
  int64_t num_heads = 0;
  int64_t latent_dim = 0;           // as in AttendArgs
  const float* tile_max = nullptr;  // as AttendArgs leaves them
  const float* tile_sum = nullptr;
  const float* tile_out = nullptr;
  float* max = nullptr;
  float* sum = nullptr;
  float* out = nullptr;
};

// Where packed queries lie.
struct QueryLayout {
  int64_t head_bytes;  // from one head to the next
  int64_t stride;      // q_stride of AttendArgs
};

struct SparseAttentionKernels {
  // f32 precision.
  // One cache row as C + R floats, zeros after them up to a multiple of 16.
  void (*decode_row)(LatentType type, const uint8_t* row, int64_t latent_dim, int64_t rope_dim,
                     float* out);
  // Dots are 16 chains of fused multiply-adds, element k in chain k mod 16, added 8, 4, 2, 1 apart;
  // sums over rows are one chain in their order, the sum of exponentials 16 chains likewise.
  void (*attend)(const AttendArgs& args);

  // bf16 precision: q, rows and the weights e^(score - max) are rounded to bfloat16 first.
  // Whether rows of a tile may be left out, by a null for pack_rows (a row of zeros) or by
  // AttendArgs::seen. A row left out by `seen` has to be finite.
  bool takes_gaps;
  // Bit i for each of ascending positions that is first + i, i < kTileRows; none is below `first`.
  uint64_t (*mark)(const int32_t* positions, int64_t count, int32_t first);
  // Queries [num_heads, row_dim] to the level's own form, in which they take no more room than
  // kMaxAttendHeads rows of row_stride floats. Heads may be left out from the beginning.
  QueryLayout (*lay_out_queries)(int64_t num_heads, int64_t row_stride);
  void (*pack_queries)(const float* q, int64_t num_heads, int64_t row_dim, int64_t row_stride,
                       void* packed);
  // Cache rows to the level's own form of a tile, of at most kTileHeader + kTileRows * row_stride
  // floats, which may refer to the rows where they are. `num_heads` is how many will attend to it,
  // `scratch` has room for row_stride floats. With takes_gaps, returns whether the latent part of
  // every row is known to be finite.
  bool (*pack_rows)(LatentType type, const uint8_t* const* rows, int64_t num_rows,
                    int64_t num_heads, int64_t latent_dim, int64_t rope_dim, float* scratch,
                    void* tile);
  // Dots are 16 chains of fused multiply-adds, elements 32 i + 2 c and 32 i + 2 c + 1 in chain c,
  // the second of the two first, added 8, 4, 2, 1 apart. Sums over rows are one chain, two rows at
  // a time, the second first, with a row of zeros after an odd last one. On amx both add up blocks
  // of 32, elements and rows, filled up with zeros (tiles.h). Sums of exponentials are of the
  // rounded ones. Joining is that of `join`.
  void (*attend_bf16)(const AttendArgs& args);

  // The latent parts of attend_bf16 are in an order of the level's own; join keeps it.
  void (*join)(const JoinArgs& args);
  // out [latent_dim] = gathered / sum; with `bf16`, of what attend_bf16 gathered.
  void (*finish)(const float* gathered, float sum, float* out, int64_t latent_dim, bool bf16);
};

struct DsaKernels {
  const LightningIndexerKernels& indexer;
  const SparseAttentionKernels& attention;
};

// The tables of an instruction set that this processor has.
const DsaKernels& DsaKernelsFor(InstructionSet set);

namespace portable {
extern const LightningIndexerKernels kLightningIndexerKernels;
extern const SparseAttentionKernels kSparseAttentionKernels;
}  // namespace portable
namespace avx2 {
extern const LightningIndexerKernels kLightningIndexerKernels;
extern const SparseAttentionKernels kSparseAttentionKernels;
}  // namespace avx2
namespace avx512 {
extern const LightningIndexerKernels kLightningIndexerKernels;
extern const SparseAttentionKernels kSparseAttentionKernels;
}  // namespace avx512
namespace avx512_bf16 {
extern const LightningIndexerKernels kLightningIndexerKernels;
extern const SparseAttentionKernels kSparseAttentionKernels;
}  // namespace avx512_bf16
namespace amx {
extern const LightningIndexerKernels kLightningIndexerKernels;
extern const SparseAttentionKernels kSparseAttentionKernels;
}  // namespace amx

}  // namespace winnow::cpu
