// Layers in a row, and what surrounds them: embedding, final norm, head.
#include "model/transformer.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "base/check.h"

namespace winnow {
namespace {

// Positions whose angles are computed at a time.
constexpr int64_t kRopeRows = 512;

int64_t SelectionWidth(const ModelConfig& config, const TransformerOptions& options) {
  return std::min(config.index_topk, options.max_context);
}

int64_t MaxPages(const TransformerOptions& options) { return PagesFor(options.max_context); }

// Lists of numbers follow each other at multiples of the workspace's alignment.
int64_t PaddedCount(int64_t count) { return Workspace::Padded(count * 4) / 4; }

// Numbers that Upload sends: for each token a rule and four lists, and the page table.
constexpr int64_t kRuleNumbers = sizeof(DrawRule) / sizeof(int32_t);
int64_t UploadCount(int64_t tokens, int64_t pages) {
  return PaddedCount(tokens * kRuleNumbers) + 4 * PaddedCount(tokens) + PaddedCount(pages);
}
int64_t MostUploaded(const TransformerOptions& options) {
  return UploadCount(options.max_tokens, options.max_sequences * MaxPages(options));
}

}  // namespace

int64_t Transformer::WorkspaceBytes(const ModelConfig& config, const TransformerOptions& options) {
  const int64_t T = options.max_tokens;
  const int64_t H = config.num_attention_heads;
  const int64_t C = config.kv_lora_rank;
  const int64_t R = config.qk_rope_head_dim;
  const auto tensor = [T](int64_t width) { return Workspace::Padded(T * width * 4); };
  // Lists follow the order of New() in the functions named.
  const int64_t batch = MostUploaded(options) * 4 + 2 * tensor(SelectionWidth(config, options)) +
                        tensor(1);                        // Upload, Forward
  const int64_t stream = 3 * tensor(config.hidden_size);  // Forward
  const int64_t indexer =
      std::max(tensor(config.index_head_dim),
               tensor(config.index_n_heads * config.index_head_dim) + tensor(config.index_n_heads));
  const int64_t attention = tensor(config.q_lora_rank) + tensor(H * (config.qk_nope_head_dim + R)) +
                            tensor(H * (C + R)) + tensor(C + R) +
                            std::max(indexer, tensor(H * C) + tensor(H * config.v_head_dim));
  const int64_t ffn = tensor(2 * config.intermediate_size);
  const int64_t head_rows = std::min(T, options.max_logit_rows);
  const int64_t head = Workspace::Padded(head_rows * config.hidden_size * 4) +
                       Workspace::Padded(head_rows * config.vocab_size * 4) +
                       Workspace::Padded(head_rows * 4);  // ReadLogits
  return batch + stream + std::max({attention, ffn, head});
}

int64_t Transformer::HostBytes(const ModelConfig& config, const TransformerOptions& options) {
  return kRopeRows * config.qk_rope_head_dim * int64_t{sizeof(float)} +
         MostUploaded(options) * int64_t{sizeof(int32_t)};
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
  transformer.upload_.resize(static_cast<size_t>(MostUploaded(options)));
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

// Pages in a row of the page table. Where the step is to be repeated, its sequences have room to
// grow: to the next power of two, and no further than a step of this kind was planned for.
int64_t Transformer::PageTableWidth(const Batch& batch, bool select, bool recorded) const {
  size_t longest = 1;
  for (const auto& pages : batch.page_tables) longest = std::max(longest, pages.size());
  const int64_t width = static_cast<int64_t>(longest);
  if (!recorded) return width;
  const bool bounded = options_.attention == AttentionMode::kSparse && !select;
  const int64_t most =
      bounded ? std::min(PagesFor(config_->index_topk), MaxPages(options_)) : MaxPages(options_);
  return std::max(width, std::min(static_cast<int64_t>(std::bit_ceil(longest)), most));
}

// Lists and page table go in one piece: a copy to a device is slow to begin.
Transformer::Uploaded Transformer::Upload(const Batch& batch, int64_t width) {
  const int64_t T = batch.num_tokens();
  const int64_t B = static_cast<int64_t>(batch.page_tables.size());
  const TensorView all = workspace_.New(DType::kI32, {UploadCount(T, B * width)});
  const TensorView draws(all.data, DType::kU8,
                         {static_cast<int64_t>(batch.draws.size()), sizeof(DrawRule)});
  if (!batch.draws.empty()) {
    std::memcpy(upload_.data(), batch.draws.data(), static_cast<size_t>(draws.bytes()));
  }
  int64_t used = PaddedCount(T * kRuleNumbers);
  const auto place = [&](const std::vector<int32_t>& values) {
    std::copy(values.begin(), values.end(), upload_.begin() + used);
    const TensorView view(all.As<int32_t>() + used, DType::kI32,
                          {static_cast<int64_t>(values.size())});
    used += PaddedCount(T);
    return view;
  };
  BatchView view;
  view.page_size = kPageSize;
  view.token_ids = place(batch.token_ids);
  view.positions = place(batch.positions);
  view.sequences = place(batch.sequences);
  view.slots = place(batch.slots);
  view.page_table = TensorView(all.As<int32_t>() + used, DType::kI32, {B, width});
  auto row = upload_.begin() + used;
  std::fill_n(row, B * width, -1);
  for (const auto& pages : batch.page_tables) {
    std::copy(pages.begin(), pages.end(), row);
    row += static_cast<ptrdiff_t>(width);
  }
  backend_->CopyToDevice(all.data, upload_.data(), all.bytes());
  return {view, draws};
}

// A step that is repeated scores whichever of its tokens have grown long enough by then.
void Transformer::FindScored(const Batch& batch, bool recorded, Pass& pass) const {
  pass.num_scored = batch.num_tokens();
  if (recorded) return;
  const auto is_long = [&](int32_t position) { return position >= config_->index_topk; };
  const auto& positions = batch.positions;
  const auto first = std::find_if(positions.begin(), positions.end(), is_long);
  const auto last = std::find_if(positions.rbegin(), positions.rend(), is_long).base();
  pass.first_scored = first - positions.begin();
  pass.num_scored = last - first;
}

// One token, step 5 of 9. From scheduler.cc; next: SelfAttention() in attention.cc.
Result<StepCounts> Transformer::Forward(const Batch& batch, const KvCache& cache,
                                        const StepResults& results, StepObserver* observer,
                                        SelectionPolicy* policy) {
  const int64_t T = batch.num_tokens();
  WINNOW_CHECK(T > 0 && T <= options_.max_tokens, "a step with more tokens than were planned for");
  const int64_t longest = *std::max_element(batch.positions.begin(), batch.positions.end()) + 1;
  WINNOW_CHECK(longest <= options_.max_context, "a token beyond the planned context");
  ExtendRope(longest);
  // While no context is longer than index_topk, the selection is everything: nothing is scored.
  const bool select = options_.attention == AttentionMode::kSparse && longest > config_->index_topk;
  // A token of each of some sequences: the next steps will be like it.
  const bool recorded = backend_->records() && !observer && !policy &&
                        T <= RecordedSteps::kMaxTokens &&
                        T == static_cast<int64_t>(batch.page_tables.size());

  Workspace::Scope scope(workspace_);
  const int64_t width = PageTableWidth(batch, select, recorded);
  const Uploaded uploaded = Upload(batch, width);
  Pass pass{.ops = *backend_,
            .config = *config_,
            .workspace = workspace_,
            .cache = cache,
            .batch = uploaded.batch,
            .rope = {rope_rows_, config_->rope_layout == RopeLayout::kHalfSplit},
            .index_rope = {rope_rows_, config_->index_rope_layout == RopeLayout::kHalfSplit},
            .softmax_scale = static_cast<float>(config_->softmax_scale()),
            .select = select,
            .observer = observer,
            .policy = policy};
  if (select) {
    FindScored(batch, recorded, pass);
    const int64_t kept = SelectionWidth(*config_, options_);
    pass.selection.positions = workspace_.New(DType::kI32, {T, kept});
    pass.selection.slots = workspace_.New(DType::kI32, {T, kept});
    pass.selection.counts = workspace_.New(DType::kI32, {T});
  }
  const Stream stream = {pass.New({T, config_->hidden_size}), pass.New({T, config_->hidden_size}),
                         pass.New({T, config_->hidden_size})};
  if (recorded) {
    Recording& recording = recorded_.Find({cache.layer(0).latent.rows.data, T, width, select});
    backend_->Repeat(recording, [&] { RunLayers(pass, stream); });
  } else {
    RunLayers(pass, stream);
  }
  ReadLogits(pass, stream.normed, batch, uploaded.draws, results);
  WINNOW_TRY(backend_->Finish());
  WINNOW_TRY(weights_->CheckIntact());
  return Count(batch, policy == nullptr);
}

void Transformer::RunLayers(Pass& pass, const Stream& stream) {
  const auto& [hidden, normed, branch] = stream;
  const float eps = static_cast<float>(config_->rms_norm_eps);
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
}

namespace {

// Rows `tokens` of `hidden`, ascending.
TensorView Gather(Pass& pass, TensorView hidden, std::span<const int32_t> tokens) {
  const int64_t rows = static_cast<int64_t>(tokens.size());
  if (tokens.back() - tokens.front() == rows - 1) return hidden.Rows(tokens.front(), rows);
  const TensorView gathered = pass.New({rows, hidden.dims[1]});
  for (int64_t row = 0; row < rows; ++row) {
    const TensorView target = gathered.Rows(row, 1);
    pass.ops.Copy(target.data, hidden.Rows(tokens[static_cast<size_t>(row)], 1).data,
                  target.bytes());
  }
  return gathered;
}

}  // namespace

// The head runs on the wanted rows and no others. Where they are not neighbours they are gathered:
// the last tokens of some prompts.
void Transformer::ReadLogits(Pass& pass, TensorView normed, const Batch& batch, TensorView draws,
                             const StepResults& results) {
  const int64_t wanted = static_cast<int64_t>(batch.logit_rows.size());
  const int64_t vocab = config_->vocab_size;
  for (int64_t first = 0; first < wanted; first += options_.max_logit_rows) {
    const int64_t rows = std::min(options_.max_logit_rows, wanted - first);
    Workspace::Scope scope(pass.workspace);
    const TensorView x = Gather(
        pass, normed,
        std::span(batch.logit_rows).subspan(static_cast<size_t>(first), static_cast<size_t>(rows)));
    TensorView logits = pass.New({rows, vocab});
    pass.ops.Linear({.x = x, .weight = weights_->lm_head, .out = logits, .keep_f32 = true});
    const auto is_wanted = [&](int64_t row) {
      return batch.draws.empty() || batch.draws[static_cast<size_t>(first + row)].below == 0;
    };
    int64_t num_drawn = rows;
    for (int64_t row = 0, end = 0; row < rows; row = std::max(end, row + 1)) {
      for (end = row; end < rows && is_wanted(end); ++end) --num_drawn;
      const TensorView run = logits.Rows(row, end - row);
      pass.ops.CopyToHost(results.logits + (first + row) * vocab, run.data, run.bytes());
    }
    if (num_drawn == 0) continue;
    TensorView tokens = pass.workspace.New(DType::kI32, {rows});
    pass.ops.DrawTokens({.logits = logits, .rules = draws.Rows(first, rows), .tokens = tokens});
    pass.ops.CopyToHost(results.tokens + first, tokens.data, tokens.bytes());
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
