// /health, /version, /metrics and /v1/models.
#include <algorithm>

#include "base/text.h"
#include "server/json_text.h"
#include "server/service.h"
#include "server/utc_time.h"

namespace winnow::server {
namespace {

void Health(const Service& service, const Responder& responder) {
  const bool draining = service.draining.load();
  const bool ready = service.engine.load() != nullptr;
  HttpResponse response;
  response.status = ready && !draining ? 200 : 503;
  response.body = JsonText(json::object{{"status", draining ? "draining"
                                                   : ready  ? "ok"
                                                            : "loading"}});
  response.headers = {{"Cache-Control", "no-store"}};
  if (response.status == 503) response.headers.emplace_back("Retry-After", "1");
  responder.Send(std::move(response));
}

void MetricsText(const Service& service, const Responder& responder) {
  const Engine* engine = service.engine.load();
  EngineStats stats;
  if (engine != nullptr) stats = engine->stats();
  HttpResponse response;
  response.content_type = "text/plain; version=0.0.4; charset=utf-8";
  response.body = service.metrics.Text({.engine = engine != nullptr ? &stats : nullptr,
                                        .http = service.http_counts(),
                                        .log_lines_dropped = service.log_lines_dropped(),
                                        .model = service.model_names.front(),
                                        .vllm = service.options.vllm_metrics});
  responder.Send(std::move(response));
}

// Has the fields of OpenAI's, vLLM's and Anthropic's lists.
json::object ModelJson(const Service& service, const std::string& name) {
  const int64_t created = service.loaded_at.load();
  return {{"id", name},
          {"object", "model"},
          {"created", created},
          {"owned_by", "winnow"},
          {"max_model_len", service.engine.load()->info().max_context},
          {"type", "model"},
          {"display_name", name},
          {"created_at", FormatUtc(static_cast<double>(created))}};
}

void Models(const Service& service, const Responder& responder) {
  json::array models;
  for (const std::string& name : service.model_names) models.push_back(ModelJson(service, name));
  Reply(responder, {{"object", "list"},
                    {"data", std::move(models)},
                    {"has_more", false},
                    {"first_id", service.model_names.front()},
                    {"last_id", service.model_names.back()}});
}

void Model(const Service& service, const HttpRequest& request, const Responder& responder) {
  const std::string name(request.Param("model"));
  if (auto error = CheckModel(service, name)) return Refuse(request, responder, *error);
  Reply(responder, ModelJson(service, name));
}

}  // namespace

void AddStatusRoutes(Router& router, Service& service) {
  router.Add({.method = "GET",
              .path = "/health",
              .handler = [&service](const HttpRequest&,
                                    const Responder& responder) { Health(service, responder); },
              .open = true,
              .needs_model = false,
              .always = true,
              .on_io_thread = true});
  router.Add({.method = "GET",
              .path = "/version",
              .handler =
                  [](const HttpRequest&, const Responder& responder) {
                    Reply(responder, {{"version", WINNOW_VERSION}});
                  },
              .needs_model = false,
              .always = true,
              .on_io_thread = true});
  router.Add(
      {.method = "GET",
       .path = "/metrics",
       .handler = [&service](const HttpRequest&,
                             const Responder& responder) { MetricsText(service, responder); },
       .needs_model = false,
       .always = true});
}

void AddModelRoutes(Router& router, Service& service) {
  router.Add({.method = "GET",
              .path = "/v1/models",
              .handler = [&service](const HttpRequest&,
                                    const Responder& responder) { Models(service, responder); },
              .on_io_thread = true});
  router.Add(
      {.method = "GET",
       .path = "/v1/models/{model*}",
       .handler = [&service](const HttpRequest& request,
                             const Responder& responder) { Model(service, request, responder); },
       .on_io_thread = true});
}

}  // namespace winnow::server
