// Binding a checkpoint's tensors to the places the model reads them from.
//
// The layout of the model is walked twice by the same code. The first walk only checks; it touches
// names, types and shapes, never data, and adds up what must be allocated. The second binds views
// and converts vectors. No page of a matrix is read by either; those that are quantized are read
// after them.
#include "model/weights.h"

#include <algorithm>
#include <charconv>

#include "base/check.h"
#include "base/text.h"
#include "model/weight_binder.h"

namespace winnow {
namespace {

constexpr size_t kNamesInError = 3;

// The layout of the model: which tensors there are, of what shape, and where they go.
class Layout {
 public:
  Layout(const ModelConfig& config, Binder* binder) : config_(config), binder_(*binder) {}

  LayerWeights Layer(int64_t layer) {
    const std::string prefix = fmt::format("model.layers.{}.", layer);
    LayerWeights weights;
    weights.input_layernorm = binder_.Vector(prefix + "input_layernorm.weight", hidden_);
    weights.self_attn = Attention(prefix + "self_attn.", layer);
    weights.post_attention_layernorm =
        binder_.Vector(prefix + "post_attention_layernorm.weight", hidden_);
    if (config_.moe_layers[layer]) {
      weights.moe = Moe(prefix + "mlp.");
    } else {
      weights.mlp = Ffn(prefix + "mlp.", {config_.intermediate_size, "intermediate_size"});
    }
    return weights;
  }

  ScaledView EmbedTokens() {
    return binder_.Matrix("model.embed_tokens.weight", vocab_, hidden_, Role::kExact);
  }
  TensorView Norm() { return binder_.Vector("model.norm.weight", hidden_); }
  // With tied embeddings a stored head is checked, but the embedding is what counts.
  ScaledView LmHead(const ScaledView& embed_tokens) {
    constexpr char kName[] = "lm_head.weight";
    if (config_.tie_word_embeddings && !binder_.Has(kName)) return embed_tokens;
    const Role role = config_.tie_word_embeddings ? Role::kExact : Role::kInt8;
    const ScaledView head = binder_.Matrix(kName, vocab_, hidden_, role);
    return config_.tie_word_embeddings ? embed_tokens : head;
  }

  static constexpr const char* kIndexerTensors[] = {"wq_b.weight", "wk.weight", "k_norm.weight",
                                                    "k_norm.bias", "weights_proj.weight"};

 private:
  AttentionWeights Attention(const std::string& prefix, int64_t layer) {
    const int64_t heads = config_.num_attention_heads;
    const Extent latent = {config_.kv_lora_rank, "kv_lora_rank"};
    const Extent query = {heads * (config_.qk_nope_head_dim + config_.qk_rope_head_dim),
                          "num_attention_heads * (qk_nope_head_dim + qk_rope_head_dim)"};
    const Extent latent_and_rope = {config_.kv_lora_rank + config_.qk_rope_head_dim,
                                    "kv_lora_rank + qk_rope_head_dim"};
    const Extent expanded = {heads * (config_.qk_nope_head_dim + config_.v_head_dim),
                             "num_attention_heads * (qk_nope_head_dim + v_head_dim)"};
    const Extent values = {heads * config_.v_head_dim, "num_attention_heads * v_head_dim"};
    AttentionWeights weights;
    weights.q_a_proj = binder_.Matrix(prefix + "q_a_proj.weight", q_lora_, hidden_);
    weights.q_a_layernorm = binder_.Vector(prefix + "q_a_layernorm.weight", q_lora_);
    weights.q_b_proj = binder_.Matrix(prefix + "q_b_proj.weight", query, q_lora_);
    weights.kv_a_proj_with_mqa =
        binder_.Matrix(prefix + "kv_a_proj_with_mqa.weight", latent_and_rope, hidden_, Role::kInt8);
    weights.kv_a_layernorm = binder_.Vector(prefix + "kv_a_layernorm.weight", latent);
    weights.kv_b_proj = binder_.Matrix(prefix + "kv_b_proj.weight", expanded, latent, Role::kInt8);
    weights.o_proj = binder_.Matrix(prefix + "o_proj.weight", hidden_, values);
    if (config_.attention_bias) {
      weights.q_a_proj_bias = binder_.Vector(prefix + "q_a_proj.bias", q_lora_);
      weights.kv_a_proj_bias = binder_.Vector(prefix + "kv_a_proj_with_mqa.bias", latent_and_rope);
      weights.o_proj_bias = binder_.Vector(prefix + "o_proj.bias", hidden_);
    }
    if (config_.indexer_types[layer] == IndexerType::kFull) {
      weights.indexer = Indexer(prefix + "indexer.");
    }
    return weights;
  }

