// config.json in all its spellings, and every reason to refuse it.
#include "model/config.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "base/json.h"

namespace winnow {
namespace {

// The configuration of DeepSeek-V3.2 with its fields as released.
json::object V32() {
  return json::parse(R"({
    "architectures": ["DeepseekV32ForCausalLM"], "attention_bias": false, "attention_dropout": 0.0,
    "bos_token_id": 0, "eos_token_id": 1, "ep_size": 1, "first_k_dense_replace": 3,
    "hidden_act": "silu", "hidden_size": 7168, "index_head_dim": 128, "index_n_heads": 64,
    "index_topk": 2048, "initializer_range": 0.02, "intermediate_size": 18432, "kv_lora_rank": 512,
    "max_position_embeddings": 163840, "model_type": "deepseek_v32", "moe_intermediate_size": 2048,
    "moe_layer_freq": 1, "n_group": 8, "n_routed_experts": 256, "n_shared_experts": 1,
    "norm_topk_prob": true, "num_attention_heads": 128, "num_experts_per_tok": 8,
    "num_hidden_layers": 61, "num_key_value_heads": 128, "num_nextn_predict_layers": 1,
    "q_lora_rank": 1536, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64,
    "quantization_config": {"activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8",
                            "scale_fmt": "ue8m0", "weight_block_size": [128, 128]},
    "rms_norm_eps": 1e-06,
    "rope_scaling": {"beta_fast": 32, "beta_slow": 1, "factor": 40, "mscale": 1.0,
                     "mscale_all_dim": 1.0, "original_max_position_embeddings": 4096,
                     "type": "yarn"},
    "rope_theta": 10000, "routed_scaling_factor": 2.5, "scoring_func": "sigmoid",
    "tie_word_embeddings": false, "topk_group": 4, "topk_method": "noaux_tc",
    "torch_dtype": "bfloat16", "transformers_version": "4.44.2", "use_cache": true,
    "v_head_dim": 128, "vocab_size": 129280})")
      .as_object();
}

// GLM-5.2's, without the lists that spell its layers out.
json::object Glm() {
  return json::parse(R"({
    "architectures": ["GlmMoeDsaForCausalLM"], "attention_bias": false, "attention_dropout": 0.0,
    "dtype": "bfloat16", "eos_token_id": [154820, 154827, 154829], "first_k_dense_replace": 3,
    "head_dim": 192, "hidden_act": "silu", "hidden_size": 6144, "index_head_dim": 128,
    "index_n_heads": 32, "index_share_for_mtp_iteration": true, "index_skip_topk_offset": 3,
    "index_topk": 2048, "index_topk_freq": 4, "index_topk_pattern": null,
    "indexer_rope_interleave": true, "initializer_range": 0.02, "intermediate_size": 12288,
    "kv_lora_rank": 512, "max_position_embeddings": 1048576, "model_type": "glm_moe_dsa",
    "moe_intermediate_size": 2048, "moe_layer_freq": 1, "moe_router_dtype": "float32",
    "n_group": 1, "n_routed_experts": 256, "n_shared_experts": 1, "norm_topk_prob": true,
    "num_attention_heads": 64, "num_experts_per_tok": 8, "num_hidden_layers": 78,
    "num_key_value_heads": 64, "num_nextn_predict_layers": 1, "pad_token_id": 154820,
    "q_lora_rank": 2048, "qk_head_dim": 256, "qk_nope_head_dim": 192, "qk_rope_head_dim": 64,
    "rms_norm_eps": 1e-05, "rope_interleave": true,
    "rope_parameters": {"rope_theta": 8000000, "rope_type": "default"},
    "routed_scaling_factor": 2.5, "scoring_func": "sigmoid", "tie_word_embeddings": false,
    "topk_group": 1, "topk_method": "noaux_tc", "transformers_version": "5.12.0",
    "use_cache": true, "v_head_dim": 256, "vocab_size": 154880})")
      .as_object();
}

Result<ModelConfig> Parse(const json::object& object) {
  return ParseModelConfig(json::serialize(object), "config.json");
}

// `base` with one field set to the JSON text `value`, or removed if that is empty.
json::object With(json::object base, std::string_view key, std::string_view value) {
  base.erase(key);
  if (!value.empty()) base[key] = json::parse(value);
  return base;
}

