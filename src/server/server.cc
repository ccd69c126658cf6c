// The server as a whole: options checked, parts put together, started and ended.
#include "winnow/server.h"

#include <malloc.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <condition_variable>
#include <ctime>
#include <mutex>
#include <thread>

#include "base/check.h"
#include "base/text.h"
#include "server/admission.h"
#include "server/batch_routes.h"
#include "server/http.h"
#include "server/json_text.h"
#include "server/ledger.h"
#include "server/log_writer.h"
#include "server/model_name.h"
#include "server/request_log.h"
#include "server/router.h"
#include "server/service.h"
#include "server/usage_limits.h"
#include "server/worker_pool.h"

namespace winnow {
namespace {

using server::HttpRequest;
using server::HttpResponse;
using server::RequestRecord;
using server::Responder;

constexpr size_t kLongBody = 256 << 10;
constexpr double kLastSeconds = 2.0;  // for cancelled answers to end

bool IsLoopback(const std::string& host) {
  return host == "localhost" || host.starts_with("127.") || host == "::1";
}

Status CheckOptions(const ServerOptions& options) {
  if (options.port < 0 || options.port > 65535) {
    return InvalidArgument(fmt::format("--port: {}, expected 0 to 65535", options.port));
  }
  if (options.max_connections < 1) {
    return InvalidArgument(
        fmt::format("--max-connections: {}, expected at least 1", options.max_connections));
  }
  if (options.max_body_bytes < 1024) {
    return InvalidArgument(
        fmt::format("--max-body: {} bytes, expected at least 1024", options.max_body_bytes));
  }
  if (options.dollars_per_hour && !(*options.dollars_per_hour >= 0.0)) {
    return InvalidArgument(
        fmt::format("--price: {}, expected dollars per hour", *options.dollars_per_hour));
  }
  return OkStatus();
}

}  // namespace

struct Server::State {
  std::unique_ptr<server::Ledger> ledger;  // before whoever writes to it
  std::unique_ptr<server::UsageLimits> limits;
  server::Service service;
  server::Router router;
  std::optional<server::Admission> admission;
  std::unique_ptr<server::LogWriter> log;
  std::unique_ptr<server::HttpServer> http;
  std::unique_ptr<server::WorkerPool> workers;
  std::optional<Engine> engine;
  std::shared_ptr<server::BatchQueue> batches;  // null without a folder for files
  std::string address;
  std::vector<std::string> warnings;
  int stop_event = -1;
  std::atomic<int> stops{0};

