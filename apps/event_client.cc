#include "event_client.h"

#include <fmt/format.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#include <charconv>

#include "base/check.h"

namespace winnow::apps {
namespace {

constexpr size_t kMaxLine = 1 << 20;

class Connection {
 public:
  ~Connection() {
    if (socket_ >= 0) close(socket_);
  }

  Status Open(const Endpoint& endpoint) {
    addrinfo hints{};
    hints.ai_socktype = SOCK_STREAM;
    addrinfo* found = nullptr;
    const int error = getaddrinfo(endpoint.host.c_str(), endpoint.port.c_str(), &hints, &found);
    if (error != 0) return Unavailable(endpoint.host + ": " + gai_strerror(error));
    for (const addrinfo* each = found; each != nullptr && socket_ < 0; each = each->ai_next) {
      socket_ = socket(each->ai_family, each->ai_socktype, each->ai_protocol);
      if (socket_ >= 0 && connect(socket_, each->ai_addr, each->ai_addrlen) != 0) {
        close(socket_);
        socket_ = -1;
      }
    }
    freeaddrinfo(found);
    if (socket_ < 0) {
      return Unavailable(endpoint.host + ":" + endpoint.port + ": nobody answers there");
    }
    const int on = 1;
    setsockopt(socket_, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    return OkStatus();
  }

  Status Write(std::string_view bytes) {
    while (!bytes.empty()) {
      const ssize_t sent = send(socket_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (sent <= 0) return Unavailable("the server closed the connection");
      bytes.remove_prefix(static_cast<size_t>(sent));
    }
    return OkStatus();
  }

  // Up to and without the line end; false at the end of the connection.
  bool ReadLine(std::string* line) {
    for (;;) {
      const size_t end = held_.find('\n');
      if (end != std::string::npos) {
        *line = held_.substr(0, end);
        held_.erase(0, end + 1);
        if (!line->empty() && line->back() == '\r') line->pop_back();
        return true;
      }
      if (held_.size() > kMaxLine || !Fill()) return false;
    }
  }

  bool Read(size_t count, std::string* bytes) {
    while (held_.size() < count) {
      if (!Fill()) return false;
    }
    bytes->append(held_, 0, count);
    held_.erase(0, count);
    return true;
  }

  std::string Rest() {
    while (held_.size() < kMaxLine && Fill()) {
    }
    return std::move(held_);
  }

 private:
  bool Fill() {
    char buffer[16384];
    const ssize_t got = recv(socket_, buffer, sizeof(buffer), 0);
    if (got <= 0) return false;
    held_.append(buffer, static_cast<size_t>(got));
    return true;
  }

  int socket_ = -1;
  std::string held_;
};

// Calls `on_event` for the events that are whole and leaves the rest.
void TakeEvents(std::string* text, const std::function<void(const std::string&)>& on_event) {
  size_t begin = 0;
  for (size_t end; (end = text->find("\n\n", begin)) != std::string::npos; begin = end + 2) {
    constexpr std::string_view kData = "data: ";
    const size_t data = text->find(kData, begin);
    if (data < end) on_event(text->substr(data + kData.size(), end - data - kData.size()));
  }
  text->erase(0, begin);
}

// The chunked body of a stream.
Status ReadEvents(Connection& connection, const std::function<void(const std::string&)>& on_event) {
  std::string text;
  std::string line;
  while (connection.ReadLine(&line)) {
    size_t size = 0;
    std::from_chars(line.data(), line.data() + line.size(), size, 16);
    if (size == 0) return OkStatus();
    if (!connection.Read(size, &text) || !connection.ReadLine(&line)) break;
    TakeEvents(&text, on_event);
  }
  return Unavailable("the server broke off its answer");
}

}  // namespace

Result<Endpoint> ParseEndpoint(const std::string& url) {
  constexpr std::string_view kScheme = "http://";
  const size_t colon = url.rfind(':');
  if (!url.starts_with(kScheme) || colon < kScheme.size() || colon + 1 == url.size() ||
      url.find('/', kScheme.size()) != std::string::npos) {
    return InvalidArgument("url: \"" + url + "\", expected http://HOST:PORT");
  }
  return Endpoint{url.substr(kScheme.size(), colon - kScheme.size()), url.substr(colon + 1)};
}

Status PostForEvents(const Endpoint& endpoint, const std::string& path, const std::string& key,
                     const std::string& body,
                     const std::function<void(const std::string&)>& on_event) {
  Connection connection;
  WINNOW_TRY(connection.Open(endpoint));
  const std::string authorization = key.empty() ? "" : "Authorization: Bearer " + key + "\r\n";
  WINNOW_TRY(connection.Write(
      fmt::format("POST {} HTTP/1.1\r\nHost: {}:{}\r\n{}Content-Type: application/json\r\n"
                  "Connection: close\r\nContent-Length: {}\r\n\r\n",
                  path, endpoint.host, endpoint.port, authorization, body.size()) +
      body));
  std::string status_line;
  if (!connection.ReadLine(&status_line)) return Unavailable("the server gives no answer");
  std::string line;
  while (connection.ReadLine(&line) && !line.empty()) {
  }
  if (!status_line.starts_with("HTTP/1.1 200")) {
    return Internal(status_line + ": " + connection.Rest());
  }
  return ReadEvents(connection, on_event);
}

}  // namespace winnow::apps
