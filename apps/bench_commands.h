// The subcommands of `winnow bench`, as commands.h has those of `winnow`.
#pragma once

#include <CLI/CLI.hpp>

namespace winnow::apps {

void AddBenchContext(CLI::App& bench, int* exit_code);
void AddBenchKernels(CLI::App& bench, int* exit_code);
void AddBenchServe(CLI::App& bench, int* exit_code);
void AddBenchThreads(CLI::App& bench, int* exit_code);

}  // namespace winnow::apps
