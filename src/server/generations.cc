#include "server/generations.h"

#include <algorithm>

#include "server/append.h"
#include "server/receipt_json.h"

namespace winnow::server {
namespace {

using Clock = std::chrono::steady_clock;

constexpr size_t kEventBytes = 32 << 10;  // taken for one write
constexpr size_t kMergedTokens = 256;     // of chunks that become one

double SecondsOf(Clock::duration duration) {
  return std::chrono::duration<double>(duration).count();
}

}  // namespace

void Merge(Chunk next, Chunk* chunk) {
  // By names that cover the whole of Chunk: a field that is added there does not compile here until
  // it is merged, too.
  auto& [text, reasoning, tool_calls, token_ids, details, prompt_details, prefilled, prompt_tokens,
         finish, stop, receipt] = next;
  chunk->text += text;
  chunk->reasoning += reasoning;
  AppendAll(&chunk->tool_calls, std::move(tool_calls));
  AppendAll(&chunk->token_ids, std::move(token_ids));
  AppendAll(&chunk->details, std::move(details));
  AppendAll(&chunk->prompt_details, std::move(prompt_details));
  chunk->prefilled = prefilled;
  chunk->prompt_tokens = prompt_tokens;
  chunk->finish = finish;
  chunk->stop = std::move(stop);
  chunk->receipt = receipt;
}

Generations::Generations(std::vector<Stream> streams, std::unique_ptr<AnswerWriter> writer,
                         std::shared_ptr<RequestRecord> record, int64_t n, std::string request_id,
                         std::shared_ptr<void> held)
    : writer_(std::move(writer)),
      record_(std::move(record)),
      n_(n),
      request_id_(std::move(request_id)),
      held_(std::move(held)) {
  choices_.reserve(streams.size());
  for (Stream& stream : streams) choices_.push_back({.stream = std::move(stream)});
}

Generations::~Generations() {
  // The engine may wake a stream until it knows that it was cancelled.
  for (Choice& choice : choices_) choice.stream.Notify({});
}

void Generations::Answer(const Responder& responder, bool stream) {
  post_ = responder.Poster();
  wake_ = responder.Waker();
  for (Choice& choice : choices_) choice.stream.Notify(wake_);
  if (stream) {
    HttpResponse head;
    head.content_type = "text/event-stream; charset=utf-8";
    head.headers = {{"Cache-Control", "no-cache"}, {"X-Accel-Buffering", "no"}};
    responder.Stream(std::move(head), shared_from_this());
  } else {
    responder.Wait(shared_from_this());
  }
}

std::optional<Chunk> Generations::NextChunks(Choice* choice) {
  std::optional<Chunk> merged;
  while (!choice->finished && choice->stream.Ready()) {
    Result<std::optional<Chunk>> next = choice->stream.Next();
    if (!next.ok()) {
      choice->finished = true;
      if (!error_) error_ = ToApiError(next.error());
      break;
    }
    if (!*next) {
      choice->finished = true;
      break;
    }
    choice->prefilled = (*next)->prefilled;
    choice->prompt_tokens = (*next)->prompt_tokens;
    choice->receipt = (*next)->receipt;
    choice->finished = (*next)->finish != FinishReason::kNone;
    if (merged) {
      Merge(std::move(**next), &*merged);
    } else {
      merged = std::move(**next);
    }
    if (merged->token_ids.size() >= kMergedTokens) break;
  }
  return merged;
}

void Generations::Measure(Choice* choice, const Chunk& chunk) {
  if (!record_ || chunk.token_ids.empty()) return;
  const Clock::time_point now = Clock::now();
  const bool first = choice->last_token == Clock::time_point{};
  if (first && record_->first_token_seconds < 0.0) {
    record_->first_token_seconds = SecondsOf(now - record_->start);
  }
  const size_t gaps = chunk.token_ids.size() - (first ? 1 : 0);
  if (!first) {
    const double gap = SecondsOf(now - choice->last_token) / static_cast<double>(gaps);
    record_->between_tokens.insert(record_->between_tokens.end(), gaps, gap);
  }
  choice->last_token = now;
}

bool Generations::Take(std::string* events) {
  // Once round the choices and no more: while these chunks are written the engine makes others, and
  // other connections wait.
  bool more_ready = false;
  for (size_t turn = 0; turn < choices_.size() && !error_; ++turn) {
    const size_t index = (first_choice_ + turn) % choices_.size();
    Choice& choice = choices_[index];
    if (events->size() >= kEventBytes) {
      first_choice_ = index;
      more_ready = true;
      break;
    }
    std::optional<Chunk> chunk = NextChunks(&choice);
    if (error_ || !chunk) continue;
    Measure(&choice, *chunk);
    if (chunk->finish == FinishReason::kCancelled) {
      error_ = ToApiError(Unavailable("server: it is shutting down"));
      break;
    }
    if (record_ && index == 0 && chunk->finish != FinishReason::kNone) {
      record_->finish = Name(chunk->finish);
    }
    writer_->Add(index, std::move(*chunk), events);
    more_ready = more_ready || (!choice.finished && choice.stream.Ready());
  }
  if (more_ready && wake_) wake_();
  if (error_) return false;
  return std::any_of(choices_.begin(), choices_.end(),
                     [](const Choice& choice) { return !choice.finished; });
}

Receipt Generations::Total() const {
  std::vector<Receipt> receipts;
  for (const Choice& choice : choices_) receipts.push_back(choice.receipt);
  return TotalReceipt(receipts, n_);
}

void Generations::Finish() {
  ended_ = true;
  if (!record_) return;
  record_->receipt = Total();
  if (error_) record_->finish = "error";
  record_.reset();
}

bool Generations::Pull(std::string* bytes) {
  if (ended_) return false;
  const bool more = Take(bytes);
  if (error_) {
    writer_->Fail(*error_, bytes);
    Cancel();
  } else if (!more) {
    writer_->End(Total(), bytes);
  }
  if (more) return true;
  Finish();
  return false;
}

void Generations::KeepAlive(std::string* bytes) {
  int64_t prefilled = 0;
  int64_t prompt_tokens = 0;
  for (const Choice& choice : choices_) {
    if (choice.finished) continue;
    prefilled = choice.prefilled;
    prompt_tokens = choice.prompt_tokens;
    break;
  }
  writer_->KeepAlive(prefilled, prompt_tokens, bytes);
}

std::optional<HttpResponse> Generations::Poll() {
  std::string nothing;
  if (ended_ || Take(&nothing)) return std::nullopt;
  HttpResponse response;
  if (error_) {
    response = ErrorResponse(*error_, writer_->error_style(), request_id_);
    Cancel();
  } else {
    response.body = writer_->Whole(Total());
  }
  Finish();
  return response;
}

void Generations::Cancel() {
  for (Choice& choice : choices_) choice.stream.Cancel();
}

void Generations::Abandon() {
  if (ended_ || abandoned_) return;
  abandoned_ = true;
  if (record_) record_->finish = "cancelled";
  self_ = shared_from_this();
  const std::weak_ptr<Generations> weak = self_;
  const std::function<void()> wake = [post = post_, weak] {
    post([weak] {
      if (const auto generations = weak.lock()) generations->ReadToTheEnd();
    });
  };
  for (Choice& choice : choices_) {
    choice.stream.Cancel();
    choice.stream.Notify(wake);
  }
}

void Generations::ReadToTheEnd() {
  bool open = false;
  for (Choice& choice : choices_) {
    while (choice.stream.Ready() && !choice.finished) NextChunks(&choice);
    open = open || !choice.finished;
  }
  if (open || ended_) return;
  error_.reset();
  Finish();
  self_.reset();
}

}  // namespace winnow::server
