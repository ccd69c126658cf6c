#include "engine/cost.h"

#include <algorithm>

namespace winnow {
namespace {

int64_t AttentionParameters(const ModelConfig& c) {
  const int64_t qk = c.qk_nope_head_dim + c.qk_rope_head_dim;
  return c.hidden_size * c.q_lora_rank + c.q_lora_rank +
         c.q_lora_rank * c.num_attention_heads * qk +
         c.hidden_size * (c.kv_lora_rank + c.qk_rope_head_dim) + c.kv_lora_rank +
         c.kv_lora_rank * c.num_attention_heads * (c.qk_nope_head_dim + c.v_head_dim) +
         c.num_attention_heads * c.v_head_dim * c.hidden_size;
}

int64_t IndexerParameters(const ModelConfig& c) {
  return c.q_lora_rank * c.index_n_heads * c.index_head_dim + c.hidden_size * c.index_head_dim +
         2 * c.index_head_dim + c.hidden_size * c.index_n_heads;
}

int64_t FullIndexers(const ModelConfig& c) {
  return std::count(c.indexer_types.begin(), c.indexer_types.end(), IndexerType::kFull);
}

}  // namespace

ParameterCount CountParameters(const ModelConfig& c) {
  ParameterCount count;
  const int64_t embedding = c.vocab_size * c.hidden_size;
  const int64_t expert = 3 * c.hidden_size * c.moe_intermediate_size;
  for (int64_t layer = 0; layer < c.num_hidden_layers; ++layer) {
    int64_t both = AttentionParameters(c) + 2 * c.hidden_size;
    if (c.indexer_types[static_cast<size_t>(layer)] == IndexerType::kFull) {
      both += IndexerParameters(c);
    }
    count.total += both;
    count.active += both;
    if (c.moe_layers[static_cast<size_t>(layer)]) {
      const int64_t router = c.n_routed_experts * (c.hidden_size + 1);
      count.total += router + (c.n_routed_experts + c.n_shared_experts) * expert;
      count.active += router + (c.num_experts_per_tok + c.n_shared_experts) * expert;
    } else {
      count.total += 3 * c.hidden_size * c.intermediate_size;
      count.active += 3 * c.hidden_size * c.intermediate_size;
    }
  }
  count.total += c.hidden_size + embedding + (c.tie_word_embeddings ? 0 : embedding);
  count.active += c.hidden_size + embedding;  // the head
  return count;
}

AttentionCost CostAtPosition(const ModelConfig& c, const KvCacheOptions& cache, int64_t context) {
  const double layers = static_cast<double>(c.num_hidden_layers);
  const double indexers = static_cast<double>(FullIndexers(c));
  const double rows = static_cast<double>(context);
  const double kept = static_cast<double>(std::min(context, c.index_topk));
  const double scored = context > c.index_topk ? rows : 0.0;
  const double flops_per_row = 2.0 * static_cast<double>(c.num_attention_heads) *
                               static_cast<double>(2 * c.kv_lora_rank + c.qk_rope_head_dim);
  const double row_bytes =
      static_cast<double>(LatentRowBytes(cache.latent, c.kv_lora_rank, c.qk_rope_head_dim));
  const double key_flops =
      2.0 * static_cast<double>(c.index_n_heads) * static_cast<double>(c.index_head_dim);
  const double key_bytes =
      static_cast<double>(IndexPageBytes(cache.index_keys, c.index_head_dim, kPageSize)) /
      static_cast<double>(kPageSize);
  AttentionCost cost;
  cost.dense_flops = layers * flops_per_row * rows;
  cost.sparse_flops = layers * flops_per_row * kept;
  cost.indexer_flops = indexers * key_flops * scored;
  cost.dense_bytes = layers * row_bytes * rows;
  cost.sparse_bytes = layers * row_bytes * kept;
  cost.indexer_bytes = indexers * key_bytes * scored;
  return cost;
}

double LinearFlops(const ModelConfig& config) {
  return 2.0 * static_cast<double>(CountParameters(config).active);
}

}  // namespace winnow