  IndexerWeights Indexer(const std::string& prefix) {
    const Extent heads = {config_.index_n_heads, "index_n_heads"};
    const Extent key = {config_.index_head_dim, "index_head_dim"};
    const Extent query = {config_.index_n_heads * config_.index_head_dim,
                          "index_n_heads * index_head_dim"};
    IndexerWeights weights;
    weights.wq_b = binder_.Matrix(prefix + "wq_b.weight", query, q_lora_, Role::kInt8);
    weights.wk = binder_.Matrix(prefix + "wk.weight", key, hidden_, Role::kInt8);
    weights.k_norm_weight = binder_.Vector(prefix + "k_norm.weight", key);
    weights.k_norm_bias = binder_.Vector(prefix + "k_norm.bias", key);
    weights.weights_proj =
        binder_.Matrix(prefix + "weights_proj.weight", heads, hidden_, Role::kExact);
    return weights;
  }

  FfnWeights Ffn(const std::string& prefix, Extent width) {
    FfnWeights weights;
    weights.gate_proj = binder_.Matrix(prefix + "gate_proj.weight", width, hidden_);
    weights.up_proj = binder_.Matrix(prefix + "up_proj.weight", width, hidden_);
    weights.down_proj = binder_.Matrix(prefix + "down_proj.weight", hidden_, width);
    return weights;
  }

  MoeWeights Moe(const std::string& prefix) {
    const Extent experts = {config_.n_routed_experts, "n_routed_experts"};
    const Extent width = {config_.moe_intermediate_size, "moe_intermediate_size"};
    MoeWeights weights;
    weights.gate = binder_.Matrix(prefix + "gate.weight", experts, hidden_, Role::kExact);
    weights.e_score_correction_bias =
        binder_.Vector(prefix + "gate.e_score_correction_bias", experts);
    // Grows with the tensors found, so that a false count in config.json costs nothing.
    for (int64_t expert = 0; expert < experts.value && !binder_.failed(); ++expert) {
      weights.experts.push_back(Ffn(fmt::format("{}experts.{}.", prefix, expert), width));
    }
    if (config_.n_shared_experts > 0) {
      const Extent shared = {config_.n_shared_experts * config_.moe_intermediate_size,
                             "n_shared_experts * moe_intermediate_size"};
      weights.shared_experts = Ffn(prefix + "shared_experts.", shared);
    }
    return weights;
  }

  const ModelConfig& config_;
  Binder& binder_;
  const Extent hidden_ = {config_.hidden_size, "hidden_size"};
  const Extent vocab_ = {config_.vocab_size, "vocab_size"};
  const Extent q_lora_ = {config_.q_lora_rank, "q_lora_rank"};
};

// Where config.json leaves it open, a layer owns an indexer exactly if one is stored for it. A part
// of one counts as one: what is missing of it is then told by name.
void DecideIndexers(const TensorDirectory& directory, ModelConfig* config) {
  if (config->indexer_types_stated) return;
  for (int64_t layer = 0; layer < config->num_hidden_layers; ++layer) {
    const std::string prefix = fmt::format("model.layers.{}.self_attn.indexer.", layer);
    const bool stored =
        std::any_of(std::begin(Layout::kIndexerTensors), std::end(Layout::kIndexerTensors),
                    [&](const char* name) { return directory.Find(prefix + name) != nullptr; });
    // The first layer has nobody to share with: its missing indexer is an error of the next walk.
    const bool full = stored || layer == 0;
    config->indexer_types[layer] = full ? IndexerType::kFull : IndexerType::kShared;
  }
}

// The layer number in "model.layers.N.…", or -1.
int64_t LayerOf(std::string_view name) {
  constexpr std::string_view kPrefix = "model.layers.";
  if (!name.starts_with(kPrefix)) return -1;
  name.remove_prefix(kPrefix.size());
  int64_t layer = -1;
  const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), layer);
  const bool whole = error == std::errc() && end != name.data() + name.size() && *end == '.';
  return whole && layer >= 0 ? layer : -1;
}

// Layers of multi-token prediction follow the model's own. transformers drops their count from
// config.json but not always their tensors, so one such layer is recognised without being
// announced. All of them must have eh_proj, which no other layer has: otherwise a config.json that
// says a layer too few would load half a model.
bool IsPredictionLayer(const TensorDirectory& directory, const ModelConfig& config, int64_t layer) {
  const int64_t past = layer - config.num_hidden_layers;
  if (past < 0) return false;
  return past < std::max<int64_t>(config.num_nextn_predict_layers, 1) &&
         directory.Find(fmt::format("model.layers.{}.eh_proj.weight", layer)) != nullptr;
}

Status RefuseSuperfluous(const TensorDirectory& directory, const ModelConfig& config,
                         const Binder& binder) {
  std::vector<std::string_view> names;
  for (const auto& [name, tensor] : directory.tensors()) {
    if (binder.Uses(tensor) || name.ends_with("rotary_emb.inv_freq")) continue;
    const int64_t layer = LayerOf(name);
    if (layer >= 0 && IsPredictionLayer(directory, config, layer)) continue;
    names.push_back(name);
  }
  if (names.empty()) return OkStatus();
  const size_t shown = std::min(names.size(), kNamesInError);
  std::partial_sort(names.begin(), names.begin() + shown, names.end());
  std::string list;
  for (size_t index = 0; index < shown; ++index) {
    list += (index > 0 ? ", " : "") + Quoted(names[index]);
  }
  const StoredTensor* first = directory.Find(std::string(names[0]));
  return Corrupt(
      fmt::format("{}: tensor{} {}{} not part of the model, expected {} by config.json",
                  first->file, names.size() == 1 ? "" : "s", list,
                  names.size() == 1      ? " is"
                  : names.size() > shown ? fmt::format(" and {} more are", names.size() - shown)
                                         : " are",
                  directory.tensors().size() - names.size()),
      "do config.json and the shards come from one checkpoint?");
}

