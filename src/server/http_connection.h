// The inside of http.h: what its files share. Only they include it, and they alone know Boost.Asio.
//
// Each connection is two coroutines on one thread: one reads whatever arrives into `input_`, up to
// a bound, and so always sees the client leave; the other parses requests from there and writes
// answers. Both wait on timers that are cancelled to wake them. A sweep every 50 ms ends what is
// past its deadline.
#pragma once

#include <atomic>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/ssl.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/string_body.hpp>
#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_set>
#include <utility>

#include "server/http.h"

namespace winnow::server {

namespace asio = boost::asio;
namespace ssl = boost::asio::ssl;
using tcp = asio::ip::tcp;
using Clock = std::chrono::steady_clock;
using ErrorCode = boost::system::error_code;
using Parser = boost::beast::http::request_parser<boost::beast::http::string_body>;
template <typename T>
using Awaitable = asio::awaitable<T>;

inline constexpr size_t kReadAhead = 64 << 10;  // bytes read before they are parsed
inline constexpr auto kNever = Clock::time_point::max();

inline Clock::time_point In(double seconds) {
  return Clock::now() +
         std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds));
}

// "127.0.0.1:8000"
std::string Endpoint(const tcp::endpoint& endpoint);

class Connection;

// A request that waits for its answer. Used on the io thread but for `gone` and `waking`.
class Exchange {
 public:
  Exchange(std::weak_ptr<HttpServer::State> server, std::weak_ptr<Connection> connection)
      : server_(std::move(server)), connection_(std::move(connection)) {}
  ~Exchange();

  // On any thread: runs `task` on the io thread with this.
  template <typename Task>
  void Post(const std::shared_ptr<Exchange>& self, Task task);
  void Wake(const std::shared_ptr<Exchange>& self);

  // On the io thread. The last Responder has gone.
  void Forget() {
    forgotten = !answered;
    Signal();
  }
  void Set(HttpResponse new_response) {
    if (answered || gone.load()) return;
    answered = true;
    response = std::move(new_response);
    Signal();
  }
  void Set(HttpResponse new_head, std::shared_ptr<Source> new_source) {
    if (answered || gone.load()) return new_source->Abandon();
    answered = true;
    head = std::move(new_head);
    source = std::move(new_source);
    Signal();
  }
  void Set(std::shared_ptr<Later> new_later) {
    if (answered || gone.load()) return new_later->Abandon();
    answered = true;
    later = std::move(new_later);
    Signal();
  }
  // The client has gone or has its answer.
  void Close(bool complete) {
    gone.store(true);
    if (source && !complete) source->Abandon();
    if (later && !complete) later->Abandon();
    source.reset();
    later.reset();
  }
  void Signal();
  const std::weak_ptr<HttpServer::State>& server() const { return server_; }

  std::optional<HttpResponse> response;
  std::optional<HttpResponse> head;
  std::shared_ptr<Source> source;
  std::shared_ptr<Later> later;
  bool answered = false;
  bool forgotten = false;  // nobody is left who could answer
  std::atomic<bool> gone{false};

 private:
  std::weak_ptr<HttpServer::State> server_;
  std::weak_ptr<Connection> connection_;
  std::atomic<bool> waking_{false};
};

struct HttpServer::State : std::enable_shared_from_this<HttpServer::State> {
  HttpOptions options;
  HttpHooks hooks;
  asio::io_context io{1};
  tcp::acceptor acceptor{io};
  std::optional<ssl::context> tls;
  asio::steady_timer sweep{io};
  asio::steady_timer room{io};  // cancelled when a connection ends
  std::unordered_set<std::shared_ptr<Connection>> connections;
  std::function<void()> drained;
  Clock::time_point drain_deadline = kNever;
  bool draining = false;
  bool stopped = false;
  int port = 0;
  std::atomic<int64_t> open{0}, busy{0}, accepted{0}, refused{0};
  std::atomic<int64_t> body_bytes{0};  // of requests that are read or worked on

  Status Listen();
  Status LoadTls();
  Awaitable<void> Accept();
  Awaitable<void> Sweep();
  void Add(tcp::socket socket);
  void StopNow();
};