void ExpectRefused(const json::object& object, StatusCode code, std::string_view part) {
  const Status status = Parse(object).status();
  EXPECT_EQ(status.code(), code) << status.ToString();
  EXPECT_NE(status.ToString().find(part), std::string::npos)
      << "\"" << part << "\" not in: " << status.ToString();
}

std::string PatternOf(const ModelConfig& config) {
  std::string pattern;
  for (const IndexerType type : config.indexer_types) {
    pattern += type == IndexerType::kFull ? 'F' : 'S';
  }
  return pattern;
}

TEST(ModelConfig, ReadsDeepSeekV32AsReleased) {
  const ModelConfig config = Parse(V32()).value();
  EXPECT_EQ(config.model_type, "deepseek_v32");
  EXPECT_EQ(config.vocab_size, 129280);
  EXPECT_EQ(config.hidden_size, 7168);
  EXPECT_EQ(config.num_hidden_layers, 61);
  EXPECT_EQ(config.num_nextn_predict_layers, 1);
  EXPECT_EQ(config.num_attention_heads, 128);
  EXPECT_EQ(config.q_lora_rank, 1536);
  EXPECT_EQ(config.kv_lora_rank, 512);
  EXPECT_EQ(config.qk_nope_head_dim, 128);
  EXPECT_EQ(config.qk_rope_head_dim, 64);
  EXPECT_EQ(config.v_head_dim, 128);
  EXPECT_EQ(config.index_n_heads, 64);
  EXPECT_EQ(config.index_head_dim, 128);
  EXPECT_EQ(config.index_topk, 2048);
  EXPECT_EQ(config.index_rope_layout, RopeLayout::kHalfSplit);
  EXPECT_EQ(config.rope_layout, RopeLayout::kInterleaved);
  EXPECT_EQ(PatternOf(config), std::string(61, 'F'));
  EXPECT_EQ(config.intermediate_size, 18432);
  EXPECT_EQ(config.moe_intermediate_size, 2048);
  EXPECT_EQ(config.n_routed_experts, 256);
  EXPECT_EQ(config.n_shared_experts, 1);
  EXPECT_EQ(config.num_experts_per_tok, 8);
  EXPECT_EQ(config.n_group, 8);
  EXPECT_EQ(config.topk_group, 4);
  EXPECT_TRUE(config.norm_topk_prob);
  EXPECT_EQ(config.routed_scaling_factor, 2.5);
  EXPECT_EQ(config.rms_norm_eps, 1e-6);
  EXPECT_EQ(config.max_position_embeddings, 163840);
  EXPECT_EQ(config.bos_token_id, 0);
  EXPECT_EQ(config.eos_token_ids, (std::vector<int32_t>{1}));
  EXPECT_FALSE(config.moe_layers[2]);
  EXPECT_TRUE(config.moe_layers[3]);
  EXPECT_TRUE(config.rope.yarn);
  EXPECT_EQ(config.rope.factor, 40.0);
  EXPECT_EQ(config.rope.original_max_position_embeddings, 4096);
  EXPECT_EQ(config.rope.mscale_all_dim, 1.0);
  EXPECT_NEAR(config.softmax_scale(), 0.13523378, 1e-8);
}

TEST(ModelConfig, ReadsGlm52WithItsSharedIndexers) {
  const ModelConfig config = Parse(Glm()).value();
  EXPECT_EQ(config.index_rope_layout, RopeLayout::kInterleaved);
  EXPECT_EQ(config.rope_layout, RopeLayout::kInterleaved);
  EXPECT_EQ(config.rope.rope_theta, 8e6);
  EXPECT_FALSE(config.rope.yarn);
  EXPECT_EQ(config.rms_norm_eps, 1e-5);
  EXPECT_EQ(config.latent_norm_eps, 1e-6);
  EXPECT_EQ(config.eos_token_ids, (std::vector<int32_t>{154820, 154827, 154829}));
  EXPECT_EQ(config.bos_token_id, -1);
  EXPECT_EQ(config.softmax_scale(), 0.0625);
  // 21 full layers: 0, 1, 2, 6, 10, … 74.
  std::string expected(78, 'S');
  expected[0] = expected[1] = 'F';
  for (int layer = 2; layer < 78; layer += 4) expected[layer] = 'F';
  EXPECT_EQ(PatternOf(config), expected);
  EXPECT_EQ(std::count(expected.begin(), expected.end(), 'F'), 21);
  EXPECT_FALSE(config.indexer_types_stated);
}

