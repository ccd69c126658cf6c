// The formats behind chat_template.h, one function each.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "text/chat_template.h"
#include "text/python_json.h"

namespace winnow {

// Collects a prompt. Neighbouring segments of one kind are joined.
class PromptBuilder {
 public:
  // What the format writes: tokens in it are tokens.
  void Control(std::string_view text) { Append(text, SpecialTokens::kRecognize); }
  // What somebody else wrote.
  void Text(std::string_view text) { Append(text, SpecialTokens::kAsText); }

  std::vector<PromptSegment> Take() { return std::move(segments_); }

 private:
  void Append(std::string_view text, SpecialTokens special_tokens);

  std::vector<PromptSegment> segments_;
};

// The tools of a request, each one's description: its member `function`, which `allow_bare` makes
// optional (a tool without it is its own description). `field` names the JSON in errors.
Result<std::vector<PythonJson>> ParseTools(std::string_view tools_json, bool allow_bare,
                                           std::string_view field);

// The arguments of a call, which must be a JSON object.
Result<PythonJson> ParseArguments(const ToolCall& call, std::string_view field);

Status RenderDeepSeekV31(std::span<const ChatMessage> messages, const ChatOptions& options,
                         PromptBuilder& prompt);
Status RenderDeepSeekV32(std::span<const ChatMessage> messages, const ChatOptions& options,
                         const ChatProse& prose, PromptBuilder& prompt);
Status RenderGlm(std::span<const ChatMessage> messages, const ChatOptions& options,
                 const ChatProse& prose, bool with_effort, PromptBuilder& prompt);

}  // namespace winnow
