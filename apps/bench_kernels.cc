// winnow bench kernels: every operation, held against what the machine can do.
#include <fmt/format.h>

#include "bench_commands.h"
#include "options.h"
#include "terminal.h"
#include "winnow/bench.h"

namespace winnow::apps {
namespace {

int RunBenchKernels(KernelBenchOptions options, bool json) {
  ProgressBar bar("measuring");
  options.progress = [&bar](double fraction, const std::string& note) { bar.Show(fraction, note); };
  const auto report = BenchKernels(options);
  bar.Clear();
  if (!report.ok()) return Report(report.error());
  fmt::print("{}", json ? report->json : report->table);
  return 0;
}

}  // namespace

void AddBenchKernels(CLI::App& bench, int* exit_code) {
  auto options = std::make_shared<KernelBenchOptions>();
  auto json = std::make_shared<bool>(false);
  CLI::App* command = bench.add_subcommand(
      "kernels",
      "Every operation at the shapes of DeepSeek-V3.2 and winnow-nano, each with its share of what "
      "the\nmachine can do: arithmetic and memory are measured in the same run "
      "(docs/benchmarks.md).\nNeeds no model, 3 GiB of memory and a few minutes.");
  command
      ->add_option("--only", options->only,
                   "Kernels whose name contains this, such as v32/select or fp8")
      ->type_name("TEXT");
  command->add_option("--seconds", options->seconds, "Time for each kernel, at least seven runs")
      ->type_name("S")
      ->capture_default_str();
  command->add_flag("--json", *json, "One JSON object a line");
  AddBackendOptions(*command, &options->backend, &options->device);
  command->add_option("--threads", options->num_threads, "Threads; 0: one for each core")
      ->type_name("N")
      ->capture_default_str();
  command
      ->add_option("--instruction-set", options->instruction_set,
                   "portable, avx2, avx512, avx512_bf16 or amx; default: the best there is")
      ->type_name("");
  command->callback([options, json, exit_code] { *exit_code = RunBenchKernels(*options, *json); });
}

}  // namespace winnow::apps
