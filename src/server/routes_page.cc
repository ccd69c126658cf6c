// The page at /, and what it shows besides answers.
#include <mutex>

#include "server/page.h"
#include "server/service.h"

namespace winnow::server {
namespace {

// The page brings everything along and talks to this server only.
constexpr char kPolicy[] =
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

void Page(const Responder& responder) {
  HttpResponse response;
  response.content_type = "text/html; charset=utf-8";
  response.body = std::string(kPage);
  response.headers = {{"Content-Security-Policy", kPolicy},
                      {"Referrer-Policy", "no-referrer"},
                      {"Cache-Control", "no-cache"}};
  responder.Send(std::move(response));
}

void StatusJson(const Service& service, const Responder& responder) {
  const Engine& engine = *service.engine.load();
  const ModelInfo& info = engine.info();
  const EngineStats s = engine.stats();
  Reply(responder, {{"model", service.model_names.front()},
                    {"backend", info.backend},
                    {"index_topk", info.index_topk},
                    {"max_context", info.max_context},
                    {"waiting", s.waiting},
                    {"running", s.running},
                    {"pages", s.pages},
                    {"pages_used", s.pages_used},
                    {"pages_cached", s.pages_cached},
                    {"requests", s.requests},
                    {"cancelled", s.cancelled},
                    {"preempted", s.preempted},
                    {"prompt_tokens", s.prompt_tokens},
                    {"cached_tokens", s.cached_tokens},
                    {"completion_tokens", s.completion_tokens},
                    {"attention_rows_read", s.attention_rows_read},
                    {"attention_rows_dense", s.attention_rows_dense},
                    {"busy_seconds", s.busy_seconds}});
}

// By position, as `winnow inspect` has it: made once, when somebody first asks.
Result<json::object> MakeCosts(const Service& service) {
  InspectOptions options;
  options.context = service.engine.load()->info().max_context;
  options.kv_cache = service.options.engine.kv_cache;
  options.index_keys = service.options.engine.index_keys;
  auto report = Inspect(service.options.engine.model_dir, options);
  if (!report.ok()) return report.error();
  json::array costs;
  for (const ModelReport::Cost& cost : report->costs) {
    costs.push_back(json::object{{"position", cost.position},
                                 {"dense_flops", cost.dense_flops},
                                 {"sparse_flops", cost.sparse_flops},
                                 {"indexer_flops", cost.indexer_flops}});
  }
  return json::object{{"linear_flops", report->linear_flops}, {"costs", std::move(costs)}};
}

struct CostsOnce {
  std::once_flag made;
  Result<json::object> costs = Internal("not made");
};

void Costs(const Service& service, CostsOnce& once, const HttpRequest& request,
           const Responder& responder) {
  std::call_once(once.made, [&] { once.costs = MakeCosts(service); });
  if (!once.costs.ok()) return Refuse(request, responder, ToApiError(once.costs.error()));
  Reply(responder, *once.costs);
}

}  // namespace

void AddPageRoutes(Router& router, Service& service) {
  router.Add({.method = "GET",
              .path = "/",
              .handler = [](const HttpRequest&, const Responder& responder) { Page(responder); },
              .needs_model = false,
              .on_io_thread = true});
  router.Add({.method = "GET",
              .path = "/winnow/status",
              .handler = [&service](const HttpRequest&,
                                    const Responder& responder) { StatusJson(service, responder); },
              .on_io_thread = true});
  router.Add({.method = "GET",
              .path = "/winnow/costs",
              .handler = [&service, once = std::make_shared<CostsOnce>()](
                             const HttpRequest& request, const Responder& responder) {
                Costs(service, *once, request, responder);
              }});
}

}  // namespace winnow::server
