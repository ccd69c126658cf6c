// The parts of config.json that come in several spellings: position embedding, shared indexers,
// and which layers are mixtures of experts.
#include <algorithm>
#include <limits>

#include "base/text.h"
#include "model/config_fields.h"

namespace winnow {
namespace {

constexpr double kHuge = 1e12;

// Keys of a rope object that say nothing Winnow needs.
constexpr std::string_view kIgnoredRopeKeys[] = {"finetuned"};
constexpr std::string_view kEveryKey[] = {""};

// Plain RoPE states none of these fields, or states them in vain.
void ReadYarn(FieldReader& fields, int64_t max_position_embeddings, RopeConfig* rope) {
  constexpr Range<int64_t> kPositions = {1, std::numeric_limits<int32_t>::max()};
  constexpr Range<double> kFactor = {1e-3, 1e6};
  const int64_t original = fields.Int("original_max_position_embeddings", kPositions, 0);
  // The reference takes a missing factor from the two context lengths.
  const double ratio = static_cast<double>(max_position_embeddings) /
                       static_cast<double>(std::max<int64_t>(original, 1));
  const bool required = rope->yarn && original == 0;
  rope->factor = required ? fields.Number("factor", kFactor)
                          : fields.Number("factor", kFactor, rope->yarn ? ratio : 1.0);
  rope->original_max_position_embeddings = original > 0 ? original : max_position_embeddings;
  rope->beta_fast = fields.Number("beta_fast", {1e-6, 1e6}, rope->beta_fast);
  rope->beta_slow = fields.Number("beta_slow", {1e-6, 1e6}, rope->beta_slow);
  if (rope->beta_fast < rope->beta_slow) {
    fields.Fail(
        StatusCode::kInvalidArgument, "beta_fast",
        fmt::format("is {}, expected at least beta_slow ({})", rope->beta_fast, rope->beta_slow));
  }
  rope->mscale = fields.Number("mscale", {0.0, 1e3}, 0.0);
  rope->mscale_all_dim = fields.Number("mscale_all_dim", {0.0, 1e3}, 0.0);
  rope->attention_factor = fields.Number("attention_factor", {1e-6, 1e3}, 0.0);
  rope->truncate = fields.Bool("truncate", true);
}

void ReadRopeObject(FieldReader& fields, int64_t max_position_embeddings, RopeConfig* rope) {
  rope->rope_theta = fields.Number("rope_theta", {1.000001, kHuge}, rope->rope_theta);
  const std::string old_type = fields.String("type", "default");
  const std::string type = fields.String("rope_type", old_type);
  if (fields.Number("partial_rotary_factor", {0.0, kHuge}, 1.0) != 1.0) {
    fields.Fail(StatusCode::kUnsupported, "partial_rotary_factor", "is not 1, expected 1");
  }
  rope->yarn = type == "yarn" || type == "deepseek_yarn";
  if (!rope->yarn && type != "default") {
    fields.Fail(StatusCode::kUnsupported, "rope_type",
                fmt::format("is {}, expected \"default\" or \"yarn\"", Quoted(type)));
  }
  ReadYarn(fields, max_position_embeddings, rope);
  fields.RefuseMisspelt(kIgnoredRopeKeys, kEveryKey);
}

// "FFSS…" as the list it abbreviates.
std::vector<std::string> SpellPattern(std::string_view pattern) {
  std::vector<std::string> types;
  for (const char letter : pattern) types.emplace_back(1, letter);
  return types;
}

// Layer i selects anew iff max(i - offset + 1, 0) is a multiple of freq.
std::vector<IndexerType> ScheduledIndexers(int64_t num_layers, int64_t freq, int64_t offset) {
  std::vector<IndexerType> types;
  for (int64_t layer = 0; layer < num_layers; ++layer) {
    const bool full = std::max<int64_t>(layer - offset + 1, 0) % freq == 0;
    types.push_back(full ? IndexerType::kFull : IndexerType::kShared);
  }
  return types;
}

std::vector<IndexerType> ParseIndexerTypes(FieldReader& fields, std::string_view key,
                                           const std::vector<std::string>& names,
                                           const ModelConfig& config) {
  const int64_t num_layers = config.num_hidden_layers;
  const int64_t longest = num_layers + config.num_nextn_predict_layers;
  const int64_t count = static_cast<int64_t>(names.size());
  if (count < num_layers || count > longest) {
    fields.Fail(
        StatusCode::kInvalidArgument, key,
        fmt::format("has {} entries, expected one for each of {} layers", count, num_layers));
    return {};
  }
  std::vector<IndexerType> types;
  for (int64_t layer = 0; layer < num_layers; ++layer) {
    const std::string& name = names[layer];
    if (name != "full" && name != "F" && name != "shared" && name != "S") {
      fields.Fail(
          StatusCode::kInvalidArgument, key,
          fmt::format("is {} for layer {}, expected \"full\" or \"shared\"", Quoted(name), layer));
      return {};
    }
    types.push_back(name[0] == 'f' || name[0] == 'F' ? IndexerType::kFull : IndexerType::kShared);
  }
  return types;
}

}  // namespace

RopeConfig ReadRope(FieldReader& fields, int64_t max_position_embeddings) {
  RopeConfig rope;
  rope.rope_theta = fields.Number("rope_theta", {1.000001, kHuge}, rope.rope_theta);
  const json::value* parameters = fields.Find("rope_parameters");
  const json::value* scaling = fields.Find("rope_scaling");
  const char* key = parameters != nullptr ? "rope_parameters" : "rope_scaling";
  const json::value* chosen = parameters != nullptr ? parameters : scaling;
  if (chosen == nullptr) return rope;
  const json::object* object = chosen->if_object();
  if (object == nullptr) {
    fields.Fail(StatusCode::kInvalidArgument, key,
                fmt::format("is {}, expected an object", Described(*chosen)));
    return rope;
  }
  FieldReader nested(*object, fields.what() + ": " + key);
  ReadRopeObject(nested, max_position_embeddings, &rope);
  fields.Fail(nested.status());
  return rope;
}

void ReadIndexerTypes(FieldReader& fields, ModelConfig* config) {
  constexpr Range<int64_t> kLayers = {0, 65536};
  const std::vector<std::string> types = fields.Strings("indexer_types");
  const json::value* pattern = fields.Find("index_topk_pattern");
  const int64_t freq = std::max<int64_t>(fields.Int("index_topk_freq", kLayers, 1), 1);
  const int64_t offset = fields.Int("index_skip_topk_offset", kLayers, 2);
  config->indexer_types_stated = true;
  if (fields.Find("indexer_types") != nullptr) {
    config->indexer_types = ParseIndexerTypes(fields, "indexer_types", types, *config);
  } else if (pattern != nullptr) {
    const json::string* text = pattern->if_string();
    config->indexer_types =
        ParseIndexerTypes(fields, "index_topk_pattern",
                          text != nullptr ? SpellPattern({text->data(), text->size()})
                                          : fields.Strings("index_topk_pattern"),
                          *config);
  } else {
    config->indexer_types = ScheduledIndexers(config->num_hidden_layers, freq, offset);
    // DeepSeek-V3.2 has no shared layers, so its layers' indexers are a matter of fact; the
    // schedules of GLM are read differently by different engines, so there the tensors decide.
    config->indexer_types_stated = config->model_type == "deepseek_v32" && freq == 1;
  }
  if (!config->indexer_types.empty() && config->indexer_types[0] != IndexerType::kFull) {
    fields.Fail(StatusCode::kInvalidArgument, "indexer_types",
                "or its schedule is \"shared\" for layer 0, expected \"full\": no layer before it "
                "has selected");
  }
}

std::vector<bool> ReadMoeLayers(FieldReader& fields, int64_t num_hidden_layers) {
  constexpr Range<int64_t> kLayers = {0, 65536};
  const std::vector<std::string> types = fields.Strings("mlp_layer_types");
  const int64_t first = fields.Int("first_k_dense_replace", kLayers, 0);
  const int64_t freq = fields.Int("moe_layer_freq", {1, 65536}, 1);
  std::vector<bool> moe(static_cast<size_t>(num_hidden_layers));
  if (fields.Find("mlp_layer_types") == nullptr) {
    for (int64_t layer = 0; layer < num_hidden_layers; ++layer) {
      moe[layer] = layer >= first && layer % freq == 0;
    }
    return moe;
  }
  if (static_cast<int64_t>(types.size()) < num_hidden_layers) {
    fields.Fail(StatusCode::kInvalidArgument, "mlp_layer_types",
                fmt::format("has {} entries, expected one for each of {} layers", types.size(),
                            num_hidden_layers));
    return moe;
  }
  for (int64_t layer = 0; layer < num_hidden_layers; ++layer) {
    if (types[layer] != "dense" && types[layer] != "sparse") {
      fields.Fail(StatusCode::kInvalidArgument, "mlp_layer_types",
                  fmt::format("is {} for layer {}, expected \"dense\" or \"sparse\"",
                              Quoted(types[layer]), layer));
    }
    moe[layer] = types[layer] == "sparse";
  }
  return moe;
}

}  // namespace winnow
