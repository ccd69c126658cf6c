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
  if (colon == std::string::npos || colon > 400) return {};
  const std::string field = message.substr(0, colon);
  const bool name = std::all_of(field.begin(), field.end(), [](unsigned char letter) {
    return std::isalnum(letter) != 0 ||
           std::string_view("_[].$-").find(letter) != std::string::npos;
  });
  if (!name) return {};
  if (field.starts_with("json_schema")) {
    return "response_format.json_schema.schema" +
           field.substr(std::string_view("json_schema").size());
  }
  return field.starts_with("token_ids")
             ? "prompt" + field.substr(std::string_view("token_ids").size())
             : field;
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

void FillMaxTokens(const Engine& engine, Request* request) {
  request->max_tokens = engine.info().max_context;  // the engine shortens it to what is left
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

ApiError EngineError(const Request& request, const Status& status) {
  ApiError error = ToApiError(status);
  if (error.status == 429) error.code = "queue_full";
  if (error.status != 400) return error;
  if (status.code() == StatusCode::kOutOfRange) {
    error.param = PromptField(request);
    error.code = "context_length_exceeded";
  } else {
    error.param = LeadingField(status.message());
    error.code = "invalid_value";
  }
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
    if (!completion.max_tokens_given) FillMaxTokens(engine, &prompt);
    const std::optional<uint64_t> seed = prompt.sampling.seed;
    for (int64_t choice = 0; choice < completion.n; ++choice) {
      if (seed) prompt.sampling.seed = *seed + static_cast<uint64_t>(choice);
      auto stream = engine.Submit(prompt);
      if (!stream.ok()) {
        return Refuse(request, responder, EngineError(prompt, stream.error()));
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
