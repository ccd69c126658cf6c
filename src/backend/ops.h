// The operations a backend offers, as argument structs with shapes. The forward pass is written in
// these.
//
// Shape letters (docs/dsa.md): T tokens of the step, B sequences, D hidden_size, H attention heads,
// Q q_lora_rank, C kv_lora_rank, R qk_rope_head_dim, P qk_nope_head_dim, V v_head_dim, I index
// heads, J index_head_dim, K index_topk, E experts, F width of a feed-forward block, N cache slots.
// Activations are f32 tensors. A backend of bf16 precision rounds to bfloat16 what products with
// weights read, activations and weights, and nothing else; sums are f32.
#pragma once

#include <cstdint>
#include <span>

#include "tensor/tensor.h"
#include "winnow/types.h"

namespace winnow {

// The flat tokens of one step, of one or several sequences. Does not know prefill from decode.
struct BatchView {
  int64_t page_size = 0;
  TensorView token_ids;   // [T] i32
  TensorView positions;   // [T] i32  position in its sequence, from 0
  TensorView sequences;   // [T] i32  row of page_table
  TensorView slots;       // [T] i32  where the token's cache rows are written
  TensorView page_table;  // [B, max pages] i32  page number of each run of page_size positions

  int64_t num_tokens() const { return positions.dims[0]; }
};

// Angles of the rotary embedding: row p holds cos and sin of position p for each of the R/2 pairs.
struct RopeTable {
  TensorView cos_sin;       // [positions, 2, R/2] f32: cosines, then sines
  bool half_split = false;  // pairs (i, i + R/2) instead of (2i, 2i + 1)
};

// The cache of one layer's latent rows, [N] rows of row_bytes.
struct LatentCacheView {
  LatentType type = LatentType::kBf16;
  int64_t latent_dim = 0;  // C
  int64_t rope_dim = 0;    // R
  int64_t row_bytes = 0;
  TensorView rows;  // [N, row_bytes] u8
};
int64_t LatentRowBytes(LatentType type, int64_t latent_dim, int64_t rope_dim);

// The cache of one layer's index keys. A page is opaque to everyone but its backend.
struct IndexCacheView {
  IndexKeyType type = IndexKeyType::kInt8;
  int64_t index_dim = 0;  // J
  int64_t page_size = 0;
  int64_t page_bytes = 0;
  TensorView pages;  // [N / page_size, page_bytes] u8
};
// Keys are stored as if they had a multiple of this many dimensions, zeros after their own.
inline constexpr int64_t kIndexDimUnit = 4;
inline int64_t PaddedIndexDim(int64_t index_dim) {
  return (index_dim + kIndexDimUnit - 1) / kIndexDimUnit * kIndexDimUnit;
}
// Bytes of a page: the codes of page_size keys and, for kE4m3 and kInt8, a f32 scale for each.
int64_t IndexPageBytes(IndexKeyType type, int64_t index_dim, int64_t page_size);

// The cached tokens each token of the step reads.
struct SelectionView {
  TensorView
      positions;  // [T, W] i32 ascending, -1 in the places left over; W ≥ min(K, longest context)
  TensorView slots;   // [T, W] i32 the same tokens as cache slots
  TensorView counts;  // [T]    i32
};

struct FfnWeights {
  ScaledView gate_proj;  // [F, D]
  ScaledView up_proj;    // [F, D]
  ScaledView down_proj;  // [D, F]
};

// hidden[t] = table[token_ids[t]]
struct EmbedArgs {
  TensorView token_ids;  // [T] i32
  ScaledView table;      // [vocab, D]
  TensorView hidden;     // [T, D] f32 out
};

// hidden += branch; out = RMSNorm(hidden) * weight
struct AddRmsNormArgs {
  TensorView hidden;  // [T, D] f32 in and out
  TensorView branch;  // [T, D] f32, or absent
  TensorView weight;  // [D] f32
  float eps = 0;
  TensorView out;  // [T, D] f32; may be absent: then only the sum is made
};

// out = RMSNorm(x) * weight, row by row.
struct RmsNormArgs {
  TensorView x;       // [T, Q] f32
  TensorView weight;  // [Q] f32
  float eps = 0;
  TensorView out;  // [T, Q] f32, may be x
};

// out = x · weightᵀ + bias
struct LinearArgs {
  TensorView x;           // [T, K] f32
  ScaledView weight;      // [N, K]
  TensorView bias;        // [N] f32, or absent
  TensorView out;         // [T, N] f32
  bool keep_f32 = false;  // round nothing: logits, router and index weights
};

// The query as the latent cache wants it: rotary part turned, nope part taken through W_UK, the
// first P rows of each head in kv_b_proj.
struct AbsorbQueryArgs {
  TensorView q;          // [T, H, P+R] f32
  ScaledView kv_b_proj;  // [H*(P+V), C]
  TensorView positions;  // [T] i32
  RopeTable rope;
  int64_t v_head_dim = 0;
  TensorView out;  // [T, H, C+R] f32
};

// Normalises the latent, turns the rotary key, and stores both in the tokens' slots.
struct WriteLatentArgs {
  TensorView kv_a;            // [T, C+R] f32, output of kv_a_proj_with_mqa
  TensorView kv_a_layernorm;  // [C] f32
  float eps = 0;
  TensorView positions;  // [T] i32
  TensorView slots;      // [T] i32
  RopeTable rope;
  LatentCacheView cache;
};

// Layer norm, rotation, form of the cache, store: the index keys of the step's tokens.
struct WriteIndexKeysArgs {
  TensorView k;              // [T, J] f32, output of wk
  TensorView k_norm_weight;  // [J] f32
  TensorView k_norm_bias;    // [J] f32
  float eps = 0;
  TensorView positions;  // [T] i32
  TensorView slots;      // [T] i32
  RopeTable rope;
  IndexCacheView cache;
};

// In place: rotation and form of the cache for the index queries; their scales and the constants
// I^-0.5 * J^-0.5 go into the weights.
struct PrepareIndexQueryArgs {
  TensorView q;          // [T, I, J] f32 in: output of wq_b; out: values or codes
  TensorView weights;    // [T, I] f32 in: output of weights_proj; out: as the indexer wants them
  TensorView positions;  // [T] i32
  RopeTable rope;
  IndexKeyType type = IndexKeyType::kInt8;
};

// Parts 1 and 2 of DSA in one stream: gives what LightningIndexerReference and
// TokenSelectionReference give in sequence, to the last bit, and holds scores for a bounded number
// of tokens and keys only. Tokens with at most K candidates (positions[t] + 1) are not scored:
// their q and weights may be anything.
struct SelectTokensArgs {
  TensorView q;        // [T, I, J] f32
  TensorView weights;  // [T, I] f32
  IndexCacheView cache;
  BatchView batch;
  int64_t topk = 0;         // K
  SelectionView selection;  // out
};

// Part 3 of DSA. With a selection each token reads the rows chosen for it; without one (its views
// absent) it reads every row of its sequence up to its own position: dense attention. Slots are
// those that the batch's page table gives the positions.
struct AttentionArgs {
  TensorView q;  // [T, H, C+R] f32
  LatentCacheView cache;
  SelectionView selection;
  BatchView batch;
  float softmax_scale = 0;
  TensorView out;  // [T, H, C] f32
};

// From the latent space to the heads' values: W_UV, the last V rows of each head in kv_b_proj.
struct ExpandValueArgs {
  TensorView attended;   // [T, H, C] f32
  ScaledView kv_b_proj;  // [H*(P+V), C]
  int64_t qk_nope_head_dim = 0;
  TensorView out;  // [T, H, V] f32
};

// out = down(silu(gate(x)) * up(x))
struct FeedForwardArgs {
  TensorView x;  // [T, D] f32
  const FfnWeights* weights = nullptr;
  TensorView scratch;  // [T, 2F] f32
  TensorView out;      // [T, D] f32
};

// A mixture of experts: sigmoid scores, selection with the correction bias and within the best
// groups (ties to the lower index), shared experts added as they are.
struct MoeArgs {
  TensorView x;                        // [T, D] f32
  ScaledView gate;                     // [E, D]
  TensorView e_score_correction_bias;  // [E] f32
  std::span<const FfnWeights> experts;
  const FfnWeights* shared_experts = nullptr;  // or none
  int64_t num_experts_per_tok = 0;
  int64_t n_group = 1;
  int64_t topk_group = 1;
  bool norm_topk_prob = true;
  float routed_scaling_factor = 1;
  TensorView out;  // [T, D] f32
};

// tokens[t] = the token of logits[t] by rules[t], as draw_token.h defines it: its -1 included.
struct DrawTokensArgs {
  TensorView logits;  // [T, N] f32, N at most kMostIds
  TensorView rules;   // [T, sizeof(DrawRule)] u8, each a DrawRule, aligned to 8
  TensorView tokens;  // [T] i32 out
};

}  // namespace winnow
