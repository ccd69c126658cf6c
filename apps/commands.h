// The subcommands of `winnow`: each adds itself to the command line and runs when it is called.
#pragma once

#include <CLI/CLI.hpp>

namespace winnow::apps {

// Each registers one subcommand. When it is chosen, its callback leaves the exit code in
// `*exit_code`.
void AddGenerate(CLI::App& app, int* exit_code);
void AddChat(CLI::App& app, int* exit_code);
void AddQuantize(CLI::App& app, int* exit_code);
void AddInspect(CLI::App& app, int* exit_code);
void AddLogits(CLI::App& app, int* exit_code);
void AddTokenize(CLI::App& app, int* exit_code);
void AddVerify(CLI::App& app, int* exit_code);
void AddBench(CLI::App& app, int* exit_code);
void AddEval(CLI::App& app, int* exit_code);
void AddServe(CLI::App& app, int* exit_code);
void AddBatch(CLI::App& app, int* exit_code);
void AddUsage(CLI::App& app, int* exit_code);

}  // namespace winnow::apps
