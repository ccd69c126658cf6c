#include "server/service.h"

#include <algorithm>
#include <ctime>

#include "base/text.h"
#include "server/generations.h"
#include "server/json_fields.h"
#include "server/json_text.h"

namespace winnow::server {
namespace {

// "temperature" of "temperature: 3, expected …": errors of the engine begin with the field.
std::string LeadingField(const std::string& message) {
  const size_t colon = message.find(": ");
  if (colon == std::string::npos || colon > 40) return {};
  const std::string field = message.substr(0, colon);
  const bool name = std::all_of(field.begin(), field.end(), [](unsigned char letter) {
    return (letter >= 'a' && letter <= 'z') || (letter >= '0' && letter <= '9') || letter == '_' ||
           letter == '[' || letter == ']' || letter == '.';
  });
  return name ? field : std::string();
}

ApiError ContextError(int64_t prompt_tokens, int64_t max_tokens, int64_t max_context) {
  return {.status = 400,
          .message = max_tokens > 0
                         ? fmt::format("the prompt has {} tokens and max_tokens is {}, expected "
                                       "together at most the context of {} tokens",
                                       prompt_tokens, max_tokens, max_context)
                         : fmt::format("the prompt has {} tokens, expected fewer than the context "
                                       "of {} tokens",
                                       prompt_tokens, max_context),
          .param = "messages",
          .code = "context_length_exceeded"};
}

const char* PromptField(const Request& request) {
  return request.messages.empty() ? "prompt" : "messages";
}

}  // namespace

void Refuse(const HttpRequest& request, const Responder& responder, const ApiError& error) {
  responder.Send(ErrorResponse(error, StyleOf(request.path), request.id));
}

void Reply(const Responder& responder, const json::object& body) {
  HttpResponse response;
  response.body = JsonText(body);
  responder.Send(std::move(response));
}

std::optional<json::object> Body(const HttpRequest& request, const Responder& responder) {
  auto body = ParseBody(request.body);
  if (!body.ok()) {
    ApiError error = ToApiError(body.error());
    error.code = "invalid_json";
    Refuse(request, responder, error);
    return std::nullopt;
  }
  return std::move(body->get_object());
}

std::optional<ApiError> CheckModel(const Service& service, const std::string& model) {
  const auto& names = service.accepted_names;
  if (model.empty() || std::find(names.begin(), names.end(), model) != names.end()) {
    return std::nullopt;
  }
  return ApiError{.status = 404,
                  .message = fmt::format("model: {}, expected {}", Quoted(model),
                                         Quoted(service.model_names.front())),
                  .param = "model",
                  .code = "model_not_found"};
}

std::optional<ApiError> FillMaxTokens(const Engine& engine, Request* request) {
  request->max_tokens = 1;
  const auto tokens = engine.PromptTokens(*request);
  if (!tokens.ok()) return EngineError(engine, *request, tokens.error());
  const int64_t prompt_tokens = static_cast<int64_t>(tokens->size());
  const int64_t max_context = engine.info().max_context;
  if (prompt_tokens >= max_context) {
    ApiError error = ContextError(prompt_tokens, 0, max_context);
    error.param = PromptField(*request);
    return error;
  }
  request->max_tokens = max_context - prompt_tokens;
  return std::nullopt;
}

Result<std::vector<std::string>> EchoTexts(const Engine& engine, const Completion& completion) {
  std::vector<std::string> texts;
  if (!completion.echo) return texts;
  for (const Request& request : completion.requests) {
    std::string text = request.prompt;
    if (!request.token_ids.empty()) {
      auto decoded = engine.Detokenize(request.token_ids);
      // A model without a tokenizer has no texts, but its logprobs can be asked for.
      if (decoded.ok()) text = ValidUtf8(*decoded);
      if (!decoded.ok() && decoded.error().code() != StatusCode::kUnsupported) {
        return decoded.error();
      }
    }
    texts.push_back(std::move(text));
  }
  return texts;
}

ApiError EngineError(const Engine& engine, const Request& request, const Status& status) {
  if (status.code() == StatusCode::kInvalidArgument) {
    const auto tokens = engine.PromptTokens(request);
    const int64_t max_context = engine.info().max_context;
    const int64_t prompt_tokens = tokens.ok() ? static_cast<int64_t>(tokens->size()) : 0;
    // Without room to count them, the number of tokens is only in the engine's message.
    const bool too_long =
        prompt_tokens >= max_context ||
        (!tokens.ok() && status.message().find("the context of") != std::string::npos);
    if (too_long || prompt_tokens + request.max_tokens > max_context) {
      ApiError error = ContextError(prompt_tokens, too_long ? 0 : request.max_tokens, max_context);
      if (!tokens.ok()) error.message = status.message();
      error.param = PromptField(request);
      return error;
    }
  }
  ApiError error = ToApiError(status);
  if (error.status == 400) error.param = LeadingField(status.message());
  if (error.status == 429) error.code = "queue_full";
  return error;
}

// One answer: its choices, each a generation of the engine.
void Generate(Service& service, const HttpRequest& request, const Responder& responder,
              Completion completion, const std::string& id_prefix,
              const WriterFactory& make_writer) {
  if (responder.gone()) return;
  for (const Gate& gate : service.gates) {
    if (auto error = gate(request)) return Refuse(request, responder, *error);
  }
  if (auto error = CheckModel(service, completion.model)) {
    return Refuse(request, responder, *error);
  }
  Engine& engine = *service.engine.load();
  AnswerShape shape{
      .id = RandomId(id_prefix),
      .model = completion.model.empty() ? service.model_names.front() : completion.model,
      .created = static_cast<int64_t>(std::time(nullptr)),
      .num_choices = completion.requests.size() * static_cast<size_t>(completion.n),
      .n = completion.n,
      .stream = completion.stream,
      .include_usage = completion.include_usage,
      .logprobs = completion.logprobs,
      .return_token_ids = completion.return_token_ids,
      .system_fingerprint = service.fingerprint,
      .dollars_per_hour = service.options.dollars_per_hour};
  auto writer = make_writer(shape);
  if (!writer.ok()) return Refuse(request, responder, ToApiError(writer.error()));

  std::vector<Stream> streams;
  for (Request& prompt : completion.requests) {
    prompt.key = request.key;
    prompt.cache_salt = request.key + "\n" + prompt.cache_salt;
    if (!completion.max_tokens_given) {
      if (auto error = FillMaxTokens(engine, &prompt)) return Refuse(request, responder, *error);
    }
    const std::optional<uint64_t> seed = prompt.sampling.seed;
    for (int64_t choice = 0; choice < completion.n; ++choice) {
      if (seed) prompt.sampling.seed = *seed + static_cast<uint64_t>(choice);
      auto stream = engine.Submit(prompt);
      if (!stream.ok()) {
        return Refuse(request, responder, EngineError(engine, prompt, stream.error()));
      }
      streams.push_back(std::move(*stream));
    }
  }
  const auto& record = request.record;
  record->model = shape.model;
  record->stream = shape.stream;
  record->num_choices = static_cast<int64_t>(shape.num_choices);
  if (service.options.log_prompts) record->prompt = request.body;
  auto generations = std::make_shared<Generations>(std::move(streams), std::move(*writer), record,
                                                   completion.n, request.id, service.open_answers);
  generations->Answer(responder, completion.stream);
}

}  // namespace winnow::server
