// winnow eval: what sparse attention keeps of a model, measured on any text.
#include "winnow/eval.h"

#include <fmt/format.h>
#include <signal.h>

#include <atomic>

#include "commands.h"
#include "options.h"
#include "terminal.h"

namespace winnow::apps {
namespace {

std::atomic<bool> g_evaluation_interrupted{false};

// The first Ctrl-C ends the evaluation with the step at work, the second the process.
void InterruptEvaluations() {
  struct sigaction action = {};
  action.sa_handler = [](int) { g_evaluation_interrupted.store(true); };
  action.sa_flags = static_cast<int>(SA_RESETHAND | SA_RESTART);
  sigaction(SIGINT, &action, nullptr);
}

// `way_out` follows a notice that the evaluation will take long.
template <typename Options>
int RunEvaluation(Options options, Result<EvalReport> (*evaluate)(const Options&),
                  const char* way_out = "") {
  ProgressBar bar("running");
  options.eval.progress = [&bar](double fraction, const std::string& note) {
    bar.Show(fraction, note);
    return !g_evaluation_interrupted.load();
  };
  options.eval.notice = [&bar, way_out](const std::string& line) {
    bar.Clear();
    fmt::print(stderr, "winnow: {}{}\n", line, way_out);
  };
  InterruptEvaluations();
  const auto report = evaluate(options);
  bar.Clear();
  if (!report.ok()) return Report(report.error());
  fmt::print("{}", report->table);
  return 0;
}

void AddOutput(CLI::App& command, const std::string& flag, std::string* path,
               const std::string& type, const std::string& help) {
  const auto check = [](const std::string& word) {
    return word.empty() ? std::string("'', expected the name of a file") : std::string();
  };
  command.add_option(flag, *path, help)->type_name(type)->check(CLI::Validator(check, ""));
}

// The options of every evaluation, in front of its own.
void AddEvalOptions(CLI::App& command, EvalOptions* options) {
  AddModelArgument(command, &options->engine.model_dir);
  command.add_option("--text", options->texts, "A text; repeatable")
      ->required()
      ->type_name("FILE")
      ->expected(1)
      ->take_all();
  AddOutput(command, "--json", &options->json, "OUT.json", "Write the results to this file");
  AddOutput(command, "--svg", &options->svg, "OUT.svg", "Write a plot to this file");
  AddEngineOptions(command, &options->engine, /*attention=*/false);
}

void AddSeed(CLI::App& command, EvalOptions* options) {
  const auto check = [](const std::string& word) {
    return word.starts_with('-')
               ? fmt::format("'{}', expected a whole number from 0 to 18446744073709551615", word)
               : std::string();
  };
  command.add_option("--seed", options->seed, "Same seed, same documents and samples")
      ->check(CLI::Validator(check, ""))
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
  command->get_option("--lengths")->allow_extra_args(false);  // what follows may be MODEL
  command->add_option("--trials", options->trials, "Documents of each length")
      ->type_name("N")
      ->capture_default_str();
  auto attention = std::make_shared<std::string>("both");
  command->add_option("--attention", *attention, "What each token reads: sparse, dense, both")
      ->type_name("")
      ->check(CLI::IsMember({"sparse", "dense", "both"}).description(""))
      ->capture_default_str();
  AddSeed(*command, &options->eval);
  command->callback([options, attention, exit_code] {
    options->sparse = *attention != "dense";
    options->dense = *attention != "sparse";
    *exit_code = RunEvaluation(*options, EvaluateNeedle, "; --attention sparse leaves it out");
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

// What is wrong with a command line that names no evaluation, and the evaluations.
std::string NoEvaluation(const CLI::App& eval) {
  const std::vector<std::string> words = eval.remaining();
  std::string text = words.empty() ? "no evaluation is named" : "'" + words.front() + "'";
  text += ", expected one of";
  for (const CLI::App* evaluation : eval.get_subcommands([](const CLI::App*) { return true; })) {
    text += fmt::format("\n  {:<12}{}", evaluation->get_name(), evaluation->get_description());
  }
  return text;
}

}  // namespace

void AddEval(CLI::App& app, int* exit_code) {
  CLI::App* eval = app.add_subcommand(
      "eval", "Measures what sparse attention keeps: on your own text (docs/eval.md)");
  AddPerplexity(*eval, exit_code);
  AddNeedle(*eval, exit_code);
  AddRecall(*eval, exit_code);
  AddPolicies(*eval, exit_code);
  eval->require_subcommand(0, 1);
  eval->allow_extras();  // and name them
  eval->parse_complete_callback([eval] {
    if (eval->get_subcommands().empty() || !eval->remaining().empty()) {
      throw CLI::ValidationError("eval", NoEvaluation(*eval));
    }
  });
}

}  // namespace winnow::apps
