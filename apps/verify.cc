// winnow verify: reference cases, and where Winnow deviates from them first.
#include <fmt/format.h>

#include "commands.h"
#include "options.h"
#include "terminal.h"

namespace winnow::apps {
namespace {

struct VerifyCommandOptions {
  VerifyOptions verify;
  std::vector<std::string> cases;
  bool verbose = false;
};

void PrintStages(const VerifyReport& report, bool all) {
  for (const VerifyStage& stage : report.stages) {
    if (!all && stage.passed) continue;
    fmt::print("  {:<22} {:>10.3g} (at most {:.3g}) {}\n", stage.name, stage.deviation,
               stage.tolerance, stage.passed ? "ok" : "DEVIATES");
    if (!all) return;  // what follows the first deviation only repeats it
  }
}

double Largest(const VerifyReport& report, const char* stage) {
  for (const VerifyStage& candidate : report.stages) {
    if (candidate.name == stage) return candidate.deviation;
  }
  return 0.0;
}

int VerifyCases(const VerifyCommandOptions& options) {
  int exit_code = 0;
  for (const std::string& folder : options.cases) {
    auto report = Verify(folder, options.verify);
    if (!report.ok()) {
      fmt::print("{}: ERROR\n", folder);
      exit_code = std::max(exit_code, Report(report.error()));
      continue;
    }
    if (report->passed) {
      fmt::print("{}: ok, {} stages, logits within {:.2g} of the standard deviation\n",
                 report->name, report->stages.size(), Largest(*report, "logits"));
    } else {
      fmt::print("{}: FAILED, first at {}\n", report->name, report->first_failure);
      exit_code = std::max(exit_code, 1);
    }
    if (!report->note.empty()) fmt::print("  note: {}\n", report->note);
    PrintStages(*report, options.verbose);
  }
  return exit_code;
}

}  // namespace

void AddVerify(CLI::App& app, int* exit_code) {
  auto options = std::make_shared<VerifyCommandOptions>();
  options->verify.engine.precision = Precision::kF32;
  options->verify.engine.kv_cache = LatentType::kF32;
  options->verify.engine.index_keys = IndexKeyType::kF32;
  CLI::App* command = app.add_subcommand(
      "verify",
      "Compares layers, selections, logits and tokens with a reference's (docs/verify.md)");
  command->add_option("CASE", options->cases, "Folders with a checkpoint and expected.safetensors")
      ->required()
      ->type_name("");
  command
      ->add_option("--tolerance", options->verify.logits_tolerance,
                   "Largest difference of logits, over their standard deviation")
      ->type_name("X")
      ->capture_default_str();
  command
      ->add_option("--hidden-tolerance", options->verify.hidden_tolerance,
                   "The same for layer outputs")
      ->type_name("X")
      ->capture_default_str();
  command->add_flag("--verbose", options->verbose, "Print every stage");
  AddEngineOptions(*command, &options->verify.engine);
  command->callback([options, exit_code] { *exit_code = VerifyCases(*options); });
}

}  // namespace winnow::apps