TEST(ModelConfig, ReadsRopeInEverySpelling) {
  const std::string yarn =
      R"("factor": 40.0, "beta_fast": 16, "beta_slow": 2.0, "mscale": 0.5, "mscale_all_dim": 0.25,
         "original_max_position_embeddings": 4096.0)";
  const json::object none = With(With(V32(), "rope_scaling", ""), "rope_theta", "");
  const json::object outside = With(none, "rope_theta", "5e5");
  const std::string rope_type = "{\"rope_type\": \"yarn\", ";
  const std::string type = "{\"type\": \"yarn\", ";
  const std::string theta = "\"rope_theta\": 500000, ";
  for (const json::object& object : {
           With(outside, "rope_scaling", type + yarn + "}"),
           With(outside, "rope_scaling", rope_type + "\"type\": \"yarn\", " + yarn + "}"),
           With(outside, "rope_parameters", rope_type + yarn + "}"),
           With(none, "rope_parameters", rope_type + theta + yarn + "}"),
           With(none, "rope_scaling", type + theta + yarn + "}"),
       }) {
    const Result<ModelConfig> config = Parse(object);
    ASSERT_TRUE(config.ok()) << config.status().ToString();
    EXPECT_EQ(config->rope.rope_theta, 5e5);
    EXPECT_TRUE(config->rope.yarn);
    EXPECT_EQ(config->rope.factor, 40.0);
    EXPECT_EQ(config->rope.beta_fast, 16.0);
    EXPECT_EQ(config->rope.beta_slow, 2.0);
    EXPECT_EQ(config->rope.mscale, 0.5);
    EXPECT_EQ(config->rope.mscale_all_dim, 0.25);
    EXPECT_EQ(config->rope.original_max_position_embeddings, 4096);
    EXPECT_EQ(config->rope.attention_factor, 0.0);
    EXPECT_TRUE(config->rope.truncate);
  }
}

TEST(ModelConfig, PrefersTheThetaInsideRopeParameters) {
  const json::object object =
      With(With(Glm(), "rope_theta", "10000"), "rope_scaling", R"({"type": "linear"})");
  EXPECT_EQ(Parse(object)->rope.rope_theta, 8e6);
}

TEST(ModelConfig, TakesPlainRopeWhenNothingIsSaid) {
  const json::object plain = With(With(V32(), "rope_scaling", "null"), "rope_theta", "");
  EXPECT_FALSE(Parse(plain)->rope.yarn);
  EXPECT_EQ(Parse(plain)->rope.rope_theta, 10000.0);
  EXPECT_NEAR(Parse(plain)->softmax_scale(), 1.0 / std::sqrt(192.0), 1e-15);
}

TEST(ModelConfig, CorrectsTheSoftmaxScaleOnlyWhereMscaleAllDimIsStated) {
  json::object object = V32();
  object["rope_scaling"].as_object().erase("mscale_all_dim");
  EXPECT_NEAR(Parse(object)->softmax_scale(), 1.0 / std::sqrt(192.0), 1e-15);
}

TEST(ModelConfig, RefusesRopeItDoesNotCompute) {
  ExpectRefused(With(V32(), "rope_scaling", R"({"type": "linear", "factor": 2})"),
                StatusCode::kUnsupported, "rope_scaling: rope_type is \"linear\"");
  ExpectRefused(With(V32(), "rope_scaling", R"({"type": "yarn"})"), StatusCode::kInvalidArgument,
                "factor is missing");
  ExpectRefused(With(V32(), "rope_scaling", R"({"type": "yarn", "factor": 2, "beta_fats": 3})"),
                StatusCode::kInvalidArgument, "beta_fast");
  ExpectRefused(With(V32(), "rope_scaling", "3"), StatusCode::kInvalidArgument, "an object");
  ExpectRefused(With(V32(), "rope_theta", "0"), StatusCode::kInvalidArgument, "rope_theta is 0");
  ExpectRefused(With(Glm(), "rope_parameters", R"({"partial_rotary_factor": 0.5})"),
                StatusCode::kUnsupported, "partial_rotary_factor");
}

