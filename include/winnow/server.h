// A model behind HTTP: the APIs of OpenAI and Anthropic, with a receipt for every answer.
// docs/serve.md describes the endpoints and every option.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "winnow/status.h"
#include "winnow/winnow.h"

namespace winnow {

struct ServerOptions {
  EngineOptions engine;
  // What clients call the model; the first is the one that is listed first. Empty: the folder's
  // name, which is accepted in any case.
  std::vector<std::string> served_model_names;

  std::string host = "127.0.0.1";
  int port = 8000;       // 0: a free one
  std::string tls_cert;  // PEM files; both or none
  std::string tls_key;
  // "KEY" or "NAME=KEY"; without any, everyone who can connect is served.
  std::vector<std::string> api_keys;
  std::string api_key_file;  // likewise, one a line
  // Values of Host and Origin that are accepted besides the server's own.
  std::vector<std::string> allowed_hosts;
  std::vector<std::string> allowed_origins;

  int64_t max_connections = 1024;
  int64_t max_body_bytes = int64_t{8} << 20;
  double idle_seconds = 75.0;       // between requests of a connection
  double header_seconds = 10.0;     // for a header to arrive
  double body_seconds = 20.0;       // for a body to arrive; more for a long one
  double write_seconds = 30.0;      // for a client to take 64 KiB
  double keep_alive_seconds = 5.0;  // of silence in a stream before a comment is sent
  double drain_seconds = 30.0;      // for running answers when the server is stopped
  int num_workers = 2;              // threads that parse, tokenize and submit

  std::optional<double> dollars_per_hour;  // of the machine, for receipts
  // A SQLite database that gets a row for each request that ran the model; empty: none.
  std::string ledger;
  // What keys may use: "KEY=AMOUNT UNIT/PERIOD", as in "alice=1000000 tokens/day". Units are tokens
  // and dollars; periods hour, day and month. The key "*" stands for those without a limit of their
  // own.
  std::vector<std::string> limits;

  // A folder for what clients upload to /v1/files and for the results of /v1/batches; made if it is
  // not there. Empty: the server has neither.
  std::string files;
  int64_t max_file_bytes = int64_t{64} << 20;   // of one that is uploaded
  int64_t max_files = 1000;                     // of each key
  int64_t max_stored_bytes = int64_t{1} << 30;  // of each key, when it uploads
  int64_t batch_concurrency = 0;  // generations of batches that run together; 0: half of all

  bool log_prompts = false;
  std::string log_file;       // a JSON object a line for each request; empty: standard error
  bool vllm_metrics = false;  // also under the names of vLLM
};

// Listens once it is made, and answers /health from the beginning of Run.
class Server {
 public:
  // Checks the options, reads keys and certificates, and listens. kInvalidArgument, kNotFound or
  // kUnavailable naming option, file or address.
  static Result<Server> Create(const ServerOptions& options);
  Server(Server&&) noexcept;
  Server& operator=(Server&&) noexcept;
  ~Server();

  // "http://127.0.0.1:8000"
  const std::string& address() const;
  // What the operator should know: an open door, for example. Lines of text.
  const std::vector<std::string>& warnings() const;

  // Loads the model and serves until Stop. An error of Engine::Load, or OK. To be called once.
  Status Run();

  // Refuses new requests, lets running answers end, for drain_seconds at most, and has Run return.
  // The second call ends them at once. From any thread or signal handler.
  void Stop();
  // Whether the model is loaded, so that Stop has something to wait for. As Stop.
  bool ready() const;

 private:
  struct State;
  explicit Server(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace winnow
