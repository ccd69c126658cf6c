// The command line of Winnow.
#include <cstdio>

#include "commands.h"

int main(int argc, char** argv) {
  CLI::App app{
      "Winnow runs language models with DeepSeek Sparse Attention (DeepSeek-V3.2, GLM-5) and "
      "shows\n"
      "what each answer read of its context, and what dense attention would have read.\n\n"
      "A first answer, about a document of more than 20,000 tokens:\n"
      "  winnow generate models/winnow-nano --chat --prompt-file examples/zenda.txt \\\n"
      "      --prompt \"What is the access code of the Lisbon harbor?\"\n\n"
      "Answers go to standard output, everything else to standard error. Exit codes: 0 success,\n"
      "1 Winnow failed, 2 a wrong argument or a missing file, 3 a model that is damaged or not\n"
      "supported, 4 not enough memory, 5 unavailable, 130 interrupted.",
      "winnow"};
  app.set_version_flag("--version", WINNOW_VERSION);
  app.require_subcommand(1);
  app.get_formatter()->column_width(30);
  int exit_code = 0;
  winnow::apps::AddGenerate(app, &exit_code);
  winnow::apps::AddChat(app, &exit_code);
  winnow::apps::AddServe(app, &exit_code);
  winnow::apps::AddBatch(app, &exit_code);
  winnow::apps::AddUsage(app, &exit_code);
  winnow::apps::AddInspect(app, &exit_code);
  winnow::apps::AddQuantize(app, &exit_code);
  winnow::apps::AddLogits(app, &exit_code);
  winnow::apps::AddTokenize(app, &exit_code);
  winnow::apps::AddVerify(app, &exit_code);
  winnow::apps::AddBench(app, &exit_code);
  winnow::apps::AddEval(app, &exit_code);
  app.failure_message(CLI::FailureMessage::simple);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  if (std::fflush(stdout) != 0 || std::ferror(stdout) != 0) {
    std::fputs("winnow: standard output: it could not be written\n", stderr);
    return exit_code == 0 ? 1 : exit_code;
  }
  return exit_code;
}
