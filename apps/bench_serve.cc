// winnow bench serve: what many clients at once get from a server.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <future>
#include <memory>
#include <optional>
#include <random>
#include <thread>

#include "base/check.h"
#include "base/json.h"
#include "bench_commands.h"
#include "event_client.h"
#include "options.h"
#include "terminal.h"
#include "winnow/server.h"

namespace winnow::apps {
namespace {

using Clock = std::chrono::steady_clock;

struct ServeBenchOptions {
  ServerOptions server;
  std::string url;
  std::string api_key;
  std::vector<int64_t> streams = {1, 8, 64};
  std::vector<int64_t> prompts = {1024};
  std::vector<std::string> sharing = {"own", "shared"};
  std::vector<std::string> caches = {"on", "off"};
  int64_t decode = 64;
  double window = 1.0;
  uint64_t seed = 1;
  bool json = false;
};

// What one client saw. Seconds since the benchmark's cell began.
struct Visit {
  Status status;
  double sent = 0;
  std::vector<double> tokens;  // when each arrived
};

struct Cell {
  std::string cache;
  int64_t prompt = 0;
  std::string sharing;
  int64_t streams = 0;
};

struct Figures {
  double first_median = 0, first_p99 = 0;      // seconds to the first token
  double between_median = 0, between_p99 = 0;  // seconds between tokens
  double prompt_rate = 0, answer_rate = 0;     // tokens a second, of all clients together
  double seconds = 0;
  int64_t failed = 0;
  std::string failure;
};

double Quantile(std::vector<double>& values, double part) {
  if (values.empty()) return 0;
  const size_t rank = static_cast<size_t>(part * static_cast<double>(values.size() - 1) + 0.5);
  std::nth_element(values.begin(), values.begin() + static_cast<int64_t>(rank), values.end());
  return values[rank];
}

// Prompts of random tokens. `shared` ones differ in their last sixteenth only.
class Prompts {
 public:
  Prompts(const Cell& cell, int64_t vocab_size, uint64_t seed)
      : random_(seed), cell_(cell), vocab_size_(vocab_size) {
    if (cell.sharing == "shared") Append(&common_, cell.prompt - cell.prompt / 16);
  }

  std::vector<int32_t> Next() {
    std::vector<int32_t> tokens = common_;
    Append(&tokens, cell_.prompt - static_cast<int64_t>(tokens.size()));
    return tokens;
  }

 private:
  void Append(std::vector<int32_t>* tokens, int64_t count) {
    for (int64_t token = 0; token < count; ++token) {
      tokens->push_back(static_cast<int32_t>(random_() % static_cast<uint64_t>(vocab_size_)));
    }
  }

