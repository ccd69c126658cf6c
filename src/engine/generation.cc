#include "engine/generation.h"

#include <algorithm>

#include "base/check.h"

namespace winnow {
namespace {

double SecondsBetween(Generation::Clock::time_point from, Generation::Clock::time_point to) {
  return std::chrono::duration<double>(to - from).count();
}

void AddPiece(AnswerPiece piece, Chunk* chunk) {
  chunk->text += piece.text;
  chunk->reasoning += piece.reasoning;
  std::move(piece.tool_calls.begin(), piece.tool_calls.end(),
            std::back_inserter(chunk->tool_calls));
}

}  // namespace

Generation::Generation(GenerationTask task, const Tokenizer* tokenizer, const CostModel& costs,
                       std::shared_ptr<StreamState> stream, Clock::time_point submitted)
    : task_(std::move(task)),
      tokenizer_(tokenizer),
      costs_(costs),
      stream_(std::move(stream)),
      sampler_(task_.sampler, task_.prompt),
      stops_(task_.stop),
      submitted_(submitted) {
  if (tokenizer_ != nullptr) decoder_.emplace(*tokenizer_, /*keep_special=*/true);
  if (task_.grammar) {
    constraint_.emplace(task_.grammar, task_.token_trie, task_.begins_in_reasoning);
  }
  if (task_.parser) {
    task_.parser->in_reasoning = task_.begins_in_reasoning;
    task_.parser->tools_json = task_.tools_json;
    parser_.emplace(*task_.parser);
  }
  receipt_.prompt_tokens = static_cast<int64_t>(task_.prompt.size());
  sequence_.tokens = std::move(task_.prompt);
  sequence_.key = task_.key;
  sequence_.salt = task_.cache_salt;
  sequence_.all_logits = task_.prompt_logprobs;
  if (DrawsInStep()) sequence_.draw = sampler_.rule();
}

int64_t Generation::CountCached() {
  if (answering_) return 0;
  const int64_t found = std::max<int64_t>(sequence_.computed - reached_, 0);
  receipt_.cached_tokens += found;
  reached_ += found;
  return found;
}

bool Generation::Begin(Clock::time_point now) {
  if (begun_) return false;
  begun_ = now;
  receipt_.queue_seconds = SecondsBetween(submitted_, now);
  stream_->Put(NewChunk());
  return true;
}

Chunk Generation::NewChunk() const {
  Chunk chunk;
  chunk.prefilled = std::min(reached_, prompt_tokens());
  chunk.prompt_tokens = prompt_tokens();
  chunk.receipt = receipt_;
  return chunk;
}

void Generation::Account(int64_t first, const StepShare& share) {
  const int64_t end = first + share.counts.tokens;
  const int64_t again = std::clamp<int64_t>(reached_ - first, 0, share.counts.tokens);
  receipt_.recomputed_tokens += again;
  if (!answering_) receipt_.computed_tokens += share.counts.tokens - again;
  reached_ = std::max(reached_, end);
  receipt_.attention_rows_read += share.counts.attention_rows_read;
  receipt_.attention_rows_dense += share.counts.attention_rows_dense;
  receipt_.index_keys_scored += share.counts.index_keys_scored;
  receipt_.last_rows_read = share.last_rows_read;
  receipt_.last_rows_dense = end;
  PhaseCost& phase = answering_ ? receipt_.decode : receipt_.prefill;
  phase.seconds += share.seconds;
  phase.flops += costs_.Flops(share.counts);
  phase.bytes += costs_.Bytes(share.counts);
  phase.dense_flops += costs_.DenseFlops(share.counts);
  phase.dense_bytes += costs_.DenseBytes(share.counts);
  phase.dense_seconds += share.dense_seconds;
}

bool Generation::Continue(int64_t first, const StepShare& share, const TokenResults& results,
                          Clock::time_point now) {
  Account(first, share);
  if (!answering_) receipt_.prefill_seconds = SecondsBetween(*begun_, now);
  const size_t rows = static_cast<size_t>(share.counts.logit_rows);
  const int64_t end = first + share.counts.tokens;
  Chunk chunk = NewChunk();
  if (task_.prompt_logprobs) {
    DescribePrompt(end - static_cast<int64_t>(rows), results.logits, rows, &chunk);
  }
  if (end < sequence_.num_tokens()) {
    stream_->Put(std::move(chunk));
    return false;
  }
  if (!DrawsAfter(end)) {
    Finish(FinishReason::kLength, std::move(chunk));
    return true;
  }
  if (!answering_) answering_ = now;
  receipt_.decode_seconds = SecondsBetween(*answering_, now);
  auto sample = Draw({results.logits.last(results.logits.size() / rows),
                      results.tokens.last(results.tokens.empty() ? 0 : 1)});
  if (!sample.ok()) {
    Fail(sample.error());
    return true;
  }
  return Deliver(*sample, std::move(chunk));
}

// `results` of the last token.
Result<Sample> Generation::Draw(const TokenResults& results) {
  if (DrawsInStep()) {
    WINNOW_ASSIGN(const Sample sample, sampler_.Accept(results.tokens.back()));
    sequence_.draw = sampler_.rule();
    return sample;
  }
  if (!constraint_) return sampler_.Next(results.logits);
  WINNOW_ASSIGN(const Sample sample, sampler_.Next(results.logits, [this](std::span<float> masked) {
    constraint_->Mask(masked, task_.stop_token_ids);
  }));
  constraint_->Accept(sample.chosen.token_id);
  return sample;
}

// Row `row` of `logits` is that of position first + row and speaks of the token after it.
void Generation::DescribePrompt(int64_t first, std::span<const float> logits, size_t rows,
                                Chunk* chunk) {
  const size_t width = rows == 0 ? 0 : logits.size() / rows;
  for (size_t row = 0; row < rows; ++row) {
    const int64_t next = first + static_cast<int64_t>(row) + 1;
    if (next != described_ || next >= prompt_tokens()) continue;
    ++described_;
    chunk->prompt_details.push_back(Describe(
        RankToken(logits.subspan(row * width, width), sequence_.tokens[static_cast<size_t>(next)],
                  std::max<int64_t>(task_.sampler.logprobs, 0))));
  }
}

TokenLogprob Generation::Describe(const RankedToken& token) const {
  return {token.token_id,
          tokenizer_ != nullptr ? tokenizer_->TokenBytes(token.token_id) : std::string(),
          token.logprob};
}

TokenDetail Generation::Describe(const Sample& sample) const {
  TokenDetail detail{Describe(sample.chosen), {}};
  for (const RankedToken& rival : sample.top) detail.top.push_back(Describe(rival));
  return detail;
}

// One token, step 9 of 9. From Draw() in sampler.cc; next: Generate() in generate.cc.
bool Generation::Deliver(const Sample& sample, Chunk chunk) {
  const int32_t token = sample.chosen.token_id;
  ++receipt_.completion_tokens;
  if (parser_ && parser_->in_reasoning()) ++receipt_.reasoning_tokens;
  chunk.receipt = receipt_;
  chunk.token_ids.push_back(token);
  if (task_.sampler.logprobs >= 0) chunk.details.push_back(Describe(sample));
  const auto& ends = task_.stop_token_ids;
  if (std::find(ends.begin(), ends.end(), token) != ends.end()) {
    Finish(FinishReason::kStop, std::move(chunk));
    return true;
  }
  if (decoder_) Tell(stops_.Append(TextOf(token)), &chunk);
  const bool whole = constraint_ && constraint_->finished();
  if (whole || stops_.stopped() || receipt_.completion_tokens == task_.max_tokens) {
    Finish(whole || stops_.stopped() ? FinishReason::kStop : FinishReason::kLength,
           std::move(chunk));
    return true;
  }
  sequence_.tokens.push_back(token);
  stream_->Put(std::move(chunk));
  return false;
}

void Generation::Fail(Status status) { stream_->Fail(std::move(status)); }

void Generation::Cancel() { Finish(FinishReason::kCancelled, NewChunk()); }

// The characters that `token` completes. Where calls are looked for, special tokens are their tags.
std::string Generation::TextOf(int32_t token) {
  const bool skip = task_.skip_special_tokens && tokenizer_->IsSpecial(token) &&
                    !(task_.parser && task_.parser->tool_calls) &&
                    !(task_.parser && tokenizer_->TokenBytes(token) == "</think>");
  return skip ? std::string() : decoder_->Append(token);
}

void Generation::Tell(std::string text, Chunk* chunk) {
  if (!parser_) {
    chunk->text += text;
    return;
  }
  AddPiece(parser_->Append(text), chunk);
}

void Generation::Finish(FinishReason reason, Chunk chunk) {
  if (decoder_) {
    std::string rest = stops_.Append(decoder_->Flush());
    rest += stops_.Flush();
    Tell(std::move(rest), &chunk);
  }
  if (parser_) AddPiece(parser_->Flush(), &chunk);
  chunk.finish = stops_.stopped() ? FinishReason::kStop : reason;
  chunk.stop = stops_.found();
  if (chunk.finish == FinishReason::kStop && parser_ && parser_->num_calls() > 0) {
    chunk.finish = FinishReason::kToolCalls;
  }
  chunk.receipt = receipt_;
  stream_->Put(std::move(chunk));
}

}  // namespace winnow
