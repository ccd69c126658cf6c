// Layers in a row, and what surrounds them: embedding, final norm, head.
#include "model/transformer.h"

#include <algorithm>

#include "base/check.h"

namespace winnow {
namespace {

// Positions whose angles are computed at a time.
constexpr int64_t kRopeRows = 512;

int64_t SelectionWidth(const ModelConfig& config, const TransformerOptions& options) {
  return std::min(config.index_topk, options.max_context);
}

int64_t MaxPages(const TransformerOptions& options) {
  return (options.max_context + kPageSize - 1) / kPageSize;
}

}  // namespace

int64_t Transformer::WorkspaceBytes(const ModelConfig& config, const TransformerOptions& options) {
  const int64_t T = options.max_tokens;
  const int64_t H = config.num_attention_heads;
  const int64_t C = config.kv_lora_rank;
  const int64_t R = config.qk_rope_head_dim;
  const auto tensor = [T](int64_t width) { return Workspace::Padded(T * width * 4); };
  // Lists follow the order of New() in the functions named.
  const int64_t batch = 4 * tensor(1) +
                        Workspace::Padded(options.max_sequences * MaxPages(options) * 4) +
                        2 * tensor(SelectionWidth(config, options)) + tensor(1);  // Upload, Forward
  const int64_t stream = 3 * tensor(config.hidden_size);                          // RunLayers
  const int64_t indexer =
      std::max(tensor(config.index_head_dim),
               tensor(config.index_n_heads * config.index_head_dim) + tensor(config.index_n_heads));
  const int64_t attention = tensor(config.q_lora_rank) + tensor(H * (config.qk_nope_head_dim + R)) +
                            tensor(H * (C + R)) + tensor(C + R) +
                            std::max(indexer, tensor(H * C) + tensor(H * config.v_head_dim));
  const int64_t ffn = tensor(2 * config.intermediate_size);
  const int64_t head_rows = std::min(T, options.max_logit_rows);
  const int64_t head = Workspace::Padded(head_rows * config.hidden_size * 4) +
                       Workspace::Padded(head_rows * config.vocab_size * 4);  // ReadLogits
  return batch + stream + std::max({attention, ffn, head});
}

int64_t Transformer::HostBytes(const ModelConfig& config) {
  return kRopeRows * config.qk_rope_head_dim * int64_t{sizeof(float)};
}

StepShape Transformer::ShapeOfSteps(const ModelConfig& config, const TransformerOptions& options,
                                    IndexKeyType index_keys) {
  const auto& moe = config.moe_layers;
  const bool any_experts = std::find(moe.begin(), moe.end(), true) != moe.end();
  const bool any_plain = std::find(moe.begin(), moe.end(), false) != moe.end();
  StepShape shape;
  shape.num_tokens = options.max_tokens;
  shape.max_context = options.max_context;
  shape.attention = options.attention;
  shape.index_keys = index_keys;
  shape.hidden_size = config.hidden_size;
  shape.num_heads = config.num_attention_heads;
  shape.latent_dim = config.kv_lora_rank;
  shape.rope_dim = config.qk_rope_head_dim;
  shape.nope_dim = config.qk_nope_head_dim;
  shape.value_dim = config.v_head_dim;
  shape.query_rank = config.q_lora_rank;
  shape.index_heads = config.index_n_heads;
  shape.index_dim = config.index_head_dim;
  shape.topk = config.index_topk;
  shape.ffn_width = any_plain ? config.intermediate_size : 0;
  if (any_experts) {
    shape.num_experts = config.n_routed_experts;
    shape.experts_per_token = config.num_experts_per_tok;
    shape.n_group = config.n_group;
    shape.expert_width = config.moe_intermediate_size;
    shape.shared_width = config.n_shared_experts * config.moe_intermediate_size;
  }
  return shape;
}

Result<Transformer> Transformer::Create(const ModelConfig& config, const Weights& weights,
                                        const TransformerOptions& options, Backend& backend) {
  Transformer transformer;
  transformer.config_ = &config;
  transformer.weights_ = &weights;
  transformer.backend_ = &backend;
  transformer.options_ = options;
  WINNOW_ASSIGN(transformer.workspace_,
                Workspace::Create(WorkspaceBytes(config, options), backend));
  const int64_t pairs = config.qk_rope_head_dim / 2;
  transformer.rope_maker_ = RopeRowMaker(config.rope, config.qk_rope_head_dim);
  transformer.new_rope_rows_.resize(static_cast<size_t>(kRopeRows * 2 * pairs));
  transformer.page_table_.reserve(static_cast<size_t>(options.max_sequences * MaxPages(options)));
  WINNOW_ASSIGN(transformer.rope_memory_, backend.Allocate(options.max_context * 2 * pairs * 4));
  transformer.rope_rows_ =
      TensorView(transformer.rope_memory_.get(), DType::kF32, {options.max_context, 2, pairs});
  return transformer;
}

void Transformer::ExtendRope(int64_t positions) {
  while (rope_filled_ < positions) {
    const int64_t count = std::min(kRopeRows, options_.max_context - rope_filled_);
    rope_maker_.Make(rope_filled_, count, new_rope_rows_.data());
    const TensorView target = rope_rows_.Rows(rope_filled_, count);
    backend_->CopyToDevice(target.data, new_rope_rows_.data(), target.bytes());
    rope_filled_ += count;
  }
}

BatchView Transformer::Upload(const Batch& batch) {
  const auto upload = [this](const std::vector<int32_t>& values) {
    TensorView view = workspace_.New(DType::kI32, {static_cast<int64_t>(values.size())});
    backend_->CopyToDevice(view.data, values.data(), view.bytes());
    return view;
  };
  BatchView view;
  view.page_size = kPageSize;
  view.token_ids = upload(batch.token_ids);
  view.positions = upload(batch.positions);
  view.sequences = upload(batch.sequences);
  view.slots = upload(batch.slots);
  size_t longest = 1;
  for (const auto& pages : batch.page_tables) longest = std::max(longest, pages.size());
  std::vector<int32_t>& table = page_table_;
  table.assign(batch.page_tables.size() * longest, -1);
  for (size_t row = 0; row < batch.page_tables.size(); ++row) {
    std::copy(batch.page_tables[row].begin(), batch.page_tables[row].end(),
              table.begin() + static_cast<int64_t>(row * longest));
  }
  view.page_table = upload(table);
  view.page_table.dims = {static_cast<int64_t>(batch.page_tables.size()),
                          static_cast<int64_t>(longest)};
  return view;
}

// One token, step 5 of 9. From scheduler.cc; next: SelfAttention() in attention.cc.
Result<StepCounts> Transformer::Forward(const Batch& batch, const KvCache& cache, float* logits,
                                        StepObserver* observer, SelectionPolicy* policy) {
  const int64_t T = batch.num_tokens();
  WINNOW_CHECK(T > 0 && T <= options_.max_tokens, "a step with more tokens than were planned for");
  const int64_t longest = *std::max_element(batch.positions.begin(), batch.positions.end()) + 1;
  WINNOW_CHECK(longest <= options_.max_context, "a token beyond the planned context");
  ExtendRope(longest);

  Workspace::Scope scope(workspace_);
  Pass pass{.ops = *backend_,
            .config = *config_,
            .workspace = workspace_,
            .cache = cache,
            .batch = Upload(batch),
            .rope = {rope_rows_, config_->rope_layout == RopeLayout::kHalfSplit},
            .index_rope = {rope_rows_, config_->index_rope_layout == RopeLayout::kHalfSplit},
            .softmax_scale = static_cast<float>(config_->softmax_scale()),
            .observer = observer,
            .policy = policy};
  // While no context is longer than index_topk, the selection is everything: nothing is scored.
  pass.select = options_.attention == AttentionMode::kSparse && longest > config_->index_topk;
  if (pass.select) {
    const int64_t width = SelectionWidth(*config_, options_);
    pass.selection.positions = workspace_.New(DType::kI32, {T, width});
    pass.selection.slots = workspace_.New(DType::kI32, {T, width});
    pass.selection.counts = workspace_.New(DType::kI32, {T});
  }
  TensorView normed = RunLayers(pass);
  ReadLogits(pass, normed, batch, logits);
  WINNOW_TRY(backend_->Finish());
  WINNOW_TRY(weights_->CheckIntact());
  return Count(batch, policy == nullptr);
}

TensorView Transformer::RunLayers(Pass& pass) {
  const int64_t T = pass.num_tokens();
  const float eps = static_cast<float>(config_->rms_norm_eps);
  TensorView hidden = pass.New({T, config_->hidden_size});
  TensorView normed = pass.New({T, config_->hidden_size});
  TensorView branch = pass.New({T, config_->hidden_size});  // what a half layer adds to the stream
  pass.ops.Embed(
      {.token_ids = pass.batch.token_ids, .table = weights_->embed_tokens, .hidden = hidden});
  for (int64_t layer = 0; layer < config_->num_hidden_layers; ++layer) {
    const LayerWeights& w = weights_->layers[static_cast<size_t>(layer)];
    pass.ops.AddRmsNorm({.hidden = hidden,
                         .branch = layer > 0 ? branch : TensorView(),
                         .weight = w.input_layernorm,
                         .eps = eps,
                         .out = normed});
    if (pass.observer && layer > 0) pass.observer->OnHidden(layer - 1, hidden);
    SelfAttention(pass, w.self_attn, layer, normed, branch);
    pass.ops.AddRmsNorm({.hidden = hidden,
                         .branch = branch,
                         .weight = w.post_attention_layernorm,
                         .eps = eps,
                         .out = normed});
    FeedForward(pass, w, normed, branch);
  }
  pass.ops.AddRmsNorm(
      {.hidden = hidden, .branch = branch, .weight = weights_->norm, .eps = eps, .out = normed});
  if (pass.observer) pass.observer->OnHidden(config_->num_hidden_layers - 1, hidden);
  return normed;
}

// The wanted rows are mostly the last one alone: they are gathered so that the head runs on no
// others.
void Transformer::ReadLogits(Pass& pass, TensorView normed, const Batch& batch, float* logits) {
  const int64_t wanted = static_cast<int64_t>(batch.logit_rows.size());
  const int64_t row_bytes = config_->hidden_size * 4;
  for (int64_t first = 0; first < wanted; first += options_.max_logit_rows) {
    const int64_t rows = std::min(options_.max_logit_rows, wanted - first);
    Workspace::Scope scope(pass.workspace);
    TensorView x = pass.New({rows, config_->hidden_size});
    for (int64_t row = 0; row < rows; ++row) {
      const int32_t token = batch.logit_rows[static_cast<size_t>(first + row)];
      pass.ops.Copy(x.Rows(row, 1).data, normed.Rows(token, 1).data, row_bytes);
    }
    TensorView out = pass.New({rows, config_->vocab_size});
    pass.ops.Linear({.x = x, .weight = weights_->lm_head, .out = out, .keep_f32 = true});
    pass.ops.CopyToHost(logits + first * config_->vocab_size, out.data, out.bytes());
  }
}

StepCounts Transformer::Count(const Batch& batch, bool scored) const {
  const int64_t K = config_->index_topk;
  const bool sparse = options_.attention == AttentionMode::kSparse;
  const int64_t indexers =
      std::count(config_->indexer_types.begin(), config_->indexer_types.end(), IndexerType::kFull);
  StepCounts counts;
  for (const int32_t position : batch.positions) {
    const int64_t context = int64_t{position} + 1;
    counts.last_rows_read = sparse ? std::min(K, context) : context;
    counts.attention_rows_read += counts.last_rows_read * config_->num_hidden_layers;
    counts.attention_rows_dense += context * config_->num_hidden_layers;
    if (scored && sparse && context > K) counts.index_keys_scored += context * indexers;
  }
  return counts;
}

}  // namespace winnow