  std::mt19937_64 random_;
  const Cell& cell_;
  int64_t vocab_size_;
  std::vector<int32_t> common_;
};

void MakeVisit(const Endpoint& endpoint, const ServeBenchOptions& options,
               std::vector<int32_t> prompt, double at, Clock::time_point start, Visit* visit) {
  std::this_thread::sleep_until(
      start + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(at)));
  const auto now = [&] { return std::chrono::duration<double>(Clock::now() - start).count(); };
  const json::object body = {{"prompt", json::value_from(prompt)},
                             {"max_tokens", options.decode},
                             {"temperature", 0},
                             {"ignore_eos", true},
                             {"return_token_ids", true},
                             {"stream", true}};
  visit->sent = now();
  visit->status = PostForEvents(
      endpoint, "/v1/completions", options.api_key, json::serialize(body),
      [&](const std::string& data) {
        if (data == "[DONE]") return;
        const auto event = ParseJson(data, "event");
        if (!event.ok()) return;
        const json::value* choices = event->get_object().if_contains("choices");
        if (!choices || choices->get_array().empty()) return;
        const json::value* ids = choices->get_array()[0].get_object().if_contains("token_ids");
        if (!ids) return;
        visit->tokens.insert(visit->tokens.end(), ids->get_array().size(), now());
      });
}

// All clients arrive within the window, at random, whatever the server does meanwhile.
Figures RunCell(const Endpoint& endpoint, const ServeBenchOptions& options, const Cell& cell,
                int64_t vocab_size) {
  // Other prompts than in every other cell: what one leaves in the cache is of no use to the next.
  const std::string name =
      fmt::format("{} {} {} {}", options.seed, cell.prompt, cell.sharing, cell.streams);
  std::seed_seq seeds(name.begin(), name.end());
  std::mt19937_64 random(seeds);
  Prompts prompts(cell, vocab_size, random());
  std::vector<Visit> visits(static_cast<size_t>(cell.streams));
  std::vector<std::thread> clients;
  const Clock::time_point start = Clock::now();
  for (size_t index = 0; index < visits.size(); ++index) {
    const double at =
        index == 0 ? 0 : options.window * static_cast<double>(random() >> 11) * 0x1p-53;
    clients.emplace_back(MakeVisit, endpoint, options, prompts.Next(), at, start, &visits[index]);
  }
  for (std::thread& client : clients) client.join();

  Figures figures;
  std::vector<double> first, between;
  int64_t answered = 0;
  for (const Visit& visit : visits) {
    if (!visit.status.ok() || visit.tokens.empty()) {
      ++figures.failed;
      figures.failure = visit.status.ok() ? "an answer without tokens" : visit.status.message();
      continue;
    }
    first.push_back(visit.tokens.front() - visit.sent);
    for (size_t token = 1; token < visit.tokens.size(); ++token) {
      between.push_back(visit.tokens[token] - visit.tokens[token - 1]);
    }
    answered += static_cast<int64_t>(visit.tokens.size());
    figures.seconds = std::max(figures.seconds, visit.tokens.back());
  }
  figures.first_median = Quantile(first, 0.5);
  figures.first_p99 = Quantile(first, 0.99);
  figures.between_median = Quantile(between, 0.5);
  figures.between_p99 = Quantile(between, 0.99);
  const int64_t served = cell.streams - figures.failed;
  if (served == 0) return figures;
  figures.prompt_rate = static_cast<double>(served * cell.prompt) / figures.seconds;
  figures.answer_rate = static_cast<double>(answered) / figures.seconds;
  return figures;
}

void PrintLoadHeader(const ServeBenchOptions& options, const std::string& backend) {
  fmt::print("{} on {}; {} tokens answered, clients arrive within {} s\n",
             options.server.engine.model_dir, backend, options.decode, options.window);
  fmt::print("{:>5} {:>8} {:>7} {:>7}  {:>10} {:>10}  {:>10} {:>10}  {:>10} {:>10} {:>8}\n",
             "cache", "prompt", "prompts", "clients", "first", "99 %", "between", "99 %",
             "prompt/s", "answer/s", "seconds");
}

void PrintLoad(const Cell& cell, const Figures& f) {
  fmt::print(
      "{:>5} {:>8} {:>7} {:>7}  {:>8.0f}ms {:>8.0f}ms  {:>8.1f}ms {:>8.1f}ms  {:>10.0f} {:>10.1f} "
      "{:>8.1f}\n",
      cell.cache, Grouped(cell.prompt), cell.sharing, cell.streams, 1e3 * f.first_median,
      1e3 * f.first_p99, 1e3 * f.between_median, 1e3 * f.between_p99, f.prompt_rate, f.answer_rate,
      f.seconds);
  if (f.failed > 0) fmt::print("      {} of the clients failed: {}\n", f.failed, f.failure);
  std::fflush(stdout);
}

void PrintLoadJson(const Cell& cell, const Figures& f) {
  const json::object line = {{"name", fmt::format("serve/cache-{}/p{}/{}/n{}", cell.cache,
                                                  cell.prompt, cell.sharing, cell.streams)},
                             {"first_token_seconds_median", f.first_median},
                             {"first_token_seconds_p99", f.first_p99},
                             {"between_tokens_seconds_median", f.between_median},
                             {"between_tokens_seconds_p99", f.between_p99},
                             {"prompt_tokens_per_second", f.prompt_rate},
                             {"answer_tokens_per_second", f.answer_rate},
                             {"seconds", f.seconds},
                             {"failed", f.failed}};
  fmt::print("{}\n", json::serialize(line));
  std::fflush(stdout);
}

int64_t RunCells(const ServeBenchOptions& options, const Endpoint& endpoint,
                 const std::string& cache, int64_t vocab_size) {
  int64_t failed = 0;
  for (const int64_t prompt : options.prompts) {
    for (const std::string& sharing : options.sharing) {
      for (const int64_t streams : options.streams) {
        const Cell cell{cache, prompt, sharing, streams};
        const Figures figures = RunCell(endpoint, options, cell, vocab_size);
        options.json ? PrintLoadJson(cell, figures) : PrintLoad(cell, figures);
        failed += figures.failed;
      }
    }
  }
  return failed;
}

// A server of our own for the time of `body`.
Status WithServer(const ServerOptions& options, const std::function<void(const Endpoint&)>& body) {
  WINNOW_ASSIGN(Server server, Server::Create(options));
  WINNOW_ASSIGN(const Endpoint endpoint, ParseEndpoint(server.address()));
  std::future<Status> ran = std::async(std::launch::async, [&] { return server.Run(); });
  while (!server.ready() &&
         ran.wait_for(std::chrono::milliseconds(10)) == std::future_status::timeout) {
  }
  if (server.ready()) body(endpoint);
  server.Stop();
  return ran.get();
}

Status BenchServe(ServeBenchOptions options, int64_t* failed) {
  std::optional<Endpoint> running;
  if (!options.url.empty()) {
    WINNOW_ASSIGN(running, ParseEndpoint(options.url));
  }
  int64_t vocab_size = 0;
  {
    WINNOW_ASSIGN(const Engine loaded, LoadEngine(options.server.engine));
    vocab_size = loaded.info().vocab_size;
    if (!options.json) PrintLoadHeader(options, loaded.info().backend);
  }
  if (running) {
    *failed += RunCells(options, *running, "its", vocab_size);
    return OkStatus();
  }
  for (const std::string& cache : options.caches) {
    options.server.engine.prefix_cache = cache == "on";
    WINNOW_TRY(WithServer(options.server, [&](const Endpoint& endpoint) {
      *failed += RunCells(options, endpoint, cache, vocab_size);
    }));
  }
  return OkStatus();
}

}  // namespace

