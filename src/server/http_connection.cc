// Reading requests. http_answer.cc writes what is answered.
#include "server/http_connection.h"

#include <fmt/format.h>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/beast/http/error.hpp>

#include "base/text.h"

namespace winnow::server {
namespace {

namespace http = boost::beast::http;

constexpr size_t kIdleRead = 2 << 10;                // bytes of the buffer that waits for a request
constexpr double kBytesPerSecond = 8192.0;           // a body arrives at least so fast
constexpr int64_t kBodyMemory = int64_t{256} << 20;  // of all bodies; one may always have more
// A client that is refused in the middle of a body may finish sending it, or it would not read why.
constexpr double kLingerSeconds = 10.0;
constexpr double kLingerSilence = 1.0;
constexpr int64_t kLingerBytes = int64_t{256} << 20;

}  // namespace

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

// The status and message for a header that asks for what is not offered.
std::optional<std::pair<int, std::string>> Unmet(const HttpRequest& request) {
  const std::string_view expect = request.Header("expect");
  if (!expect.empty() && LowerAscii(expect) != "100-continue") {
    return {{417, fmt::format("header Expect: {}, expected 100-continue", Quoted(expect))}};
  }
  const std::string_view encoding = request.Header("content-encoding");
  if (!encoding.empty() && LowerAscii(encoding) != "identity") {
    return {{415, fmt::format("header Content-Encoding: {}, expected none", Quoted(encoding))}};
  }
  return std::nullopt;
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
    std::string name = LowerAscii({field.name_string().data(), field.name_string().size()});
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
  if (request->Header("content-length").find_first_not_of("0123456789") != std::string_view::npos) {
    return fmt::format("header Content-Length: {}, expected a number",
                       Quoted(request->Header("content-length")));
  }
  if (encodings > 0 && lengths > 0) {
    return "headers Content-Length and Transfer-Encoding: found both, expected one";
  }
  if (encodings > 0 &&
      (encodings > 1 || LowerAscii(request->Header("transfer-encoding")) != "chunked" ||
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
  if (const auto unmet = Unmet(request)) {
    std::string message = unmet->second;
    co_await Fail(unmet->first, std::move(message), std::move(request));
    co_return false;
  }
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
    if (LowerAscii(request.Header("expect")) == "100-continue" && Input().empty()) {
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

// Lets the client read what was sent before the connection is torn down under it.
Awaitable<void> Connection::Linger() {
  if (killed_) co_return;
  ErrorCode ignored;
  socket_.shutdown(tcp::socket::shutdown_send, ignored);
  in_body_ = true;
  const int64_t before = received_;
  const Clock::time_point end = In(kLingerSeconds);
  while (!eof_ && received_ - before < kLingerBytes) {
    Consume(Input().size());
    SetDeadline(kLingerSilence, /*polite=*/false);
    deadline_ = std::min(deadline_, end);
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
    while (more && !killed_ && !(server_.draining && served_ && Input().empty())) {
      idle_ = true;
      more = co_await Request();
      idle_ = false;
      served_ = true;
    }
    co_await Linger();
  }
  Kill();
  server_.connections.erase(self);
  server_.open.fetch_sub(1);
  server_.room.cancel();
}

}  // namespace winnow::server
