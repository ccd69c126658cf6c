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
  const CostModel model(c, cache);
  const int64_t layers = c.num_hidden_layers;
  RunCounts dense, sparse, indexer;
  dense.attention_rows_read = layers * context;
  sparse.attention_rows_read = layers * std::min(context, c.index_topk);
  if (context > c.index_topk) indexer.index_keys_scored = FullIndexers(c) * context;
  return {.dense_flops = model.Flops(dense),
          .sparse_flops = model.Flops(sparse),
          .indexer_flops = model.Flops(indexer),
          .dense_bytes = model.Bytes(dense),
          .sparse_bytes = model.Bytes(sparse),
          .indexer_bytes = model.Bytes(indexer)};
}

double LinearFlops(const ModelConfig& config) {
  return 2.0 * static_cast<double>(CountParameters(config).active);
}

RunCounts& RunCounts::operator+=(const RunCounts& other) {
  tokens += other.tokens;
  logit_rows += other.logit_rows;
  attention_rows_read += other.attention_rows_read;
  attention_rows_dense += other.attention_rows_dense;
  index_keys_scored += other.index_keys_scored;
  return *this;
}

RunCounts CountRun(const ModelConfig& c, AttentionMode attention, int64_t first, int64_t count,
                   int64_t logit_rows) {
  // The sum of the contexts first + 1 … end, and of those among them that are longer than K.
  const auto sum = [](int64_t from, int64_t to) { return (to - from) * (from + to + 1) / 2; };
  const int64_t end = first + count;
  const int64_t border = std::clamp(c.index_topk, first, end);
  RunCounts counts;
  counts.tokens = count;
  counts.logit_rows = logit_rows;
  counts.attention_rows_dense = c.num_hidden_layers * sum(first, end);
  counts.attention_rows_read = counts.attention_rows_dense;
  if (attention == AttentionMode::kSparse) {
    counts.attention_rows_read =
        c.num_hidden_layers * (sum(first, border) + (end - border) * c.index_topk);
    counts.index_keys_scored = FullIndexers(c) * sum(border, end);
  }
  return counts;
}

CostModel::CostModel(const ModelConfig& c, const KvCacheOptions& cache) {
  head_flops_ = 2.0 * static_cast<double>(c.vocab_size * c.hidden_size);
  token_flops_ = LinearFlops(c) - head_flops_;
  row_flops_ = 2.0 * static_cast<double>(c.num_attention_heads) *
               static_cast<double>(2 * c.kv_lora_rank + c.qk_rope_head_dim);
  key_flops_ = 2.0 * static_cast<double>(c.index_n_heads) * static_cast<double>(c.index_head_dim);
  row_bytes_ =
      static_cast<double>(LatentRowBytes(cache.latent, c.kv_lora_rank, c.qk_rope_head_dim));
  key_bytes_ = static_cast<double>(IndexPageBytes(cache.index_keys, c.index_head_dim, kPageSize)) /
               static_cast<double>(kPageSize);
}

double CostModel::Flops(const RunCounts& counts) const {
  return token_flops_ * static_cast<double>(counts.tokens) +
         head_flops_ * static_cast<double>(counts.logit_rows) +
         row_flops_ * static_cast<double>(counts.attention_rows_read) +
         key_flops_ * static_cast<double>(counts.index_keys_scored);
}

double CostModel::Bytes(const RunCounts& counts) const {
  return row_bytes_ * static_cast<double>(counts.attention_rows_read) +
         key_bytes_ * static_cast<double>(counts.index_keys_scored);
}

double CostModel::DenseFlops(const RunCounts& counts) const {
  RunCounts dense = counts;
  dense.attention_rows_read = counts.attention_rows_dense;
  dense.index_keys_scored = 0;
  return Flops(dense);
}

double CostModel::DenseBytes(const RunCounts& counts) const {
  return row_bytes_ * static_cast<double>(counts.attention_rows_dense);
}

}  // namespace winnow
