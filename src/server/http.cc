// Each connection is two coroutines on one thread: one reads whatever arrives into `input_`, up to
// a bound, and so always sees the client leave; the other parses requests from there and writes
// answers. Both wait on timers that are cancelled to wake them. A sweep every 50 ms ends what is
// past its deadline.
#include "server/http.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/ssl.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/this_coro.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/write.hpp>
#include <boost/beast/core/error.hpp>
#include <boost/beast/http/error.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/string_body.hpp>
#include <chrono>
#include <ctime>
#include <unordered_set>

#include "base/check.h"
#include "base/text.h"

namespace winnow::server {
namespace {

namespace asio = boost::asio;
namespace ssl = boost::asio::ssl;
namespace http = boost::beast::http;
using tcp = asio::ip::tcp;
using Clock = std::chrono::steady_clock;
using ErrorCode = boost::system::error_code;
using Parser = http::request_parser<http::string_body>;
template <typename T>
using Awaitable = asio::awaitable<T>;

constexpr size_t kReadAhead = 64 << 10;     // bytes read before they are parsed
constexpr size_t kWritePart = 64 << 10;     // bytes that write_seconds are for
constexpr size_t kIdleRead = 2 << 10;       // bytes of the buffer that waits for a request
constexpr int kSendBuffer = 128 << 10;      // of the kernel, for each connection
constexpr int64_t kReserve = 64;            // connections beyond max_connections, for /health
constexpr double kBytesPerSecond = 8192.0;  // a body arrives at least so fast
constexpr int64_t kBodyMemory = int64_t{256} << 20;  // of all bodies; one may always have more
constexpr double kLingerSeconds = 1.0;               // for a client to read a refusal
constexpr auto kSweep = std::chrono::milliseconds(50);
constexpr auto kNever = Clock::time_point::max();

Clock::time_point In(double seconds) {
  return Clock::now() +
         std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds));
}

std::string Lower(std::string_view text) {
  std::string lower(text);
  for (char& letter : lower) {
    if (letter >= 'A' && letter <= 'Z') letter = static_cast<char>(letter - 'A' + 'a');
  }
  return lower;
}

std::string HttpDate() {
  const std::time_t now = std::time(nullptr);
  std::tm parts{};
  gmtime_r(&now, &parts);
  std::array<char, 64> text{};
  const size_t length =
      std::strftime(text.data(), text.size(), "%a, %d %b %Y %H:%M:%S GMT", &parts);
  return {text.data(), length};
}

int HexDigit(char digit) {
  if (digit >= '0' && digit <= '9') return digit - '0';
  if (digit >= 'a' && digit <= 'f') return digit - 'a' + 10;
  if (digit >= 'A' && digit <= 'F') return digit - 'A' + 10;
  return -1;
}

// Names and values of "a=1&b=2"; what cannot be decoded stays as it is.
Headers ParseQuery(std::string_view text) {
  Headers fields;
  while (!text.empty()) {
    const std::string_view field = text.substr(0, text.find('&'));
    text.remove_prefix(std::min(field.size() + 1, text.size()));
    if (field.empty()) continue;
    const size_t equals = field.find('=');
    const std::string_view name = field.substr(0, equals);
    const std::string_view value =
        equals == std::string_view::npos ? std::string_view() : field.substr(equals + 1);
    fields.emplace_back(PercentDecode(name, true).value_or(std::string(name)),
                        PercentDecode(value, true).value_or(std::string(value)));
  }
  return fields;
}

// What a header's value must not contain, or a response would be two.
std::string WithoutLineEnds(std::string_view value) {
  std::string clean(value);
  std::erase_if(clean, [](unsigned char byte) { return byte < 0x20 || byte == 0x7f; });
  return clean;
}

