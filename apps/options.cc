#include "options.h"

#include <map>

namespace winnow::apps {
namespace {

// An option whose values are names of T. The default shows in --help.
template <typename T>
void AddChoice(CLI::App& command, const std::string& flag, T* value, const std::vector<T>& choices,
               const std::string& help) {
  std::map<std::string, T> names;
  std::string list;
  for (const T choice : choices) {
    names[Name(choice)] = choice;
    list += (list.empty() ? "" : ", ") + std::string(Name(choice));
  }
  const auto parse = [value, names](const CLI::results_t& words) {
    const auto found = names.find(words.at(0));
    if (found == names.end()) return false;
    *value = found->second;
    return true;
  };
  const auto check = [names, list](const std::string& word) {
    return names.count(word) ? std::string() : "'" + word + "', expected one of " + list;
  };
  command.add_option(flag, parse, help + ": " + list)
      ->type_name("")
      ->check(CLI::Validator(check, ""))
      ->default_str(Name(*value))
      ->group("Numbers");
}

// "8K" to 8192; refuses what is no count from 1 to 2^31 - 1.
std::string ReadSize(std::string& word) {
  const bool thousands = !word.empty() && (word.back() == 'K' || word.back() == 'k');
  const std::string digits = thousands ? word.substr(0, word.size() - 1) : word;
  const std::string error = "'" + word + "', expected a count of tokens such as 4096 or 4K";
  if (digits.empty() || digits.size() > 10) return error;
  if (digits.find_first_not_of("0123456789") != std::string::npos) return error;
  const int64_t size = std::stoll(digits) * (thousands ? 1024 : 1);
  if (size < 1 || size > INT32_MAX) return error;
  word = std::to_string(size);
  return {};
}

}  // namespace

void AddSizeOption(CLI::App& command, const std::string& flag, int64_t* size,
                   const std::string& help) {
  CLI::Option* option = command.add_option(flag, *size, help)
                            ->type_name("N")
                            ->transform(CLI::Validator(ReadSize, ""));
  if (*size > 0) option->capture_default_str();
}

void AddSizesOption(CLI::App& command, const std::string& flag, std::vector<int64_t>* sizes,
                    const std::string& help) {
  std::string defaults;
  for (const int64_t size : *sizes) {
    defaults += (defaults.empty() ? "" : ",") + std::to_string(size);
  }
  command.add_option(flag, *sizes, help)
      ->type_name("N,…")
      ->delimiter(',')
      ->transform(CLI::Validator(ReadSize, ""))
      ->default_str(defaults);
}

void AddModelArgument(CLI::App& command, std::string* model_dir) {
  command.add_option("MODEL", *model_dir, "A folder in the Hugging Face layout")
      ->required()
      ->type_name("");
}

void AddBackendOptions(CLI::App& command, std::string* backend, int* device) {
  command.add_option("--backend", *backend, "What computes: cpu, or cuda where it was built")
      ->type_name("")
      ->capture_default_str()
      ->group("Device");
  command.add_option("--device", *device, "Which GPU, as CUDA numbers them")
      ->type_name("N")
      ->capture_default_str()
      ->group("Device");
}

void AddWeightsOption(CLI::App& command, WeightType* weights,
                      const std::vector<WeightType>& choices, const std::string& help) {
  AddChoice(command, "--weights", weights, choices, help);
}

void AddThreadsOption(CLI::App& command, int* num_threads) {
  command.add_option("--threads", *num_threads, "Threads; 0: one for each core")
      ->type_name("N")
      ->capture_default_str()
      ->group("Speed (changes no result)");
}

void AddEngineOptions(CLI::App& command, EngineOptions* options, bool attention) {
  AddBackendOptions(command, &options->backend, &options->device);
  AddChoice(command, "--precision", &options->precision, {Precision::kF32, Precision::kBf16},
            "What products with weights read");
  AddWeightsOption(command, &options->weights,
                   {WeightType::kStored, WeightType::kInt8, WeightType::kInt4},
                   "What matrices are held as; int8 and int4 quantize at load");
  AddChoice(command, "--kv-cache", &options->kv_cache,
            {LatentType::kF32, LatentType::kBf16, LatentType::kFp8}, "How latent rows are cached");
  AddChoice(command, "--index-keys", &options->index_keys,
            {IndexKeyType::kF32, IndexKeyType::kBf16, IndexKeyType::kE4m3, IndexKeyType::kInt8},
            "How index keys are cached");
  if (attention) {
    AddChoice(command, "--attention", &options->attention,
              {AttentionMode::kSparse, AttentionMode::kDense}, "What each token reads");
  }
  AddThreadsOption(command, &options->num_threads);
  command
      .add_flag_callback(
          "--no-pin", [options] { options->pin_threads = false; },
          "Let the system move threads between cores")
      ->group("Speed (changes no result)");
  command.add_option("--chunk", options->chunk, "Tokens of a prompt processed at a time")
      ->type_name("N")
      ->capture_default_str()
      ->group("Speed (changes no result)");
  const auto set_workspace = [options](const int64_t& mib) {
    options->workspace_bytes = mib << 20;
  };
  command
      .add_option_function<int64_t>(
          "--workspace", set_workspace,
          "Memory of a step beside weights and cache: the chunk is cut to what fits; default: no "
          "limit")
      ->type_name("MiB")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 30).description(""))
      ->group("Speed (changes no result)");
  command
      .add_option("--instruction-set", options->instruction_set,
                  "portable, avx2, avx512, avx512_bf16 or amx; default: the best there is")
      ->type_name("")
      ->group("Speed (changes no result)");
}

void AddContextOption(CLI::App& command, int64_t* max_context) {
  command
      .add_option("--context", *max_context,
                  "Tokens the cache holds; default: what the model was made for and memory allows")
      ->type_name("N");
}

void AddSamplingOptions(CLI::App& command, SamplingParams* sampling) {
  const char* group = "Sampling (defaults: the model's generation_config.json)";
  command.add_option("--temperature", sampling->temperature, "0: greedy, the likeliest token")
      ->group(group)
      ->type_name("X");
  command.add_option("--top-p", sampling->top_p, "Keep the likeliest tokens that hold this mass")
      ->group(group)
      ->type_name("X");
  command.add_option("--top-k", sampling->top_k, "Keep this many of the likeliest; 0: all")
      ->group(group)
      ->type_name("N");
  command.add_option("--min-p", sampling->min_p, "Drop what is below this share of the likeliest")
      ->group(group)
      ->type_name("X");
  command
      .add_option("--repetition-penalty", sampling->repetition_penalty,
                  "Divides the logits of tokens seen before; 1: off")
      ->group(group)
      ->type_name("X");
  command
      .add_option("--presence-penalty", sampling->presence_penalty,
                  "Taken from the logits of tokens generated before; 0: off")
      ->group(group)
      ->type_name("X");
  command
      .add_option("--frequency-penalty", sampling->frequency_penalty,
                  "The same, times how often they were")
      ->group(group)
      ->type_name("X");
  command.add_option("--seed", sampling->seed, "Same seed, same text")
      ->group(group)
      ->type_name("N");
}

}  // namespace winnow::apps
