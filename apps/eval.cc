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

void AddSeed(CLI::App& command, EvalOptions* options) {
  command.add_option("--seed", options->seed, "Same seed, same documents and samples")
      ->type_name("N")
      ->capture_default_str();
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

void AddNeedles(CLI::App& command, std::string* needles, int64_t* depths) {
  command.add_option("--needles", *needles, "Statements, questions and answers (docs/eval.md)")
      ->type_name("FILE.json")
      ->capture_default_str();
  command.add_option("--depths", *depths, "Statements in a document, evenly spaced")
      ->type_name("N")
      ->capture_default_str();
}

void AddNeedle(CLI::App& app, int* exit_code) {
  auto options = std::make_shared<NeedleOptions>();
  CLI::App* command = app.add_subcommand(
      "needle", "Facts found, absences admitted and passages quoted, by depth and length");
  AddEvalOptions(*command, &options->eval);
  AddNeedles(*command, &options->needles, &options->depths);
  AddSizesOption(*command, "--lengths", &options->lengths,
                 "Tokens that document, question and answer take together");
  command->add_option("--trials", options->trials, "Documents of each length")
      ->type_name("N")
      ->capture_default_str();
  auto attention = std::make_shared<std::string>("both");
  command->add_option("--attention", *attention, "What each token reads: sparse, dense, both")
      ->type_name("")
      ->check(CLI::IsMember({"sparse", "dense", "both"}))
      ->capture_default_str();
  AddSeed(*command, &options->eval);
  command->callback([options, attention, exit_code] {
    options->sparse = *attention != "dense";
    options->dense = *attention != "sparse";
    *exit_code = RunEvaluation(*options, EvaluateNeedle);
  });
}

void AddRecall(CLI::App& app, int* exit_code) {
  auto options = std::make_shared<RecallOptions>();
  CLI::App* command = app.add_subcommand(
      "recall", "What the indexer's selection keeps of dense attention, layer by layer");
  AddEvalOptions(*command, &options->eval);
  AddSizeOption(*command, "--length", &options->length, "Tokens of each text");
  command->add_option("--queries", options->queries, "Positions that are weighed, drawn at random")
      ->type_name("N")
      ->capture_default_str();
  AddSeed(*command, &options->eval);
  command->callback([options, exit_code] { *exit_code = RunEvaluation(*options, EvaluateRecall); });
}

void AddPolicies(CLI::App& app, int* exit_code) {
  auto options = std::make_shared<PoliciesOptions>();
  CLI::App* command = app.add_subcommand(
      "policies", "DSA beside other ways to choose as many tokens: perplexity and facts found");
  AddEvalOptions(*command, &options->eval);
  AddNeedles(*command, &options->needles, &options->depths);
  AddSizeOption(*command, "--length", &options->length, "Tokens of each text and of the document");
  AddSeed(*command, &options->eval);
  command->callback(
      [options, exit_code] { *exit_code = RunEvaluation(*options, EvaluatePolicies); });
}

}  // namespace

void AddEval(CLI::App& app, int* exit_code) {
  CLI::App* eval = app.add_subcommand(
      "eval", "Measures what sparse attention keeps: on your own text (docs/eval.md)");
  eval->require_subcommand(1);
  AddPerplexity(*eval, exit_code);
  AddNeedle(*eval, exit_code);
  AddRecall(*eval, exit_code);
  AddPolicies(*eval, exit_code);
}

}  // namespace winnow::apps
