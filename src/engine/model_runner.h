// A loaded model with its cache: the engine's and Verify's common ground. Runs steps for a
// scheduler, or one sequence on its own.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "backend/backend.h"
#include "engine/step_memory.h"
#include "model/config.h"
#include "model/kv_cache.h"
#include "model/transformer.h"
#include "model/weights.h"
#include "winnow/winnow.h"

namespace winnow {

enum class LogitRows { kNone, kLast, kAll };

// Owned by one thread. Never moved, since its parts point to each other.
class ModelRunner {
 public:
  // `adjust` (may be empty) may change what config.json says before anything is made of it.
  static Result<std::unique_ptr<ModelRunner>> Load(
      const EngineOptions& options, const std::function<void(ModelConfig&)>& adjust = {});
  ModelRunner(const ModelRunner&) = delete;
  ModelRunner& operator=(const ModelRunner&) = delete;

  const ModelConfig& config() const { return config_; }
  const Weights& weights() const { return weights_; }
  const Backend& backend() const { return *backend_; }
  Backend& backend() { return *backend_; }
  int64_t max_context() const { return max_context_; }
  const KvCache& cache() const { return cache_; }
  const KvCacheOptions& cache_options() const { return cache_options_; }
  int64_t cache_bytes() const { return cache_.bytes(); }
  int64_t num_pages() const { return cache_.num_pages(); }
  int64_t max_step_tokens() const { return plan_.transformer.max_tokens; }
  int64_t chunk() const { return plan_.chunk; }
  // Tokens that Step takes at most with LogitRows::kAll.
  int64_t logit_rows() const { return plan_.logit_rows; }
  const StepMemory& step_memory() const { return plan_.memory; }
  AttentionMode attention() const { return attention_; }
  // Tokens whose rows are in the cache.
  int64_t cached_tokens() const { return static_cast<int64_t>(resident_.size()); }

  // Keeps the rows of the longest common beginning of `token_ids` and the tokens in the cache, but
  // leaves at least the last one to be run for its logits. Returns how many were kept.
  int64_t Resume(std::span<const int32_t> token_ids);

  // Runs the next tokens, at most chunk() of them, or logit_rows() if the logits of all are wanted,
  // after those in the cache. `logits` has room for
  // the rows asked for. `observer` and `policy` may be null; who changes the policy begins with an
  // empty cache (Clear). After an error the cache is empty.
  Result<StepCounts> Step(std::span<const int32_t> token_ids, LogitRows rows, float* logits,
                          StepObserver* observer = nullptr, SelectionPolicy* policy = nullptr);
  void Clear() { resident_.clear(); }

  // For who keeps the pages himself, in place of the above: runs a step of at most
  // max_step_tokens() tokens of at most max_sequences of the options, and copies the rows of a
  // page.
  Result<StepCounts> Run(const Batch& batch, const StepResults& results);
  void CopyPage(int32_t from, int32_t to);

 private:
  ModelRunner() = default;
  Status LoadWeights(const EngineOptions& options);
  Status CreateCache(const EngineOptions& options);

  ModelConfig config_;
  Weights weights_;
  std::unique_ptr<Backend> backend_;
  KvCacheOptions cache_options_;
  KvCache cache_;
  std::unique_ptr<Transformer> transformer_;
  int64_t max_context_ = 0;
  StepPlan plan_;
  Batch batch_;  // of the one sequence
  AttentionMode attention_ = AttentionMode::kSparse;
  std::vector<int32_t> pages_;     // of the one sequence, in order
  std::vector<int32_t> resident_;  // the tokens whose rows are in the cache
};

}  // namespace winnow