TEST(ModelConfig, ReadsIndexerTypesInEverySpelling) {
  const json::object base = With(With(Glm(), "num_hidden_layers", "6"), "index_topk_freq", "");
  for (const auto& [key, value] : std::vector<std::pair<std::string, std::string>>{
           {"indexer_types", R"(["full", "full", "shared", "shared", "full", "shared"])"},
           {"index_topk_pattern", R"("FFSSFS")"},
           {"index_topk_pattern", R"(["full", "full", "shared", "shared", "full", "shared"])"},
           {"index_topk_pattern", R"(["F", "F", "S", "S", "F", "S"])"}}) {
    const Result<ModelConfig> config = Parse(With(base, key, value));
    ASSERT_TRUE(config.ok()) << config.status().ToString();
    EXPECT_EQ(PatternOf(*config), "FFSSFS") << key << value;
    EXPECT_TRUE(config->indexer_types_stated);
  }
  json::object schedule = With(base, "index_skip_topk_offset", "");
  EXPECT_EQ(PatternOf(*Parse(schedule)), "FFFFFF");
  schedule["index_topk_freq"] = 3;
  EXPECT_EQ(PatternOf(*Parse(schedule)), "FFSSFS") << "the offset is 2 where it is not stated";
  schedule["index_skip_topk_offset"] = 0;
  ExpectRefused(schedule, StatusCode::kInvalidArgument, "layer 0");
}

TEST(ModelConfig, PrefersTheListOfIndexersToTheirPattern) {
  json::object object =
      With(With(Glm(), "num_hidden_layers", "3"), "index_topk_pattern", "\"FSS\"");
  object["indexer_types"] = {"full", "full", "shared"};
  EXPECT_EQ(PatternOf(*Parse(object)), "FFS");
}

TEST(ModelConfig, RefusesIndexersThatCannotWork) {
  const json::object base = With(Glm(), "num_hidden_layers", "3");
  ExpectRefused(With(base, "index_topk_pattern", "\"SFF\""), StatusCode::kInvalidArgument,
                "layer 0");
  ExpectRefused(With(base, "index_topk_pattern", "\"FX\""), StatusCode::kInvalidArgument,
                "has 2 entries");
  ExpectRefused(With(base, "index_topk_pattern", "\"FXS\""), StatusCode::kInvalidArgument,
                "\"X\" for layer 1");
  ExpectRefused(With(base, "indexer_types", "[]"), StatusCode::kInvalidArgument, "has 0 entries");
  ExpectRefused(With(base, "indexer_types", "[1, 2, 3]"), StatusCode::kInvalidArgument,
                "indexer_types is 1");
  ExpectRefused(With(base, "index_topk_freq", "-1"), StatusCode::kInvalidArgument,
                "index_topk_freq is -1");
}

TEST(ModelConfig, ReadsWhichLayersAreMixtures) {
  const json::object base = With(V32(), "num_hidden_layers", "6");
  EXPECT_EQ(Parse(base)->moe_layers, (std::vector<bool>{0, 0, 0, 1, 1, 1}));
  EXPECT_EQ(Parse(With(base, "first_k_dense_replace", "1"))->moe_layers,
            (std::vector<bool>{0, 1, 1, 1, 1, 1}));
  EXPECT_EQ(Parse(With(base, "moe_layer_freq", "2"))->moe_layers,
            (std::vector<bool>{0, 0, 0, 0, 1, 0}));
  EXPECT_EQ(Parse(With(base, "mlp_layer_types",
                       R"(["sparse", "dense", "sparse", "dense", "dense", "sparse"])"))
                ->moe_layers,
            (std::vector<bool>{1, 0, 1, 0, 0, 1}));
  ExpectRefused(With(base, "mlp_layer_types", R"(["dense"])"), StatusCode::kInvalidArgument,
                "mlp_layer_types has 1 entries");
}

TEST(ModelConfig, RequiresTheFieldsOfMixturesOnlyWhereThereAreSome) {
  json::object dense = With(V32(), "first_k_dense_replace", "61");
  for (const char* key : {"n_routed_experts", "moe_intermediate_size", "num_experts_per_tok"}) {
    ExpectRefused(With(V32(), key, ""), StatusCode::kInvalidArgument,
                  std::string(key) + " is missing");
    dense.erase(key);
  }
  EXPECT_TRUE(Parse(dense).ok()) << Parse(dense).status().ToString();
  ExpectRefused(With(dense, "intermediate_size", ""), StatusCode::kInvalidArgument,
                "intermediate_size is missing");
  const json::object sparse = With(V32(), "first_k_dense_replace", "0");
  EXPECT_TRUE(Parse(With(sparse, "intermediate_size", "")).ok());
}