std::string Endpoint(const tcp::endpoint& endpoint) {
  const auto address = endpoint.address();
  return fmt::format(fmt::runtime(address.is_v6() ? "[{}]:{}" : "{}:{}"), address.to_string(),
                     endpoint.port());
}

}  // namespace

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
  // Ends it unless a request is being read or answered.
  void EndIfIdle() {
    if (idle_) Kill();
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

// --- Exchange and Responder ---------------------------------------------------------------------

Exchange::~Exchange() {
  if (source) source->Abandon();
  if (later) later->Abandon();
}

void Exchange::Signal() {
  if (auto connection = connection_.lock()) connection->Signal();
}

template <typename Task>
void Exchange::Post(const std::shared_ptr<Exchange>& self, Task task) {
  if (auto server = server_.lock()) {
    asio::post(server->io, [self, task = std::move(task)]() mutable { task(*self); });
  }
}

void Exchange::Wake(const std::shared_ptr<Exchange>& self) {
  if (gone.load() && !source && !later) return;
  if (waking_.exchange(true)) return;
  Post(self, [](Exchange& exchange) {
    exchange.waking_.store(false);
    exchange.Signal();
  });
}

struct Responder::Ticket {
  explicit Ticket(std::shared_ptr<Exchange> its_exchange) : exchange(std::move(its_exchange)) {}
  ~Ticket() {
    exchange->Post(exchange, [](Exchange& forgotten) { forgotten.Forget(); });
  }
  std::shared_ptr<Exchange> exchange;
};

Responder::Responder(std::shared_ptr<Exchange> exchange)
    : ticket_(std::make_shared<Ticket>(std::move(exchange))) {}

void Responder::Send(HttpResponse response) const {
  const std::shared_ptr<Exchange>& exchange = ticket_->exchange;
  exchange->Post(exchange, [response = std::move(response)](Exchange& target) mutable {
    target.Set(std::move(response));
  });
}

void Responder::Stream(HttpResponse head, std::shared_ptr<Source> source) const {
  const std::shared_ptr<Exchange>& exchange = ticket_->exchange;
  exchange->Post(exchange,
                 [head = std::move(head), source = std::move(source)](Exchange& target) mutable {
                   target.Set(std::move(head), std::move(source));
                 });
}

void Responder::Wait(std::shared_ptr<Later> later) const {
  const std::shared_ptr<Exchange>& exchange = ticket_->exchange;
  exchange->Post(exchange, [later = std::move(later)](Exchange& target) mutable {
    target.Set(std::move(later));
  });
}

std::function<void(std::function<void()>)> Responder::Poster() const {
  return [server = ticket_->exchange->server()](std::function<void()> task) {
    if (auto state = server.lock()) asio::post(state->io, std::move(task));
  };
}

bool Responder::gone() const { return ticket_->exchange->gone.load(); }

std::function<void()> Responder::Waker() const {
  return [exchange = ticket_->exchange] { exchange->Wake(exchange); };
}

// --- Connection: reading ------------------------------------------------------------------------

Awaitable<void> Connection::WaitForSignal() {
  ErrorCode ignored;
  co_await arrived_.async_wait(asio::redirect_error(asio::use_awaitable, ignored));
  arrived_.expires_at(kNever);
}

Awaitable<void> Connection::ReadAll() {
  const auto self = shared_from_this();
  std::string buffer;
  while (!eof_) {
    if (input_.size() - consumed_bytes_ >= kReadAhead) {
      ErrorCode ignored;
      co_await consumed_.async_wait(asio::redirect_error(asio::use_awaitable, ignored));
      consumed_.expires_at(kNever);
      continue;
    }
    const size_t size = in_body_ ? kReadAhead : kIdleRead;
    if (buffer.size() != size) {
      std::string fresh(size, '\0');
      buffer.swap(fresh);
    }
    ErrorCode error;
    size_t count = 0;
    const auto space = asio::buffer(buffer.data(), buffer.size());
    if (tls_) {
      count =
          co_await tls_->async_read_some(space, asio::redirect_error(asio::use_awaitable, error));
    } else {
      count =
          co_await socket_.async_read_some(space, asio::redirect_error(asio::use_awaitable, error));
    }
    if (error) {
      eof_ = true;
      if (error != asio::error::eof) killed_ = true;
    } else {
      input_.append(buffer.data(), count);
      received_ += static_cast<int64_t>(count);
    }
    Signal();
  }
}

namespace {

int StatusOf(const ErrorCode& error) {
  if (error == http::error::header_limit || error == http::error::buffer_overflow) return 431;
  if (error == http::error::body_limit) return 413;
  if (error == http::error::bad_version) return 505;
  return 400;
}

// Reads what Beast has parsed; says what is wrong with it, or nothing.
std::string Describe(const Parser& parser, HttpRequest* request) {
  const auto& message = parser.get();
  request->method = std::string(message.method_string());
  const std::string_view target(message.target().data(), message.target().size());
  int hosts = 0;
  int lengths = 0;
  int encodings = 0;
  for (const auto& field : message) {
    std::string name = Lower({field.name_string().data(), field.name_string().size()});
    hosts += name == "host";
    lengths += name == "content-length";
    encodings += name == "transfer-encoding";
    request->headers.emplace_back(std::move(name),
                                  std::string(field.value().data(), field.value().size()));
  }
  const size_t question = target.find('?');
  request->path = std::string(target.substr(0, question));
  if (question != std::string_view::npos) request->query = ParseQuery(target.substr(question + 1));
  if (hosts > 1 || (hosts == 0 && message.version() == 11)) {
    return fmt::format("header Host: found {} times, expected once", hosts);
  }
  if (lengths > 1) return "header Content-Length: found twice, expected once";
  if (encodings > 0 && lengths > 0) {
    return "headers Content-Length and Transfer-Encoding: found both, expected one";
  }
  if (encodings > 0 && (encodings > 1 || Lower(request->Header("transfer-encoding")) != "chunked" ||
                        message.version() != 11)) {
    return "header Transfer-Encoding: expected \"chunked\" alone, in HTTP/1.1";
  }
  if (!request->path.starts_with('/') && !(request->method == "OPTIONS" && target == "*")) {
    return fmt::format("target: found {}, expected a path", Quoted(target));
  }
  return {};
}

}  // namespace

// Reads the body into the parser: 0, or the status to refuse it with, or -1 if the client has gone.
Awaitable<int> Connection::ReadBody(Parser& parser, BodyShare& share) {
  const int64_t before = received_;
  const Clock::time_point start = Clock::now();
  SetDeadline(server_.options.body_seconds, /*polite=*/true);
  in_body_ = true;
  parser.eager(true);
  int status = 0;
  while (!parser.is_done()) {
    if (late_) {
      status = 408;
      break;
    }
    const std::string_view input = Input();
    ErrorCode error;
    size_t used = 0;
    if (!input.empty()) used = parser.put(asio::const_buffer(input.data(), input.size()), error);
    if (used > 0) Consume(used);
    if (error && error != http::error::need_more) {
      status = StatusOf(error);
      break;
    }
    share.bytes += static_cast<int64_t>(used);
    const int64_t all = server_.body_bytes.fetch_add(static_cast<int64_t>(used));
    if (all > kBodyMemory && all > share.bytes) {
      status = 503;
      break;
    }
    if (parser.is_done() || (used > 0 && !Input().empty())) continue;
    if (Input().size() >= kReadAhead) {
      status = 400;  // the head of a chunk without an end
      break;
    }
    if (eof_) {
      status = -1;
      break;
    }
    co_await WaitForSignal();
    deadline_ = start + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(
                            server_.options.body_seconds +
                            static_cast<double>(received_ - before) / kBytesPerSecond));
  }
  in_body_ = false;
  deadline_ = kNever;
  co_return status;
}