  ~State() {
    if (stop_event >= 0) close(stop_event);
  }
  Status Prepare(const ServerOptions& options);
  server::HttpHooks Hooks();
  std::optional<HttpResponse> Admit(HttpRequest* request);
  void Handle(HttpRequest request, Responder responder);
  HttpResponse Fail(int status, const std::string& message, HttpRequest* request);
  std::shared_ptr<RequestRecord> NewRecord(const HttpRequest& request, std::string route);
  Status OpenLedger(const ServerOptions& options, const server::ApiKeys& keys);
  Status LoadEngine();
  void WaitForStop();
};

// The record tells its story when the last of those who write it has let go.
std::shared_ptr<RequestRecord> Server::State::NewRecord(const HttpRequest& request,
                                                        std::string route) {
  auto* record = new RequestRecord;
  record->id = request.id;
  record->method = request.method;
  record->path = request.path;
  record->route = std::move(route);
  record->key = request.key;
  record->peer = request.peer;
  return {record, [this](RequestRecord* finished) {
            for (const auto& observer : service.observers) observer(*finished);
            delete finished;
          }};
}

std::optional<HttpResponse> Server::State::Admit(HttpRequest* request) {
  auto refusal = admission->Decide(
      {.loading = service.engine.load() == nullptr, .draining = service.draining.load()}, request);
  request->record = NewRecord(*request, refusal ? "other" : router.route(request->route).path);
  return refusal;
}

void Server::State::Handle(HttpRequest request, Responder responder) {
  const server::Route& route = router.route(request.route);
  if (route.on_io_thread) return route.handler(request, responder);
  workers->Post([&route, request = std::move(request), responder = std::move(responder)]() mutable {
    const size_t size = request.body.size();
    route.handler(request, responder);
    if (size < kLongBody) return;
    // What a long body was taken apart into is given back to the system.
    request = {};
    malloc_trim(0);
  });
}

HttpResponse Server::State::Fail(int status, const std::string& message, HttpRequest* request) {
  if (!request->record) {
    request->id = server::RequestId(request->Header("x-request-id"));
    request->response_headers.emplace_back("x-request-id", request->id);
    request->record = NewRecord(*request, "other");
  }
  return server::ErrorResponse(
      {.status = status, .message = message, .retry_after = status == 503 ? 1 : 0},
      server::StyleOf(request->path), request->id);
}

server::HttpHooks Server::State::Hooks() {
  return {
      .admit = [this](HttpRequest* request) { return Admit(request); },
      .handle = [this](HttpRequest request,
                       Responder responder) { Handle(std::move(request), responder); },
      .fail = [this](int status, const std::string& message,
                     HttpRequest* request) { return Fail(status, message, request); },
      .done =
          [](const HttpRequest& request, int status, int64_t bytes, bool complete) {
            RequestRecord& record = *request.record;
            record.status = status;
            record.bytes = bytes;
            record.complete = complete;
            record.seconds =
                std::chrono::duration<double>(RequestRecord::Clock::now() - record.start).count();
          }};
}

Status Server::State::Prepare(const ServerOptions& options) {
  WINNOW_TRY(CheckOptions(options));
  service.options = options;
  const std::string& model_dir = options.engine.model_dir;
  service.model_names = server::ModelNames(options.served_model_names, model_dir);
  service.accepted_names = server::AcceptedNames(options.served_model_names, model_dir);

  WINNOW_ASSIGN(server::ApiKeys keys,
                server::ApiKeys::Load(options.api_keys, options.api_key_file));
  const bool loopback = IsLoopback(options.host);
  if (!loopback && keys.empty()) {
    warnings.push_back(fmt::format(
        "--host {}: others can reach this server, and no API key is asked for", options.host));
  }
  server::AddStatusRoutes(router, service);
  server::AddModelRoutes(router, service);
  server::AddOpenAiRoutes(router, service);
  server::AddAnthropicRoutes(router, service);
  server::AddTokenRoutes(router, service);
  WINNOW_ASSIGN(batches, server::AddBatchRoutes(router, service));
  server::AddPageRoutes(router, service);
  WINNOW_ASSIGN(log, server::LogWriter::Open(options.log_file));
  service.observers.push_back([this](const RequestRecord& record) {
    service.metrics.Observe(record);
    log->Write(server::RequestLogLine(record));
  });
  service.log_lines_dropped = [this] { return log->dropped(); };
  WINNOW_TRY(OpenLedger(options, keys));
  admission.emplace(server::AdmissionOptions{.loopback = loopback,
                                             .allowed_hosts = options.allowed_hosts,
                                             .allowed_origins = options.allowed_origins},
                    std::move(keys), router);

  int64_t max_connections = options.max_connections;
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY) {
    // The model's files, the log and the connections of the reserve need some as well.
    const int64_t room = std::max<int64_t>(static_cast<int64_t>(limit.rlim_cur) - 160, 16);
    if (max_connections > room) {
      warnings.push_back(fmt::format("--max-connections: {} of {}, as {} open files are allowed",
                                     room, max_connections, limit.rlim_cur));
      max_connections = room;
    }
  }
  WINNOW_ASSIGN(http, server::HttpServer::Create({.host = options.host,
                                                  .port = options.port,
                                                  .tls_cert = options.tls_cert,
                                                  .tls_key = options.tls_key,
                                                  .max_connections = max_connections,
                                                  .max_body_bytes = options.max_body_bytes,
                                                  .idle_seconds = options.idle_seconds,
                                                  .header_seconds = options.header_seconds,
                                                  .body_seconds = options.body_seconds,
                                                  .write_seconds = options.write_seconds,
                                                  .keep_alive_seconds = options.keep_alive_seconds},
                                                 Hooks()));
  service.http_counts = [this] { return http->counts(); };
  const bool colons = options.host.find(':') != std::string::npos;
  address = fmt::format("{}://{}{}{}:{}", options.tls_cert.empty() ? "http" : "https",
                        colons ? "[" : "", options.host, colons ? "]" : "", http->port());
  stop_event = eventfd(0, EFD_CLOEXEC);
  if (stop_event < 0) return Unavailable("server: no file descriptor is left");
  workers = std::make_unique<server::WorkerPool>(std::max(1, options.num_workers));
  return OkStatus();
}

