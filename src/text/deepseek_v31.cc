// The chat format of DeepSeek V3.1, which V3.2-Exp kept.
#include "base/text.h"
#include "text/chat_formats.h"
#include "text/chat_tokens.h"

namespace winnow {
namespace {

enum class Previous { kNone, kUser, kAssistant, kTool };

void RenderSystem(std::span<const ChatMessage> messages, PromptBuilder& prompt) {
  std::string_view separator;
  for (const ChatMessage& message : messages) {
    if (message.role != "system") continue;
    prompt.Text(separator);
    prompt.Text(message.content);
    separator = "\n\n";
  }
}

void RenderCalls(std::span<const ToolCall> calls, PromptBuilder& prompt) {
  prompt.Control("<｜tool▁calls▁begin｜>");
  for (const ToolCall& call : calls) {
    prompt.Control("<｜tool▁call▁begin｜>");
    prompt.Text(call.name);
    prompt.Control("<｜tool▁sep｜>");
    prompt.Text(call.arguments);
    prompt.Control("<｜tool▁call▁end｜>");
  }
  prompt.Control("<｜tool▁calls▁end｜>");
}

void RenderV31Assistant(const ChatMessage& message, Previous previous, bool thinking,
                        PromptBuilder& prompt) {
  if (previous == Previous::kUser) {
    prompt.Control(kAssistant);
    prompt.Control(message.prefix && thinking ? kThink : kEndThink);
  }
  std::string_view content = message.content;
  if (message.tool_calls.empty() && previous != Previous::kTool) {
    // Reasoning that a client sent back within the content is not shown again.
    const size_t end = content.find(kEndThink);
    if (end != std::string_view::npos) content.remove_prefix(end + kEndThink.size());
  }
  prompt.Text(content);
  if (!message.tool_calls.empty()) RenderCalls(message.tool_calls, prompt);
  prompt.Control(kEnd);
}

}  // namespace

Status RenderDeepSeekV31(std::span<const ChatMessage> messages, const ChatOptions& options,
                         PromptBuilder& prompt) {
  if (!options.tools_json.empty()) {
    return Unsupported("tools: the chat format of DeepSeek V3.1 has no place for them",
                       "describe the tools in a system message");
  }
  prompt.Control(kBegin);
  RenderSystem(messages, prompt);
  Previous previous = Previous::kNone;
  for (size_t index = 0; index < messages.size(); ++index) {
    const ChatMessage& message = messages[index];
    if (!message.tools_json.empty() || !message.response_format_json.empty()) {
      return Unsupported(fmt::format(
          "messages[{}]: tools or a response format, which DeepSeek V3.1 has no place for", index));
    }
    if (message.role == "system") continue;
    if (message.role == "user") {
      prompt.Control(kUser);
      prompt.Text(message.content);
      previous = Previous::kUser;
    } else if (message.role == "assistant") {
      RenderV31Assistant(message, previous, options.thinking, prompt);
      previous = Previous::kAssistant;
    } else if (message.role == "tool") {
      prompt.Control("<｜tool▁output▁begin｜>");
      prompt.Text(message.content);
      prompt.Control("<｜tool▁output▁end｜>");
      previous = Previous::kTool;
    } else {
      return InvalidArgument(
          fmt::format("messages[{}].role: {}, expected system, user, assistant or tool", index,
                      Quoted(message.role)));
    }
  }
  if (options.add_generation_prompt && previous == Previous::kUser) {
    prompt.Control(kAssistant);
    prompt.Control(options.thinking ? kThink : kEndThink);
  }
  return OkStatus();
}

}  // namespace winnow
