// /v1/chat/completions and /v1/completions.
#include "server/json_text.h"
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

// The texts that `echo` repeats.
Result<std::vector<std::string>> PromptTexts(const Engine& engine,
                                             const std::vector<Request>& requests) {
  std::vector<std::string> texts;
  for (const Request& request : requests) {
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

void Completions(Service& service, const HttpRequest& request, const Responder& responder) {
  const auto body = Body(request, responder);
  if (!body) return;
  Completion completion;
  if (auto error = ParseTextCompletion(*body, &completion)) {
    return Refuse(request, responder, *error);
  }
  std::vector<std::string> echo;
  if (completion.echo) {
    auto texts = PromptTexts(*service.engine.load(), completion.requests);
    if (!texts.ok()) return Refuse(request, responder, ToApiError(texts.error()));
    echo = std::move(*texts);
  }
  Generate(service, request, responder, std::move(completion), "cmpl-",
           [&echo](const AnswerShape& shape) { return MakeTextWriter(shape, echo); });
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
