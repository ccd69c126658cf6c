// Latent attention over the tokens that DSA selects. Shape letters: docs/dsa.md.
#include "model/transformer.h"

namespace winnow {
namespace {

TensorView Linear(Pass& pass, const ScaledView& weight, TensorView x, TensorView bias = {}) {
  TensorView out = pass.New({x.dims[0], weight.rows()});
  pass.ops.Linear({.x = x, .weight = weight, .bias = bias, .out = out});
  return out;
}

}  // namespace

void WriteIndexKeys(Pass& pass, const IndexerWeights& indexer, const IndexCacheView& cache,
                    TensorView x) {
  Workspace::Scope scope(pass.workspace);
  pass.ops.WriteIndexKeys({.k = Linear(pass, indexer.wk, x),
                           .k_norm_weight = indexer.k_norm_weight,
                           .k_norm_bias = indexer.k_norm_bias,
                           .eps = static_cast<float>(pass.config.index_norm_eps),
                           .positions = pass.batch.positions,
                           .slots = pass.batch.slots,
                           .rope = pass.index_rope,
                           .cache = cache});
}

void SelectTokens(Pass& pass, const IndexerWeights& indexer, const IndexCacheView& cache,
                  TensorView x, TensorView q_latent) {
  const ModelConfig& config = pass.config;
  Workspace::Scope scope(pass.workspace);
  const auto scored = [&](TensorView view) {
    return view.Rows(pass.first_scored, pass.num_scored);
  };
  TensorView q = pass.New({pass.num_tokens(), config.index_n_heads * config.index_head_dim});
  TensorView weights = pass.New({pass.num_tokens(), config.index_n_heads});
  pass.ops.Linear({.x = scored(q_latent), .weight = indexer.wq_b, .out = scored(q)});
  pass.ops.Linear(
      {.x = scored(x), .weight = indexer.weights_proj, .out = scored(weights), .keep_f32 = true});
  q.dims = {pass.num_tokens(), config.index_n_heads, config.index_head_dim};
  pass.ops.PrepareIndexQuery({.q = scored(q),
                              .weights = scored(weights),
                              .positions = scored(pass.batch.positions),
                              .rope = pass.index_rope,
                              .type = cache.type});
  pass.ops.SelectTokens({.q = q,
                         .weights = weights,
                         .cache = cache,
                         .batch = pass.batch,
                         .topk = config.index_topk,
                         .selection = pass.selection});
}

// One token, step 6 of 9. From Forward() in transformer.cc; next: dsa/lightning_indexer.h.
void SelfAttention(Pass& pass, const AttentionWeights& w, int64_t layer, TensorView x,
                   TensorView branch) {
  const ModelConfig& config = pass.config;
  const LayerCache& cache = pass.cache.layer(layer);
  const int64_t T = pass.num_tokens();
  const int64_t H = config.num_attention_heads;
  const int64_t C = config.kv_lora_rank;
  const int64_t R = config.qk_rope_head_dim;
  Workspace::Scope scope(pass.workspace);

  // 1. Query. One latent feeds both the attention heads and the indexer.
  TensorView q_latent = Linear(pass, w.q_a_proj, x, w.q_a_proj_bias);
  pass.ops.RmsNorm({.x = q_latent,
                    .weight = w.q_a_layernorm,
                    .eps = static_cast<float>(config.latent_norm_eps),
                    .out = q_latent});
  TensorView q_heads = Linear(pass, w.q_b_proj, q_latent);
  q_heads.dims = {T, H, config.qk_nope_head_dim + R};
  TensorView q = pass.New({T, H, C + R});
  pass.ops.AbsorbQuery({.q = q_heads,
                        .kv_b_proj = w.kv_b_proj,
                        .positions = pass.batch.positions,
                        .rope = pass.rope,
                        .v_head_dim = config.v_head_dim,
                        .out = q});

  // 2. Key and value. One latent row a token, written to the token's cache slot.
  pass.ops.WriteLatent({.kv_a = Linear(pass, w.kv_a_proj_with_mqa, x, w.kv_a_proj_bias),
                        .kv_a_layernorm = w.kv_a_layernorm,
                        .eps = static_cast<float>(config.latent_norm_eps),
                        .positions = pass.batch.positions,
                        .slots = pass.batch.slots,
                        .rope = pass.rope,
                        .cache = cache.latent});

  // 3. DSA. A layer without an indexer keeps the selection of the last layer that had one.
  const AttentionState state{layer,       w.indexer ? &*w.indexer : nullptr, x, q_latent, q,
                             cache.latent};
  if (pass.observer) pass.observer->OnAttention(pass, state);
  if (pass.select && pass.policy) pass.policy->Select(pass, state, pass.selection);
  if (w.indexer && cache.index_keys) {
    WriteIndexKeys(pass, *w.indexer, *cache.index_keys, x);
    if (pass.select && !pass.policy) {
      SelectTokens(pass, *w.indexer, *cache.index_keys, x, q_latent);
    }
    if (pass.observer) pass.observer->OnSelection(layer, pass.selection);
  }
  TensorView attended = pass.New({T, H, C});
  pass.ops.Attention({.q = q,
                      .cache = cache.latent,
                      .selection = pass.selection,
                      .batch = pass.batch,
                      .softmax_scale = pass.softmax_scale,
                      .out = attended});

  // 4. Output. Back from the latent space to the residual width.
  TensorView values = pass.New({T, H, config.v_head_dim});
  pass.ops.ExpandValue({.attended = attended,
                        .kv_b_proj = w.kv_b_proj,
                        .qk_nope_head_dim = config.qk_nope_head_dim,
                        .out = values});
  values.dims = {T, H * config.v_head_dim};
  pass.ops.Linear({.x = values, .weight = w.o_proj, .bias = w.o_proj_bias, .out = branch});
}

}  // namespace winnow
