// The server: its socket, its connections, its end.
#include <fcntl.h>
#include <fmt/format.h>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>

#include "base/check.h"
#include "base/text.h"
#include "server/http_connection.h"

namespace winnow::server {
namespace {

constexpr int kSendBuffer = 128 << 10;  // of the kernel, for each connection
constexpr int64_t kReserve = 64;        // connections beyond max_connections, for /health
constexpr auto kSweep = std::chrono::milliseconds(50);

}  // namespace

std::string Endpoint(const tcp::endpoint& endpoint) {
  const auto address = endpoint.address();
  return fmt::format(fmt::runtime(address.is_v6() ? "[{}]:{}" : "{}:{}"), address.to_string(),
                     endpoint.port());
}

Status HttpServer::State::LoadTls() {
  if (options.tls_cert.empty() && options.tls_key.empty()) return OkStatus();
  if (options.tls_cert.empty() || options.tls_key.empty()) {
    return InvalidArgument("--tls-cert and --tls-key: one is given, expected both or none");
  }
  ErrorCode error;
  tls.emplace(ssl::context::tls_server);
  SSL_CTX_set_min_proto_version(tls->native_handle(), TLS1_2_VERSION);
  SSL_CTX_set_options(tls->native_handle(), SSL_OP_NO_RENEGOTIATION);
  tls->use_certificate_chain_file(options.tls_cert, error);
  if (error) {
    return InvalidArgument(fmt::format("{}: {}, expected a PEM file of certificates",
                                       options.tls_cert, error.message()));
  }
  tls->use_private_key_file(options.tls_key, ssl::context::pem, error);
  if (error) {
    return InvalidArgument(fmt::format("{}: {}, expected the private key of the certificate in PEM",
                                       options.tls_key, error.message()));
  }
  return OkStatus();
}

Status HttpServer::State::Listen() {
  ErrorCode error;
  tcp::resolver resolver(io);
  const auto found =
      resolver.resolve(options.host, std::to_string(options.port),
                       tcp::resolver::passive | tcp::resolver::numeric_service, error);
  if (error || found.empty()) {
    return InvalidArgument(fmt::format("--host {}: {}", Quoted(options.host), error.message()));
  }
  const tcp::endpoint endpoint = found.begin()->endpoint();
  acceptor.open(endpoint.protocol(), error);
  if (!error) acceptor.set_option(tcp::acceptor::reuse_address(true), error);
  if (!error) acceptor.bind(endpoint, error);
  if (!error) acceptor.listen(4096, error);
  if (error) return Unavailable(fmt::format("{}: {}", Endpoint(endpoint), error.message()));
  fcntl(acceptor.native_handle(), F_SETFD, FD_CLOEXEC);
  port = acceptor.local_endpoint(error).port();
  return OkStatus();
}

void HttpServer::State::Add(tcp::socket socket) {
  const bool reserve = open.load() >= options.max_connections;
  if (reserve) refused.fetch_add(1);
  ErrorCode ignored;
  socket.set_option(tcp::no_delay(true), ignored);
  socket.set_option(asio::socket_base::send_buffer_size(kSendBuffer), ignored);
  fcntl(socket.native_handle(), F_SETFD, FD_CLOEXEC);
  accepted.fetch_add(1);
  open.fetch_add(1);
  auto connection = std::make_shared<Connection>(*this, std::move(socket), reserve);
  connections.insert(connection);
  asio::co_spawn(io, connection->Serve(), asio::detached);
}

Awaitable<void> HttpServer::State::Accept() {
  asio::steady_timer pause(io);
  while (!stopped) {
    if (open.load() >= options.max_connections + kReserve) {
      room.expires_at(kNever);
      ErrorCode ignored;
      co_await room.async_wait(asio::redirect_error(asio::use_awaitable, ignored));
      continue;
    }
    ErrorCode error;
    tcp::socket socket(io);
    co_await acceptor.async_accept(socket, asio::redirect_error(asio::use_awaitable, error));
    if (stopped || error == asio::error::operation_aborted) co_return;
    if (error) {
      // No file descriptor or no memory for one more: those that wait in line must wait longer.
      pause.expires_after(std::chrono::milliseconds(100));
      ErrorCode ignored;
      co_await pause.async_wait(asio::redirect_error(asio::use_awaitable, ignored));
      continue;
    }
    Add(std::move(socket));
  }
}

Awaitable<void> HttpServer::State::Sweep() {
  while (!stopped) {
    sweep.expires_after(kSweep);
    ErrorCode ignored;
    co_await sweep.async_wait(asio::redirect_error(asio::use_awaitable, ignored));
    const Clock::time_point now = Clock::now();
    // Ends are only signalled here; the set changes when their coroutines run.
    for (const auto& connection : connections) connection->Check(now);
    if (drained && (busy.load() == 0 || now >= drain_deadline)) {
      const auto call = std::move(drained);
      drained = nullptr;
      call();
    }
  }
}

void HttpServer::State::StopNow() {
  if (stopped) return;
  stopped = true;
  ErrorCode ignored;
  acceptor.close(ignored);
  room.cancel();
  sweep.cancel();
  for (const auto& connection : connections) connection->Kill();
}

HttpServer::HttpServer(std::shared_ptr<State> state) : state_(std::move(state)) {}

HttpServer::~HttpServer() = default;

Result<std::unique_ptr<HttpServer>> HttpServer::Create(const HttpOptions& options,
                                                       HttpHooks hooks) {
  auto state = std::make_shared<State>();
  state->options = options;
  state->hooks = std::move(hooks);
  WINNOW_TRY(state->LoadTls());
  WINNOW_TRY(state->Listen());
  return std::unique_ptr<HttpServer>(new HttpServer(std::move(state)));
}

int HttpServer::port() const { return state_->port; }

HttpCounts HttpServer::counts() const {
  return {state_->open.load(), state_->busy.load(), state_->accepted.load(),
          state_->refused.load()};
}

void HttpServer::Run() {
  asio::co_spawn(state_->io, state_->Accept(), asio::detached);
  asio::co_spawn(state_->io, state_->Sweep(), asio::detached);
  while (!state_->stopped) state_->io.run_one();
  state_->io.run_for(std::chrono::seconds(2));  // what is left of the connections
}

void HttpServer::Drain(double seconds, std::function<void()> drained) {
  Post([state = state_.get(), seconds, drained = std::move(drained)]() mutable {
    state->draining = true;
    state->drain_deadline = In(seconds);
    state->drained = std::move(drained);
    for (const auto& connection : state->connections) connection->EndIfIdle();
  });
}

void HttpServer::CancelAnswers() {
  Post([state = state_.get()] {
    for (const auto& connection : state->connections) connection->CancelAnswer();
  });
}

void HttpServer::EndConnections() {
  Post([state = state_.get()] {
    for (const auto& connection : state->connections) connection->Kill();
  });
}

void HttpServer::Stop() {
  Post([state = state_.get()] { state->StopNow(); });
}

void HttpServer::Post(std::function<void()> task) { asio::post(state_->io, std::move(task)); }

}  // namespace winnow::server
