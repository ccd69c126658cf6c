// winnow quantize: a model whose weights are integers of 8 or 4 bits.
#include <fmt/format.h>
#include <signal.h>

#include <atomic>

#include "commands.h"
#include "options.h"
#include "terminal.h"

namespace winnow::apps {
namespace {

std::atomic<bool> g_quantizing_interrupted{false};

// The first Ctrl-C ends the work and takes its files away, the second ends the process.
void InterruptQuantizing() {
  struct sigaction action = {};
  action.sa_handler = [](int) { g_quantizing_interrupted.store(true); };
  action.sa_flags = static_cast<int>(SA_RESETHAND | SA_RESTART);
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
}

int RunQuantize(QuantizeOptions options) {
  ProgressBar bar("quantizing");
  options.progress = [&bar](double fraction) {
    bar.Show(fraction);
    return !g_quantizing_interrupted.load();
  };
  InterruptQuantizing();
  const Status status = Quantize(options);
  bar.Clear();
  return status.ok() ? 0 : Report(status);
}

}  // namespace

void AddQuantize(CLI::App& app, int* exit_code) {
  auto options = std::make_shared<QuantizeOptions>();
  CLI::App* command = app.add_subcommand(
      "quantize", "Writes a model anew with weights of 8 or 4 bits (docs/weights.md)");
  AddModelArgument(*command, &options->model_dir);
  command->add_option("OUT", options->out_dir, "The folder to write; it must not exist")
      ->required()
      ->type_name("");
  AddWeightsOption(*command, &options->weights, {WeightType::kInt8, WeightType::kInt4},
                   "What matrices become");
  AddThreadsOption(*command, &options->num_threads);
  command->callback([options, exit_code] { *exit_code = RunQuantize(*options); });
}

}  // namespace winnow::apps