// Walks the layout: into `weights`, or to check only if that is null.
void Walk(const ModelConfig& config, Binder* binder, Weights* weights,
          const std::function<void(double)>& progress) {
  Layout layout(config, binder);
  const ScaledView embed_tokens = layout.EmbedTokens();
  const TensorView norm = layout.Norm();
  const ScaledView lm_head = layout.LmHead(embed_tokens);
  if (weights != nullptr) {
    weights->embed_tokens = embed_tokens;
    weights->norm = norm;
    weights->lm_head = lm_head;
  }
  for (int64_t layer = 0; layer < config.num_hidden_layers && !binder->failed(); ++layer) {
    LayerWeights bound = layout.Layer(layer);
    if (weights != nullptr) weights->layers.push_back(std::move(bound));
    if (progress) progress(static_cast<double>(layer + 1) / config.num_hidden_layers);
  }
}

// What is quantized at load: nothing, where it is quantized like this already.
Result<WeightType> Wanted(const ModelConfig& config, WeightType weights) {
  if (config.weights == WeightType::kStored || weights == WeightType::kStored) return weights;
  if (config.weights == weights) return WeightType::kStored;
  return InvalidArgument(
      fmt::format("weights: {}, expected {}: config.json says that the model is "
                  "quantized already",
                  Name(weights), Name(config.weights)));
}

// The first walk.
Status CheckLayout(const TensorDirectory& directory, const ModelConfig& config, Binder* binder,
                   const std::function<void(double)>& progress) {
  Walk(config, binder, nullptr, progress);
  WINNOW_TRY(binder->status());
  return RefuseSuperfluous(directory, config, *binder);
}

Status RunJobs(const std::vector<QuantizeJob>& jobs, int num_threads,
               const std::function<void(double)>& progress) {
  if (jobs.empty()) return OkStatus();
  ThreadPool pool(num_threads);
  double total = 0;
  for (const QuantizeJob& job : jobs) total += static_cast<double>(job.matrix.value->bytes);
  double done = 0;
  for (const QuantizeJob& job : jobs) {
    WINNOW_TRY(QuantizeRows(job.matrix, job.as, 0, job.matrix.rows(), job.codes, job.scales, pool));
    done += static_cast<double>(job.matrix.value->bytes);
    if (progress) progress(done / total);
  }
  return OkStatus();
}

// `progress` for the part of the work from `first` to `last`.
std::function<void(double)> Part(const std::function<void(double)>& progress, double first,
                                 double last) {
  if (!progress) return {};
  return [=](double share) { progress(first + (last - first) * share); };
}

}  // namespace

Result<CheckedCheckpoint> Weights::Check(const std::string& model_dir, ModelConfig* config,
                                         WeightType weights) {
  WINNOW_ASSIGN(const WeightType wanted, Wanted(*config, weights));
  CheckedCheckpoint checked;
  WINNOW_ASSIGN(TensorDirectory directory, TensorDirectory::Open(model_dir));
  checked.directory = std::make_unique<TensorDirectory>(std::move(directory));
  DecideIndexers(*checked.directory, config);
  Binder binder(*checked.directory, model_dir, config->weights, wanted);
  WINNOW_TRY(CheckLayout(*checked.directory, *config, &binder, {}));
  checked.tensors = binder.TakePlan();
  checked.storage = binder.Summary();
  return checked;
}

Result<Weights> Weights::Load(const std::string& model_dir, ModelConfig* config,
                              const LoadOptions& options) {
  WINNOW_ASSIGN(const WeightType wanted, Wanted(*config, options.weights));
  // Binding is a twentieth of the way where the weights have to be quantized.
  const double bound = wanted == WeightType::kStored ? 1 : 0.05;
  WINNOW_ASSIGN(TensorDirectory directory, TensorDirectory::Open(model_dir));
  Weights weights;
  weights.directory_ = std::make_unique<TensorDirectory>(std::move(directory));
  DecideIndexers(*weights.directory_, config);
  Binder binder(*weights.directory_, model_dir, config->weights, wanted);
  WINNOW_TRY(
      CheckLayout(*weights.directory_, *config, &binder, Part(options.progress, 0, bound / 2)));
  WINNOW_TRY(binder.Bind());
  weights.layers.reserve(static_cast<size_t>(config->num_hidden_layers));
  Walk(*config, &binder, &weights, Part(options.progress, bound / 2, bound));
  WINNOW_TRY(RunJobs(binder.jobs(), options.num_threads, Part(options.progress, bound, 1)));
  weights.storage_ = binder.Summary();
  weights.owned_.push_back(binder.TakeOwned());
  WINNOW_TRY(weights.CheckIntact());
  return weights;
}

}  // namespace winnow
