// Binding a checkpoint's tensors to the places the model reads them from.
//
// The layout of the model is walked twice by the same code. The first walk only checks; it touches
// names, types and shapes, never data, and adds up what must be allocated. The second binds views
// and converts vectors. No page of a matrix is read by either.
#include "model/weights.h"

#include <algorithm>
#include <charconv>
#include <cstring>
#include <map>
#include <unordered_set>

#include "base/check.h"
#include "base/text.h"
#include "tensor/half.h"

namespace winnow {
namespace {

constexpr int64_t kAlignment = 64;
constexpr size_t kNamesInError = 3;

// An extent and the fields of config.json it comes from.
struct Extent {
  int64_t value;
  const char* origin;
};

int64_t Blocks(int64_t extent) { return (extent + ScaledView::kBlock - 1) / ScaledView::kBlock; }

std::string ShapeText(const std::vector<int64_t>& shape) {
  return fmt::format("[{}]", fmt::join(shape, ", "));
}

float ElementAsFloat(const uint8_t* data, DType dtype, int64_t index) {
  if (dtype == DType::kF32) {
    float value;
    std::memcpy(&value, data + 4 * index, sizeof(value));
    return value;
  }
  uint16_t bits;
  std::memcpy(&bits, data + 2 * index, sizeof(bits));
  return dtype == DType::kBF16 ? Bf16ToFloat(bits) : F16ToFloat(bits);
}

bool IsFloat(const StoredTensor& tensor) {
  return tensor.supported && (tensor.dtype == DType::kF32 || tensor.dtype == DType::kBF16 ||
                              tensor.dtype == DType::kF16);
}

bool IsAligned(const StoredTensor& tensor) {
  return reinterpret_cast<uintptr_t>(tensor.data) % SizeOf(tensor.dtype) == 0;
}

// Gives out views of stored tensors. While checking, the views are empty and only the first mistake
// and the bytes to allocate are kept; afterwards, Bind() turns it over.
class Binder {
 public:
  Binder(const TensorDirectory& directory, std::string source)
      : directory_(directory), source_(std::move(source)) {}

  ScaledView Matrix(const std::string& name, Extent rows, Extent columns) {
    const StoredTensor* tensor = Check(name, {rows, columns});
    if (tensor == nullptr) return {};
    const std::string scale_name = name + "_scale_inv";
    const StoredTensor* scale = directory_.Find(scale_name);
    const bool scaled = tensor->dtype == DType::kF8E4M3;
    if (!checked_ && !CheckPair(name, *tensor, scale_name, scale)) return {};
    ScaledView view;
    view.value = IsAligned(*tensor) ? Mapped(*tensor) : Copied(*tensor);
    if (scaled) {
      if (!checked_ && !CheckScale(scale_name, *scale, rows.value, columns.value)) return {};
      const bool mappable = scale->dtype == DType::kF32 && IsAligned(*scale);
      view.scale = mappable ? Mapped(*scale) : Converted(*scale);
    }
    if (!checked_) {
      Count(*tensor, true);
      if (scaled) Count(*scale, false);
    }
    return view;
  }

  TensorView Vector(const std::string& name, Extent extent) {
    const StoredTensor* tensor = Check(name, {extent});
    if (tensor == nullptr) return {};
    if (!IsFloat(*tensor)) {
      Fail(Unsupported(fmt::format("{}: tensor {} is {}, expected F32, BF16 or F16", tensor->file,
                                   Quoted(name), tensor->dtype_name)));
      return {};
    }
    if (!checked_) Count(*tensor, true);
    return Converted(*tensor);
  }

  bool Has(const std::string& name) const { return directory_.Find(name) != nullptr; }
  bool failed() const { return !status_.ok(); }
  const Status& status() const { return status_; }
  void Fail(Status status) {
    if (status_.ok()) status_ = std::move(status);
  }

  bool Uses(const StoredTensor& tensor) const { return used_.count(&tensor) > 0; }

  // Ends checking: allocates all that is needed and binds from here on.
  void Bind() {
    checked_ = true;
    owned_ = HostBuffer(owned_bytes_);
    owned_bytes_ = 0;
  }
  HostBuffer TakeOwned() { return std::move(owned_); }

