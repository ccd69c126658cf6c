// `winnow serve` as its clients meet it: the binary on a port of this machine, and a client that
// writes and reads plain bytes.
#pragma once

#include <arpa/inet.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "base/json.h"

namespace winnow {

// What a client gets back.
struct Reply {
  int status = 0;                              // 0: the connection ended before an answer
  std::map<std::string, std::string> headers;  // names in lower case
  std::string body;                            // without the framing of chunks

  json::object Json() const {
    auto value = ParseJson(body, "body");
    EXPECT_TRUE(value.ok()) << body;
    return value.ok() && value->is_object() ? value->as_object() : json::object();
  }
  std::string ErrorField(const char* name) const {
    const json::object object = Json();
    const json::value* error = object.if_contains("error");
    const json::value* field = error == nullptr ? nullptr : error->as_object().if_contains(name);
    return field != nullptr && field->is_string() ? std::string(field->as_string()) : std::string();
  }
};

using Deadline = std::chrono::steady_clock::time_point;

inline Deadline After(double seconds) {
  return std::chrono::steady_clock::now() +
         std::chrono::milliseconds(static_cast<int64_t>(seconds * 1000.0));
}

constexpr double kPatience = 30.0;  // seconds that a test waits for what must come

// Bytes of the process for each byte it uses: sanitizers keep books about all memory.
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
constexpr int64_t kShadow = 6;
#else
constexpr int64_t kShadow = 1;
#endif

class Client {
 public:
  explicit Client(int port, int receive_buffer = 0) {
    socket_ = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (receive_buffer > 0) {
      setsockopt(socket_, SOL_SOCKET, SO_RCVBUF, &receive_buffer, sizeof(receive_buffer));
    }
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<uint16_t>(port));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    connected_ = connect(socket_, reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0;
  }
  ~Client() { Close(); }
  Client(Client&& other) noexcept
      : socket_(other.socket_), connected_(other.connected_), input_(std::move(other.input_)) {
    other.socket_ = -1;
  }
  Client& operator=(Client&& other) noexcept {
    Close();
    socket_ = std::exchange(other.socket_, -1);
    connected_ = other.connected_;
    ended_ = other.ended_;
    input_ = std::move(other.input_);
    return *this;
  }

  bool connected() const { return connected_; }
  void Close() {
    if (socket_ >= 0) close(socket_);
    socket_ = -1;
  }

  // Whether all bytes went out.
  bool Send(const std::string& bytes) {
    for (size_t sent = 0; sent < bytes.size();) {
      const ssize_t count = send(socket_, bytes.data() + sent, bytes.size() - sent, MSG_NOSIGNAL);
      if (count <= 0) return false;
      sent += static_cast<size_t>(count);
    }
    return true;
  }

  // Reads until `input` has `text`; false at the end of the connection or of patience.
  bool ReadUntil(const std::string& text, double seconds = kPatience) {
    const Deadline deadline = After(seconds);
    while (input_.find(text) == std::string::npos) {
      if (!ReadMore(deadline)) return false;
    }
    return true;
  }
  // Whether the other side ends the connection in time.
  bool ReadToEnd(double seconds = kPatience) {
    const Deadline deadline = After(seconds);
    while (ReadMore(deadline)) {
    }
    return ended_;
  }
  const std::string& input() const { return input_; }

  // The next response, whole.
  Reply Read(bool head = false, double seconds = kPatience) {
    const Deadline deadline = After(seconds);
    Reply reply;
    size_t end;
    for (;;) {
      while ((end = input_.find("\r\n\r\n")) == std::string::npos) {
        if (!ReadMore(deadline)) return reply;
      }
      if (input_.rfind("HTTP/1.1 100", 0) != 0) break;
      input_.erase(0, end + 4);
    }
    ParseHead(input_.substr(0, end), &reply);
    input_.erase(0, end + 4);
    if (head || reply.status == 204) return reply;
    if (reply.headers.count("content-length") > 0) {
      const size_t length = std::stoul(reply.headers["content-length"]);
      while (input_.size() < length) {
        if (!ReadMore(deadline)) break;
      }
      reply.body = input_.substr(0, length);
      input_.erase(0, length);
    } else if (reply.headers["transfer-encoding"] == "chunked") {
      ReadChunks(deadline, &reply.body);
    } else {
      while (ReadMore(deadline)) {
      }
      reply.body = std::move(input_);
      input_.clear();
    }
    return reply;
  }

  Reply Get(const std::string& path, const std::string& headers = "") {
    Send("GET " + path + " HTTP/1.1\r\nHost: localhost\r\n" + headers + "\r\n");
    return Read();
  }
  Reply Post(const std::string& path, const std::string& body, const std::string& headers = "") {
    SendPost(path, body, headers);
    return Read();
  }
  void SendPost(const std::string& path, const std::string& body, const std::string& headers = "") {
    Send("POST " + path + " HTTP/1.1\r\nHost: localhost\r\nContent-Length: " +
         std::to_string(body.size()) + "\r\n" + headers + "\r\n" + body);
  }

 private:
  bool ReadMore(Deadline deadline) {
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(
        deadline - std::chrono::steady_clock::now());
    pollfd ready{socket_, POLLIN, 0};
    if (left.count() <= 0 || poll(&ready, 1, static_cast<int>(left.count())) <= 0) return false;
    char buffer[16384];
    const ssize_t count = recv(socket_, buffer, sizeof(buffer), 0);
    if (count <= 0) {
      ended_ = true;
      return false;
    }
    input_.append(buffer, static_cast<size_t>(count));
    return true;
  }

