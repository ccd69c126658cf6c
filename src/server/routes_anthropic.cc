// /v1/messages and /v1/messages/count_tokens.
#include "server/anthropic.h"
#include "server/service.h"

namespace winnow::server {
namespace {

void Messages(Service& service, const HttpRequest& request, const Responder& responder) {
  const auto body = Body(request, responder);
  if (!body) return;
  Completion completion;
  if (auto error = ParseAnthropicMessages(*body, /*count_only=*/false, &completion)) {
    return Refuse(request, responder, *error);
  }
  Generate(service, request, responder, std::move(completion), "msg_",
           [](const AnswerShape& shape) { return MakeMessagesWriter(shape); });
}

void CountTokens(Service& service, const HttpRequest& request, const Responder& responder) {
  const auto body = Body(request, responder);
  if (!body) return;
  Completion completion;
  if (auto error = ParseAnthropicMessages(*body, /*count_only=*/true, &completion)) {
    return Refuse(request, responder, *error);
  }
  if (auto error = CheckModel(service, completion.model)) {
    return Refuse(request, responder, *error);
  }
  const auto tokens = service.engine.load()->PromptTokens(completion.requests.front());
  if (!tokens.ok()) return Refuse(request, responder, ToApiError(tokens.error()));
  json::object answer;
  answer["input_tokens"] = static_cast<int64_t>(tokens->size());
  Reply(responder, answer);
}

}  // namespace

void AddAnthropicRoutes(Router& router, Service& service) {
  router.Add({.method = "POST",
              .path = "/v1/messages",
              .handler = [&service](const HttpRequest& request, const Responder& responder) {
                Messages(service, request, responder);
              }});
  router.Add({.method = "POST",
              .path = "/v1/messages/count_tokens",
              .handler = [&service](const HttpRequest& request, const Responder& responder) {
                CountTokens(service, request, responder);
              }});
}

}  // namespace winnow::server