TEST(ModelConfig, CountsExpertsByNRoutedExpertsOrItsAliases) {
  const json::object both = With(V32(), "num_experts", "512");
  EXPECT_EQ(Parse(both)->n_routed_experts, 256);
  EXPECT_EQ(Parse(With(both, "n_routed_experts", "null"))->n_routed_experts, 512);
  const json::object local = With(With(V32(), "n_routed_experts", ""), "num_local_experts", "64");
  EXPECT_EQ(Parse(local)->n_routed_experts, 64);
}

TEST(ModelConfig, TakesTheSpecifiedDefaults) {
  json::object object = V32();
  for (const char* key : {"num_nextn_predict_layers",
                          "kv_lora_rank",
                          "qk_rope_head_dim",
                          "index_head_dim",
                          "index_topk",
                          "n_shared_experts",
                          "moe_layer_freq",
                          "n_group",
                          "topk_group",
                          "topk_method",
                          "scoring_func",
                          "norm_topk_prob",
                          "routed_scaling_factor",
                          "hidden_act",
                          "attention_bias",
                          "tie_word_embeddings",
                          "bos_token_id",
                          "eos_token_id",
                          "architectures",
                          "quantization_config"}) {
    object.erase(key);
  }
  const Result<ModelConfig> config = Parse(object);
  ASSERT_TRUE(config.ok()) << config.status().ToString();
  EXPECT_EQ(config->num_nextn_predict_layers, 0);
  EXPECT_EQ(config->kv_lora_rank, 512);
  EXPECT_EQ(config->qk_rope_head_dim, 64);
  EXPECT_EQ(config->index_head_dim, 128);
  EXPECT_EQ(config->index_topk, 2048);
  EXPECT_EQ(config->n_shared_experts, 0);
  EXPECT_EQ(config->n_group, 1);
  EXPECT_EQ(config->topk_group, 1);
  EXPECT_TRUE(config->norm_topk_prob);
  EXPECT_EQ(config->routed_scaling_factor, 1.0);
  EXPECT_FALSE(config->attention_bias);
  EXPECT_FALSE(config->tie_word_embeddings);
  EXPECT_EQ(config->bos_token_id, -1);
  EXPECT_TRUE(config->eos_token_ids.empty());
}

TEST(ModelConfig, RequiresWhatHasNoDefault) {
  for (const char* key : {"model_type", "vocab_size", "hidden_size", "num_hidden_layers",
                          "num_attention_heads", "q_lora_rank", "qk_nope_head_dim", "v_head_dim",
                          "index_n_heads", "rms_norm_eps", "max_position_embeddings"}) {
    const Status status = Parse(With(V32(), key, "")).status();
    EXPECT_FALSE(status.ok()) << key;
    EXPECT_NE(status.message().find(std::string("config.json: ") + key), std::string::npos)
        << status.message();
  }
}

TEST(ModelConfig, ReadsWholeFloatsAsIntegersAndNullsAsAbsent) {
  EXPECT_EQ(Parse(With(V32(), "hidden_size", "7168.0"))->hidden_size, 7168);
  EXPECT_EQ(Parse(With(V32(), "index_topk", "null"))->index_topk, 2048);
  ExpectRefused(With(V32(), "hidden_size", "7168.5"), StatusCode::kInvalidArgument,
                "hidden_size is 7168.5, expected an integer");
  ExpectRefused(With(V32(), "hidden_size", "\"7168\""), StatusCode::kInvalidArgument,
                "hidden_size is \"7168\", expected an integer");
  ExpectRefused(With(V32(), "norm_topk_prob", "1"), StatusCode::kInvalidArgument,
                "norm_topk_prob is 1, expected true or false");
}

TEST(ModelConfig, RefusesOtherArchitectures) {
  ExpectRefused(With(V32(), "model_type", "\"deepseek_v3\""), StatusCode::kUnsupported,
                "model_type is \"deepseek_v3\", expected \"deepseek_v32\" or \"glm_moe_dsa\"");
  ExpectRefused(With(V32(), "architectures", R"(["DeepseekV3ForCausalLM"])"),
                StatusCode::kUnsupported, "architectures");
  ExpectRefused(With(V32(), "hidden_act", "\"gelu\""), StatusCode::kUnsupported, "hidden_act");
  ExpectRefused(With(V32(), "scoring_func", "\"softmax\""), StatusCode::kUnsupported,
                "scoring_func");
  ExpectRefused(With(V32(), "topk_method", "\"greedy\""), StatusCode::kUnsupported, "topk_method");
  ExpectRefused(With(V32(), "mlp_bias", "true"), StatusCode::kUnsupported, "mlp_bias");
}

