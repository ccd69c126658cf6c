// winnow generate: one prompt, one answer.
#include <fmt/format.h>
#include <unistd.h>

#include <cstdio>

#include "base/file.h"
#include "commands.h"
#include "options.h"
#include "report.h"
#include "terminal.h"

namespace winnow::apps {
namespace {

constexpr int64_t kMaxPromptBytes = int64_t{1} << 30;

struct GenerateOptions {
  EngineOptions engine;
  Request request;
  std::string prompt;
  std::string prompt_file;
  std::string system;
  bool chat = false;
  bool json = false;
  bool quiet = false;
};

Result<std::string> ReadStandardInput() {
  std::string text;
  char buffer[1 << 16];
  size_t count;
  while ((count = std::fread(buffer, 1, sizeof(buffer), stdin)) > 0) {
    text.append(buffer, count);
    if (static_cast<int64_t>(text.size()) > kMaxPromptBytes) {
      return InvalidArgument("standard input: more than 1 GiB");
    }
  }
  return text;
}

// The file first, then the text: a document and a question about it.
Result<std::string> ReadPrompt(const GenerateOptions& options) {
  if (options.prompt.empty() && options.prompt_file.empty()) {
    if (isatty(STDIN_FILENO)) {
      fmt::print(stderr, "Reading the prompt from the terminal; Ctrl-D ends it.\n");
    }
    return ReadStandardInput();
  }
  std::string text;
  if (!options.prompt_file.empty()) {
    auto file = ReadFile(options.prompt_file, kMaxPromptBytes);
    if (!file.ok()) return file.error();
    text = std::move(*file);
    if (options.prompt.empty()) return text;
    while (!text.empty() && text.back() == '\n') text.pop_back();
    text += "\n\n";
  }
  return text + options.prompt;
}

json::array LogprobsJson(const std::vector<TokenLogprob>& tokens) {
  json::array array;
  for (const TokenLogprob& token : tokens) {
    array.push_back(json::object{{"token_id", token.token_id}, {"logprob", token.logprob}});
  }
  return array;
}

struct Answer {
  std::string text;
  std::vector<int32_t> token_ids;
  json::array logprobs;
  FinishReason finish = FinishReason::kNone;
  Receipt receipt;
};

void PrintAnswerJson(const Answer& answer) {
  json::object object = {{"text", answer.text},
                         {"token_ids", json::value_from(answer.token_ids)},
                         {"finish_reason", Name(answer.finish)},
                         {"receipt", ReceiptJson(answer.receipt)}};
  if (!answer.logprobs.empty()) object["logprobs"] = answer.logprobs;
  fmt::print("{}\n", json::serialize(object));
}

Result<Answer> Run(Stream& stream, bool stream_text) {
  Answer answer;
  ProgressBar bar("reading");
  CancelOnInterrupt interrupt(stream);
  for (;;) {
    auto next = stream.Next();
    if (!next.ok()) return next.error();
    if (!*next) return answer;
    const Chunk& chunk = **next;
    if (chunk.token_ids.empty() && chunk.finish == FinishReason::kNone) {
      bar.Show(
          static_cast<double>(chunk.prefilled) / static_cast<double>(chunk.prompt_tokens),
          fmt::format("{} of {} tokens", Grouped(chunk.prefilled), Grouped(chunk.prompt_tokens)));
      continue;
    }
    bar.Clear();
    answer.text += chunk.text;
    answer.token_ids.insert(answer.token_ids.end(), chunk.token_ids.begin(), chunk.token_ids.end());
    for (const TokenDetail& detail : chunk.details) {
      answer.logprobs.push_back(json::object{{"token_id", detail.chosen.token_id},
                                             {"logprob", detail.chosen.logprob},
                                             {"top", LogprobsJson(detail.top)}});
    }
    answer.finish = chunk.finish;
    answer.receipt = chunk.receipt;
    if (stream_text) {
      std::fwrite(chunk.text.data(), 1, chunk.text.size(), stdout);
      std::fflush(stdout);
    }
  }
}

// One token, step 1 of 9. From main() in winnow.cc; next: Engine::Submit() in engine.cc.
int Generate(GenerateOptions options) {
  auto prompt = ReadPrompt(options);
  if (!prompt.ok()) return Report(prompt.error());
  if (options.chat) {
    if (!options.system.empty())
      options.request.messages.push_back({.role = "system", .content = options.system});
    options.request.messages.push_back({.role = "user", .content = std::move(*prompt)});
  } else {
    options.request.prompt = std::move(*prompt);
    if (options.request.prompt.empty()) return Report(InvalidArgument("prompt: it is empty"));
  }
  auto engine = LoadEngine(options.engine);
  if (!engine.ok()) return Report(engine.error());
  auto stream = engine->Submit(options.request);
  if (!stream.ok()) return Report(stream.error());
  auto answer = Run(*stream, !options.json);
  if (!answer.ok()) return Report(answer.error());
  if (options.json) {
    PrintAnswerJson(*answer);
  } else {
    fmt::print("\n");
    if (!options.quiet) fmt::print(stderr, "\n{}", ReceiptText(answer->receipt));
  }
  return answer->finish == FinishReason::kCancelled ? kInterrupted : 0;
}

}  // namespace

void AddGenerate(CLI::App& app, int* exit_code) {
  auto options = std::make_shared<GenerateOptions>();
  CLI::App* command = app.add_subcommand("generate", "Answers one prompt");
  AddModelArgument(*command, &options->engine.model_dir);
  command
      ->add_option("--prompt", options->prompt,
                   "The prompt; after the file's text if both are given")
      ->type_name("TEXT");
  command->add_option("--prompt-file", options->prompt_file, "A file with the prompt")
      ->type_name("FILE");
  command->add_flag("--chat", options->chat,
                    "Make the prompt one user message in the model's chat format");
  command->add_option("--system", options->system, "A system message before it (with --chat)")
      ->type_name("TEXT");
  command->add_flag("--thinking", options->request.thinking,
                    "Let the model reason first (with --chat)");
  command->add_option("--max-tokens", options->request.max_tokens, "The longest answer")
      ->type_name("N")
      ->capture_default_str();
  command->add_option("--stop", options->request.stop, "A text that ends the answer; repeatable")
      ->type_name("TEXT")
      ->expected(1)
      ->take_all();
  command->add_flag("--special-tokens", options->request.allow_special_tokens,
                    "Read markers such as <｜User｜> in the prompt as tokens (without --chat)");
  command
      ->add_option("--logprobs", options->request.logprobs,
                   "Log probabilities of each token and its N rivals (with --json)")
      ->type_name("N");
  command->add_flag("--json", options->json, "Print answer and receipt as one JSON object");
  command->add_flag("--quiet", options->quiet, "No receipt");
  AddContextOption(*command, &options->engine.max_context);
  AddSamplingOptions(*command, &options->request.sampling);
  AddEngineOptions(*command, &options->engine);
  command->callback([options, exit_code] { *exit_code = Generate(*options); });
}

}  // namespace winnow::apps
