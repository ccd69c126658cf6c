#include "engine/generation.h"

#include <algorithm>

#include "base/check.h"

namespace winnow {
namespace {

using Clock = std::chrono::steady_clock;

double SecondsSince(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

}  // namespace

Generation::Generation(GenerationTask task, ModelRunner& runner, const Tokenizer* tokenizer,
                       std::shared_ptr<StreamState> stream)
    : task_(std::move(task)),
      runner_(runner),
      tokenizer_(tokenizer),
      stream_(std::move(stream)),
      sampler_(task_.sampler, task_.prompt),
      stops_(task_.stop),
      logits_(static_cast<size_t>(runner.config().vocab_size)) {
  if (tokenizer_ != nullptr) decoder_.emplace(*tokenizer_, /*keep_special=*/true);
  receipt_.prompt_tokens = static_cast<int64_t>(task_.prompt.size());
}

void Generation::Run() {
  Status status = Prefill();
  if (status.ok() && !cancelled()) status = Decode();
  if (!status.ok()) {
    stream_->Fail(std::move(status));
  } else if (cancelled()) {
    Finish(FinishReason::kCancelled, NewChunk());
  }
}

Chunk Generation::NewChunk() const {
  Chunk chunk;
  chunk.prefilled = std::min(runner_.cached_tokens(), receipt_.prompt_tokens);
  chunk.prompt_tokens = receipt_.prompt_tokens;
  chunk.receipt = receipt_;
  return chunk;
}

void Generation::Add(const StepCounts& counts, int64_t last_position) {
  receipt_.attention_rows_read += counts.attention_rows_read;
  receipt_.attention_rows_dense += counts.attention_rows_dense;
  receipt_.index_keys_scored += counts.index_keys_scored;
  receipt_.last_rows_read = counts.last_rows_read;
  receipt_.last_rows_dense = last_position + 1;
}

Status Generation::Prefill() {
  const Clock::time_point start = Clock::now();
  const std::span<const int32_t> prompt = task_.prompt;
  receipt_.cached_tokens = runner_.Resume(prompt);
  stream_->Put(NewChunk());
  size_t done = static_cast<size_t>(receipt_.cached_tokens);
  while (done < prompt.size() && !cancelled()) {
    const size_t count = std::min(static_cast<size_t>(runner_.chunk()), prompt.size() - done);
    const bool last = done + count == prompt.size();
    WINNOW_ASSIGN(const StepCounts counts,
                  runner_.Step(prompt.subspan(done, count),
                               last ? LogitRows::kLast : LogitRows::kNone, logits_.data()));
    done += count;
    receipt_.computed_tokens += static_cast<int64_t>(count);
    Add(counts, static_cast<int64_t>(done) - 1);
    receipt_.prefill_seconds = SecondsSince(start);
    stream_->Put(NewChunk());
  }
  return OkStatus();
}

Status Generation::Decode() {
  const Clock::time_point start = Clock::now();
  while (!cancelled()) {
    WINNOW_ASSIGN(const Sample sample, sampler_.Next(logits_));
    ++receipt_.completion_tokens;
    receipt_.decode_seconds = SecondsSince(start);
    WINNOW_ASSIGN(const bool finished, Deliver(sample));
    if (finished) return OkStatus();
    const int32_t token = sample.chosen.token_id;
    const int64_t position = runner_.cached_tokens();
    WINNOW_ASSIGN(const StepCounts counts,
                  runner_.Step({&token, 1}, LogitRows::kLast, logits_.data()));
    Add(counts, position);
  }
  return OkStatus();
}

TokenLogprob Generation::Describe(const RankedToken& token) const {
  return {token.token_id,
          tokenizer_ != nullptr ? tokenizer_->TokenBytes(token.token_id) : std::string(),
          token.logprob};
}

// One token, step 9 of 9. From Draw() in sampler.cc; next: Generate() in generate.cc.
Result<bool> Generation::Deliver(const Sample& sample) {
  const int32_t token = sample.chosen.token_id;
  Chunk chunk = NewChunk();
  chunk.token_ids.push_back(token);
  if (task_.sampler.logprobs >= 0) {
    TokenDetail detail{Describe(sample.chosen), {}};
    for (const RankedToken& rival : sample.top) detail.top.push_back(Describe(rival));
    chunk.details.push_back(std::move(detail));
  }
  const auto& ends = task_.stop_token_ids;
  if (std::find(ends.begin(), ends.end(), token) != ends.end()) {
    Finish(FinishReason::kStop, std::move(chunk));
    return true;
  }
  if (decoder_) chunk.text = stops_.Append(decoder_->Append(token));
  if (stops_.stopped() || receipt_.completion_tokens == task_.max_tokens) {
    Finish(stops_.stopped() ? FinishReason::kStop : FinishReason::kLength, std::move(chunk));
    return true;
  }
  stream_->Put(std::move(chunk));
  return false;
}

void Generation::Finish(FinishReason reason, Chunk chunk) {
  if (decoder_) {
    chunk.text += stops_.Append(decoder_->Flush());
    chunk.text += stops_.Flush();
  }
  chunk.finish = stops_.stopped() ? FinishReason::kStop : reason;
  chunk.receipt = receipt_;
  stream_->Put(std::move(chunk));
}

}  // namespace winnow
