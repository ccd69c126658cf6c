// Weights for a device with memory of its own: every tensor that the layout names, once, into one
// piece of device memory, in the order in which the forward pass meets them.
#include <algorithm>
#include <unordered_map>

#include "backend/backend.h"
#include "base/check.h"
#include "base/text.h"
#include "model/weights.h"

namespace winnow {
namespace {

constexpr int64_t kUploadAlignment = 256;
constexpr int64_t kCopyBytes = int64_t{64} << 20;  // between two words of progress

int64_t Padded(int64_t bytes) {
  return (bytes + kUploadAlignment - 1) / kUploadAlignment * kUploadAlignment;
}

template <typename Visit>
void VisitMatrix(ScaledView& matrix, const Visit& visit) {
  visit(matrix.value);
  visit(matrix.scale);
}

template <typename Visit>
void VisitFfn(FfnWeights& ffn, const Visit& visit) {
  VisitMatrix(ffn.gate_proj, visit);
  VisitMatrix(ffn.up_proj, visit);
  VisitMatrix(ffn.down_proj, visit);
}

template <typename Visit>
void VisitAttention(AttentionWeights& w, const Visit& visit) {
  VisitMatrix(w.q_a_proj, visit);
  visit(w.q_a_proj_bias);
  visit(w.q_a_layernorm);
  VisitMatrix(w.q_b_proj, visit);
  VisitMatrix(w.kv_a_proj_with_mqa, visit);
  visit(w.kv_a_proj_bias);
  visit(w.kv_a_layernorm);
  VisitMatrix(w.kv_b_proj, visit);
  VisitMatrix(w.o_proj, visit);
  visit(w.o_proj_bias);
  if (!w.indexer) return;
  VisitMatrix(w.indexer->wq_b, visit);
  VisitMatrix(w.indexer->wk, visit);
  visit(w.indexer->k_norm_weight);
  visit(w.indexer->k_norm_bias);
  VisitMatrix(w.indexer->weights_proj, visit);
}

template <typename Visit>
void VisitLayer(LayerWeights& layer, const Visit& visit) {
  visit(layer.input_layernorm);
  VisitAttention(layer.self_attn, visit);
  visit(layer.post_attention_layernorm);
  if (layer.mlp) VisitFfn(*layer.mlp, visit);
  if (!layer.moe) return;
  VisitMatrix(layer.moe->gate, visit);
  visit(layer.moe->e_score_correction_bias);
  for (FfnWeights& expert : layer.moe->experts) VisitFfn(expert, visit);
  if (layer.moe->shared_experts) VisitFfn(*layer.moe->shared_experts, visit);
}

template <typename Visit>
void VisitWeights(Weights& weights, const Visit& visit) {
  VisitMatrix(weights.embed_tokens, visit);
  for (LayerWeights& layer : weights.layers) VisitLayer(layer, visit);
  visit(weights.norm);
  VisitMatrix(weights.lm_head, visit);
}

}  // namespace

Status Weights::MoveTo(Backend& backend, const std::function<void(double)>& progress) {
  // Tied embeddings are one tensor in two places.
  std::unordered_map<const void*, int64_t> places;
  int64_t total = 0;
  VisitWeights(*this, [&](TensorView& view) {
    if (!view || !places.emplace(view.data, total).second) return;
    total += Padded(view.bytes());
  });
  auto memory = backend.Allocate(total);
  if (!memory.ok()) {
    return {memory.error().code(),
            fmt::format("weights: {} bytes do not fit, {}", total, memory.error().message())};
  }
  uint8_t* base = static_cast<uint8_t*>(memory->get());
  int64_t done = 0;
  VisitWeights(*this, [&](TensorView& view) {
    if (!view) return;
    const auto place = places.find(view.data);
    uint8_t* target = base + place->second;
    if (place->second >= done) {
      const uint8_t* source = static_cast<const uint8_t*>(view.data);
      for (int64_t at = 0; at < view.bytes(); at += kCopyBytes) {
        backend.CopyToDevice(target + at, source + at, std::min(kCopyBytes, view.bytes() - at));
        if (progress) {
          progress(static_cast<double>(place->second + at) / static_cast<double>(total));
        }
      }
      done = place->second + Padded(view.bytes());
    }
    view.data = target;
  });
  device_memory_ = std::move(*memory);
  owned_.clear();
  if (progress) progress(1);
  WINNOW_TRY(backend.Finish());
  return CheckIntact();
}

}  // namespace winnow
