// config.json: whatever it says, what is accepted keeps the promises of ModelConfig.
#include <bit>
#include <cmath>
#include <string_view>

#include "base/check.h"
#include "model/config.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const winnow::Result<winnow::ModelConfig> parsed = winnow::ParseModelConfig(text, "config.json");
  if (!parsed.ok()) {
    WINNOW_CHECK(!parsed.error().message().empty(), "refused without a reason");
    return 0;
  }
  const winnow::ModelConfig& config = *parsed;
  const auto layers = static_cast<size_t>(config.num_hidden_layers);
  WINNOW_CHECK(
      layers >= 1 && config.indexer_types.size() == layers && config.moe_layers.size() == layers,
      "a list without an entry for each layer");
  WINNOW_CHECK(config.indexer_types[0] == winnow::IndexerType::kFull,
               "the first layer has no selection");
  WINNOW_CHECK(config.qk_rope_head_dim % 2 == 0 &&
                   config.index_head_dim >= config.qk_rope_head_dim &&
                   std::has_single_bit(static_cast<uint64_t>(config.index_head_dim)),
               "impossible head widths");
  for (const bool moe : config.moe_layers) {
    if (!moe) {
      WINNOW_CHECK(config.intermediate_size > 0, "a dense layer without width");
      continue;
    }
    WINNOW_CHECK(config.moe_intermediate_size > 0 && config.num_experts_per_tok > 0 &&
                     config.n_routed_experts % config.n_group == 0 &&
                     config.num_experts_per_tok <=
                         config.n_routed_experts / config.n_group * config.topk_group,
                 "impossible routing");
  }
  WINNOW_CHECK(std::isfinite(config.softmax_scale()) && config.softmax_scale() > 0.0,
               "impossible softmax scale");
  return 0;
}
