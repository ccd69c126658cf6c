// Choosing a checkpoint's chat format, and what the formats share.
#include "text/chat_template.h"

#include "base/check.h"
#include "base/file.h"
#include "base/json.h"
#include "base/text.h"
#include "text/chat_formats.h"
#include "text/chat_prose.h"

namespace winnow {
namespace {

constexpr int64_t kLargestSource = 1 << 20;  // bytes of a template or encoder

Status RequireTokens(const Tokenizer& tokenizer, std::span<const char* const> contents) {
  for (const char* content : contents) {
    if (!tokenizer.FindToken(content)) {
      return Unsupported(fmt::format(
          "tokenizer.json: no added token {}, expected it for the chat format", Quoted(content)));
    }
  }
  return OkStatus();
}

// The template of a GLM checkpoint: its own file, or a field of tokenizer_config.json.
Result<std::string> ReadGlmTemplate(const std::string& model_dir) {
  Result<std::string> jinja = ReadFile(model_dir + "/chat_template.jinja", kLargestSource);
  if (jinja.ok()) return jinja;
  const Result<json::value> config =
      ReadJsonFile(model_dir + "/tokenizer_config.json", kLargestSource);
  if (config.ok() && config->is_object()) {
    const json::value* field = config->get_object().if_contains("chat_template");
    if (field != nullptr && field->is_string()) return std::string(field->get_string());
  }
  return jinja;
}

ChatTemplate MakeGlm(const std::string& model_dir) {
  const Result<std::string> jinja = ReadGlmTemplate(model_dir);
  if (!jinja.ok()) {
    return ChatTemplate(
        ChatFormat::kGlmWithEffort,
        MissingProse(Unsupported(fmt::format("{}/chat_template.jinja: cannot be read, expected the "
                                             "template with the text around tools",
                                             model_dir))));
  }
  const bool with_effort = jinja->find("Reasoning Effort") != std::string::npos;
  return ChatTemplate(with_effort ? ChatFormat::kGlmWithEffort : ChatFormat::kGlm,
                      ReadGlmProse(*jinja));
}

}  // namespace

Result<ChatTemplate> ChatTemplate::Load(const std::string& model_dir, std::string_view model_type,
                                        const Tokenizer& tokenizer) {
  if (model_type == "glm_moe_dsa") {
    constexpr const char* kTokens[] = {"[gMASK]",       "<sop>",   "<|system|>", "<|user|>",
                                       "<|assistant|>", "<think>", "</think>"};
    WINNOW_TRY(RequireTokens(tokenizer, kTokens));
    return MakeGlm(model_dir);
  }
  if (model_type != "deepseek_v32") {
    return Unsupported(
        fmt::format("config.json: model_type {}, expected \"deepseek_v32\" or \"glm_moe_dsa\"",
                    Quoted(model_type)));
  }
  constexpr const char* kTokens[] = {"<｜begin▁of▁sentence｜>",
                                     "<｜end▁of▁sentence｜>",
                                     "<｜User｜>",
                                     "<｜Assistant｜>",
                                     "<think>",
                                     "</think>"};
  WINNOW_TRY(RequireTokens(tokenizer, kTokens));
  const std::string encoder = model_dir + "/encoding/encoding_dsv32.py";
  const Result<std::string> python = ReadFile(encoder, kLargestSource);
  if (python.ok()) return ChatTemplate(ChatFormat::kDeepSeekV32, ReadDeepSeekProse(*python));
  if (tokenizer.FindToken("｜DSML｜")) {
    return ChatTemplate(
        ChatFormat::kDeepSeekV32,
        MissingProse(Unsupported(fmt::format(
            "{}: cannot be read, expected the encoder with the text around tools", encoder))));
  }
  return ChatTemplate(ChatFormat::kDeepSeekV31, ChatProse());
}

Result<std::vector<PromptSegment>> ChatTemplate::Render(std::span<const ChatMessage> messages,
                                                        const ChatOptions& options) const {
  PromptBuilder prompt;
  switch (format_) {
    case ChatFormat::kDeepSeekV31:
      WINNOW_TRY(RenderDeepSeekV31(messages, options, prompt));
      break;
    case ChatFormat::kDeepSeekV32:
      WINNOW_TRY(RenderDeepSeekV32(messages, options, prose_, prompt));
      break;
    case ChatFormat::kGlm:
    case ChatFormat::kGlmWithEffort:
      WINNOW_TRY(
          RenderGlm(messages, options, prose_, format_ == ChatFormat::kGlmWithEffort, prompt));
      break;
  }
  return prompt.Take();
}

Result<std::vector<int32_t>> ChatTemplate::Encode(const Tokenizer& tokenizer,
                                                  std::span<const ChatMessage> messages,
                                                  const ChatOptions& options) const {
  WINNOW_ASSIGN(const std::vector<PromptSegment> segments, Render(messages, options));
  return tokenizer.Encode(segments);
}

void PromptBuilder::Append(std::string_view text, SpecialTokens special_tokens) {
  if (text.empty()) return;
  if (segments_.empty() || segments_.back().special_tokens != special_tokens) {
    segments_.push_back({"", special_tokens});
  }
  segments_.back().text += text;
}

Result<std::vector<PythonJson>> ParseTools(std::string_view tools_json, bool allow_bare,
                                           std::string_view field) {
  WINNOW_ASSIGN(const PythonJson tools, ParsePythonJson(tools_json, field));
  if (tools.kind != PythonJson::Kind::kArray) {
    return InvalidArgument(fmt::format("{}: expected an array", field));
  }
  std::vector<PythonJson> functions;
  for (size_t index = 0; index < tools.members.size(); ++index) {
    const PythonJson& tool = tools.members[index].value;
    const PythonJson* function = tool.Find("function");
    if (function == nullptr && allow_bare) function = &tool;
    if (function == nullptr || function->kind != PythonJson::Kind::kObject) {
      return InvalidArgument(
          fmt::format("{}[{}]: expected an object with an object function", field, index));
    }
    functions.push_back(*function);
  }
  return functions;
}

Result<PythonJson> ParseArguments(const ToolCall& call, std::string_view field) {
  WINNOW_ASSIGN(PythonJson arguments,
                ParsePythonJson(call.arguments, fmt::format("{}.arguments", field)));
  if (arguments.kind != PythonJson::Kind::kObject) {
    return InvalidArgument(fmt::format("{}.arguments: expected a JSON object", field));
  }
  return arguments;
}

}  // namespace winnow
