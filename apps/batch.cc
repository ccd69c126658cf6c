// winnow batch: requests from a file, results into another.
#include "winnow/batch.h"

#include <fmt/format.h>
#include <signal.h>

#include <algorithm>
#include <atomic>

#include "base/json.h"
#include "commands.h"
#include "options.h"
#include "report.h"
#include "terminal.h"

namespace winnow::apps {
namespace {

struct BatchCommand {
  BatchOptions batch;
  bool json = false;
};

std::atomic<Batch*> g_batch{nullptr};

void OnBatchInterrupt(int) {
  if (Batch* batch = g_batch.load()) batch->Stop();
}

// While this lives, the first Ctrl-C or SIGTERM stops `batch` and the second ends the process.
class StopOnInterrupt {
 public:
  explicit StopOnInterrupt(Batch* batch) {
    g_batch.store(batch);
    struct sigaction action = {};
    action.sa_handler = OnBatchInterrupt;
    action.sa_flags = static_cast<int>(SA_RESETHAND | SA_RESTART);
    sigaction(SIGINT, &action, nullptr);
    sigaction(SIGTERM, &action, nullptr);
  }
  ~StopOnInterrupt() {
    signal(SIGINT, SIG_DFL);
    signal(SIGTERM, SIG_DFL);
    g_batch.store(nullptr);
  }
};

int64_t NumDone(const BatchSummary& summary) {
  return summary.done_before + summary.answered + summary.refused;
}

void Show(const BatchSummary& summary, ProgressBar* bar) {
  const int64_t here = summary.answered + summary.refused;
  const int64_t left = summary.requests - NumDone(summary);
  std::string note =
      fmt::format("{} of {} requests", Grouped(NumDone(summary)), Grouped(summary.requests));
  if (here > 0 && left > 0) {
    note += fmt::format(", {:.0f} s left",
                        summary.seconds / static_cast<double>(here) * static_cast<double>(left));
  }
  bar->Show(static_cast<double>(NumDone(summary)) / static_cast<double>(summary.requests), note);
}

std::string SummaryText(const BatchSummary& s, bool priced) {
  std::string text = fmt::format("requests  {} answered", Grouped(s.answered));
  if (s.refused > 0) text += fmt::format(", {} refused", Grouped(s.refused));
  if (s.done_before > 0) text += fmt::format(", {} done before", Grouped(s.done_before));
  if (s.interrupted > 0) text += fmt::format(", {} interrupted", Grouped(s.interrupted));
  text += fmt::format("; {} of {} are done\n", Grouped(NumDone(s)), Grouped(s.requests));
  const Receipt& r = s.receipt;
  text +=
      fmt::format("tokens    {} of prompts, {} of them cached; {} of answers\n",
                  Grouped(r.prompt_tokens), Grouped(r.cached_tokens), Grouped(r.completion_tokens));
  const double machine = r.prefill.seconds + r.decode.seconds;
  const double dense = r.prefill.dense_seconds + r.decode.dense_seconds;
  text += fmt::format("seconds   {:.1f} passed, {:.1f} of the machine", s.seconds, machine);
  if (dense > 0) text += fmt::format("; dense attention: {:.1f} (modelled)", dense);
  text += "\n";
  if (priced) {
    text += fmt::format("dollars   {:.6f}", s.dollars);
    if (s.dense_dollars > 0) {
      text += fmt::format("; dense attention: {:.6f} (modelled)", s.dense_dollars);
    }
    text += "\n";
  }
  return text;
}

json::object SummaryJson(const BatchSummary& s, bool priced) {
  const Receipt& r = s.receipt;
  json::object object = {
      {"requests", s.requests},
      {"done_before", s.done_before},
      {"answered", s.answered},
      {"refused", s.refused},
      {"interrupted", s.interrupted},
      {"seconds", s.seconds},
      {"machine_seconds", r.prefill.seconds + r.decode.seconds},
      {"dense_seconds_modelled", r.prefill.dense_seconds + r.decode.dense_seconds},
      {"receipt", ReceiptJson(r)}};
  if (priced) {
    object["dollars"] = s.dollars;
    object["dense_dollars_modelled"] = s.dense_dollars;
  }
  return object;
}

// What a person needs to know beside the numbers: how to go on, where to look.
void PrintAdvice(const BatchOptions& options, const BatchSummary& summary) {
  if (NumDone(summary) < summary.requests) {
    fmt::print(stderr,
               "The same command goes on from here: {} has every result so far, and no request "
               "runs twice.\n",
               options.output);
  } else if (summary.refused > 0) {
    fmt::print(stderr, "Why requests were refused is in {}, where status_code is not 200.\n",
               options.output);
  }
}

int RunBatchCommand(BatchCommand command) {
  EngineOptions& engine_options = command.batch.engine;
  // A file that grows beyond what is allowed is an error of the write.
  signal(SIGXFSZ, SIG_IGN);
  auto batch = Batch::Open(command.batch);
  if (!batch.ok()) return Report(batch.error());
  const bool priced = command.batch.dollars_per_hour.has_value();
  Status status;
  if (batch->summary().done_before < batch->summary().requests) {
    engine_options.max_queue = std::max(
        {engine_options.max_queue, engine_options.max_sequences, command.batch.concurrency});
    auto engine = LoadEngine(engine_options);
    if (!engine.ok()) return Report(engine.error());
    ProgressBar bar("batch");
    StopOnInterrupt stop(&*batch);
    status = batch->Run(*engine, [&bar](const BatchSummary& summary) { Show(summary, &bar); });
  }
  const BatchSummary& summary = batch->summary();
  if (command.json) {
    fmt::print("{}\n", json::serialize(SummaryJson(summary, priced)));
  } else {
    fmt::print(stderr, "{}", SummaryText(summary, priced));
  }
  PrintAdvice(command.batch, summary);
  return status.ok() ? 0 : Report(status);
}

}  // namespace

void AddBatch(CLI::App& app, int* exit_code) {
  auto options = std::make_shared<BatchCommand>();
  BatchOptions& batch = options->batch;
  batch.engine.measure_rates = true;
  batch.engine.cache_tokens = -1;
  CLI::App* command = app.add_subcommand(
      "batch", "Runs requests from a file in OpenAI's batch format; goes on after a kill");
  AddModelArgument(*command, &batch.engine.model_dir);
  command->add_option("IN", batch.input, "Requests, a JSON object a line")
      ->required()
      ->type_name("");
  command
      ->add_option("OUT", batch.output,
                   "Results are appended here as they come; those it has are not run again")
      ->required()
      ->type_name("");
  command
      ->add_option("--concurrency", batch.concurrency,
                   "Generations that run together; default: --max-sequences")
      ->type_name("N")
      ->check(CLI::Range(1, 65536).description(""));
  command
      ->add_option("--max-sequences", batch.engine.max_sequences,
                   "Generations that the engine runs together")
      ->type_name("N")
      ->check(CLI::Range(1, 65536).description(""))
      ->capture_default_str();
  AddSizeOption(
      *command, "--cache-tokens", &batch.engine.cache_tokens,
      "Tokens the cache holds, of all requests; default: four contexts, or less where memory "
      "is short");
  command
      ->add_option("--served-model-name", batch.served_model_names,
                   "What \"model\" may be in requests; repeatable; default: the folder's name")
      ->type_name("NAME")
      ->expected(1)
      ->take_all();
  command
      ->add_option("--price", batch.dollars_per_hour,
                   "Dollars that an hour of this machine costs, for receipts")
      ->type_name("X")
      ->check(CLI::Range(0.0, 1e9).description(""));
  command->add_flag("--json", options->json, "Print the summary as one JSON object");
  AddContextOption(*command, &batch.engine.max_context);
  AddEngineOptions(*command, &batch.engine);
  command->callback([options, exit_code] { *exit_code = RunBatchCommand(*options); });
}

}  // namespace winnow::apps