// What a request's body takes of the memory for all.
struct BodyShare {
  explicit BodyShare(std::weak_ptr<HttpServer::State> its_server) : server(std::move(its_server)) {}
  ~BodyShare() {
    if (const auto state = server.lock()) state->body_bytes.fetch_sub(bytes);
  }
  std::weak_ptr<HttpServer::State> server;
  int64_t bytes = 0;
};

class Connection : public std::enable_shared_from_this<Connection> {
 public:
  Connection(HttpServer::State& server, tcp::socket socket, bool reserve)
      : server_(server), socket_(std::move(socket)), reserve_(reserve) {
    if (server_.tls) tls_.emplace(socket_, *server_.tls);
    arrived_.expires_at(kNever);
    consumed_.expires_at(kNever);
  }

  // Both hold the connection while they run.
  Awaitable<void> Serve();
  Awaitable<void> ReadAll();

  void Signal() { arrived_.cancel(); }
  void Kill() {
    ErrorCode ignored;
    socket_.close(ignored);
    killed_ = true;
    eof_ = true;
    Signal();
    consumed_.cancel();
  }
  // Ends what is late; called by the sweep.
  void Check(Clock::time_point now) {
    if (now >= deadline_) {
      deadline_ = kNever;
      if (polite_deadline_) {
        late_ = true;
        Signal();
      } else {
        Kill();
      }
    }
    if (now >= keep_alive_at_) Signal();
  }
  void CancelAnswer() {
    if (exchange_ && exchange_->source) exchange_->source->Cancel();
    if (exchange_ && exchange_->later) exchange_->later->Cancel();
  }
  // Ends it if it waits for a request after another. One that has not asked yet may ask once, and
  // is told that the server ends.
  void EndIfIdle() {
    if (idle_ && served_) Kill();
  }
  bool idle() const { return idle_; }

 private:
  Awaitable<bool> Request();
  Awaitable<int> ReadBody(Parser& parser, BodyShare& share);
  Awaitable<bool> Respond(std::shared_ptr<Exchange> exchange, const HttpRequest& shape);
  Awaitable<bool> SendSource(Exchange& exchange, const HttpRequest& shape);
  Awaitable<bool> SendWhole(HttpResponse response, const HttpRequest& shape);
  Awaitable<void> Fail(int status, std::string message, HttpRequest request);
  Awaitable<bool> Write(std::string_view bytes);
  Awaitable<void> WaitForSignal();
  Awaitable<void> Linger();
  void Done(const HttpRequest& request, bool complete) {
    server_.hooks.done(request, status_ == 0 ? 499 : status_, sent_, complete);
  }
  std::string Head(const HttpResponse& response, const HttpRequest& shape, int64_t length) const;
  void SetDeadline(double seconds, bool polite) {
    deadline_ = In(seconds);
    polite_deadline_ = polite;
  }
  void Consume(size_t count) {
    consumed_bytes_ += count;
    if (consumed_bytes_ == input_.size()) {
      input_.clear();
      consumed_bytes_ = 0;
    } else if (consumed_bytes_ >= kReadAhead / 2) {
      input_.erase(0, consumed_bytes_);
      consumed_bytes_ = 0;
    }
    consumed_.cancel();
  }
  std::string_view Input() const { return std::string_view(input_).substr(consumed_bytes_); }

  HttpServer::State& server_;
  tcp::socket socket_;
  std::optional<ssl::stream<tcp::socket&>> tls_;
  std::string input_;  // read and, from consumed_bytes_ on, not parsed
  size_t consumed_bytes_ = 0;
  int64_t received_ = 0;
  int64_t sent_ = 0;                    // of the current answer
  int status_ = 0;                      // of the current answer; 0 before it begins
  std::shared_ptr<Exchange> exchange_;  // of the request that is being answered
  bool eof_ = false;                    // nothing more will arrive
  bool killed_ = false;                 // nothing more can be sent
  bool late_ = false;                   // a polite deadline has passed
  bool idle_ = true;
  bool served_ = false;  // at least one request was answered
  bool in_body_ = false;
  bool version_10_ = false;
  bool close_after_ = false;
  bool reserve_;
  bool polite_deadline_ = false;
  Clock::time_point deadline_ = kNever;
  Clock::time_point keep_alive_at_ = kNever;
  asio::steady_timer arrived_{socket_.get_executor()};   // wakes Serve
  asio::steady_timer consumed_{socket_.get_executor()};  // wakes ReadAll
};

}  // namespace winnow::server
