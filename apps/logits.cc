// winnow logits: every logit and selection of a sequence, for checking Winnow from outside.
#include <fmt/format.h>

#include "base/json.h"
#include "commands.h"
#include "options.h"
#include "terminal.h"

namespace winnow::apps {
namespace {

constexpr int64_t kMaxTokensBytes = int64_t{256} << 20;

struct LogitsOptions {
  EngineOptions engine;
  LogitsRequest request;
  std::string tokens_file;
};

Result<std::vector<int32_t>> ReadTokens(const std::string& path) {
  auto value = ReadJsonFile(path, kMaxTokensBytes);
  if (!value.ok()) return value.error();
  const json::array* array = value->if_array();
  if (array == nullptr) {
    return InvalidArgument(
        fmt::format("{}: {}, expected an array of token ids", path, JsonKindName(*value)));
  }
  std::vector<int32_t> tokens;
  for (const json::value& element : *array) {
    const int64_t* id = element.if_int64();
    if (id == nullptr || *id < 0 || *id > INT32_MAX) {
      return InvalidArgument(fmt::format("{}: element {} is not a token id", path, tokens.size()));
    }
    tokens.push_back(static_cast<int32_t>(*id));
  }
  return tokens;
}

int Logits(LogitsOptions options) {
  auto tokens = ReadTokens(options.tokens_file);
  if (!tokens.ok()) return Report(tokens.error());
  options.request.token_ids = std::move(*tokens);
  auto engine = LoadEngine(options.engine);
  if (!engine.ok()) return Report(engine.error());
  ProgressBar bar("running");
  const Status status =
      engine->WriteLogits(options.request, [&bar](double fraction) { bar.Show(fraction); });
  bar.Clear();
  return status.ok() ? 0 : Report(status);
}

}  // namespace

void AddLogits(CLI::App& app, int* exit_code) {
  auto options = std::make_shared<LogitsOptions>();
  // This command checks the engine: everything is exact unless asked otherwise.
  options->engine.precision = Precision::kF32;
  options->engine.kv_cache = LatentType::kF32;
  options->engine.index_keys = IndexKeyType::kF32;
  CLI::App* command = app.add_subcommand(
      "logits", "Writes the logits of every position, and what each layer selected");
  AddModelArgument(*command, &options->engine.model_dir);
  command->add_option("--tokens", options->tokens_file, "A JSON array of token ids")
      ->required()
      ->type_name("IDS.json");
  command
      ->add_option("--out", options->request.out,
                   "The safetensors file to write: logits F32 [T, vocab_size]")
      ->required()
      ->type_name("OUT.safetensors");
  command->add_flag("--selection", options->request.selection,
                    "Also selected.<layer> I32 [T, index_topk], ascending, padded with -1");
  AddContextOption(*command, &options->engine.max_context);
  AddEngineOptions(*command, &options->engine);
  command->callback([options, exit_code] { *exit_code = Logits(*options); });
}

}  // namespace winnow::apps
