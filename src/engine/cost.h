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

}  // namespace winnow
