// /v1/chat/completions and /v1/completions.
#include "server/openai_answer.h"
#include "server/openai_request.h"
#include "server/service.h"

namespace winnow::server {
namespace {

void ChatCompletions(Service& service, const HttpRequest& request, const Responder& responder) {
  const auto body = Body(request, responder);
  if (!body) return;
  Completion completion;
  if (auto error = ParseChatCompletion(*body, &completion)) {
    return Refuse(request, responder, *error);
  }
  Generate(service, request, responder, std::move(completion), "chatcmpl-",
           [](const AnswerShape& shape) { return MakeChatWriter(shape); });
}

void Completions(Service& service, const HttpRequest& request, const Responder& responder) {
  const auto body = Body(request, responder);
  if (!body) return;
  Completion completion;
  if (auto error = ParseTextCompletion(*body, &completion)) {
    return Refuse(request, responder, *error);
  }
  auto echo = EchoTexts(*service.engine.load(), completion);
  if (!echo.ok()) return Refuse(request, responder, ToApiError(echo.error()));
  Generate(service, request, responder, std::move(completion), "cmpl-",
           [&echo](const AnswerShape& shape) { return MakeTextWriter(shape, *echo); });
}

}  // namespace

void AddOpenAiRoutes(Router& router, Service& service) {
  router.Add({.method = "POST",
              .path = "/v1/chat/completions",
              .handler = [&service](const HttpRequest& request, const Responder& responder) {
                ChatCompletions(service, request, responder);
              }});
  router.Add({.method = "POST",
              .path = "/v1/completions",
              .handler = [&service](const HttpRequest& request, const Responder& responder) {
                Completions(service, request, responder);
              }});
}

}  // namespace winnow::server
