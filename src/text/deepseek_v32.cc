// The chat format of DeepSeek V3.2: tools in an XML-like language of their own (DSML), reasoning
// kept within the current turn only.
#include <algorithm>

#include "base/check.h"
#include "base/text.h"
#include "text/chat_formats.h"
#include "text/chat_tokens.h"

namespace winnow {
namespace {

bool AsksForAnswer(const ChatMessage& message) {
  return message.role == "user" || message.role == "developer";
}

int64_t LastQuestion(std::span<const ChatMessage> messages) {
  for (int64_t index = std::ssize(messages) - 1; index >= 0; --index) {
    if (AsksForAnswer(messages[index])) return index;
  }
  return -1;
}

// Without reasoning and developer messages of earlier turns.
std::vector<ChatMessage> DropThinking(std::span<const ChatMessage> messages) {
  const int64_t last_question = LastQuestion(messages);
  std::vector<ChatMessage> kept;
  for (int64_t index = 0; index < std::ssize(messages); ++index) {
    if (index < last_question && messages[index].role == "developer") continue;
    kept.push_back(messages[index]);
    if (index < last_question) kept.back().reasoning_content.reset();
  }
  return kept;
}

// The request's tools belong to the first system message.
Result<std::vector<ChatMessage>> PlaceTools(std::span<const ChatMessage> messages,
                                            const std::string& tools_json) {
  std::vector<ChatMessage> placed(messages.begin(), messages.end());
  auto system = std::find_if(placed.begin(), placed.end(),
                             [](const ChatMessage& message) { return message.role == "system"; });
  if (system == placed.end()) {
    ChatMessage empty;
    empty.role = "system";
    system = placed.insert(placed.begin(), std::move(empty));
  }
  if (!system->tools_json.empty()) {
    return InvalidArgument("tools: given by the request and by its first system message too");
  }
  system->tools_json = tools_json;
  return placed;
}

// One rendering: the conversation, what is asked of it, and where it goes.
class Renderer {
 public:
  Renderer(std::span<const ChatMessage> messages, bool thinking, const ChatProse& prose,
           PromptBuilder& prompt)
      : messages_(messages),
        thinking_(thinking),
        last_question_(LastQuestion(messages)),
        prose_(prose),
        prompt_(prompt) {}

  Status RenderMessage(int64_t index);

 private:
  Status RenderBlocks(int64_t index);
  Status RenderTools(const std::string& tools_json, const std::string& field);
  Status RenderDeveloper(int64_t index);
  Status RenderAssistant(int64_t index);
  Status RenderCall(const ToolCall& call, const std::string& field);
  Status RenderToolResult(int64_t index);
  void RenderHeader(bool thinks);

