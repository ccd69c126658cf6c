// winnow tokenize: a text as the token ids that `winnow logits` reads.
#include <fmt/format.h>

#include "base/file.h"
#include "base/json.h"
#include "commands.h"
#include "options.h"
#include "terminal.h"

namespace winnow::apps {
namespace {

constexpr int64_t kMaxTextBytes = int64_t{1} << 30;

struct TokenizeOptions {
  EngineOptions engine;
  std::string text;
  std::string text_file;
  bool special_tokens = false;
};

int Tokenize(TokenizeOptions options) {
  if (!options.text_file.empty()) {
    auto text = ReadFile(options.text_file, kMaxTextBytes);
    if (!text.ok()) return Report(text.error());
    options.text = std::move(*text);
  }
  auto engine = LoadEngine(options.engine);
  if (!engine.ok()) return Report(engine.error());
  const auto tokens = engine->Tokenize(options.text, options.special_tokens);
  if (!tokens.ok()) return Report(tokens.error());
  fmt::print("{}\n", json::serialize(json::value_from(*tokens)));
  return 0;
}

}  // namespace

void AddTokenize(CLI::App& app, int* exit_code) {
  auto options = std::make_shared<TokenizeOptions>();
  CLI::App* command =
      app.add_subcommand("tokenize", "Prints a text as a JSON array of token ids, for `logits`");
  AddModelArgument(*command, &options->engine.model_dir);
  auto* text = command->add_option("--prompt", options->text, "The text")->type_name("TEXT");
  command->add_option("--prompt-file", options->text_file, "A file with the text")
      ->type_name("FILE")
      ->excludes(text);
  command->add_flag("--special-tokens", options->special_tokens,
                    "Read markers such as <｜User｜> as tokens; without it they are plain text");
  command->callback([options, exit_code] { *exit_code = Tokenize(*options); });
}

}  // namespace winnow::apps