  StorageSummary Summary() const {
    StorageSummary summary;
    for (const auto& [dtype, row] : rows_) summary.rows.push_back(row);
    return summary;
  }

 private:
  // The tensor, if it exists in the shape given. A mistake is kept and gives null.
  const StoredTensor* Check(const std::string& name, std::initializer_list<Extent> extents) {
    if (failed()) return nullptr;
    const StoredTensor* tensor = directory_.Find(name);
    if (checked_) return tensor;
    std::vector<int64_t> shape;
    std::vector<std::string> origins;
    for (const Extent& extent : extents) {
      shape.push_back(extent.value);
      origins.push_back(extent.origin);
    }
    if (tensor == nullptr) {
      Fail(Corrupt(
          fmt::format("{}: tensor \"{}\" is missing, expected {}", source_, name, ShapeText(shape)),
          "do config.json and the shards come from one checkpoint?"));
      return nullptr;
    }
    if (tensor->shape != shape) {
      Fail(Corrupt(
          fmt::format("{}: tensor \"{}\" is {}, expected {}", tensor->file, name,
                      ShapeText(tensor->shape), ShapeText(shape)),
          fmt::format("config.json makes it [{}]; do config.json and the shards come from one "
                      "checkpoint?",
                      fmt::join(origins, ", "))));
      return nullptr;
    }
    return tensor;
  }

  // A matrix has a type Winnow multiplies with, and a scale exactly if it is FP8.
  bool CheckPair(const std::string& name, const StoredTensor& tensor, const std::string& scale_name,
                 const StoredTensor* scale) {
    const bool fp8 = tensor.supported && tensor.dtype == DType::kF8E4M3;
    if (!fp8 && !IsFloat(tensor)) {
      Fail(Unsupported(fmt::format("{}: tensor \"{}\" is {}, expected F32, BF16, F16 or F8_E4M3",
                                   tensor.file, name, tensor.dtype_name)));
    } else if (fp8 && scale == nullptr) {
      Fail(Corrupt(fmt::format("{}: tensor \"{}\" is F8_E4M3 without \"{}\", expected its scales",
                               tensor.file, name, scale_name)));
    } else if (!fp8 && scale != nullptr) {
      Fail(Corrupt(fmt::format("{}: tensor \"{}\" belongs to a matrix of {}, expected F8_E4M3",
                               scale->file, scale_name, tensor.dtype_name)));
    }
    return !failed();
  }

  bool CheckScale(const std::string& name, const StoredTensor& scale, int64_t rows,
                  int64_t columns) {
    const std::vector<int64_t> shape = {Blocks(rows), Blocks(columns)};
    if (scale.shape != shape) {
      Fail(Corrupt(
          fmt::format("{}: tensor \"{}\" is {}, expected {} for 128x128 blocks of "
                      "[{}, {}]",
                      scale.file, name, ShapeText(scale.shape), ShapeText(shape), rows, columns)));
    } else if (!IsFloat(scale)) {
      Fail(Unsupported(fmt::format("{}: tensor \"{}\" is {}, expected F32, BF16 or F16", scale.file,
                                   name, scale.dtype_name)));
    }
    return !failed();
  }

  static Dims DimsOf(const StoredTensor& tensor) {
    return tensor.shape.size() == 1 ? Dims{tensor.shape[0]}
                                    : Dims{tensor.shape[0], tensor.shape[1]};
  }

  TensorView Mapped(const StoredTensor& tensor) const {
    if (!checked_) return {};
    return {static_cast<const void*>(tensor.data), tensor.dtype, DimsOf(tensor)};
  }

  TensorView Copied(const StoredTensor& tensor) {
    uint8_t* data = Allocate(tensor.bytes);
    if (data == nullptr) return {};
    std::memcpy(data, tensor.data, static_cast<size_t>(tensor.bytes));
    return {data, tensor.dtype, DimsOf(tensor)};
  }

