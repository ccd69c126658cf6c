// Writing answers, whole and in pieces.
#include <fmt/format.h>

#include <array>
#include <boost/asio/write.hpp>
#include <ctime>

#include "server/http_connection.h"

namespace winnow::server {
namespace {

constexpr size_t kWritePart = 64 << 10;  // bytes that write_seconds are for

std::string HttpDate() {
  const std::time_t now = std::time(nullptr);
  std::tm parts{};
  gmtime_r(&now, &parts);
  std::array<char, 64> text{};
  const size_t length =
      std::strftime(text.data(), text.size(), "%a, %d %b %Y %H:%M:%S GMT", &parts);
  return {text.data(), length};
}
// What a header's value must not contain, or a response would be two.
std::string WithoutLineEnds(std::string_view value) {
  std::string clean(value);
  std::erase_if(clean, [](unsigned char byte) { return byte < 0x20 || byte == 0x7f; });
  return clean;
}
}  // namespace

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

}  // namespace winnow::server
