#include "engine/cost.h"

#include <gtest/gtest.h>

namespace winnow {
namespace {

// The dimensions of DeepSeek-V3.2.
ModelConfig V32() {
  ModelConfig c;
  c.vocab_size = 129280;
  c.hidden_size = 7168;
  c.num_hidden_layers = 61;
  c.num_attention_heads = 128;
  c.q_lora_rank = 1536;
  c.kv_lora_rank = 512;
  c.qk_nope_head_dim = 128;
  c.qk_rope_head_dim = 64;
  c.v_head_dim = 128;
  c.index_n_heads = 64;
  c.index_head_dim = 128;
  c.index_topk = 2048;
  c.indexer_types.assign(61, IndexerType::kFull);
  c.intermediate_size = 18432;
  c.moe_intermediate_size = 2048;
  c.n_routed_experts = 256;
  c.n_shared_experts = 1;
  c.num_experts_per_tok = 8;
  c.moe_layers.assign(61, true);
  for (size_t layer = 0; layer < 3; ++layer) c.moe_layers[layer] = false;
  return c;
}

KvCacheOptions Fp8() {
  KvCacheOptions options;
  options.latent = LatentType::kFp8;
  options.index_keys = IndexKeyType::kE4m3;
  return options;
}

// Figures worked out by hand from the published dimensions.
TEST(Cost, OfAttentionAt128KIsThatOfTheBigModel) {
  const AttentionCost cost = CostAtPosition(V32(), Fp8(), 131072);
  EXPECT_NEAR(cost.dense_flops, 2227e9, 1e9);
  EXPECT_NEAR(cost.sparse_flops, 34.80e9, 0.01e9);
  EXPECT_NEAR(cost.indexer_flops, 131.0e9, 0.1e9);
  EXPECT_NEAR(cost.dense_bytes, 5.245e9, 0.001e9);
  EXPECT_NEAR(cost.sparse_bytes + cost.indexer_bytes, 1.137e9, 0.001e9);
}

TEST(Cost, OfAShortContextHasNoScoring) {
  const AttentionCost cost = CostAtPosition(V32(), Fp8(), 2048);
  EXPECT_EQ(cost.indexer_flops, 0.0);
  EXPECT_EQ(cost.indexer_bytes, 0.0);
  EXPECT_EQ(cost.sparse_flops, cost.dense_flops);
  EXPECT_GT(CostAtPosition(V32(), Fp8(), 2049).indexer_flops, 0.0);
}

TEST(Cost, OfSharedIndexersCountsOnlyTheLayersThatHaveOne) {
  ModelConfig half = V32();
  for (size_t layer = 1; layer < 61; layer += 2) half.indexer_types[layer] = IndexerType::kShared;
  const double ratio = CostAtPosition(half, Fp8(), 65536).indexer_flops /
                       CostAtPosition(V32(), Fp8(), 65536).indexer_flops;
  EXPECT_NEAR(ratio, 31.0 / 61.0, 1e-12);
}

TEST(Cost, ParametersAreThoseOfTheBigModel) {
  const ParameterCount count = CountParameters(V32());
  // 671 billion, 37 billion of them active, and 62 indexers' worth of DSA on top.
  EXPECT_NEAR(static_cast<double>(count.total), 672e9, 2e9);
  EXPECT_NEAR(static_cast<double>(count.active), 37.5e9, 1e9);
}

}  // namespace
}  // namespace winnow
