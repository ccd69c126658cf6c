// winnow eval: what sparse attention keeps of a model, measured on any text.
#include "winnow/eval.h"

#include <fmt/format.h>

#include "commands.h"
#include "options.h"
#include "terminal.h"

namespace winnow::apps {
namespace {

template <typename Options>
int RunEvaluation(Options options, Result<EvalReport> (*evaluate)(const Options&)) {
  ProgressBar bar("running");
  options.eval.progress = [&bar](double fraction, const std::string& note) {
    bar.Show(fraction, note);
  };
  const auto report = evaluate(options);
  bar.Clear();
  if (!report.ok()) return Report(report.error());
  fmt::print("{}", report->table);
  return 0;
}

// The options of every evaluation, in front of its own.
void AddEvalOptions(CLI::App& command, EvalOptions* options) {
  AddModelArgument(command, &options->engine.model_dir);
  command.add_option("--text", options->texts, "A text; repeatable")
      ->required()
      ->type_name("FILE")
      ->expected(1)
      ->take_all();
  command.add_option("--json", options->json, "Write the results to this file")
      ->type_name("OUT.json");
  command.add_option("--svg", options->svg, "Write a plot to this file")->type_name("OUT.svg");
  AddEngineOptions(command, &options->engine, /*attention=*/false);
}

void AddPerplexity(CLI::App& app, int* exit_code) {
  auto options = std::make_shared<PerplexityOptions>();
  CLI::App* command = app.add_subcommand(
      "perplexity", "Perplexity by position, dense and sparse side by side on the same tokens");
  AddEvalOptions(*command, &options->eval);
  AddSizeOption(*command, "--length", &options->length,
                "Tokens of a window; default: the text's, at most what the model was made for");
  command->callback(
      [options, exit_code] { *exit_code = RunEvaluation(*options, EvaluatePerplexity); });
}

}  // namespace

void AddEval(CLI::App& app, int* exit_code) {
  CLI::App* eval = app.add_subcommand(
      "eval", "Measures what sparse attention keeps: on your own text (docs/eval.md)");
  eval->require_subcommand(1);
  AddPerplexity(*eval, exit_code);
}

}  // namespace winnow::apps
