// What the handlers of all routes share, and what they do alike.
//
// A file of routes has one function, AddXRoutes(Router&, Service&), which server.cc calls.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "server/answer_writer.h"
#include "server/http.h"
#include "server/metrics.h"
#include "server/openai_request.h"
#include "server/request_record.h"
#include "server/router.h"
#include "winnow/server.h"

namespace winnow::server {

// May refuse a request that would run the model, before it is parsed: limits of a key, for example.
// Called on a worker thread.
using Gate = std::function<std::optional<ApiError>(const HttpRequest&)>;

// Set up before the server runs; then only `engine`, `draining` and the metrics change.
struct Service {
  ServerOptions options;
  std::vector<std::string> model_names;  // the first is the default; accepted_names has more
  std::vector<std::string> accepted_names;
  std::atomic<Engine*> engine{nullptr};  // null while it loads
  std::atomic<bool> draining{false};
  std::atomic<int64_t> loaded_at{0};  // seconds since 1970
  std::string fingerprint;            // set before `engine`
  Metrics metrics;
  std::vector<RequestObserver> observers;
  std::vector<Gate> gates;
  std::function<HttpCounts()> http_counts;
  std::function<int64_t()> log_lines_dropped;
  std::shared_ptr<int> open_answers = std::make_shared<int>(0);  // held by each that is open
};

// Answers with an error in the style of the request's API.
void Refuse(const HttpRequest& request, const Responder& responder, const ApiError& error);
void Reply(const Responder& responder, const json::object& body);

// The body as an object; else the request is refused and nothing returned.
std::optional<json::object> Body(const HttpRequest& request, const Responder& responder);

// 404 model_not_found unless `model` is empty or one of the model's names.
std::optional<ApiError> CheckModel(const Service& service, const std::string& model);

// Submits what `completion` asks for and answers through the writer that `make_writer` makes.
using WriterFactory = std::function<Result<std::unique_ptr<AnswerWriter>>(const AnswerShape&)>;
void Generate(Service& service, const HttpRequest& request, const Responder& responder,
              Completion completion, const std::string& id_prefix,
              const WriterFactory& make_writer);

// Without max_tokens an answer may be as long as the context has room: sets Request::max_tokens.
void FillMaxTokens(const Engine& engine, Request* request);

// The texts that `echo` repeats, one for each prompt; empty without `echo`. Those of a model
// without a tokenizer are empty.
Result<std::vector<std::string>> EchoTexts(const Engine& engine, const Completion& completion);

// The error of an engine that would not take `request`: names the field, and says
// context_length_exceeded with both numbers where that is the reason.
ApiError EngineError(const Request& request, const Status& status);

void AddStatusRoutes(Router& router, Service& service);     // /health /version /metrics
void AddModelRoutes(Router& router, Service& service);      // /v1/models
void AddOpenAiRoutes(Router& router, Service& service);     // /v1/chat/completions /v1/completions
void AddAnthropicRoutes(Router& router, Service& service);  // /v1/messages …
void AddTokenRoutes(Router& router, Service& service);      // /tokenize /detokenize
void AddPageRoutes(Router& router, Service& service);       // / and what its page shows

}  // namespace winnow::server
