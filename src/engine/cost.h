// What one token costs, by formula. docs/dsa.md derives them.
#pragma once

#include "model/config.h"
#include "model/kv_cache.h"

namespace winnow {

// Parameters of a model by use. `active` are those that one token is multiplied with: all but the
// embedding's other rows and the experts that are not chosen.
struct ParameterCount {
  int64_t total = 0;
  int64_t active = 0;
};
ParameterCount CountParameters(const ModelConfig& config);

// One token that sees `context` tokens, itself included; summed over layers. A product and a sum
// are two operations.
struct AttentionCost {
  double dense_flops = 0;    // latent attention over the whole context, absorbed form
  double sparse_flops = 0;   // the same over min(context, index_topk) rows
  double indexer_flops = 0;  // scores of the context; 0 while it is no longer than index_topk
  double dense_bytes = 0;    // cache rows read
  double sparse_bytes = 0;
  double indexer_bytes = 0;
};
AttentionCost CostAtPosition(const ModelConfig& config, const KvCacheOptions& cache,
                             int64_t context);

// Everything else of one token: products with its active parameters.
double LinearFlops(const ModelConfig& config);

// A run of tokens that follow each other in a sequence; counts are summed over layers.
struct RunCounts {
  int64_t tokens = 0;
  int64_t logit_rows = 0;            // tokens that go through the head
  int64_t attention_rows_read = 0;   // latent rows
  int64_t attention_rows_dense = 0;  // those that dense attention reads
  int64_t index_keys_scored = 0;

  RunCounts& operator+=(const RunCounts& other);
};
RunCounts CountRun(const ModelConfig& config, AttentionMode attention, int64_t first, int64_t count,
                   int64_t logit_rows);

// Prices what was counted. Bytes are those of latent rows and index keys.
class CostModel {
 public:
  CostModel(const ModelConfig& config, const KvCacheOptions& cache);

  double Flops(const RunCounts& counts) const;
  double Bytes(const RunCounts& counts) const;
  double DenseFlops(const RunCounts& counts) const;
  double DenseBytes(const RunCounts& counts) const;

 private:
  double token_flops_ = 0;  // without the head
  double head_flops_ = 0;
  double row_flops_ = 0;
  double key_flops_ = 0;
  double row_bytes_ = 0;
  double key_bytes_ = 0;
};

}  // namespace winnow