// Reads and answers one request. False if the connection ends.
Awaitable<bool> Connection::Request() {
  Parser parser;
  parser.header_limit(static_cast<uint32_t>(server_.options.max_header_bytes));
  parser.body_limit(boost::none);  // how much may come is known when the header is read
  HttpRequest request;
  request.reserve = reserve_;
  request.tls = tls_.has_value();
  {
    ErrorCode ignored;
    const tcp::endpoint remote = socket_.remote_endpoint(ignored);
    if (!ignored) request.peer = Endpoint(remote);
  }
  late_ = false;
  version_10_ = false;
  sent_ = 0;
  status_ = 0;
  SetDeadline(reserve_ ? server_.options.header_seconds : server_.options.idle_seconds,
              /*polite=*/true);
  while (!parser.is_header_done()) {
    // A blank line before a request is left over from the one before.
    if (idle_) {
      while (!Input().empty() && (Input()[0] == '\r' || Input()[0] == '\n')) Consume(1);
      if (!Input().empty()) {
        idle_ = false;
        SetDeadline(server_.options.header_seconds, /*polite=*/true);
      }
    }
    if (late_) {
      if (idle_) co_return false;
      std::string message = "header: it did not arrive in time";
      co_await Fail(408, std::move(message), std::move(request));
      co_return false;
    }
    const std::string_view input = Input();
    ErrorCode error;
    size_t used = 0;
    if (!input.empty()) used = parser.put(asio::const_buffer(input.data(), input.size()), error);
    if (used > 0) Consume(used);
    if (error && error != http::error::need_more) {
      const int status = StatusOf(error);
      std::string message = status == 431 ? fmt::format("header: longer than {} bytes",
                                                        server_.options.max_header_bytes)
                                          : "request: " + error.message();
      if (parser.is_header_done()) (void)Describe(parser, &request);
      co_await Fail(status, std::move(message), std::move(request));
      co_return false;
    }
    if (parser.is_header_done() || used > 0) continue;
    if (eof_) co_return false;
    co_await WaitForSignal();
  }
  deadline_ = kNever;
  version_10_ = parser.get().version() == 10;
  if (std::string problem = Describe(parser, &request); !problem.empty()) {
    co_await Fail(400, std::move(problem), std::move(request));
    co_return false;
  }
  const bool has_body = !parser.is_done();
  if (std::optional<HttpResponse> refusal = server_.hooks.admit(&request)) {
    if (has_body) refusal->close = true;
    close_after_ = !parser.keep_alive() || refusal->close;
    HttpResponse response = std::move(*refusal);
    const bool sent = co_await SendWhole(std::move(response), request);
    Done(request, sent);
    co_return sent && !close_after_;
  }
  if (has_body) {
    const int64_t limit =
        request.max_body_bytes > 0 ? request.max_body_bytes : server_.options.max_body_bytes;
    const std::string too_long = fmt::format("body: longer than {} bytes", limit);
    parser.body_limit(static_cast<uint64_t>(limit));
    if (parser.content_length_remaining().value_or(0) > static_cast<uint64_t>(limit)) {
      std::string message = too_long;
      co_await Fail(413, std::move(message), std::move(request));
      co_return false;
    }
    if (Lower(request.Header("expect")) == "100-continue" && Input().empty()) {
      const bool sent = co_await Write("HTTP/1.1 100 Continue\r\n\r\n");
      if (!sent) {
        Done(request, false);
        co_return false;
      }
    }
    auto share = std::make_shared<BodyShare>(server_.weak_from_this());
    const int status = co_await ReadBody(parser, *share);
    if (status < 0) {
      Done(request, false);
      co_return false;
    }
    if (status > 0) {
      std::string message = status == 413   ? too_long
                            : status == 408 ? std::string("body: it did not arrive in time")
                            : status == 503 ? std::string("server: too many long bodies at a time")
                                            : std::string("body: its chunks are malformed");
      co_await Fail(status, std::move(message), std::move(request));
      co_return false;
    }
    request.body = std::move(parser.get().body());
    request.body_share = std::move(share);
  }
  close_after_ = !parser.keep_alive() || reserve_;
  HttpRequest shape;  // what writing the answer needs, when the request itself has gone away
  shape.method = request.method;
  shape.path = request.path;
  shape.id = request.id;
  shape.key = request.key;
  shape.peer = request.peer;
  shape.response_headers = request.response_headers;
  shape.record = request.record;
  auto exchange = std::make_shared<Exchange>(server_.weak_from_this(), weak_from_this());
  exchange_ = exchange;
  server_.busy.fetch_add(1);
  server_.hooks.handle(std::move(request), Responder(exchange));
  const bool sent = co_await Respond(exchange, shape);
  exchange_.reset();
  server_.busy.fetch_sub(1);
  Done(shape, sent);
  co_return sent && !close_after_;
}

