#include "server/batch_task.h"

#include <algorithm>
#include <ctime>

#include "server/openai_answer.h"
#include "server/receipt_json.h"
#include "server/service.h"

namespace winnow::server {
namespace {

using Clock = RequestRecord::Clock;

double SecondsSince(Clock::time_point time) {
  return std::chrono::duration<double>(Clock::now() - time).count();
}

}  // namespace

BatchTask::BatchTask(const BatchContext& context, BatchLine line)
    : context_(context), line_(std::move(line)) {
  const Completion& completion = line_.completion;
  num_choices_ = completion.requests.size() * static_cast<size_t>(completion.n);
  choices_.reserve(num_choices_);
  record_.id = RandomId("req_");
  record_.method = "POST";
  record_.path = Path(line_.endpoint);
  record_.route = "/v1/batches";
  record_.model = completion.model.empty() ? context_.model : completion.model;
  record_.num_choices = static_cast<int64_t>(num_choices_);
  error_ = MakeWriter();
}

BatchTask::~BatchTask() {
  for (Choice& choice : choices_) choice.stream.Notify({});
}

std::optional<ApiError> BatchTask::MakeWriter() {
  const bool chat = line_.endpoint == BatchEndpoint::kChatCompletions;
  const Completion& completion = line_.completion;
  AnswerShape shape{.id = RandomId(chat ? "chatcmpl-" : "cmpl-"),
                    .model = record_.model,
                    .created = static_cast<int64_t>(std::time(nullptr)),
                    .num_choices = num_choices_,
                    .n = completion.n,
                    .logprobs = completion.logprobs,
                    .return_token_ids = completion.return_token_ids,
                    .system_fingerprint = context_.fingerprint,
                    .dollars_per_hour = context_.dollars_per_hour};
  if (chat) {
    writer_ = MakeChatWriter(std::move(shape));
    return std::nullopt;
  }
  auto texts = EchoTexts(*context_.engine, completion);
  if (!texts.ok()) return ToApiError(texts.error());
  writer_ = MakeTextWriter(std::move(shape), std::move(*texts));
  return std::nullopt;
}

void BatchTask::Prepare(Request* request) const {
  request->key = context_.key;
  request->cache_salt = context_.cache_salt + request->cache_salt;
  if (!line_.completion.max_tokens_given) FillMaxTokens(*context_.engine, request);
}

Status BatchTask::Submit(const std::function<void()>& wake) {
  const int64_t n = line_.completion.n;
  Request request = line_.completion.requests[static_cast<size_t>(next_ / n)];
  Prepare(&request);
  if (request.sampling.seed) *request.sampling.seed += static_cast<uint64_t>(next_ % n);
  auto stream = context_.engine->Submit(request);
  if (!stream.ok()) {
    const StatusCode code = stream.error().code();
    if (code == StatusCode::kResourceExhausted || code == StatusCode::kUnavailable) {
      return stream.error();
    }
    error_ = EngineError(request, stream.error());
    return OkStatus();
  }
  choices_.push_back({.stream = std::move(*stream)});
  choices_.back().stream.Notify(wake);
  ++next_;
  return OkStatus();
}

void BatchTask::Take(size_t index) {
  Choice& choice = choices_[index];
  while (!choice.finished && choice.stream.Ready()) {
    Result<std::optional<Chunk>> next = choice.stream.Next();
    if (!next.ok() || !*next) {
      choice.finished = true;
      if (next.ok()) return;
      if (next.error().code() == StatusCode::kUnavailable) {
        interrupted_ = next.error();
      } else if (!failed()) {
        error_ = ToApiError(next.error());
      }
      return;
    }
    Chunk& chunk = **next;
    choice.receipt = chunk.receipt;
    choice.finished = chunk.finish != FinishReason::kNone;
    if (!chunk.token_ids.empty() && record_.first_token_seconds < 0.0) {
      record_.first_token_seconds = SecondsSince(record_.start);
    }
    if (chunk.finish == FinishReason::kCancelled && !failed()) {
      interrupted_ = Unavailable("engine: it was shut down");
    } else if (index == 0 && choice.finished) {
      record_.finish = Name(chunk.finish);
    }
    writer_->Add(index, std::move(chunk), nullptr);
  }
}

void BatchTask::Take() {
  for (size_t index = 0; index < choices_.size(); ++index) Take(index);
  if (!failed()) return;
  for (Choice& choice : choices_) choice.stream.Cancel();
}

int64_t BatchTask::open_streams() const {
  return std::count_if(choices_.begin(), choices_.end(),
                       [](const Choice& choice) { return !choice.finished; });
}

bool BatchTask::ended() const { return !waiting() && open_streams() == 0; }

void BatchTask::Cancel() {
  for (Choice& choice : choices_) choice.stream.Cancel();
  for (Choice& choice : choices_) {
    while (!choice.finished) {
      const auto next = choice.stream.Next();
      choice.finished = !next.ok() || !*next || (*next)->finish != FinishReason::kNone;
      if (next.ok() && *next) choice.receipt = (*next)->receipt;
    }
  }
  interrupted_ = Status(StatusCode::kCancelled, "batch: it was stopped");
}

Receipt BatchTask::Total() const {
  std::vector<Receipt> receipts;
  for (const Choice& choice : choices_) receipts.push_back(choice.receipt);
  return TotalReceipt(receipts, line_.completion.n);
}

std::string BatchTask::ResultText() {
  const std::string body =
      failed() ? ErrorBody(*error_, ErrorStyle::kOpenAi, {}) : writer_->Whole(Total());
  return ResultLine(line_.custom_id, failed() ? error_->status : 200, record_.id, body);
}

const RequestRecord& BatchTask::record() {
  record_.receipt = Total();
  record_.seconds = SecondsSince(record_.start);
  record_.complete = interrupted_.ok();
  record_.status = !interrupted_.ok() ? 499 : failed() ? error_->status : 200;
  if (!interrupted_.ok()) record_.finish = "cancelled";
  if (failed()) record_.finish = "error";
  return record_;
}

}  // namespace winnow::server
