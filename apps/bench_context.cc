// winnow bench context: speed at growing context, sparse beside dense.
#include <fmt/format.h>

#include "base/json.h"
#include "bench_commands.h"
#include "options.h"
#include "terminal.h"

namespace winnow::apps {
namespace {

struct BenchOptions {
  EngineOptions engine;
  std::vector<int64_t> frontiers = {1024, 2048, 4096, 8192, 16384, 32768};
  int64_t decode = 32;
  bool json = false;
};

struct Measurement {
  double prefill = 0.0;  // tokens a second between the frontier before and this one
  double decode = 0.0;   // tokens a second at the frontier
};

// Tokens that look like nothing in particular, the same in every run.
std::vector<int32_t> MakePrompt(int64_t length, int64_t vocab_size) {
  std::vector<int32_t> tokens;
  uint64_t state = 1;
  for (int64_t token = 0; token < length; ++token) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    tokens.push_back(static_cast<int32_t>((state >> 33) % static_cast<uint64_t>(vocab_size)));
  }
  return tokens;
}

// Runs the prompt up to the frontier, of which all but the last stretch is in the cache, and
// decodes.
Result<Measurement> Measure(Engine& engine, std::vector<int32_t> prompt, int64_t decode) {
  Request request;
  request.token_ids = std::move(prompt);
  request.max_tokens = decode;
  request.ignore_eos = true;
  request.sampling.temperature = 0.0;
  auto stream = engine.Submit(request);
  if (!stream.ok()) return stream.error();
  CancelOnInterrupt interrupt(*stream);
  Receipt receipt;
  FinishReason finish = FinishReason::kNone;
  for (;;) {
    auto next = stream->Next();
    if (!next.ok()) return next.error();
    if (!*next) break;
    receipt = (*next)->receipt;
    finish = (*next)->finish;
  }
  if (finish == FinishReason::kCancelled) return Status(StatusCode::kCancelled, "interrupted");
  // The first token comes from the prompt's last step: one token fewer was decoded.
  return Measurement{static_cast<double>(receipt.computed_tokens) / receipt.prefill_seconds,
                     static_cast<double>(receipt.completion_tokens - 1) / receipt.decode_seconds};
}

struct Contender {
  AttentionMode mode;
  Engine engine;
};

Status RunFrontier(std::vector<Contender>& contenders, int64_t frontier,
                   const BenchOptions& options) {
  std::vector<Measurement> row;
  for (Contender& contender : contenders) {
    const ModelInfo& info = contender.engine.info();
    auto measured =
        Measure(contender.engine, MakePrompt(frontier, info.vocab_size), options.decode);
    if (!measured.ok()) return measured.error();
    row.push_back(*measured);
    if (options.json) {
      fmt::print("{}\n",
                 json::serialize(json::object{
                     {"name", fmt::format("context/s{}/{}", frontier, Name(contender.mode))},
                     {"prefill_tokens_per_second", measured->prefill},
                     {"decode_tokens_per_second", measured->decode},
                     {"backend", info.backend}}));
    }
  }
  if (!options.json) {
    fmt::print("{:>9} {:>13.0f} {:>13.0f} {:>7.2f} {:>13.1f} {:>13.1f} {:>7.2f}\n",
               Grouped(frontier), row[0].prefill, row[1].prefill, row[0].prefill / row[1].prefill,
               row[0].decode, row[1].decode, row[0].decode / row[1].decode);
  }
  std::fflush(stdout);
  return OkStatus();
}

Status BenchContext(const BenchOptions& options) {
  std::vector<Contender> contenders;
  for (const AttentionMode mode : {AttentionMode::kSparse, AttentionMode::kDense}) {
    EngineOptions engine = options.engine;
    engine.attention = mode;
    auto loaded = LoadEngine(engine);
    if (!loaded.ok()) return loaded.error();
    contenders.push_back({mode, std::move(*loaded)});
  }
  const ModelInfo& info = contenders[0].engine.info();
  if (!options.json) {
    fmt::print("{} on {}; tokens a second, sparse and dense in turn\n", options.engine.model_dir,
               info.backend);
    fmt::print("{:>9} {:>13} {:>13} {:>7} {:>13} {:>13} {:>7}\n", "context", "prefill", "dense",
               "ratio", "decode", "dense", "ratio");
  }
  for (int64_t frontier : options.frontiers) {
    frontier = std::min(frontier, info.max_context - options.decode);
    if (const Status status = RunFrontier(contenders, frontier, options); !status.ok()) {
      return status;
    }
  }
  return OkStatus();
}

}  // namespace

void AddBenchContext(CLI::App& bench, int* exit_code) {
  auto options = std::make_shared<BenchOptions>();
  CLI::App* command = bench.add_subcommand(
      "context",
      "Prefill and decode at growing context, sparse beside dense.\nPrefill is measured over the "
      "tokens between one context and the next.");
  AddModelArgument(*command, &options->engine.model_dir);
  command->add_option("--at", options->frontiers, "Contexts to measure at, ascending")
      ->type_name("N…")
      ->capture_default_str();
  command->add_option("--decode", options->decode, "Tokens decoded at each")
      ->type_name("N")
      ->check(CLI::Range(2, 100000))
      ->capture_default_str();
  command->add_flag("--json", options->json, "One JSON object a line");
  AddContextOption(*command, &options->engine.max_context);
  AddEngineOptions(*command, &options->engine);
  command->callback([options, exit_code] {
    const Status status = BenchContext(*options);
    *exit_code = status.ok() ? 0 : Report(status);
  });
}

}  // namespace winnow::apps