TEST(ModelConfig, RefusesOtherQuantizations) {
  ExpectRefused(With(V32(), "quantization_config", R"({"quant_method": "awq", "bits": 4})"),
                StatusCode::kUnsupported,
                "quant_method is \"awq\", expected \"fp8\" or \"winnow\"");
  ExpectRefused(With(V32(), "quantization_config", R"({"quant_method": "fp8"})"),
                StatusCode::kUnsupported, "weight_block_size");
  ExpectRefused(With(V32(), "quantization_config",
                     R"({"quant_method": "fp8", "weight_block_size": [1, 128]})"),
                StatusCode::kUnsupported, "[1,128]");
  ExpectRefused(With(V32(), "quantization_config",
                     R"({"quant_method": "fp8", "fmt": "e5m2", "weight_block_size": [128, 128]})"),
                StatusCode::kUnsupported, "fmt is \"e5m2\"");
  const auto ours = [](const std::string& fields) {
    return With(V32(), "quantization_config", R"({"quant_method": "winnow")" + fields + "}");
  };
  ExpectRefused(ours(""), StatusCode::kInvalidArgument, "quantization_config: weights is missing");
  ExpectRefused(ours(R"(, "weights": "int2", "group_size": 32)"), StatusCode::kUnsupported,
                "weights is \"int2\", expected \"int8\" or \"int4\"");
  ExpectRefused(ours(R"(, "weights": "stored", "group_size": 32)"), StatusCode::kUnsupported,
                "weights is \"stored\", expected \"int8\" or \"int4\"");
  ExpectRefused(ours(R"(, "weights": "int4", "group_size": 128)"), StatusCode::kInvalidArgument,
                "group_size is 128, expected an integer from 32 to 32");
  EXPECT_EQ(Parse(ours(R"(, "weights": "int4", "group_size": 32)"))->weights, WeightType::kInt4);
  EXPECT_EQ(Parse(V32())->weights, WeightType::kStored);
  EXPECT_TRUE(Parse(With(V32(), "quantization_config", "null")).ok());
  EXPECT_TRUE(Parse(With(V32(), "quantization_config",
                         R"({"quant_method": "fp8", "weight_block_size": [128, 128],
                             "modules_to_not_convert": ["lm_head"]})"))
                  .ok());
}

TEST(ModelConfig, RefusesMisspeltKeysAndNamesTheNearest) {
  json::object object = With(V32(), "first_k_dense_replace", "");
  object["firts_k_dense_replace"] = 1;
  ExpectRefused(object, StatusCode::kInvalidArgument,
                "config.json: \"firts_k_dense_replace\" is not a known field\n  hint: the nearest "
                "known one is \"first_k_dense_replace\"");
  object = With(V32(), "hidden_size", "");
  object["hiden_size"] = 7168;
  ExpectRefused(object, StatusCode::kInvalidArgument, "hidden_size");
  ExpectRefused(With(V32(), "index_topk_window", "3"), StatusCode::kInvalidArgument,
                "\"index_topk_window\"");
  ExpectRefused(With(V32(), "rope_base", "3"), StatusCode::kInvalidArgument, "\"rope_base\"");
  ExpectRefused(With(V32(), "qk_layernorm", "true"), StatusCode::kInvalidArgument,
                "\"qk_layernorm\"");
}

TEST(ModelConfig, IgnoresKeysThatHaveNothingToDoWithIt) {
  EXPECT_TRUE(Parse(With(V32(), "auto_map", "{}")).ok());
  EXPECT_TRUE(Parse(With(V32(), "my_favourite_colour", "\"green\"")).ok());
  EXPECT_TRUE(Parse(With(V32(), "pad_token_id", "3")).ok());
  EXPECT_TRUE(Parse(With(V32(), "head_dim", "64")).ok());
}