  TensorView Converted(const StoredTensor& tensor) {
    const int64_t count = tensor.bytes / SizeOf(tensor.dtype);
    float* data = reinterpret_cast<float*>(Allocate(4 * count));
    if (data == nullptr) return {};
    for (int64_t index = 0; index < count; ++index) {
      data[index] = ElementAsFloat(tensor.data, tensor.dtype, index);
    }
    return {data, DType::kF32, DimsOf(tensor)};
  }

  // Memory of our own; while checking, only its amount.
  uint8_t* Allocate(int64_t bytes) {
    const int64_t begin = owned_bytes_;
    owned_bytes_ += (bytes + kAlignment - 1) / kAlignment * kAlignment;
    return checked_ ? owned_.data() + begin : nullptr;
  }

  void Count(const StoredTensor& tensor, bool parameters) {
    if (!used_.insert(&tensor).second) return;
    StorageSummary::Row& row = rows_[tensor.dtype_name];
    row.dtype = tensor.dtype_name;
    row.tensors += 1;
    row.bytes += tensor.bytes;
    if (parameters) row.parameters += tensor.bytes / SizeOf(tensor.dtype);
  }

  const TensorDirectory& directory_;
  std::string source_;
  bool checked_ = false;
  Status status_;
  std::unordered_set<const StoredTensor*> used_;
  std::map<std::string, StorageSummary::Row> rows_;
  int64_t owned_bytes_ = 0;
  HostBuffer owned_;
};

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

  ScaledView EmbedTokens() { return binder_.Matrix("model.embed_tokens.weight", vocab_, hidden_); }
  TensorView Norm() { return binder_.Vector("model.norm.weight", hidden_); }
  // With tied embeddings a stored head is checked, but the embedding is what counts.
  ScaledView LmHead(const ScaledView& embed_tokens) {
    constexpr char kName[] = "lm_head.weight";
    if (config_.tie_word_embeddings && !binder_.Has(kName)) return embed_tokens;
    const ScaledView head = binder_.Matrix(kName, vocab_, hidden_);
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
        binder_.Matrix(prefix + "kv_a_proj_with_mqa.weight", latent_and_rope, hidden_);
    weights.kv_a_layernorm = binder_.Vector(prefix + "kv_a_layernorm.weight", latent);
    weights.kv_b_proj = binder_.Matrix(prefix + "kv_b_proj.weight", expanded, latent);
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
    weights.wq_b = binder_.Matrix(prefix + "wq_b.weight", query, q_lora_);
    weights.wk = binder_.Matrix(prefix + "wk.weight", key, hidden_);
    weights.k_norm_weight = binder_.Vector(prefix + "k_norm.weight", key);
    weights.k_norm_bias = binder_.Vector(prefix + "k_norm.bias", key);
    weights.weights_proj = binder_.Matrix(prefix + "weights_proj.weight", heads, hidden_);
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
    weights.gate = binder_.Matrix(prefix + "gate.weight", experts, hidden_);
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
    const double share = static_cast<double>(layer + 1) / config.num_hidden_layers;
    if (progress) progress(weights == nullptr ? share / 2 : (1 + share) / 2);
  }
}

}  // namespace

Result<Weights> Weights::Load(const std::string& model_dir, ModelConfig* config,
                              const std::function<void(double)>& progress) {
  WINNOW_ASSIGN(TensorDirectory directory, TensorDirectory::Open(model_dir));
  Weights weights;
  weights.directory_ = std::make_unique<TensorDirectory>(std::move(directory));
  DecideIndexers(*weights.directory_, config);
  Binder binder(*weights.directory_, model_dir);
  Walk(*config, &binder, nullptr, progress);
  WINNOW_TRY(binder.status());
  WINNOW_TRY(RefuseSuperfluous(*weights.directory_, *config, binder));
  binder.Bind();
  weights.layers.reserve(static_cast<size_t>(config->num_hidden_layers));
  Walk(*config, &binder, &weights, progress);
  weights.storage_ = binder.Summary();
  weights.owned_.push_back(binder.TakeOwned());
  WINNOW_TRY(weights.CheckIntact());
  return weights;
}

}  // namespace winnow
