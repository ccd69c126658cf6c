// The feed-forward half of a layer: one gated block, or a mixture of experts.
#include "model/transformer.h"

namespace winnow {

void FeedForward(Pass& pass, const LayerWeights& weights, TensorView x, TensorView branch) {
  const ModelConfig& config = pass.config;
  Workspace::Scope scope(pass.workspace);
  if (weights.mlp) {
    const int64_t width = weights.mlp->gate_proj.rows();
    pass.ops.FeedForward({.x = x,
                          .weights = &*weights.mlp,
                          .scratch = pass.New({pass.num_tokens(), 2 * width}),
                          .out = branch});
    return;
  }
  const MoeWeights& moe = *weights.moe;
  pass.ops.Moe({.x = x,
                .gate = moe.gate,
                .e_score_correction_bias = moe.e_score_correction_bias,
                .experts = moe.experts,
                .shared_experts = moe.shared_experts ? &*moe.shared_experts : nullptr,
                .num_experts_per_tok = config.num_experts_per_tok,
                .n_group = config.n_group,
                .topk_group = config.topk_group,
                .norm_topk_prob = config.norm_topk_prob,
                .routed_scaling_factor = static_cast<float>(config.routed_scaling_factor),
                .out = branch});
}

}  // namespace winnow