TEST(ModelConfig, RefusesDimensionsThatCannotBe) {
  for (const char* key : {"vocab_size",
                          "hidden_size",
                          "num_hidden_layers",
                          "num_attention_heads",
                          "q_lora_rank",
                          "kv_lora_rank",
                          "qk_nope_head_dim",
                          "qk_rope_head_dim",
                          "v_head_dim",
                          "index_n_heads",
                          "index_head_dim",
                          "index_topk",
                          "intermediate_size",
                          "moe_intermediate_size",
                          "n_routed_experts",
                          "num_experts_per_tok",
                          "n_group",
                          "topk_group",
                          "max_position_embeddings",
                          "moe_layer_freq"}) {
    for (const char* value : {"0", "-1", "9223372036854775807", "18446744073709551615", "1e300"}) {
      ExpectRefused(With(V32(), key, value), StatusCode::kInvalidArgument,
                    std::string("config.json: ") + key + " is ");
    }
  }
  json::object large = V32();
  for (const char* key : {"hidden_size", "intermediate_size", "moe_intermediate_size"}) {
    large[key] = 1 << 24;
  }
  ExpectRefused(large, StatusCode::kInvalidArgument, "parameters");
}

TEST(ModelConfig, HoldsFieldsAgainstTheirNeighbours) {
  ExpectRefused(With(V32(), "qk_rope_head_dim", "63"), StatusCode::kInvalidArgument,
                "qk_rope_head_dim is 63, expected an even number");
  ExpectRefused(With(V32(), "index_head_dim", "96"), StatusCode::kUnsupported,
                "index_head_dim is 96, expected a power of two");
  ExpectRefused(With(V32(), "index_head_dim", "32"), StatusCode::kInvalidArgument,
                "expected at least qk_rope_head_dim (64)");
  ExpectRefused(With(V32(), "n_group", "7"), StatusCode::kInvalidArgument, "n_group is 7");
  ExpectRefused(With(V32(), "n_group", "256"), StatusCode::kInvalidArgument, "n_group is 256");
  ExpectRefused(With(V32(), "topk_group", "9"), StatusCode::kInvalidArgument,
                "topk_group is 9, expected at most n_group (8)");
  ExpectRefused(With(V32(), "num_experts_per_tok", "129"), StatusCode::kInvalidArgument,
                "num_experts_per_tok is 129, expected at most 128");
  EXPECT_TRUE(Parse(With(V32(), "num_experts_per_tok", "128")).ok());
}

TEST(ModelConfig, RefusesWhatIsNotAnObject) {
  EXPECT_EQ(ParseModelConfig("[]", "config.json").status().code(), StatusCode::kCorrupt);
  EXPECT_EQ(ParseModelConfig("", "config.json").status().code(), StatusCode::kCorrupt);
  EXPECT_EQ(ParseModelConfig("{\"a\": 1, \"a\": 2}", "config.json").status().code(),
            StatusCode::kCorrupt);
}

TEST(ModelConfig, RefusesAnyCutOfItsText) {
  const std::string text = json::serialize(V32());
  for (size_t length = 0; length < text.size(); ++length) {
    EXPECT_FALSE(ParseModelConfig(text.substr(0, length), "config.json").ok()) << length;
  }
}

TEST(GenerationConfig, ReadsWhatItSaysAndDefaultsWhatItDoesNot) {
  std::string pattern = testing::TempDir() + "winnow_config_XXXXXX";
  const std::string folder = mkdtemp(pattern.data());
  EXPECT_EQ(LoadGenerationConfig(folder)->temperature, 1.0);
  EXPECT_FALSE(LoadGenerationConfig(folder)->do_sample);
  const auto write = [&](const char* text) {
    std::ofstream(folder + "/generation_config.json") << text;
  };
  write(R"({"do_sample": true, "temperature": 0.6, "top_p": 0.95, "top_k": 40,
            "eos_token_id": [1, 2], "bos_token_id": 0, "repetition_penalty": 1.1})");
  const GenerationConfig config = LoadGenerationConfig(folder).value();
  EXPECT_TRUE(config.do_sample);
  EXPECT_EQ(config.temperature, 0.6);
  EXPECT_EQ(config.top_p, 0.95);
  EXPECT_EQ(config.top_k, 40);
  EXPECT_EQ(config.repetition_penalty, 1.1);
  EXPECT_EQ(config.eos_token_ids, (std::vector<int32_t>{1, 2}));
  write(R"({"top_p": 1.5})");
  EXPECT_EQ(LoadGenerationConfig(folder).status().message(),
            "generation_config.json: top_p is 1.5, expected a number from 0 to 1");
  write("[]");
  EXPECT_EQ(LoadGenerationConfig(folder).status().code(), StatusCode::kCorrupt);
  std::filesystem::remove_all(folder);
}

}  // namespace
}  // namespace winnow
