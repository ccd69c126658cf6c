// One request on its way through the model: prompt in chunks, then token after token.
#pragma once

#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "engine/model_runner.h"
#include "engine/sampler.h"
#include "engine/stop_matcher.h"
#include "engine/stream_state.h"
#include "text/tokenizer.h"

namespace winnow {

// A Request after tokenization and checks.
struct GenerationTask {
  std::vector<int32_t> prompt;
  SamplerOptions sampler;
  int64_t max_tokens = 0;  // at least 1; prompt and answer fit the context
  std::vector<std::string> stop;
  std::vector<int32_t> stop_token_ids;  // ends of sentences included
};

// Runs on the engine thread, once.
class Generation {
 public:
  // `tokenizer` may be null: then chunks carry tokens and no text.
  Generation(GenerationTask task, ModelRunner& runner, const Tokenizer* tokenizer,
             std::shared_ptr<StreamState> stream);

  // Runs to the end and tells the stream everything, errors included.
  void Run();

 private:
  Status Prefill();
  Status Decode();
  Result<bool> Deliver(const Sample& sample);
  void Finish(FinishReason reason, Chunk chunk);
  void Add(const StepCounts& counts, int64_t last_position);
  Chunk NewChunk() const;
  TokenLogprob Describe(const RankedToken& token) const;
  bool cancelled() const { return stream_->cancelled.load(); }

  GenerationTask task_;
  ModelRunner& runner_;
  const Tokenizer* tokenizer_;
  std::shared_ptr<StreamState> stream_;
  Sampler sampler_;
  StopMatcher stops_;
  std::optional<StreamDecoder> decoder_;
  std::vector<float> logits_;  // [vocab_size] of the last token run
  Receipt receipt_;
};

}  // namespace winnow
