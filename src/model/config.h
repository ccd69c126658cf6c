// What config.json says of a model. Fields are spelled as there; docs/dsa.md maps them to shape
// letters.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "tensor/dtype.h"
#include "winnow/status.h"
#include "winnow/types.h"

namespace winnow {

// Which elements of a rotary vector of width R turn together: (2i, 2i+1) or (i, i + R/2).
enum class RopeLayout { kInterleaved, kHalfSplit };

// Rotary position embedding, plain or YaRN. The fields below `yarn` matter only when it is true.
struct RopeConfig {
  double rope_theta = 10000.0;
  bool yarn = false;
  double factor = 1.0;
  double beta_fast = 32.0;
  double beta_slow = 1.0;
  int64_t original_max_position_embeddings = 0;
  double mscale = 0.0;          // 0: absent
  double mscale_all_dim = 0.0;  // 0: absent
  double attention_factor =
      0.0;               // multiplies cos and sin; 0: derived from mscale and mscale_all_dim
  bool truncate = true;  // round the correction range to whole dimensions
  // Never from config.json: round each frequency to kBF16 or kF16, as a reference does whose
  // buffers were cast with its weights (docs/verify.md).
  DType frequency_type = DType::kF32;
};

// A layer of DSA owns an indexer, or attends to what the last layer with one has selected.
enum class IndexerType { kFull, kShared };

// Immutable after parsing. Every field is checked against its neighbours (spec: docs/dsa.md), so
// later code need not ask.
struct ModelConfig {
  std::string model_type;  // "deepseek_v32" or "glm_moe_dsa"
  int64_t vocab_size = 0;
  int64_t hidden_size = 0;        // D
  int64_t num_hidden_layers = 0;  // L
  int64_t num_nextn_predict_layers = 0;
  int64_t num_attention_heads = 0;  // H
  int64_t q_lora_rank = 0;          // Q
  int64_t kv_lora_rank = 0;         // C
  int64_t qk_nope_head_dim = 0;     // P
  int64_t qk_rope_head_dim = 0;     // R
  int64_t v_head_dim = 0;           // V
  bool attention_bias = false;

  int64_t index_n_heads = 0;   // I
  int64_t index_head_dim = 0;  // J
  int64_t index_topk = 0;      // K
  RopeLayout index_rope_layout = RopeLayout::kHalfSplit;
  RopeLayout rope_layout = RopeLayout::kInterleaved;
  std::vector<IndexerType> indexer_types;  // [L]; the first is kFull
  // True when config.json names them; false when they were derived, and the tensors may correct
  // them.
  bool indexer_types_stated = false;

  int64_t intermediate_size = 0;
  int64_t moe_intermediate_size = 0;
  int64_t n_routed_experts = 0;  // E
  int64_t n_shared_experts = 0;
  int64_t num_experts_per_tok = 0;
  int64_t n_group = 1;
  int64_t topk_group = 1;
  bool norm_topk_prob = true;
  double routed_scaling_factor = 1.0;
  std::vector<bool> moe_layers;  // [L]: true where the layer is a mixture of experts

  double rms_norm_eps = 0.0;  // input, post-attention and final norm
  double latent_norm_eps =
      1e-6;  // q_a_layernorm, kv_a_layernorm: fixed by the reference, not by config.json
  double index_norm_eps = 1e-6;  // indexer.k_norm: likewise
  RopeConfig rope;
  WeightType weights = WeightType::kStored;  // not kStored: quantized by Winnow
  int64_t max_position_embeddings = 0;
  bool tie_word_embeddings = false;
  int32_t bos_token_id = -1;  // -1: none
  std::vector<int32_t> eos_token_ids;

  // (P + R)^-0.5, times YaRN's correction m(factor, mscale_all_dim)^2 where it applies.
  double softmax_scale() const;
};

// Reads MODEL_DIR/config.json (at most 16 MiB). Understands the spellings of rope_scaling,
// rope_parameters, indexer_types, index_topk_pattern, index_topk_freq and their kin. Refuses,
// naming field, found and expected: other architectures, missing fields, wrong types, impossible
// values, and unknown keys that begin like known ones (a misspelt field must not silently become a
// default).
Result<ModelConfig> LoadModelConfig(const std::string& model_dir);

// The same from text; `what` names it in errors.
Result<ModelConfig> ParseModelConfig(std::string_view text, std::string_view what);

// generation_config.json: how the makers of the model sample from it. A missing file gives the
// defaults.
struct GenerationConfig {
  bool do_sample = false;
  double temperature = 1.0;
  double top_p = 1.0;
  int64_t top_k = 0;  // 0: off
  double repetition_penalty = 1.0;
  std::vector<int32_t> eos_token_ids;  // empty: config.json decides
};
Result<GenerationConfig> LoadGenerationConfig(const std::string& model_dir);

}  // namespace winnow