void AddBenchServe(CLI::App& bench, int* exit_code) {
  auto options = std::make_shared<ServeBenchOptions>();
  options->server.port = 0;
  options->server.log_file = "/dev/null";
  options->server.engine.max_sequences = 64;
  CLI::App* command = bench.add_subcommand(
      "serve",
      "Many clients at once over HTTP: time to the first token, between tokens, and tokens a\n"
      "second. Clients come when they come (an open loop), not when the server has time.");
  AddModelArgument(*command, &options->server.engine.model_dir);
  command
      ->add_option("--url", options->url,
                   "A server that runs already, http://HOST:PORT; default: one of our own")
      ->type_name("URL");
  command->add_option("--api-key", options->api_key, "For --url")->type_name("KEY");
  AddSizesOption(*command, "--clients", &options->streams, "Clients that arrive together");
  AddSizesOption(*command, "--prompt-tokens", &options->prompts, "Lengths of prompts");
  for (const char* flag : {"--clients", "--prompt-tokens"}) {
    command->get_option(flag)->allow_extra_args(false);  // what follows may be MODEL
  }
  command
      ->add_option("--prompts", options->sharing,
                   "own: all different; shared: different in their last sixteenth only")
      ->type_name("")
      ->delimiter(',')
      ->allow_extra_args(false)
      ->check(CLI::IsMember({"own", "shared"}).description(""))
      ->capture_default_str();
  command->add_option("--prefix-cache", options->caches, "on, off, or both")
      ->type_name("")
      ->delimiter(',')
      ->allow_extra_args(false)
      ->check(CLI::IsMember({"on", "off"}).description(""))
      ->capture_default_str();
  command->add_option("--decode", options->decode, "Tokens of each answer")
      ->type_name("N")
      ->check(CLI::Range(1, 100000))
      ->capture_default_str();
  command->add_option("--window", options->window, "Seconds in which all clients arrive")
      ->type_name("S")
      ->check(CLI::Range(0.0, 3600.0).description(""))
      ->capture_default_str();
  command
      ->add_option("--max-sequences", options->server.engine.max_sequences,
                   "Requests that run together")
      ->type_name("N")
      ->check(CLI::Range(1, 4096).description(""))
      ->capture_default_str();
  AddSizeOption(*command, "--cache-tokens", &options->server.engine.cache_tokens,
                "Tokens that the cache holds; default: the context");
  command->add_flag("--json", options->json, "One JSON object a line");
  AddContextOption(*command, &options->server.engine.max_context);
  AddEngineOptions(*command, &options->server.engine);
  command->callback([options, exit_code] {
    int64_t failed = 0;
    const Status status = BenchServe(*options, &failed);
    *exit_code = !status.ok() ? Report(status) : failed > 0 ? 1 : 0;
  });
}

}  // namespace winnow::apps
