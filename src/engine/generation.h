// One request on its way through the model: what the engine thread keeps of it, draws for it and
// tells its stream.
#pragma once

#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "engine/cost.h"
#include "engine/sampler.h"
#include "engine/sequence.h"
#include "engine/stop_matcher.h"
#include "engine/stream_state.h"
#include "text/answer_constraint.h"
#include "text/answer_parser.h"
#include "text/tokenizer.h"

namespace winnow {

// A Request after tokenization and checks.
struct GenerationTask {
  std::vector<int32_t> prompt;
  SamplerOptions sampler;
  int64_t max_tokens =
      0;  // at least 1, or 0 with prompt_logprobs; prompt and answer fit the context
  std::vector<std::string> stop;
  std::vector<int32_t> stop_token_ids;  // ends of sentences included
  bool prompt_logprobs = false;
  bool skip_special_tokens = true;
  std::shared_ptr<const AnswerGrammar> grammar;  // null: the answer is free
  std::shared_ptr<const TokenTrie> token_trie;   // with a grammar
  bool begins_in_reasoning = false;              // the prompt ends where reasoning begins
  std::optional<AnswerParserOptions> parser;     // none: the answer is told as it is
  std::string tools_json;                        // what parser->tools_json shows
  std::string key;
  std::string cache_salt;
};

// What one sequence did in one step.
struct StepShare {
  RunCounts counts;
  double seconds = 0;          // of the step's time, by share of the work
  double dense_seconds = 0;    // what it would have taken with dense attention; 0: not known
  int64_t last_rows_read = 0;  // of its last token, in one layer
};

// What a step gave for a sequence's last tokens: StepResults of its rows.
struct TokenResults {
  std::span<float> logits;  // [rows, vocab_size], and may be changed
  std::span<const int32_t> tokens;
};

// Owned by the engine thread.
class Generation {
 public:
  using Clock = std::chrono::steady_clock;

  // `tokenizer` may be null: then chunks carry tokens and no text. `costs` outlives it.
  Generation(GenerationTask task, const Tokenizer* tokenizer, const CostModel& costs,
             std::shared_ptr<StreamState> stream, Clock::time_point submitted);

  // What the scheduler moves.
  Sequence& sequence() { return sequence_; }
  bool cancelled() const { return stream_->cancelled.load(); }

  // Both are called before every step of the sequence. CountCached returns how many tokens of the
  // prompt were found in the cache since the last: at the beginning, and once more where the
  // sequence gave up its pages and others went further meanwhile. Begin is true before the first.
  int64_t CountCached();
  bool Begin(Clock::time_point now);
  // Whether a token is drawn when the first `end` tokens have been run.
  bool DrawsAfter(int64_t end) const {
    return end == sequence_.num_tokens() && task_.max_tokens > 0;
  }
  // Tokens from `first` on have been run. Returns true when the request is over; its stream has
  // been told.
  bool Continue(int64_t first, const StepShare& share, const TokenResults& results,
                Clock::time_point now);
  void Fail(Status status);
  void Cancel();

  const Receipt& receipt() const { return receipt_; }

 private:
  // Whether tokens are drawn where the logits are, and not here.
  bool DrawsInStep() const {
    return !constraint_ && !task_.prompt_logprobs && NeedsTokensAlone(task_.sampler);
  }
  Result<Sample> Draw(const TokenResults& results);
  void Account(int64_t first, const StepShare& share);
  void DescribePrompt(int64_t first, std::span<const float> logits, size_t rows, Chunk* chunk);
  bool Deliver(const Sample& sample, Chunk chunk);
  std::string TextOf(int32_t token);
  void Tell(std::string text, Chunk* chunk);
  void Finish(FinishReason reason, Chunk chunk);
  Chunk NewChunk() const;
  TokenDetail Describe(const Sample& sample) const;
  TokenLogprob Describe(const RankedToken& token) const;
  int64_t prompt_tokens() const { return receipt_.prompt_tokens; }

  GenerationTask task_;  // its prompt has moved to sequence_
  Sequence sequence_;
  const Tokenizer* tokenizer_;
  const CostModel& costs_;
  std::shared_ptr<StreamState> stream_;
  Sampler sampler_;
  StopMatcher stops_;
  std::optional<AnswerConstraint> constraint_;
  std::optional<AnswerParser> parser_;
  std::optional<StreamDecoder> decoder_;
  Receipt receipt_;
  Clock::time_point submitted_;
  std::optional<Clock::time_point> begun_;
  std::optional<Clock::time_point> answering_;  // since the first token
  int64_t reached_ = 0;                         // tokens run before, for whatever phase
  int64_t described_ = 1;  // tokens of the prompt described so far; the first has no odds
};

}  // namespace winnow
