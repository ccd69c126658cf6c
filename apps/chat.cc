// winnow chat: a conversation at the terminal. The cache is kept between turns.
#include <fmt/format.h>
#include <unistd.h>

#include <iostream>

#include "base/file.h"
#include "commands.h"
#include "options.h"
#include "terminal.h"

namespace winnow::apps {
namespace {

constexpr int64_t kMaxDocumentBytes = int64_t{1} << 30;

struct ChatCommandOptions {
  EngineOptions engine;
  Request request;
  std::string document;
  std::string system;
};

double TokensPerSecond(int64_t tokens, double seconds) {
  return seconds > 0.0 ? static_cast<double>(tokens) / seconds : 0.0;
}

// One line after each answer: how fast, and how much of the context it read.
void PrintTurn(const Receipt& r) {
  fmt::print(
      stderr,
      "\n[{} new tokens of context at {:.0f} tokens/s, {} answered at {:.0f} tokens/s; read {} of "
      "{} rows]\n",
      Grouped(r.computed_tokens), TokensPerSecond(r.computed_tokens, r.prefill_seconds),
      Grouped(r.completion_tokens), TokensPerSecond(r.completion_tokens - 1, r.decode_seconds),
      Grouped(r.last_rows_read), Grouped(r.last_rows_dense));
}

// Runs one turn; the answer goes to standard output and into `answer`.
Status Turn(Engine& engine, const Request& request, std::string* answer) {
  auto stream = engine.Submit(request);
  if (!stream.ok()) return stream.error();
  ProgressBar bar("reading");
  CancelOnInterrupt interrupt(*stream);
  Receipt receipt;
  FinishReason finish = FinishReason::kNone;
  for (;;) {
    auto next = stream->Next();
    if (!next.ok()) return next.error();
    if (!*next) break;
    const Chunk& chunk = **next;
    if (chunk.token_ids.empty() && chunk.finish == FinishReason::kNone) {
      bar.Show(static_cast<double>(chunk.prefilled) / static_cast<double>(chunk.prompt_tokens));
      continue;
    }
    bar.Clear();
    *answer += chunk.text;
    std::cout << chunk.text << std::flush;
    receipt = chunk.receipt;
    finish = chunk.finish;
  }
  std::cout << std::endl;
  if (finish == FinishReason::kCancelled) return Status(StatusCode::kCancelled, "interrupted");
  PrintTurn(receipt);
  return OkStatus();
}

bool ReadLine(std::string* line) {
  if (isatty(STDIN_FILENO)) fmt::print(stderr, "\n> ");
  return static_cast<bool>(std::getline(std::cin, *line));
}

int Chat(const ChatCommandOptions& options) {
  std::string document;
  if (!options.document.empty()) {
    auto text = ReadFile(options.document, kMaxDocumentBytes);
    if (!text.ok()) return Report(text.error());
    document = std::move(*text);
    while (!document.empty() && document.back() == '\n') document.pop_back();
    document += "\n\n";
  }
  auto engine = LoadEngine(options.engine);
  if (!engine.ok()) return Report(engine.error());
  if (isatty(STDIN_FILENO)) {
    fmt::print(stderr, "{}, {}, context of {} tokens. /reset begins anew, /quit or Ctrl-D ends.\n",
               engine->info().model_type, engine->info().backend,
               Grouped(engine->info().max_context));
  }
  Request request = options.request;
  const auto reset = [&] {
    request.messages.clear();
    if (!options.system.empty())
      request.messages.push_back({.role = "system", .content = options.system});
  };
  reset();
  bool fresh = true;
  std::string line;
  while (ReadLine(&line)) {
    if (line == "/quit") break;
    if (line == "/reset") {
      reset();
      fresh = true;
      continue;
    }
    if (line.empty()) continue;
    request.messages.push_back({.role = "user", .content = fresh ? document + line : line});
    std::string answer;
    if (const Status status = Turn(*engine, request, &answer); !status.ok()) {
      // The turn did not happen; the conversation goes on without it.
      const int code = Report(status);
      if (!isatty(STDIN_FILENO)) return code;
      request.messages.pop_back();
      continue;
    }
    fresh = false;
    request.messages.push_back({.role = "assistant", .content = std::move(answer)});
  }
  return 0;
}

}  // namespace

void AddChat(CLI::App& app, int* exit_code) {
  auto options = std::make_shared<ChatCommandOptions>();
  CLI::App* command =
      app.add_subcommand("chat", "A conversation; each line of standard input is a turn");
  AddModelArgument(*command, &options->engine.model_dir);
  command
      ->add_option("--document", options->document, "A text to talk about; part of the first turn")
      ->type_name("FILE");
  command->add_option("--system", options->system, "A system message")->type_name("TEXT");
  command->add_flag("--thinking", options->request.thinking,
                    "Let the model reason before it answers");
  command->add_option("--max-tokens", options->request.max_tokens, "The longest answer")
      ->type_name("N")
      ->capture_default_str();
  AddContextOption(*command, &options->engine.max_context);
  AddSamplingOptions(*command, &options->request.sampling);
  AddEngineOptions(*command, &options->engine);
  command->callback([options, exit_code] { *exit_code = Chat(*options); });
}

}  // namespace winnow::apps
