// /tokenize and /detokenize, in the form of vLLM's.
#include "server/json_fields.h"
#include "server/json_text.h"
#include "server/openai_request.h"
#include "server/service.h"

namespace winnow::server {
namespace {

constexpr size_t kMaxDetokenized = size_t{4} << 20;

Result<std::vector<int32_t>> TokensOf(const Engine& engine, const Request& request) {
  if (request.messages.empty()) {
    return engine.Tokenize(request.prompt, request.allow_special_tokens);
  }
  return engine.PromptTokens(request);
}

void Tokenize(Service& service, const HttpRequest& request, const Responder& responder) {
  const auto body = Body(request, responder);
  if (!body) return;
  std::optional<ApiError> error;
  Fields fields(*body, "", &error);
  std::string model;
  fields.String("model", &model);
  bool spelled = false;
  fields.Bool("return_token_strs", &spelled);
  Request prompt;
  if (fields.Has("messages")) {
    if (!error) error = ParseChatPrompt(*body, &prompt);
  } else {
    fields.Require("prompt");
    fields.String("prompt", &prompt.prompt);
    fields.Bool("allow_special_tokens", &prompt.allow_special_tokens);
  }
  if (!error) error = CheckModel(service, model);
  if (error) return Refuse(request, responder, *error);
  const Engine& engine = *service.engine.load();
  const auto tokens = TokensOf(engine, prompt);
  if (!tokens.ok()) return Refuse(request, responder, ToApiError(tokens.error()));
  json::object answer = {{"count", static_cast<int64_t>(tokens->size())},
                         {"max_model_len", engine.info().max_context},
                         {"tokens", json::value_from(*tokens)},
                         {"token_strs", nullptr}};
  if (spelled) {
    json::array spellings;
    for (const int32_t token : *tokens) {
      const auto text = engine.Detokenize({token});
      spellings.push_back(json::value(text.ok() ? ValidUtf8(*text) : std::string()));
    }
    answer["token_strs"] = std::move(spellings);
  }
  Reply(responder, answer);
}

void Detokenize(Service& service, const HttpRequest& request, const Responder& responder) {
  const auto body = Body(request, responder);
  if (!body) return;
  std::optional<ApiError> error;
  Fields fields(*body, "", &error);
  std::string model;
  std::vector<int32_t> tokens;
  fields.String("model", &model);
  fields.Require("tokens");
  fields.Tokens("tokens", &tokens, kMaxDetokenized);
  if (!error) error = CheckModel(service, model);
  const Engine& engine = *service.engine.load();
  for (size_t index = 0; index < tokens.size() && !error; ++index) {
    if (tokens[index] >= engine.info().vocab_size) {
      fields.Refuse("tokens[" + std::to_string(index) + "]",
                    std::to_string(tokens[index]) + ", expected 0 to " +
                        std::to_string(engine.info().vocab_size - 1),
                    "invalid_value");
    }
  }
  if (error) return Refuse(request, responder, *error);
  const auto text = engine.Detokenize(tokens);
  if (!text.ok()) return Refuse(request, responder, ToApiError(text.error()));
  Reply(responder, {{"prompt", ValidUtf8(*text)}});
}

}  // namespace

void AddTokenRoutes(Router& router, Service& service) {
  router.Add({.method = "POST",
              .path = "/tokenize",
              .handler = [&service](const HttpRequest& request, const Responder& responder) {
                Tokenize(service, request, responder);
              }});
  router.Add({.method = "POST",
              .path = "/detokenize",
              .handler = [&service](const HttpRequest& request, const Responder& responder) {
                Detokenize(service, request, responder);
              }});
}

}  // namespace winnow::server
