// The chat formats of GLM-5: that of GLM-5.2, which opens with a line about the effort of
// reasoning, and the older one of GLM-4.7, without it.
#include "base/check.h"
#include "base/text.h"
#include "text/chat_formats.h"
#include "text/chat_tokens.h"
#include "text/unicode.h"

namespace winnow {
namespace {

// What Python's str.strip removes: white space, and the separators U+001C to U+001F.
bool IsPythonSpace(const Character& character) {
  return character.char_class == CharClass::kSpace ||
         (character.code_point >= 0x1C && character.code_point <= 0x1F);
}

std::string_view Strip(std::string_view text) {
  size_t first = 0;
  while (first < text.size() && IsPythonSpace(CharacterAt(text, first))) {
    first += CharacterAt(text, first).length;
  }
  size_t end = first;
  for (size_t position = first; position < text.size();) {
    const Character character = CharacterAt(text, position);
    position += character.length;
    if (!IsPythonSpace(character)) end = position;
  }
  return text.substr(first, end - first);
}

// An assistant's words: what it thought and what it said. Clients may send both in one text.
struct Words {
  std::optional<std::string_view> reasoning;
  std::string_view content;
};

Words SplitReasoning(const ChatMessage& message) {
  Words words = {std::nullopt, message.content};
  if (message.reasoning_content) {
    words.reasoning = *message.reasoning_content;
  } else if (const size_t first = words.content.find(kEndThink); first != std::string_view::npos) {
    std::string_view reasoning = words.content.substr(0, first);
    const size_t start = reasoning.rfind(kThink);
    if (start != std::string_view::npos) reasoning.remove_prefix(start + kThink.size());
    words.reasoning = reasoning;
    words.content.remove_prefix(words.content.rfind(kEndThink) + kEndThink.size());
  }
  return words;
}

bool IsPythonTrue(const PythonJson* value) {
  if (value == nullptr) return false;
  if (value->kind == PythonJson::Kind::kString) return !value->text.empty();
  if (value->kind != PythonJson::Kind::kOther) return !value->members.empty();
  return value->text != "false" && value->text != "null" && value->text != "0" &&
         value->text != "0.0" && value->text != "-0.0";
}

// One line for a tool. GLM-5.2's template leaves out two members and does not escape the other
// names.
std::string PrintTool(const PythonJson& tool) {
  std::string line = "{";
  std::string_view separator;
  for (const auto& [key, value] : tool.members) {
    if (key == "defer_loading" || key == "strict") continue;
    line += fmt::format("{}\"{}\": {}", separator, key, value.Print());
    separator = ", ";
  }
  return line + "}";
}

Status RenderTools(const ChatOptions& options, const ChatProse& prose, bool with_effort,
                   PromptBuilder& prompt) {
  WINNOW_ASSIGN(const std::vector<PythonJson> tools,
                ParseTools(options.tools_json, /*allow_bare=*/true, "tools"));
  if (tools.empty()) return OkStatus();
  WINNOW_ASSIGN(const std::string before, prose.tools_before);
  WINNOW_ASSIGN(const std::string after, prose.tools_after);
  prompt.Control("<|system|>\n");
  prompt.Control(before);
  for (const PythonJson& tool : tools) {
    if (with_effort && IsPythonTrue(tool.Find("defer_loading"))) continue;
    prompt.Text(with_effort ? PrintTool(tool) : tool.Print());
    prompt.Control("\n");
  }
  prompt.Control(after);
  return OkStatus();
}

Status RenderGlmAssistant(const ChatMessage& message, const std::string& field, bool keep_reasoning,
                          bool with_effort, PromptBuilder& prompt) {
  prompt.Control("<|assistant|>");
  const Words words = SplitReasoning(message);
  if (keep_reasoning && words.reasoning) {
    prompt.Control(kThink);
    prompt.Text(with_effort ? *words.reasoning : Strip(*words.reasoning));
    prompt.Control(kEndThink);
  } else {
    if (with_effort) prompt.Control(kThink);
    prompt.Control(kEndThink);
  }
  prompt.Text(Strip(words.content));
  for (size_t index = 0; index < message.tool_calls.size(); ++index) {
    const ToolCall& call = message.tool_calls[index];
    WINNOW_ASSIGN(const PythonJson arguments,
                  ParseArguments(call, fmt::format("{}.tool_calls[{}]", field, index)));
    prompt.Control("<tool_call>");
    prompt.Text(call.name);
    for (const auto& [key, value] : arguments.members) {
      prompt.Control("<arg_key>");
      prompt.Text(key);
      prompt.Control("</arg_key><arg_value>");
      prompt.Text(value.kind == PythonJson::Kind::kString ? value.text : value.Print());
      prompt.Control("</arg_value>");
    }
    prompt.Control("</tool_call>");
  }
  return OkStatus();
}

}  // namespace

Status RenderGlm(std::span<const ChatMessage> messages, const ChatOptions& options,
                 const ChatProse& prose, bool with_effort, PromptBuilder& prompt) {
  prompt.Control("[gMASK]<sop>");
  if (with_effort && options.thinking) {
    prompt.Control(options.reasoning_effort == "high" ? "<|system|>Reasoning Effort: High"
                                                      : "<|system|>Reasoning Effort: Max");
  }
  if (!options.tools_json.empty()) {
    WINNOW_TRY(RenderTools(options, prose, with_effort, prompt));
  }
  int64_t last_user = -1;
  for (int64_t index = 0; index < std::ssize(messages); ++index) {
    if (messages[index].role == "user") last_user = index;
  }
  for (int64_t index = 0; index < std::ssize(messages); ++index) {
    const ChatMessage& message = messages[index];
    const std::string field = fmt::format("messages[{}]", index);
    if (message.prefix || !message.tools_json.empty() || !message.response_format_json.empty()) {
      return Unsupported(fmt::format(
          "{}: a prefix, tools or a response format, which GLM has no place for", field));
    }
    if (message.role == "system" || message.role == "user") {
      prompt.Control(message.role == "system" ? "<|system|>" : "<|user|>");
      prompt.Text(message.content);
    } else if (message.role == "assistant") {
      const bool keep_reasoning =
          index > last_user || (options.clear_thinking && !*options.clear_thinking);
      WINNOW_TRY(RenderGlmAssistant(message, field, keep_reasoning, with_effort, prompt));
    } else if (message.role == "tool") {
      if (index == 0 || messages[index - 1].role != "tool") prompt.Control("<|observation|>");
      prompt.Control("<tool_response>");
      prompt.Text(message.content);
      prompt.Control("</tool_response>");
    } else {
      return InvalidArgument(fmt::format("{}.role: {}, expected system, user, assistant or tool",
                                         field, Quoted(message.role)));
    }
  }
  if (options.add_generation_prompt) {
    prompt.Control("<|assistant|>");
    if (options.thinking || with_effort) prompt.Control(kThink);
    if (!options.thinking) prompt.Control(kEndThink);
  }
  return OkStatus();
}

}  // namespace winnow