  std::span<const ChatMessage> messages_;
  bool thinking_;
  int64_t last_question_;
  const ChatProse& prose_;
  PromptBuilder& prompt_;
};

Status Renderer::RenderMessage(int64_t index) {
  const ChatMessage& message = messages_[index];
  if (message.prefix) {
    return Unsupported(
        fmt::format("messages[{}].prefix: the format of DeepSeek V3.2 has none", index));
  }
  if (message.role == "system") {
    prompt_.Text(message.content);
    return RenderBlocks(index);
  }
  if (message.role == "developer") return RenderDeveloper(index);
  if (message.role == "assistant") return RenderAssistant(index);
  if (message.role == "tool") return RenderToolResult(index);
  if (message.role != "user") {
    return InvalidArgument(
        fmt::format("messages[{}].role: {}, expected system, developer, user, assistant or tool",
                    index, Quoted(message.role)));
  }
  prompt_.Control(kUser);
  prompt_.Text(message.content);
  RenderHeader(index == last_question_);
  return OkStatus();
}

// Each question carries the head of its answer.
void Renderer::RenderHeader(bool thinks) {
  prompt_.Control(kAssistant);
  prompt_.Control(thinks && thinking_ ? kThink : kEndThink);
}

Status Renderer::RenderTools(const std::string& tools_json, const std::string& field) {
  WINNOW_ASSIGN(const std::vector<PythonJson> tools,
                ParseTools(tools_json, /*allow_bare=*/false, field));
  if (tools.empty()) return OkStatus();
  WINNOW_ASSIGN(const std::string before, prose_.tools_before);
  WINNOW_ASSIGN(const std::string after, prose_.tools_after);
  prompt_.Text("\n\n");
  prompt_.Control(before);
  std::string_view separator;
  for (const PythonJson& tool : tools) {
    prompt_.Text(separator);
    prompt_.Text(tool.Print());
    separator = "\n";
  }
  prompt_.Control(after);
  return OkStatus();
}

// The tools and the response format of a system or developer message.
Status Renderer::RenderBlocks(int64_t index) {
  const ChatMessage& message = messages_[index];
  const std::string field = fmt::format("messages[{}]", index);
  if (!message.tools_json.empty()) WINNOW_TRY(RenderTools(message.tools_json, field + ".tools"));
  if (!message.response_format_json.empty()) {
    WINNOW_ASSIGN(const PythonJson schema,
                  ParsePythonJson(message.response_format_json, field + ".response_format"));
    WINNOW_ASSIGN(const std::string format, prose_.response_format);
    constexpr std::string_view kSchema = "{schema}";
    const size_t place = format.find(kSchema);
    prompt_.Text("\n\n");
    prompt_.Control(std::string_view(format).substr(0, place));
    prompt_.Text(schema.Print());
    prompt_.Control(std::string_view(format).substr(place + kSchema.size()));
  }
  return OkStatus();
}

Status Renderer::RenderDeveloper(int64_t index) {
  if (messages_[index].content.empty()) {
    return InvalidArgument(fmt::format("messages[{}].content: empty, expected text", index));
  }
  prompt_.Control(kUser);
  WINNOW_TRY(RenderBlocks(index));
  prompt_.Control("\n\n# The user's message is: ");
  prompt_.Text(messages_[index].content);
  RenderHeader(index == last_question_);
  return OkStatus();
}

Status Renderer::RenderAssistant(int64_t index) {
  const ChatMessage& message = messages_[index];
  if (thinking_ && index > last_question_) {
    const bool has_reasoning = message.reasoning_content && !message.reasoning_content->empty();
    if (!has_reasoning && message.tool_calls.empty()) {
      return InvalidArgument(fmt::format(
          "messages[{}]: no reasoning_content and no tool_calls, expected one of them from an "
          "assistant that thinks, after the last user message",
          index));
    }
    prompt_.Text(message.reasoning_content.value_or(""));
    prompt_.Control(kEndThink);
  }
  prompt_.Text(message.content);
  if (!message.tool_calls.empty()) {
    prompt_.Control("\n\n<｜DSML｜function_calls>\n");
    for (size_t call = 0; call < message.tool_calls.size(); ++call) {
      if (call > 0) prompt_.Control("\n");
      WINNOW_TRY(RenderCall(message.tool_calls[call],
                            fmt::format("messages[{}].tool_calls[{}]", index, call)));
    }
    prompt_.Control("\n</｜DSML｜function_calls>");
  }
  prompt_.Control(kEnd);
  return OkStatus();
}

Status Renderer::RenderCall(const ToolCall& call, const std::string& field) {
  WINNOW_ASSIGN(const PythonJson arguments, ParseArguments(call, field));
  prompt_.Control("<｜DSML｜invoke name=\"");
  prompt_.Text(call.name);
  prompt_.Control("\">\n");
  bool is_first = true;
  for (const auto& [key, value] : arguments.members) {
    const bool is_string = value.kind == PythonJson::Kind::kString;
    if (!is_first) prompt_.Control("\n");
    is_first = false;
    prompt_.Control("<｜DSML｜parameter name=\"");
    prompt_.Text(key);
    prompt_.Control(is_string ? "\" string=\"true\">" : "\" string=\"false\">");
    prompt_.Text(is_string ? value.text : value.Print());
    prompt_.Control("</｜DSML｜parameter>");
  }
  prompt_.Control("\n</｜DSML｜invoke>");
  return OkStatus();
}

// Results answer the calls of the assistant before them, in order.
Status Renderer::RenderToolResult(int64_t index) {
  int64_t assistant = index - 1;
  while (assistant >= 0 && messages_[assistant].role == "tool") --assistant;
  const bool has_assistant = assistant >= 0 && messages_[assistant].role == "assistant";
  const int64_t num_calls = has_assistant ? std::ssize(messages_[assistant].tool_calls) : 0;
  const int64_t order = index - assistant;  // 1 for the first
  if (order > num_calls) {
    return InvalidArgument(
        fmt::format("messages[{}]: result {} of a tool, expected no more than the {} calls of the "
                    "assistant message before",
                    index, order, num_calls));
  }
  if (order == 1) prompt_.Control("\n\n<function_results>");
  prompt_.Control("\n<result>");
  prompt_.Text(messages_[index].content);
  prompt_.Control("</result>");
  if (order == num_calls) {
    prompt_.Control("\n</function_results>\n\n");
    prompt_.Control(index >= last_question_ && thinking_ ? kThink : kEndThink);
  }
  return OkStatus();
}

}  // namespace

Status RenderDeepSeekV32(std::span<const ChatMessage> messages, const ChatOptions& options,
                         const ChatProse& prose, PromptBuilder& prompt) {
  std::vector<ChatMessage> conversation(messages.begin(), messages.end());
  if (!options.tools_json.empty()) {
    WINNOW_ASSIGN(conversation, PlaceTools(conversation, options.tools_json));
  }
  if (options.thinking && options.drop_thinking) conversation = DropThinking(conversation);
  prompt.Control(kBegin);
  Renderer renderer(conversation, options.thinking, prose, prompt);
  for (int64_t index = 0; index < std::ssize(conversation); ++index) {
    WINNOW_TRY(renderer.RenderMessage(index));
  }
  return OkStatus();
}

}  // namespace winnow
