#include "engine/model_runner.h"

#include <algorithm>
#include <numeric>

#include "base/check.h"
#include "base/text.h"
#include "engine/backends.h"

namespace winnow {
namespace {

constexpr int64_t kMaxChunk = 1 << 16;
constexpr int64_t kMaxSequences = 4096;
constexpr int64_t kRoomy = -1;  // a cache of four contexts, if there is memory
constexpr int64_t kMaxCacheTokens = int64_t{1} << 30;  // slots are numbered in 32 bits

KvCacheOptions CacheOptions(const EngineOptions& options, int64_t context) {
  KvCacheOptions cache;
  cache.latent = options.kv_cache;
  cache.index_keys = options.index_keys;
  cache.with_index_keys = options.attention == AttentionMode::kSparse;
  cache.num_pages = PagesFor(context);
  return cache;
}

Status CheckOptions(const EngineOptions& options, const ModelConfig& config) {
  if (options.chunk < 1 || options.chunk > kMaxChunk) {
    return InvalidArgument(fmt::format("chunk: {}, expected 1 to {}", options.chunk, kMaxChunk));
  }
  if (options.workspace_bytes < 0) {
    return InvalidArgument(
        fmt::format("workspace: {} bytes, expected 0 (no limit) or more", options.workspace_bytes));
  }
  if (options.max_context < 0 || options.max_context > config.max_position_embeddings) {
    return InvalidArgument(fmt::format(
        "max_context: {}, expected at most {}, the max_position_embeddings of config.json",
        options.max_context, config.max_position_embeddings));
  }
  if (options.max_sequences < 1 || options.max_sequences > kMaxSequences) {
    return InvalidArgument(
        fmt::format("max_sequences: {}, expected 1 to {}", options.max_sequences, kMaxSequences));
  }
  if (options.max_queue < 1) {
    return InvalidArgument(fmt::format("max_queue: {}, expected at least 1", options.max_queue));
  }
  if (options.cache_tokens < kRoomy || options.cache_tokens > kMaxCacheTokens) {
    return InvalidArgument(
        fmt::format("cache_tokens: {}, expected -1 (four contexts), 0 (one) or up to {}",
                    options.cache_tokens, kMaxCacheTokens));
  }
  if (options.cache_tokens > 0 && options.cache_tokens < options.max_context) {
    return InvalidArgument(fmt::format("cache_tokens: {}, expected at least max_context, {}",
                                       options.cache_tokens, options.max_context));
  }
  return OkStatus();
}

Status CheckWeightType(const EngineOptions& options, const ModelConfig& config,
                       const Backend& backend) {
  const WeightType type = config.weights != WeightType::kStored ? config.weights : options.weights;
  if (type == WeightType::kStored || backend.reads_group_codes()) return OkStatus();
  return Unsupported(
      fmt::format("weights: {}, expected stored: backend {} multiplies weights as "
                  "they are stored, in F32, BF16, F16 or F8_E4M3",
                  Name(type), Quoted(options.backend)));
}

}  // namespace

Result<std::unique_ptr<ModelRunner>> ModelRunner::Load(
    const EngineOptions& options, const std::function<void(ModelConfig&)>& adjust) {
  std::unique_ptr<ModelRunner> runner(new ModelRunner);
  WINNOW_ASSIGN(runner->config_, LoadModelConfig(options.model_dir));
  if (adjust) adjust(runner->config_);
  WINNOW_TRY(CheckOptions(options, runner->config_));
  WINNOW_ASSIGN(runner->backend_, CreateBackend(options));
  WINNOW_TRY(CheckWeightType(options, runner->config_, *runner->backend_));
  WINNOW_TRY(runner->LoadWeights(options));
  runner->attention_ = options.attention;
  WINNOW_TRY(runner->CreateCache(options));

  TransformerOptions transformer;
  transformer.attention = options.attention;
  transformer.max_sequences = options.max_sequences;
  transformer.max_context = runner->max_context_;
  WINNOW_ASSIGN(runner->plan_, PlanSteps(runner->config_, transformer, options.index_keys,
                                         options.chunk, runner->num_pages() * kPageSize,
                                         options.workspace_bytes, *runner->backend_));
  auto created = Transformer::Create(runner->config_, runner->weights_, runner->plan_.transformer,
                                     *runner->backend_);
  if (!created.ok()) return created.error();
  runner->batch_.Reserve(runner->max_step_tokens(), 1);
  runner->backend_->ReserveScratch(
      Transformer::ShapeOfSteps(runner->config_, runner->plan_.transformer, options.index_keys));
  runner->transformer_ = std::make_unique<Transformer>(std::move(*created));
  return runner;
}

// Reading headers is a tenth of the way where the weights have to be copied as well.
Status ModelRunner::LoadWeights(const EngineOptions& options) {
  const bool copies = !backend_->shares_host_memory();
  const auto part = [&](double first, double last) -> Progress {
    if (!options.progress) return {};
    return [=, &options](double share) { options.progress(first + (last - first) * share); };
  };
  WINNOW_ASSIGN(weights_, Weights::Load(options.model_dir, &config_,
                                        {.weights = options.weights,
                                         .num_threads = options.num_threads,
                                         .progress = part(0, copies ? 0.1 : 1)}));
  return copies ? weights_.MoveTo(*backend_, part(0.1, 1)) : OkStatus();
}

// A context that was asked for is kept or refused. Otherwise it is what the model was made for,
// halved until its cache fits the memory that is there.
Status ModelRunner::CreateCache(const EngineOptions& options) {
  max_context_ = options.max_context > 0 ? options.max_context : config_.max_position_embeddings;
  if (options.cache_tokens > 0) max_context_ = std::min(max_context_, options.cache_tokens);
  const bool fixed = options.max_context > 0 || options.cache_tokens > 0;
  int64_t contexts = options.cache_tokens == kRoomy ? 4 : 1;
  for (;;) {
    cache_options_ = CacheOptions(options, std::max(options.cache_tokens, contexts * max_context_));
    auto cache = KvCache::Create(config_, cache_options_, *backend_);
    if (cache.ok()) {
      cache_ = std::move(*cache);
      break;
    }
    if (contexts > 1) {
      contexts /= 2;
      continue;
    }
    if (fixed || max_context_ <= kPageSize) return cache.error();
    max_context_ /= 2;
  }
  pages_.resize(static_cast<size_t>(PagesFor(max_context_)));
  std::iota(pages_.begin(), pages_.end(), 0);
  resident_.reserve(static_cast<size_t>(max_context_));
  return OkStatus();
}

int64_t ModelRunner::Resume(std::span<const int32_t> token_ids) {
  WINNOW_CHECK(!token_ids.empty(), "Resume: a sequence without tokens");
  const size_t limit = std::min(resident_.size(), token_ids.size() - 1);
  size_t common = 0;
  while (common < limit && resident_[common] == token_ids[common]) ++common;
  resident_.resize(common);
  return static_cast<int64_t>(common);
}

Result<StepCounts> ModelRunner::Step(std::span<const int32_t> token_ids, LogitRows rows,
                                     float* logits, StepObserver* observer,
                                     SelectionPolicy* policy) {
  Batch& batch = batch_;
  batch.Clear();
  const int64_t first = cached_tokens();
  WINNOW_CHECK(first + static_cast<int64_t>(token_ids.size()) <= max_context_,
               "Step: more tokens than the cache holds");
  for (size_t token = 0; token < token_ids.size(); ++token) {
    const int64_t position = first + static_cast<int64_t>(token);
    const int32_t page = pages_[static_cast<size_t>(position / kPageSize)];
    batch.token_ids.push_back(token_ids[token]);
    batch.positions.push_back(static_cast<int32_t>(position));
    batch.sequences.push_back(0);
    batch.slots.push_back(static_cast<int32_t>(page * kPageSize + position % kPageSize));
    if (rows == LogitRows::kAll) batch.logit_rows.push_back(static_cast<int32_t>(token));
  }
  if (rows == LogitRows::kLast) {
    batch.logit_rows.push_back(static_cast<int32_t>(token_ids.size()) - 1);
  }
  const int64_t pages = PagesFor(first + static_cast<int64_t>(token_ids.size()));
  batch.page_tables.emplace_back(pages_.data(), static_cast<size_t>(pages));

  auto counts = transformer_->Forward(batch, cache_, {.logits = logits}, observer, policy);
  if (counts.ok()) {
    resident_.insert(resident_.end(), token_ids.begin(), token_ids.end());
  } else {
    resident_.clear();
  }
  return counts;
}

Result<StepCounts> ModelRunner::Run(const Batch& batch, const StepResults& results) {
  return transformer_->Forward(batch, cache_, results);
}

void ModelRunner::CopyPage(int32_t from, int32_t to) {
  for (int64_t index = 0; index < config_.num_hidden_layers; ++index) {
    const LayerCache& layer = cache_.layer(index);
    const TensorView source = layer.latent.rows.Rows(from * kPageSize, kPageSize);
    backend_->Copy(layer.latent.rows.Rows(to * kPageSize, kPageSize).data, source.data,
                   source.bytes());
    if (!layer.index_keys) continue;
    const TensorView keys = layer.index_keys->pages.Rows(from, 1);
    backend_->Copy(layer.index_keys->pages.Rows(to, 1).data, keys.data, keys.bytes());
  }
}

}  // namespace winnow