// --- Connection: writing ------------------------------------------------------------------------

std::string Connection::Head(const HttpResponse& response, const HttpRequest& shape,
                             int64_t length) const {
  std::string head = fmt::format("HTTP/1.1 {} {}\r\nDate: {}\r\nServer: winnow\r\n",
                                 response.status, StatusText(response.status), HttpDate());
  if (!response.content_type.empty() && response.status != 204) {
    head += fmt::format("Content-Type: {}\r\n", WithoutLineEnds(response.content_type));
  }
  const auto add = [&head](const Headers& headers) {
    for (const auto& [name, value] : headers) {
      head += fmt::format("{}: {}\r\n", name, WithoutLineEnds(value));
    }
  };
  add(response.headers);
  add(shape.response_headers);
  head += "X-Content-Type-Options: nosniff\r\n";
  if (length >= 0) {
    if (response.status != 204) head += fmt::format("Content-Length: {}\r\n", length);
  } else if (!version_10_) {
    head += "Transfer-Encoding: chunked\r\n";
  }
  if (close_after_) {
    head += "Connection: close\r\n";
  } else if (version_10_) {
    head += "Connection: keep-alive\r\n";
  }
  return head + "\r\n";
}

Awaitable<bool> Connection::Write(std::string_view bytes) {
  while (!bytes.empty() && !killed_) {
    const std::string_view part = bytes.substr(0, kWritePart);
    bytes.remove_prefix(part.size());
    SetDeadline(server_.options.write_seconds, /*polite=*/false);
    ErrorCode error;
    const auto buffer = asio::buffer(part.data(), part.size());
    if (tls_) {
      co_await asio::async_write(*tls_, buffer, asio::redirect_error(asio::use_awaitable, error));
    } else {
      co_await asio::async_write(socket_, buffer, asio::redirect_error(asio::use_awaitable, error));
    }
    deadline_ = kNever;
    if (error) {
      Kill();
      co_return false;
    }
    sent_ += static_cast<int64_t>(part.size());
  }
  co_return !killed_;
}

