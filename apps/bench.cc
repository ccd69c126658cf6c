// winnow bench: how fast a model runs, and how fast its operations could.
#include "bench_commands.h"
#include "commands.h"

namespace winnow::apps {

void AddBench(CLI::App& app, int* exit_code) {
  CLI::App* bench = app.add_subcommand("bench", "Measures speed");
  bench->require_subcommand(1);
  AddBenchContext(*bench, exit_code);
  AddBenchKernels(*bench, exit_code);
  AddBenchServe(*bench, exit_code);
  AddBenchThreads(*bench, exit_code);
}

}  // namespace winnow::apps
