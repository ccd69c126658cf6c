// config.json and generation_config.json: what they say, checked against itself.
#include "model/config.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <filesystem>
#include <limits>

#include "backend/draw_token.h"
#include "base/check.h"
#include "base/file.h"
#include "base/json.h"
#include "base/text.h"
#include "model/config_fields.h"
#include "tensor/group_codes.h"
#include "tensor/tensor.h"

namespace winnow {
namespace {

constexpr int64_t kMaxConfigBytes = int64_t{16} << 20;

// Bounds that no model comes near, chosen so that the product of any three extents fits an int64_t.
constexpr int64_t kMaxInt32 = std::numeric_limits<int32_t>::max();
constexpr Range<int64_t> kWidth = {1, int64_t{1} << 24};
constexpr Range<int64_t> kHeads = {1, 65536};
constexpr Range<int64_t> kHeadDim = {1, 65536};
constexpr Range<int64_t> kLayers = {1, 4096};
constexpr Range<int64_t> kExperts = {1, 65536};
constexpr Range<int64_t> kInt32 = {1, kMaxInt32};
constexpr Range<int64_t> kVocabulary = {1, kMostIds};
constexpr double kMaxParameters = 1e15;

// Keys of config.json that Winnow knows and has no use for.
constexpr std::string_view kIgnoredKeys[] = {"_name_or_path",
                                             "architectures",
                                             "attention_dropout",
                                             "auto_map",
                                             "aux_loss_alpha",
                                             "cls_token_id",
                                             "decoder_start_token_id",
                                             "dtype",
                                             "ep_size",
                                             "head_dim",
                                             "hidden_dropout",
                                             "id2label",
                                             "index_share_for_mtp_iteration",
                                             "initializer_range",
                                             "is_decoder",
                                             "is_encoder_decoder",
                                             "label2id",
                                             "layer_types",
                                             "mask_token_id",
                                             "max_length",
                                             "min_length",
                                             "moe_router_dtype",
                                             "num_beam_groups",
                                             "num_beams",
                                             "num_experts",
                                             "num_key_value_heads",
                                             "num_labels",
                                             "num_local_experts",
                                             "num_return_sequences",
                                             "output_attentions",
                                             "output_hidden_states",
                                             "pad_token_id",
                                             "pretraining_tp",
                                             "qk_head_dim",
                                             "return_dict",
                                             "router_aux_loss_coef",
                                             "sep_token_id",
                                             "seq_aux",
                                             "tokenizer_class",
                                             "torch_dtype",
                                             "transformers_version",
                                             "unk_token_id",
                                             "use_cache"};

// What the fields of these models begin with: an unknown key that begins so is a slip of the hand,
// or a feature that would change the result.
constexpr std::string_view kStrictPrefixes[] = {
    "first_k",      "hidden_",  "index_",  "indexer_", "intermediate_", "kv_lora",
    "max_position", "mlp_",     "moe_",    "n_",       "norm_topk",     "num_",
    "q_lora",       "qk_",      "quantiz", "rms_",     "rope_",         "routed_",
    "scoring_",     "tie_word", "topk_",   "v_head_",  "vocab_"};

void ReadArchitecture(FieldReader& fields, ModelConfig* config) {
  config->model_type = fields.String("model_type");
  std::string expected;
  if (config->model_type == "deepseek_v32") expected = "DeepseekV32ForCausalLM";
  if (config->model_type == "glm_moe_dsa") expected = "GlmMoeDsaForCausalLM";
  if (expected.empty()) {
    fields.Fail(StatusCode::kUnsupported, "model_type",
                fmt::format("is {}, expected \"deepseek_v32\" or \"glm_moe_dsa\"",
                            Quoted(config->model_type)));
  }
  const std::vector<std::string> architectures = fields.Strings("architectures");
  if (!architectures.empty() && architectures[0] != expected) {
    fields.Fail(StatusCode::kUnsupported, "architectures",
                fmt::format("is [{}], expected [\"{}\"] for this model_type",
                            Quoted(architectures[0]), expected));
  }
}

void ReadAttention(FieldReader& fields, ModelConfig* config) {
  config->num_attention_heads = fields.Int("num_attention_heads", kHeads);
  config->q_lora_rank = fields.Int("q_lora_rank", kWidth);
  config->kv_lora_rank = fields.Int("kv_lora_rank", kWidth, 512);
  config->qk_nope_head_dim = fields.Int("qk_nope_head_dim", kHeadDim);
  config->qk_rope_head_dim = fields.Int("qk_rope_head_dim", kHeadDim, 64);
  config->v_head_dim = fields.Int("v_head_dim", kHeadDim);
  config->attention_bias = fields.Bool("attention_bias", false);
  config->rope_layout =
      fields.Bool("rope_interleave", true) ? RopeLayout::kInterleaved : RopeLayout::kHalfSplit;
  if (config->qk_rope_head_dim % 2 != 0) {
    fields.Fail(StatusCode::kInvalidArgument, "qk_rope_head_dim",
                fmt::format("is {}, expected an even number", config->qk_rope_head_dim));
  }
}

void ReadIndexer(FieldReader& fields, ModelConfig* config) {
  config->index_n_heads = fields.Int("index_n_heads", kHeads);
  config->index_head_dim = fields.Int("index_head_dim", kHeadDim, 128);
  config->index_topk = fields.Int("index_topk", kInt32, 2048);
  config->index_rope_layout = fields.Bool("indexer_rope_interleave", false)
                                  ? RopeLayout::kInterleaved
                                  : RopeLayout::kHalfSplit;
  ReadIndexerTypes(fields, config);
  if (!std::has_single_bit(static_cast<uint64_t>(config->index_head_dim))) {
    fields.Fail(StatusCode::kUnsupported, "index_head_dim",
                fmt::format("is {}, expected a power of two", config->index_head_dim));
  }
  if (config->index_head_dim < config->qk_rope_head_dim) {
    fields.Fail(StatusCode::kInvalidArgument, "index_head_dim",
                fmt::format("is {}, expected at least qk_rope_head_dim ({})",
                            config->index_head_dim, config->qk_rope_head_dim));
  }
}

// The rules of grouped routing.
void CheckRouting(FieldReader& fields, const ModelConfig& config) {
  const int64_t experts = config.n_routed_experts;
  const int64_t groups = config.n_group;
  if (experts % groups != 0 || (groups > 1 && experts / groups < 2)) {
    fields.Fail(StatusCode::kInvalidArgument, "n_group",
                fmt::format("is {}, expected to split {} n_routed_experts into equal groups of at "
                            "least two",
                            groups, experts));
  }
  if (config.topk_group > groups) {
    fields.Fail(StatusCode::kInvalidArgument, "topk_group",
                fmt::format("is {}, expected at most n_group ({})", config.topk_group, groups));
  }
  const int64_t available = experts / groups * config.topk_group;
  if (config.num_experts_per_tok > available) {
    fields.Fail(StatusCode::kInvalidArgument, "num_experts_per_tok",
                fmt::format("is {}, expected at most {}: topk_group groups of n_routed_experts / "
                            "n_group",
                            config.num_experts_per_tok, available));
  }
}

// The mixture's fields are required only of models that have such layers.
void ReadExperts(FieldReader& fields, ModelConfig* config) {
  config->moe_layers = ReadMoeLayers(fields, config->num_hidden_layers);
  const auto& moe = config->moe_layers;
  const bool any_moe = std::find(moe.begin(), moe.end(), true) != moe.end();
  const bool any_dense = std::find(moe.begin(), moe.end(), false) != moe.end();
  const auto required_if = [&](bool required, std::string_view key, Range<int64_t> range) {
    return required ? fields.Int(key, range) : fields.Int(key, range, 0);
  };
  config->intermediate_size = required_if(any_dense, "intermediate_size", kWidth);
  config->moe_intermediate_size = required_if(any_moe, "moe_intermediate_size", kWidth);
  // transformers writes num_experts as well and leaves it at its default: only n_routed_experts
  // counts where it is stated.
  std::string_view experts_key = "n_routed_experts";
  for (const std::string_view alias : {"num_experts", "num_local_experts"}) {
    if (fields.Find(experts_key) == nullptr && fields.Find(alias) != nullptr) experts_key = alias;
  }
  config->n_routed_experts = required_if(any_moe, experts_key, kExperts);
  config->num_experts_per_tok = required_if(any_moe, "num_experts_per_tok", kExperts);
  config->n_shared_experts = fields.Int("n_shared_experts", {0, 4096}, 0);
  config->n_group = fields.Int("n_group", kExperts, 1);
  config->topk_group = fields.Int("topk_group", kExperts, 1);
  config->norm_topk_prob = fields.Bool("norm_topk_prob", true);
  config->routed_scaling_factor = fields.Number("routed_scaling_factor", {1e-9, 1e9}, 1.0);
  const std::string scoring = fields.String("scoring_func", "sigmoid");
  const std::string method = fields.String("topk_method", "noaux_tc");
  if (!any_moe) return;
  CheckRouting(fields, *config);
  if (scoring != "sigmoid") {
    fields.Fail(StatusCode::kUnsupported, "scoring_func",
                fmt::format("is {}, expected \"sigmoid\"", Quoted(scoring)));
  }
  if (method != "noaux_tc") {
    fields.Fail(StatusCode::kUnsupported, "topk_method",
                fmt::format("is {}, expected \"noaux_tc\"", Quoted(method)));
  }
}

bool IsPairOf(const json::value& value, int64_t number) {
  const json::array* array = value.if_array();
  if (array == nullptr || array->size() != 2) return false;
  return std::all_of(array->begin(), array->end(), [&](const json::value& element) {
    boost::json::error_code error;
    return element.is_number() && element.to_number<int64_t>(error) == number && !error;
  });
}

// What Quantize (engine/quantize.cc) writes.
WeightType ReadGroupCodes(FieldReader& fields) {
  const std::string name = fields.String("weights");
  const std::optional<WeightType> type = ParseWeightType(name);
  if (!type || *type == WeightType::kStored) {
    fields.Fail(StatusCode::kUnsupported, "weights",
                fmt::format("is {}, expected \"int8\" or \"int4\"", Quoted(name)));
    return WeightType::kStored;
  }
  fields.Int("group_size", {kCodeGroup, kCodeGroup});
  return *type;
}

void ReadQuantization(FieldReader& fields, ModelConfig* config) {
  const json::value* value = fields.Find("quantization_config");
  if (value == nullptr) return;
  const json::object* object = value->if_object();
  if (object == nullptr) {
    fields.Fail(StatusCode::kInvalidArgument, "quantization_config",
                fmt::format("is {}, expected an object", Described(*value)));
    return;
  }
  FieldReader nested(*object, fields.what() + ": quantization_config");
  const std::string method = nested.String("quant_method");
  if (method == "winnow") {
    config->weights = ReadGroupCodes(nested);
    fields.Fail(nested.status());
    return;
  }
  const std::string format = nested.String("fmt", "e4m3");
  if (method != "fp8") {
    nested.Fail(StatusCode::kUnsupported, "quant_method",
                fmt::format("is {}, expected \"fp8\" or \"winnow\"", Quoted(method)));
  }
  if (format != "e4m3") {
    nested.Fail(StatusCode::kUnsupported, "fmt",
                fmt::format("is {}, expected \"e4m3\"", Quoted(format)));
  }
  const json::value* block = nested.Find("weight_block_size");
  if (block == nullptr || !IsPairOf(*block, ScaledView::kBlock)) {
    nested.Fail(StatusCode::kUnsupported, "weight_block_size",
                fmt::format("is {}, expected [128, 128]",
                            block == nullptr ? "missing" : Quoted(json::serialize(*block))));
  }
  fields.Fail(nested.status());
}

// Parameters of the whole model, in double: the product of hostile extents must not wrap.
double CountParameters(const ModelConfig& config) {
  const double d = static_cast<double>(config.hidden_size);
  const double heads = static_cast<double>(config.num_attention_heads);
  const double q = static_cast<double>(config.q_lora_rank);
  const double c = static_cast<double>(config.kv_lora_rank);
  const double nope = static_cast<double>(config.qk_nope_head_dim);
  const double rope = static_cast<double>(config.qk_rope_head_dim);
  const double v = static_cast<double>(config.v_head_dim);
  const double index = static_cast<double>(config.index_n_heads * config.index_head_dim);
  const double attention = q * d + heads * (nope + rope) * q + (c + rope) * d +
                           heads * (nope + v) * c + d * heads * v + index * q + index * d;
  const double experts = static_cast<double>(config.n_routed_experts + config.n_shared_experts);
  const double moe = 3 * d * experts * static_cast<double>(config.moe_intermediate_size);
  const double dense = 3 * d * static_cast<double>(config.intermediate_size);
  const double layers = static_cast<double>(config.num_hidden_layers);
  return 2 * d * static_cast<double>(config.vocab_size) + layers * (attention + moe + dense);
}

// Reads on after a mistake, so that every known key is asked for. Another architecture's keys are
// not judged.
void ReadModel(FieldReader& fields, ModelConfig* config) {
  ReadArchitecture(fields, config);
  if (!fields.status().ok()) return;
  config->vocab_size = fields.Int("vocab_size", kVocabulary);
  config->hidden_size = fields.Int("hidden_size", kWidth);
  config->num_hidden_layers = fields.Int("num_hidden_layers", kLayers);
  config->num_nextn_predict_layers = fields.Int("num_nextn_predict_layers", {0, 64}, 0);
  ReadAttention(fields, config);
  ReadIndexer(fields, config);
  ReadExperts(fields, config);
  config->rms_norm_eps = fields.Number("rms_norm_eps", {1e-30, 1.0});
  config->max_position_embeddings = fields.Int("max_position_embeddings", kInt32);
  config->rope = ReadRope(fields, config->max_position_embeddings);
  config->tie_word_embeddings = fields.Bool("tie_word_embeddings", false);
  const std::vector<int32_t> bos = fields.TokenIds("bos_token_id");
  if (!bos.empty()) config->bos_token_id = bos[0];
  config->eos_token_ids = fields.TokenIds("eos_token_id");
  const std::string activation = fields.String("hidden_act", "silu");
  if (activation != "silu") {
    fields.Fail(StatusCode::kUnsupported, "hidden_act",
                fmt::format("is {}, expected \"silu\"", Quoted(activation)));
  }
  if (fields.Bool("mlp_bias", false)) {
    fields.Fail(StatusCode::kUnsupported, "mlp_bias", "is true, expected false");
  }
  ReadQuantization(fields, config);
  if (CountParameters(*config) > kMaxParameters) {
    fields.Fail(StatusCode::kInvalidArgument, "hidden_size",
                fmt::format("and the other dimensions make {:.1e} parameters, expected at most "
                            "{:.0e}",
                            CountParameters(*config), kMaxParameters));
  }
  fields.RefuseMisspelt(kIgnoredKeys, kStrictPrefixes);
}

}  // namespace

double ModelConfig::softmax_scale() const {
  const double scale = 1.0 / std::sqrt(static_cast<double>(qk_nope_head_dim + qk_rope_head_dim));
  if (!rope.yarn || rope.mscale_all_dim == 0.0 || rope.factor <= 1.0) return scale;
  const double m = 0.1 * rope.mscale_all_dim * std::log(rope.factor) + 1.0;
  return scale * m * m;
}

Result<ModelConfig> ParseModelConfig(std::string_view text, std::string_view what) {
  WINNOW_ASSIGN(const json::value root, ParseJson(text, what));
  const json::object* object = root.if_object();
  if (object == nullptr) {
    return Corrupt(fmt::format("{}: is {}, expected an object", what, JsonKindName(root)));
  }
  FieldReader fields(*object, std::string(what));
  ModelConfig config;
  ReadModel(fields, &config);
  WINNOW_TRY(fields.status());
  return config;
}

Result<ModelConfig> LoadModelConfig(const std::string& model_dir) {
  const std::string path = (std::filesystem::path(model_dir) / "config.json").string();
  WINNOW_ASSIGN(const std::string text, ReadFile(path, kMaxConfigBytes));
  return ParseModelConfig(text, "config.json");
}

Result<GenerationConfig> LoadGenerationConfig(const std::string& model_dir) {
  constexpr char kName[] = "generation_config.json";
  const std::filesystem::path path = std::filesystem::path(model_dir) / kName;
  GenerationConfig config;
  std::error_code error;
  if (!std::filesystem::exists(path, error)) return config;
  WINNOW_ASSIGN(const json::value root, ReadJsonFile(path.string(), kMaxConfigBytes));
  const json::object* object = root.if_object();
  if (object == nullptr) {
    return Corrupt(fmt::format("{}: is {}, expected an object", kName, JsonKindName(root)));
  }
  FieldReader fields(*object, kName);
  config.do_sample = fields.Bool("do_sample", config.do_sample);
  config.temperature = fields.Number("temperature", {0.0, 1e6}, config.temperature);
  config.top_p = fields.Number("top_p", {0.0, 1.0}, config.top_p);
  config.top_k = std::max<int64_t>(fields.Int("top_k", {-1, kMaxInt32}, config.top_k), 0);
  config.repetition_penalty =
      fields.Number("repetition_penalty", {1e-3, 1e3}, config.repetition_penalty);
  config.eos_token_ids = fields.TokenIds("eos_token_id");
  WINNOW_TRY(fields.status());
  return config;
}

}  // namespace winnow
