// HTTP/1.1 for one process: bytes in, requests out; answers at once or piece by piece.
//
// Only the files named http_* know Boost.Beast and Asio. One thread runs all connections as
// coroutines. It calls `admit` and `handle`, which must be quick; handlers that work hand over to
// other threads and answer through a Responder from there.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "winnow/status.h"

namespace winnow::server {

struct RequestRecord;

using Headers = std::vector<std::pair<std::string, std::string>>;

struct HttpRequest {
  std::string method;  // "GET"; empty if the request could not be read
  std::string path;    // as sent, without the query; begins with '/'
  Headers query;       // names and values, decoded
  Headers headers;     // names in lower case
  std::string body;
  std::string peer;  // "127.0.0.1:51234"
  bool tls = false;
  bool reserve = false;  // on a connection beyond max_connections

  // Filled by `admit`.
  std::string id;            // for logs; sent back as x-request-id
  std::string key;           // name of the API key
  Headers params;            // what the route's pattern matched
  Headers response_headers;  // go with whatever is answered
  size_t route = 0;
  int64_t max_body_bytes = 0;  // 0: as HttpOptions has it
  std::shared_ptr<RequestRecord> record;

  std::shared_ptr<void> body_share;  // of the memory for bodies; given back with the request

  // The value of a header (name in lower case), query field or pattern; empty if there is none.
  std::string_view Header(std::string_view name) const;
  std::string_view Param(std::string_view name) const;
  std::string_view Query(std::string_view name) const;
};

struct HttpResponse {
  int status = 200;
  std::string body;
  std::string content_type = "application/json";
  Headers headers;
  bool close = false;  // end the connection after this
};

// A body that comes into being. Its methods are called on the io thread, one at a time.
class Source {
 public:
  virtual ~Source() = default;
  // Appends what can be sent now, about 32 KiB at most, and whether anything follows. Called again
  // when that is written and the waker was called.
  virtual bool Pull(std::string* bytes) = 0;
  // Appends what to send after a while of silence; may append nothing.
  virtual void KeepAlive(std::string* bytes) = 0;
  // The server ends: what follows should be little.
  virtual void Cancel() {}
  // The client has gone, or the server ends: nothing is pulled after this.
  virtual void Abandon() = 0;
};

// An answer that comes as a whole, later. As Source.
class Later {
 public:
  virtual ~Later() = default;
  virtual std::optional<HttpResponse> Poll() = 0;
  virtual void Cancel() {}
  virtual void Abandon() = 0;
};

class Exchange;

// How a handler answers: exactly once, from any thread. A request whose Responders have all gone
// without an answer is answered with 500.
class Responder {
 public:
  explicit Responder(std::shared_ptr<Exchange> exchange);
  void Send(HttpResponse response) const;
  // `head` brings status and headers; its body is the beginning of what is sent.
  void Stream(HttpResponse head, std::shared_ptr<Source> source) const;
  void Wait(std::shared_ptr<Later> later) const;
  // To be called, from any thread, when a Source or Later given above may have something. Outlives
  // the connection, but not the server.
  std::function<void()> Waker() const;
  // Runs tasks on the io thread, from any thread; drops them when the server has ended.
  std::function<void(std::function<void()>)> Poster() const;
  // Whether the client has gone, so that work for it can be left out.
  bool gone() const;

 private:
  struct Ticket;
  std::shared_ptr<Ticket> ticket_;
};

struct HttpOptions {
  std::string host = "127.0.0.1";
  int port = 0;          // 0: a free one
  std::string tls_cert;  // PEM files; both or none
  std::string tls_key;
  int64_t max_connections = 1024;
  int64_t max_body_bytes = int64_t{8} << 20;
  int64_t max_header_bytes = int64_t{32} << 10;
  double idle_seconds = 75.0;       // between requests of a connection
  double header_seconds = 10.0;     // for a handshake, and for a header from its first byte
  double body_seconds = 20.0;       // for a body, and more for each byte that arrives
  double write_seconds = 30.0;      // for each 64 KiB
  double keep_alive_seconds = 5.0;  // of silence in a stream
};

// What becomes of requests.
struct HttpHooks {
  // Called when the header is read. A response refuses the request; its body is not read then.
  std::function<std::optional<HttpResponse>(HttpRequest*)> admit;
  std::function<void(HttpRequest, Responder)> handle;
  // The body of an error that arises here: 400, 408, 413, 431, 500, 503. `request` has what is
  // known of it; admit may not have seen it.
  std::function<HttpResponse(int status, const std::string& message, HttpRequest* request)> fail;
  // Called when a request is over, with the status that was sent (499 if the client left before
  // any was), the bytes of head and body, and whether the client got all of it. Of `request`,
  // method, path, id, key, peer and record are there.
  std::function<void(const HttpRequest& request, int status, int64_t bytes, bool complete)> done;
};

struct HttpCounts {
  int64_t open = 0;      // connections
  int64_t busy = 0;      // connections with a request that is not answered
  int64_t accepted = 0;  // since the start
  int64_t refused = 0;   // beyond max_connections
};

// Listens when made, serves while Run runs.
class HttpServer {
 public:
  struct State;  // http_connection.h

  // Binds and listens. kInvalidArgument or kUnavailable naming address, file or option.
  static Result<std::unique_ptr<HttpServer>> Create(const HttpOptions& options, HttpHooks hooks);
  ~HttpServer();

  int port() const;
  HttpCounts counts() const;

  // Serves until Stop. On the thread that becomes the io thread.
  void Run();

  // From any thread. Drain has connections end after their current answer; `drained` is called on
  // the io thread when none is busy, or when `seconds` have passed. To be called
  // once.
  void Drain(double seconds, std::function<void()> drained);
  // Cancels what connections wait for.
  void CancelAnswers();
  // Ends all connections, abandoning what they wait for; new ones are taken still.
  void EndConnections();
  // The same, and has Run return.
  void Stop();
  // Runs `task` on the io thread, or drops it if that has ended.
  void Post(std::function<void()> task);

 private:
  explicit HttpServer(std::shared_ptr<State> state);
  std::shared_ptr<State> state_;
};

// "%41+b" as "A b" (plus as space if `form`); an empty optional if it is malformed.
std::optional<std::string> PercentDecode(std::string_view text, bool form);

// Names and values of "a=1&b=2"; what cannot be decoded stays as it is.
Headers ParseQuery(std::string_view text);

// The value of a field of `headers`, empty if there is none.
std::string_view Find(const Headers& headers, std::string_view name);

// "Not Found"
const char* StatusText(int status);

}  // namespace winnow::server