  void ReadChunks(Deadline deadline, std::string* body) {
    for (;;) {
      size_t line;
      while ((line = input_.find("\r\n")) == std::string::npos) {
        if (!ReadMore(deadline)) return;
      }
      const size_t size = std::stoul(input_.substr(0, line), nullptr, 16);
      while (input_.size() < line + 2 + size + 2) {
        if (!ReadMore(deadline)) return;
      }
      body->append(input_, line + 2, size);
      input_.erase(0, line + 2 + size + 2);
      if (size == 0) return;
    }
  }

  static void ParseHead(const std::string& head, Reply* reply) {
    if (head.size() > 12) reply->status = std::stoi(head.substr(9, 3));
    for (size_t at = head.find("\r\n"); at != std::string::npos;) {
      const size_t next = head.find("\r\n", at + 2);
      const std::string line = head.substr(at + 2, next - at - 2);
      const size_t colon = line.find(": ");
      std::string name = line.substr(0, colon);
      for (char& letter : name) letter = static_cast<char>(std::tolower(letter));
      if (colon != std::string::npos) reply->headers[name] = line.substr(colon + 2);
      at = next;
    }
  }

  int socket_ = -1;
  bool connected_ = false;
  bool ended_ = false;
  std::string input_;
};

// A running `winnow serve`. Ends it, if it still runs, without mercy.
class Serve {
 public:
  // `arguments` are what follows `winnow serve`. Waits until /health says that it is ready.
  // `open_files`: the most the process may have; 0: as it is.
  explicit Serve(std::vector<std::string> arguments, int open_files = 0) {
    int pipe_ends[2];
    EXPECT_EQ(pipe2(pipe_ends, O_CLOEXEC), 0);
    std::vector<std::string> words = {WINNOW_BINARY, "serve"};
    words.insert(words.end(), arguments.begin(), arguments.end());
    words.insert(words.end(), {"--port", "0"});
    process_ = fork();
    if (process_ == 0) {
      dup2(pipe_ends[1], STDERR_FILENO);
      if (open_files > 0) {
        const rlimit limit{static_cast<rlim_t>(open_files), static_cast<rlim_t>(open_files)};
        setrlimit(RLIMIT_NOFILE, &limit);
      }
      std::vector<char*> pointers;
      for (std::string& word : words) pointers.push_back(word.data());
      pointers.push_back(nullptr);
      execv(WINNOW_BINARY, pointers.data());
      _exit(127);
    }
    close(pipe_ends[1]);
    reader_ = std::thread([this, end = pipe_ends[0]] { ReadErrors(end); });
    const std::string mark = "listening on http";
    EXPECT_TRUE(Eventually([&] {
      return errors().find(mark) != std::string::npos ||
             errors().find("winnow: --") != std::string::npos;
    }));
    const std::string text = errors();
    const size_t at = text.find(mark);
    if (at == std::string::npos) return;
    const std::string line = text.substr(at, text.find('\n', at) - at);
    port_ = std::stoi(line.substr(line.rfind(':') + 1));
    if (line.find("https") != std::string::npos) return;
    EXPECT_TRUE(Eventually([&] { return Client(port_).Get("/health").status == 200; })) << text;
  }
  ~Serve() {
    if (process_ > 0) {
      kill(process_, SIGKILL);
      Wait();
    }
    reader_.join();
  }

  int port() const { return port_; }
  void Signal(int number) const { kill(process_, number); }
  // The exit code, or -1 if it did not end in time or not by itself.
  int Wait(double seconds = kPatience) {
    int status = 0;
    pid_t ended = 0;
    Eventually([&] { return (ended = waitpid(process_, &status, WNOHANG)) != 0; }, seconds);
    if (ended != process_) return -1;
    process_ = -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  }
  // What it has written to standard error.
  std::string errors() const {
    std::lock_guard<std::mutex> lock(mutex_);
    return errors_;
  }
  // The value of a line of /metrics.
  double Metric(const std::string& name) const {
    const std::string text = Client(port_).Get("/metrics").body;
    const size_t at = text.find("\n" + name + " ");
    return at == std::string::npos ? -1.0 : std::stod(text.substr(at + name.size() + 2));
  }
  // Bytes of memory that the process occupies.
  int64_t Memory() const {
    FILE* file = fopen(("/proc/" + std::to_string(process_) + "/statm").c_str(), "r");
    long total = 0;
    long resident = 0;
    if (file != nullptr) {
      if (fscanf(file, "%ld %ld", &total, &resident) != 2) resident = 0;
      fclose(file);
    }
    return static_cast<int64_t>(resident) * sysconf(_SC_PAGESIZE);
  }

  static bool Eventually(const std::function<bool()>& condition, double seconds = kPatience) {
    const Deadline deadline = After(seconds);
    while (!condition()) {
      if (std::chrono::steady_clock::now() > deadline) return false;
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    return true;
  }

 private:
  void ReadErrors(int end) {
    char buffer[4096];
    ssize_t count;
    while ((count = read(end, buffer, sizeof(buffer))) > 0) {
      std::lock_guard<std::mutex> lock(mutex_);
      errors_.append(buffer, static_cast<size_t>(count));
    }
    close(end);
  }

  pid_t process_ = -1;
  int port_ = 0;
  std::thread reader_;
  mutable std::mutex mutex_;
  std::string errors_;
};

}  // namespace winnow