Awaitable<bool> Connection::SendWhole(HttpResponse response, const HttpRequest& shape) {
  if (response.close || server_.draining) close_after_ = true;
  std::string bytes = Head(response, shape, static_cast<int64_t>(response.body.size()));
  if (shape.method != "HEAD" && response.status != 204) bytes += response.body;
  response.body = {};
  status_ = response.status;
  const bool sent = co_await Write(bytes);
  co_return sent;
}

Awaitable<void> Connection::Fail(int status, std::string message, HttpRequest request) {
  HttpResponse response = server_.hooks.fail(status, message, &request);
  response.close = true;
  close_after_ = true;
  const bool sent = co_await SendWhole(std::move(response), request);
  Done(request, sent);
}

Awaitable<bool> Connection::SendSource(Exchange& exchange, const HttpRequest& shape) {
  if (version_10_) close_after_ = true;
  status_ = exchange.head->status;
  const bool chunked = !version_10_;
  const auto frame = [chunked](std::string bytes) {
    return chunked && !bytes.empty() ? fmt::format("{:x}\r\n{}\r\n", bytes.size(), bytes) : bytes;
  };
  std::string bytes = Head(*exchange.head, shape, -1) + frame(std::move(exchange.head->body));
  bool more = true;
  while (true) {
    if (eof_ || killed_) co_return false;
    if (bytes.empty() && more) {
      std::string piece;
      more = exchange.source->Pull(&piece);
      bytes = frame(std::move(piece));
    }
    if (!more && chunked) bytes += "0\r\n\r\n";
    if (bytes.empty() && more && Clock::now() >= keep_alive_at_) {
      std::string piece;
      exchange.source->KeepAlive(&piece);
      bytes = frame(std::move(piece));
      keep_alive_at_ = In(server_.options.keep_alive_seconds);
    }
    if (!bytes.empty()) {
      const bool sent = co_await Write(bytes);
      if (!sent) co_return false;
      bytes.clear();
      keep_alive_at_ = In(server_.options.keep_alive_seconds);
      if (more) continue;
    }
    if (!more) co_return true;
    co_await WaitForSignal();
  }
}