// Requests that ran the model are entered when they are over, and charged to the limits of their
// keys.
Status Server::State::OpenLedger(const ServerOptions& options, const server::ApiKeys& keys) {
  const auto now = [] {
    return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch())
        .count();
  };
  if (!options.ledger.empty()) {
    WINNOW_ASSIGN(ledger, server::Ledger::Open(options.ledger));
  }
  WINNOW_ASSIGN(auto rules, server::UsageLimits::Parse(options.limits));
  const bool limited = !rules.empty();
  for (const server::UsageLimit& rule : rules) {
    if (rule.unit == server::UsageLimit::Unit::kDollars && !options.dollars_per_hour) {
      return InvalidArgument("limit of " + Quoted(rule.key) +
                             ": it is in dollars, expected the price of an hour (--price) as well");
    }
    if (rule.key != "*" && !keys.HasName(rule.key)) {
      return InvalidArgument("limit of " + Quoted(rule.key) +
                             ": no API key has this name, expected one of --api-key or *");
    }
  }
  limits = std::make_unique<server::UsageLimits>(std::move(rules));
  if (ledger) limits->CountLedger(options.ledger);
  if (!ledger && !limited) return OkStatus();
  service.observers.push_back([this, now](const RequestRecord& record) {
    if (record.num_choices == 0) return;
    auto entry = server::MakeLedgerEntry(record, service.options.dollars_per_hour, now());
    limits->Charge(record.key, entry);
    if (ledger) ledger->Add(std::move(entry));
  });
  service.gates.push_back(
      [this, now](const HttpRequest& request) { return limits->Refuse(request.key, now()); });
  return OkStatus();
}

Status Server::State::LoadEngine() {
  auto loaded = Engine::Load(service.options.engine);
  if (!loaded.ok()) return loaded.error();
  engine.emplace(std::move(*loaded));
  service.fingerprint = server::Fingerprint(engine->info(), service.options.engine);
  service.loaded_at.store(static_cast<int64_t>(std::time(nullptr)));
  service.engine.store(&*engine);
  return OkStatus();
}

void Server::State::WaitForStop() {
  // Not by read(): under the thread sanitizer a signal waits until a call that blocks is over, and
  // of these two only poll() ends for one.
  pollfd stopped{stop_event, POLLIN, 0};
  while (poll(&stopped, 1, -1) < 0 && errno == EINTR) {
  }
}

Server::Server(std::unique_ptr<State> state) : state_(std::move(state)) {}
Server::Server(Server&&) noexcept = default;
Server& Server::operator=(Server&&) noexcept = default;
Server::~Server() = default;

Result<Server> Server::Create(const ServerOptions& options) {
  auto state = std::make_unique<State>();
  WINNOW_TRY(state->Prepare(options));
  return Server(std::move(state));
}

const std::string& Server::address() const { return state_->address; }
const std::vector<std::string>& Server::warnings() const { return state_->warnings; }

Status Server::Run() {
  State& state = *state_;
  std::mutex mutex;
  std::condition_variable changed;
  bool drained = false;
  std::thread io([&state] { state.http->Run(); });
  Status loaded = state.LoadEngine();
  if (loaded.ok() && state.batches) loaded = state.batches->Start();
  if (loaded.ok()) {
    state.WaitForStop();
    state.service.draining.store(true);
    if (state.batches) state.batches->Stop();
    const double seconds = state.stops.load() > 1 ? 0.0 : state.service.options.drain_seconds;
    state.http->Drain(seconds, [&] {
      std::lock_guard<std::mutex> lock(mutex);
      drained = true;
      changed.notify_all();
    });
    std::unique_lock<std::mutex> lock(mutex);
    while (!drained && state.stops.load() < 2)
      changed.wait_for(lock, std::chrono::milliseconds(50));
    lock.unlock();
    const auto wait_for = [&state](const std::function<bool()>& done) {
      const auto deadline =
          std::chrono::steady_clock::now() + std::chrono::duration<double>(kLastSeconds);
      while (!done() && state.stops.load() < 2 && std::chrono::steady_clock::now() < deadline) {
        std::this_thread::sleep_for(std::chrono::milliseconds(5));
      }
    };
    // What still runs is told to end, and its clients why.
    state.http->CancelAnswers();
    wait_for([&state] { return state.http->counts().busy == 0; });
    state.http->EndConnections();
    wait_for([&state] { return state.service.open_answers.use_count() == 1; });
  }
  state.http->Stop();
  io.join();
  state.workers->Stop();
  state.http.reset();  // and with it what still waited; its records go to the log
  state.service.engine.store(nullptr);
  state.engine.reset();
  state.log.reset();
  return loaded;
}

void Server::Stop() {
  state_->stops.fetch_add(1);
  const uint64_t one = 1;
  // Cannot fail: the counter is far from full.
  [[maybe_unused]] const ssize_t written = write(state_->stop_event, &one, sizeof(one));
}

bool Server::ready() const { return state_->service.engine.load() != nullptr; }

}  // namespace winnow
