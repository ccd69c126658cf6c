// winnow serve: a model behind HTTP.
#include <fmt/format.h>
#include <malloc.h>
#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#include <atomic>

#include "commands.h"
#include "options.h"
#include "terminal.h"
#include "winnow/server.h"

namespace winnow::apps {
namespace {

std::atomic<Server*> g_server{nullptr};
std::atomic<int> g_signals{0};

// The first asks the server to end; the second, or one while there is nothing to end yet, ends the
// process.
void OnSignal(int) {
  Server* server = g_server.load();
  const int count = g_signals.fetch_add(1) + 1;
  if (server == nullptr || count > 2 || !server->ready()) _exit(kInterrupted);
  server->Stop();
}

void HandleSignals() {
  struct sigaction action = {};
  action.sa_handler = OnSignal;
  action.sa_flags = SA_RESTART;
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
  // A connection that is closed while it is written to is an error of the write.
  signal(SIGPIPE, SIG_IGN);
}

// As many connections as the system lets this process have.
void RaiseFileLimit() {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur == limit.rlim_max) return;
  limit.rlim_cur = std::min<rlim_t>(limit.rlim_max, 1 << 20);
  setrlimit(RLIMIT_NOFILE, &limit);
}

// Large blocks, such as the bodies of requests, go back to the system when they are freed; by
// itself the C library would keep what is often asked for.
void ReturnMemory() {
  mallopt(M_MMAP_THRESHOLD, 512 << 10);
  mallopt(M_TRIM_THRESHOLD, 4 << 20);
}

int Serve(const ServerOptions& options) {
  RaiseFileLimit();
  ReturnMemory();
  auto server = Server::Create(options);
  if (!server.ok()) return Report(server.error());
  g_server.store(&*server);
  HandleSignals();
  for (const std::string& warning : server->warnings()) {
    fmt::print(stderr, "winnow: warning: {}\n", warning);
  }
  fmt::print(stderr, "winnow: listening on {}\n", server->address());
  const Status status = server->Run();
  if (!status.ok()) return Report(status);
  return g_signals.load() > 1 ? kInterrupted : 0;
}

void AddNetworkOptions(CLI::App& command, ServerOptions* options) {
  const char* group = "Network";
  command.add_option("--host", options->host, "Address to listen on")
      ->type_name("NAME")
      ->capture_default_str()
      ->group(group);
  command.add_option("--port", options->port, "Port to listen on; 0: a free one")
      ->type_name("N")
      ->capture_default_str()
      ->group(group);
  command.add_option("--tls-cert", options->tls_cert, "Certificate chain (PEM), for HTTPS")
      ->type_name("FILE")
      ->group(group);
  command.add_option("--tls-key", options->tls_key, "Its private key (PEM)")
      ->type_name("FILE")
      ->group(group);
  command
      .add_option("--api-key", options->api_keys,
                  "A key that clients must show, as KEY or NAME=KEY; repeatable")
      ->type_name("KEY")
      ->expected(1)
      ->take_all()
      ->group(group);
  command.add_option("--api-key-file", options->api_key_file, "A file with such keys, one a line")
      ->type_name("FILE")
      ->group(group);
  command
      .add_option("--allowed-host", options->allowed_hosts,
                  "A value of the header Host that is accepted besides localhost; repeatable")
      ->type_name("NAME")
      ->expected(1)
      ->take_all()
      ->group(group);
  command
      .add_option("--allowed-origin", options->allowed_origins,
                  "A site whose pages may use the server, as https://NAME, or *; repeatable")
      ->type_name("ORIGIN")
      ->expected(1)
      ->take_all()
      ->group(group);
}

void AddSecondsOption(CLI::App& command, const std::string& flag, double* seconds,
                      const std::string& help) {
  command.add_option(flag, *seconds, help)
      ->type_name("S")
      ->check(CLI::Range(0.0, 1e6).description(""))
      ->capture_default_str()
      ->group("Limits");
}

void AddLimitOptions(CLI::App& command, ServerOptions* options) {
  const char* group = "Limits";
  command.add_option("--max-connections", options->max_connections, "Connections at a time")
      ->type_name("N")
      ->capture_default_str()
      ->group(group);
  command
      .add_option_function<int64_t>(
          "--max-body", [options](const int64_t& mib) { options->max_body_bytes = mib << 20; },
          "Largest body of a request in MiB")
      ->type_name("MIB")
      ->check(CLI::Range(1, 4096).description(""))
      ->default_str("8")
      ->group(group);
  command
      .add_option("--max-sequences", options->engine.max_sequences, "Generations that run together")
      ->type_name("N")
      ->check(CLI::Range(1, 65536).description(""))
      ->capture_default_str()
      ->group(group);
  command.add_option("--max-queue", options->engine.max_queue, "Generations that may wait")
      ->type_name("N")
      ->check(CLI::Range(1, 1 << 24).description(""))
      ->capture_default_str()
      ->group(group);
  command
      .add_option("--cache-tokens", options->engine.cache_tokens,
                  "Tokens the cache holds, of all requests; default: four contexts, or less where "
                  "memory is short")
      ->type_name("N")
      ->group(group);
  AddSecondsOption(command, "--header-seconds", &options->header_seconds,
                   "For the header of a request to arrive");
  AddSecondsOption(command, "--body-seconds", &options->body_seconds,
                   "For its body, and a second more for each 8 KiB");
  AddSecondsOption(command, "--write-seconds", &options->write_seconds,
                   "For a client to take 64 KiB");
  AddSecondsOption(command, "--idle-seconds", &options->idle_seconds,
                   "Between the requests of a connection");
  AddSecondsOption(command, "--comment-seconds", &options->keep_alive_seconds,
                   "Of silence in a stream before a comment is sent");
  AddSecondsOption(command, "--drain-seconds", &options->drain_seconds,
                   "For running answers to end after SIGTERM");
}

void AddFileOptions(CLI::App& command, ServerOptions* options) {
  const char* group = "Files and batches";
  const auto add_mebibytes = [&](const char* flag, int64_t* bytes, const char* help) {
    command
        .add_option_function<int64_t>(
            flag, [bytes](const int64_t& mib) { *bytes = mib << 20; }, help)
        ->type_name("MIB")
        ->check(CLI::Range(1, 1 << 20).description(""))
        ->default_str(std::to_string(*bytes >> 20))
        ->group(group);
  };
  command
      .add_option("--files", options->files,
                  "A folder for /v1/files and /v1/batches; without it there are none")
      ->type_name("DIR")
      ->group(group);
  add_mebibytes("--max-file", &options->max_file_bytes, "Largest file that is taken");
  command.add_option("--max-files", options->max_files, "Files that each key may have")
      ->type_name("N")
      ->check(CLI::Range(1, 1 << 30).description(""))
      ->capture_default_str()
      ->group(group);
  add_mebibytes("--max-storage", &options->max_stored_bytes,
                "Bytes of files that each key may have when it uploads one");
  command
      .add_option("--batch-concurrency", options->batch_concurrency,
                  "Generations of batches that run together; default: half of --max-sequences")
      ->type_name("N")
      ->check(CLI::Range(1, 65536).description(""))
      ->group(group);
}

}  // namespace