Awaitable<bool> Connection::Respond(std::shared_ptr<Exchange> exchange, const HttpRequest& shape) {
  bool complete = false;
  while (true) {
    if (exchange->later && !exchange->response) {
      std::optional<HttpResponse> response = exchange->later->Poll();
      if (response) exchange->response = std::move(response);
    }
    if (exchange->response) {
      complete = co_await SendWhole(std::move(*exchange->response), shape);
      exchange->Close(/*complete=*/true);
      co_return complete;
    }
    if (exchange->head) {
      if (server_.draining) close_after_ = true;
      keep_alive_at_ = In(server_.options.keep_alive_seconds);
      complete = co_await SendSource(*exchange, shape);
      keep_alive_at_ = kNever;
      exchange->Close(complete);
      co_return complete;
    }
    // A client that only ended its own side still gets what can be said at once.
    if (killed_ || (eof_ && exchange->later)) {
      exchange->Close(/*complete=*/false);
      co_return false;
    }
    if (exchange->forgotten) {
      exchange->Close(/*complete=*/false);
      HttpRequest copy = shape;
      std::string message = "request: no answer was made";
      close_after_ = true;
      HttpResponse response = server_.hooks.fail(500, message, &copy);
      co_return co_await SendWhole(std::move(response), copy);
    }
    co_await WaitForSignal();
  }
}

// Lets the client read what was sent before the connection is torn down under it.
Awaitable<void> Connection::Linger() {
  if (killed_) co_return;
  ErrorCode ignored;
  socket_.shutdown(tcp::socket::shutdown_send, ignored);
  SetDeadline(kLingerSeconds, /*polite=*/false);
  const int64_t before = received_;
  while (!eof_ && received_ - before < (int64_t{1} << 20)) {
    Consume(Input().size());
    co_await WaitForSignal();
  }
}

Awaitable<void> Connection::Serve() {
  const auto self = shared_from_this();
  bool ready = true;
  if (tls_) {
    SetDeadline(server_.options.header_seconds, /*polite=*/false);
    ErrorCode error;
    co_await tls_->async_handshake(ssl::stream_base::server,
                                   asio::redirect_error(asio::use_awaitable, error));
    deadline_ = kNever;
    ready = !error && !killed_;
  }
  if (ready) {
    asio::co_spawn(server_.io, ReadAll(), asio::detached);
    bool more = true;
    while (more && !killed_ && !(server_.draining && Input().empty())) {
      idle_ = true;
      more = co_await Request();
      idle_ = false;
    }
    co_await Linger();
  }
  Kill();
  server_.connections.erase(self);
  server_.open.fetch_sub(1);
  server_.room.cancel();
}

// --- Server -------------------------------------------------------------------------------------

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

// --- Small things -------------------------------------------------------------------------------

std::string_view Find(const Headers& headers, std::string_view name) {
  for (const auto& [field, value] : headers) {
    if (field == name) return value;
  }
  return {};
}

std::string_view HttpRequest::Header(std::string_view name) const { return Find(headers, name); }
std::string_view HttpRequest::Param(std::string_view name) const { return Find(params, name); }
std::string_view HttpRequest::Query(std::string_view name) const { return Find(query, name); }

std::optional<std::string> PercentDecode(std::string_view text, bool form) {
  std::string decoded;
  for (size_t at = 0; at < text.size(); ++at) {
    if (text[at] == '%') {
      if (at + 2 >= text.size()) return std::nullopt;
      const int high = HexDigit(text[at + 1]);
      const int low = HexDigit(text[at + 2]);
      if (high < 0 || low < 0) return std::nullopt;
      decoded += static_cast<char>(high * 16 + low);
      at += 2;
    } else {
      decoded += form && text[at] == '+' ? ' ' : text[at];
    }
  }
  return decoded;
}

const char* StatusText(int status) {
  switch (status) {
    case 200:
      return "OK";
    case 202:
      return "Accepted";
    case 204:
      return "No Content";
    case 304:
      return "Not Modified";
    case 400:
      return "Bad Request";
    case 401:
      return "Unauthorized";
    case 403:
      return "Forbidden";
    case 404:
      return "Not Found";
    case 405:
      return "Method Not Allowed";
    case 408:
      return "Request Timeout";
    case 409:
      return "Conflict";
    case 413:
      return "Payload Too Large";
    case 415:
      return "Unsupported Media Type";
    case 421:
      return "Misdirected Request";
    case 429:
      return "Too Many Requests";
    case 431:
      return "Request Header Fields Too Large";
    case 499:
      return "Client Closed Request";
    case 500:
      return "Internal Server Error";
    case 501:
      return "Not Implemented";
    case 503:
      return "Service Unavailable";
    case 505:
      return "HTTP Version Not Supported";
    default:
      return "Unknown";
  }
}

}  // namespace winnow::server
