// Flags that several subcommands share.
#pragma once

#include <CLI/CLI.hpp>
#include <string>

#include "winnow/winnow.h"

namespace winnow::apps {

// Adds the positional argument MODEL.
void AddModelArgument(CLI::App& command, std::string* model_dir);

// Adds --backend and --device.
void AddBackendOptions(CLI::App& command, std::string* backend, int* device);

// Adds --backend, --device, --precision, --weights, --kv-cache, --index-keys, --attention (on
// request),
// --threads, --no-pin, --chunk, --workspace and --instruction-set, with the values in `options` as
// defaults.
void AddEngineOptions(CLI::App& command, EngineOptions* options, bool attention = true);

// Adds options of token counts at least 1, one or comma-separated; "8K" means 8192.
void AddSizeOption(CLI::App& command, const std::string& flag, int64_t* size,
                   const std::string& help);
void AddSizesOption(CLI::App& command, const std::string& flag, std::vector<int64_t>* sizes,
                    const std::string& help);

// Adds --weights with these choices, --threads.
void AddWeightsOption(CLI::App& command, WeightType* weights,
                      const std::vector<WeightType>& choices, const std::string& help);
void AddThreadsOption(CLI::App& command, int* num_threads);

// Adds --context.
void AddContextOption(CLI::App& command, int64_t* max_context);

// Adds --temperature, --top-p, --top-k, --min-p, the penalties and --seed.
void AddSamplingOptions(CLI::App& command, SamplingParams* sampling);

}  // namespace winnow::apps
