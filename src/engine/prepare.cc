#include "engine/prepare.h"

#include <random>

#include "base/check.h"
#include "base/text.h"

namespace winnow {
namespace {

constexpr size_t kMaxStops = 64;

Status NoTokenizer() {
  return Unsupported("tokenizer.json: the model folder has none, expected one to read text",
                     "give the prompt as token ids");
}

Result<std::vector<int32_t>> EncodeMessages(const Request& request, const PrepareContext& context) {
  if (!context.chat_error.ok()) return context.chat_error;
  if (context.chat_template == nullptr) return NoTokenizer();
  ChatOptions options;
  options.thinking = request.thinking;
  if (request.tool_choice != "none") options.tools_json = request.tools;
  std::vector<ChatMessage> messages(request.messages.size());
  for (size_t index = 0; index < messages.size(); ++index) {
    const Message& message = request.messages[index];
    messages[index].role = message.role;
    messages[index].content = message.content;
    if (!message.reasoning_content.empty()) {
      messages[index].reasoning_content = message.reasoning_content;
    }
    messages[index].tool_calls = message.tool_calls;
  }
  return context.chat_template->Encode(*context.tokenizer, messages, options);
}

Result<std::vector<int32_t>> EncodePrompt(const Request& request, const PrepareContext& context) {
  const int given = (request.messages.empty() ? 0 : 1) + (request.prompt.empty() ? 0 : 1) +
                    (request.token_ids.empty() ? 0 : 1);
  if (given != 1) {
    return InvalidArgument(fmt::format(
        "request: {} of messages, prompt and token_ids are given, expected one", given));
  }
  if (!request.token_ids.empty()) return request.token_ids;
  if (!request.messages.empty()) return EncodeMessages(request, context);
  if (context.tokenizer == nullptr) return NoTokenizer();
  const SpecialTokens special =
      request.allow_special_tokens ? SpecialTokens::kRecognize : SpecialTokens::kAsText;
  return context.tokenizer->Encode(request.prompt, special);
}

Status CheckToken(int32_t id, const std::string& what, const PrepareContext& context) {
  if (id >= 0 && id < context.config.vocab_size) return OkStatus();
  return InvalidArgument(
      fmt::format("{}: {}, expected 0 to {}", what, id, context.config.vocab_size - 1));
}

Status CheckPrompt(const std::vector<int32_t>& prompt, const PrepareContext& context) {
  const int64_t length = static_cast<int64_t>(prompt.size());
  if (length == 0) return InvalidArgument("prompt: it has no tokens, expected at least one");
  if (length >= context.max_context) {
    return OutOfRange(fmt::format("prompt: {} tokens, expected fewer than the context of {}",
                                  length, context.max_context));
  }
  for (size_t index = 0; index < prompt.size(); ++index) {
    WINNOW_TRY(CheckToken(prompt[index], "token_ids[" + std::to_string(index) + "]", context));
  }
  return OkStatus();
}

// Refuses what must be too long whatever its tokens are, before anything is tokenized.
Status CheckPromptBytes(const Request& request, const PrepareContext& context) {
  if (context.tokenizer == nullptr) return OkStatus();
  size_t bytes = request.prompt.size();
  for (const Message& message : request.messages) bytes += message.content.size();
  const int64_t least = static_cast<int64_t>(bytes / context.tokenizer->longest_token());
  if (least < context.max_context) return OkStatus();
  return OutOfRange(fmt::format("prompt: at least {} tokens, expected fewer than the context of {}",
                                least, context.max_context));
}

bool EndsInReasoning(const std::vector<int32_t>& prompt, const PrepareContext& context) {
  const std::optional<int32_t> begin = context.tokenizer->FindToken("<think>");
  return begin && prompt.back() == *begin;
}

constexpr std::string_view kFunction = "function:";

bool MustCallTool(const Request& request) {
  return request.tool_choice == "required" || request.tool_choice.starts_with(kFunction);
}

Status CheckToolChoice(const Request& request) {
  const std::string& choice = request.tool_choice;
  if (choice != "auto" && choice != "none" && !MustCallTool(request)) {
    return InvalidArgument("tool_choice: " + Quoted(choice) +
                           ", expected auto, none, required or function:NAME");
  }
  if (MustCallTool(request) && request.tools.empty()) {
    return InvalidArgument("tool_choice: " + Quoted(choice) + ", but no tools are given");
  }
  const bool may_call = !request.tools.empty() && choice != "none";
  if (may_call && request.answer_format != AnswerFormat::kText) {
    return Unsupported("answer_format: JSON and calls of tools, expected one of them",
                       "set tool_choice to none, or leave the answer's format free");
  }
  return OkStatus();
}

// What the answer must be, by its format or because a tool must be called.
Result<std::shared_ptr<const AnswerGrammar>> MakeGrammar(const Request& request,
                                                         const PrepareContext& context) {
  WINNOW_TRY(CheckToolChoice(request));
  if (!MustCallTool(request) && request.answer_format == AnswerFormat::kText) return {nullptr};
  if (context.tokenizer == nullptr) return NoTokenizer();
  if (request.answer_format == AnswerFormat::kJsonObject) return AnswerGrammar::ForJsonObject();
  if (request.answer_format == AnswerFormat::kJsonSchema) {
    return AnswerGrammar::ForJsonSchema(request.json_schema);
  }
  if (!context.chat_error.ok()) return context.chat_error;
  const std::string name = request.tool_choice.starts_with(kFunction)
                               ? request.tool_choice.substr(kFunction.size())
                               : std::string();
  return AnswerGrammar::ForToolCalls(context.chat_template->format(), request.tools, name,
                                     *context.token_trie);
}

SamplerOptions ResolveSampling(const Request& request, const PrepareContext& context) {
  const SamplingParams& asked = request.sampling;
  const GenerationConfig& model = context.generation;
  SamplerOptions options;
  options.temperature = asked.temperature.value_or(model.do_sample ? model.temperature : 0.0);
  options.top_p = asked.top_p.value_or(model.top_p);
  options.top_k = asked.top_k.value_or(model.top_k);
  options.min_p = asked.min_p;
  options.repetition_penalty = asked.repetition_penalty.value_or(model.repetition_penalty);
  options.presence_penalty = asked.presence_penalty;
  options.frequency_penalty = asked.frequency_penalty;
  options.seed = asked.seed ? *asked.seed : std::random_device{}();
  options.logprobs = request.logprobs;
  options.logit_bias = asked.logit_bias;
  if (context.tokenizer != nullptr) {
    options.vocab_limit =
        std::min<int64_t>(context.tokenizer->vocab_size(), context.config.vocab_size);
  }
  return options;
}

void PrepareParser(const Request& request, const PrepareContext& context, GenerationTask* task) {
  task->begins_in_reasoning = EndsInReasoning(task->prompt, context);
  if (!request.parse_answer) return;
  task->parser.emplace();
  task->parser->format = context.chat_template->format();
  task->parser->tool_calls = !request.tools.empty() && request.tool_choice != "none";
  task->tools_json = request.tools;
}

}  // namespace

// One token, step 3 of 9. From Submit() in engine.cc; next: Next() in scheduler.cc.
Result<GenerationTask> PrepareGeneration(const Request& request, const PrepareContext& context) {
  GenerationTask task;
  task.sampler = ResolveSampling(request, context);
  WINNOW_TRY(CheckSampler(task.sampler));
  for (const auto& [id, bias] : task.sampler.logit_bias)
    WINNOW_TRY(CheckToken(id, "logit_bias", context));
  for (const int32_t id : request.stop_token_ids)
    WINNOW_TRY(CheckToken(id, "stop_token_ids", context));
  const int64_t least = request.prompt_logprobs ? 0 : 1;
  if (request.max_tokens < least) {
    return InvalidArgument(
        fmt::format("max_tokens: {}, expected at least {}", request.max_tokens, least));
  }
  if (request.stop.size() > kMaxStops) {
    return InvalidArgument(
        fmt::format("stop: {} texts, expected at most {}", request.stop.size(), kMaxStops));
  }
  WINNOW_ASSIGN(task.grammar, MakeGrammar(request, context));
  task.token_trie = context.token_trie;
  WINNOW_TRY(CheckPromptBytes(request, context));
  WINNOW_ASSIGN(task.prompt, EncodePrompt(request, context));
  WINNOW_TRY(CheckPrompt(task.prompt, context));
  if (!request.messages.empty()) PrepareParser(request, context, &task);
  task.max_tokens =
      std::min(request.max_tokens, context.max_context - static_cast<int64_t>(task.prompt.size()));
  task.prompt_logprobs = request.prompt_logprobs;
  task.skip_special_tokens = request.skip_special_tokens;
  task.key = request.key;
  task.cache_salt = request.cache_salt;
  task.stop = request.stop;
  task.stop_token_ids = request.stop_token_ids;
  if (!request.ignore_eos) {
    const auto& ends = context.generation.eos_token_ids.empty() ? context.config.eos_token_ids
                                                                : context.generation.eos_token_ids;
    task.stop_token_ids.insert(task.stop_token_ids.end(), ends.begin(), ends.end());
  }
  return task;
}

}  // namespace winnow