void AddServe(CLI::App& app, int* exit_code) {
  auto options = std::make_shared<ServerOptions>();
  options->engine.measure_rates = true;
  options->engine.cache_tokens = -1;
  CLI::App* command =
      app.add_subcommand("serve", "Serves a model over HTTP, as OpenAI's and Anthropic's APIs do");
  AddModelArgument(*command, &options->engine.model_dir);
  command
      ->add_option("--served-model-name", options->served_model_names,
                   "What clients call the model; repeatable; default: its folder's name")
      ->type_name("NAME")
      ->expected(1)
      ->take_all();
  command
      ->add_option("--price", options->dollars_per_hour,
                   "Dollars that an hour of this machine costs, for receipts")
      ->type_name("X")
      ->check(CLI::Range(0.0, 1e9).description(""));
  command
      ->add_option("--ledger", options->ledger,
                   "A SQLite database of what every request cost; read by `winnow usage`")
      ->type_name("FILE");
  command
      ->add_option("--limit", options->limits,
                   "What a key may use, as in \"alice=1000000 tokens/day\" or \"*=2.50 "
                   "dollars/month\"; repeatable")
      ->type_name("LIMIT")
      ->expected(1)
      ->take_all();
  command
      ->add_option("--log-file", options->log_file,
                   "Where each request is logged; default: standard error")
      ->type_name("FILE");
  command->add_flag("--log-prompts", options->log_prompts, "Log the text of requests as well");
  command->add_flag("--vllm-metrics", options->vllm_metrics,
                    "Give /metrics under the names of vLLM too");
  AddNetworkOptions(*command, options.get());
  AddLimitOptions(*command, options.get());
  AddFileOptions(*command, options.get());
  AddContextOption(*command, &options->engine.max_context);
  AddEngineOptions(*command, &options->engine);
  command->callback([options, exit_code] { *exit_code = Serve(*options); });
}

}  // namespace winnow::apps
