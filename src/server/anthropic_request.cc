#include <algorithm>

#include "base/text.h"
#include "server/anthropic.h"
#include "server/json_fields.h"
#include "server/json_text.h"

namespace winnow::server {
namespace {

// "abc" or [{"type": "text", "text": "abc"}, …].
void ReadText(Fields& fields, std::string_view name, std::string* text) {
  const json::value* value = fields.Get(name);
  if (value == nullptr) return;
  if (const json::string* plain = value->if_string()) {
    *text = Text(*plain);
    return;
  }
  const json::array* blocks = fields.Array(name);
  if (blocks == nullptr) return;
  for (size_t index = 0; index < blocks->size() && fields.ok(); ++index) {
    const std::string path = fmt::format("{}[{}]", name, index);
    const json::object* object = (*blocks)[index].if_object();
    if (object == nullptr) return fields.Refuse(path, "expected an object", "invalid_type");
    Fields block = fields.Inside(path, *object);
    std::string type;
    std::string piece;
    block.String("type", &type);
    if (fields.ok() && type != "text") {
      return block.Refuse("type", Quoted(type) + ", expected \"text\"", "unsupported_content");
    }
    block.Require("text");
    block.String("text", &piece);
    if (!text->empty() && !piece.empty()) *text += "\n";
    *text += piece;
  }
}

// One message of the API may be several of a chat: results of tools, then what the user says.
struct Turn {
  std::vector<Message> results;
  Message message;
};

void ReadBlock(Fields& block, const std::string& role, Turn* turn) {
  std::string type;
  block.Require("type");
  block.String("type", &type);
  if (!block.ok()) return;
  std::string text;
  if (type == "text") {
    block.Require("text");
    block.String("text", &text);
    turn->message.content += text;
  } else if (type == "tool_use" && role == "assistant") {
    ToolCall call;
    block.Require("name");
    block.String("id", &call.id);
    block.String("name", &call.name);
    const json::object* input = block.Object("input");
    call.arguments = input == nullptr ? "{}" : JsonText(*input);
    turn->message.tool_calls.push_back(std::move(call));
  } else if (type == "tool_result" && role == "user") {
    Message result{.role = "tool"};
    ReadText(block, "content", &result.content);
    turn->results.push_back(std::move(result));
  } else if (type == "thinking" && role == "assistant") {
    block.String("thinking", &text);
    turn->message.reasoning_content += text;
  } else if (type != "redacted_thinking") {
    block.Refuse("type",
                 Quoted(type) + fmt::format(" in a message of the {}, expected text or {}", role,
                                            role == "user" ? "tool_result" : "tool_use"),
                 "unsupported_content");
  }
}

void ReadTurn(Fields& fields, Turn* turn) {
  std::string& role = turn->message.role;
  fields.Require("role");
  fields.String("role", &role);
  if (fields.ok() && role != "user" && role != "assistant") {
    return fields.Refuse("role", Quoted(role) + ", expected user or assistant", "invalid_value");
  }
  fields.Require("content");
  const json::value* content = fields.Get("content");
  if (content == nullptr) return;
  if (const json::string* text = content->if_string()) {
    turn->message.content = Text(*text);
    return;
  }
  const json::array* blocks = fields.Array("content");
  if (blocks == nullptr) return;
  for (size_t index = 0; index < blocks->size() && fields.ok(); ++index) {
    const std::string path = fmt::format("content[{}]", index);
    const json::object* object = (*blocks)[index].if_object();
    if (object == nullptr) return fields.Refuse(path, "expected an object", "invalid_type");
    Fields block = fields.Inside(path, *object);
    ReadBlock(block, role, turn);
  }
}

void ReadAnthropicMessages(Fields& body, Request* request) {
  std::string system;
  ReadText(body, "system", &system);
  if (!system.empty()) request->messages.push_back({.role = "system", .content = system});
  body.Require("messages");
  const json::array* array = body.Array("messages");
  if (array == nullptr) return;
  if (array->empty() || array->size() > kMaxMessages) {
    return body.Refuse("messages",
                       fmt::format("{} messages, expected 1 to {}", array->size(), kMaxMessages),
                       "invalid_value");
  }
  for (size_t index = 0; index < array->size() && body.ok(); ++index) {
    const std::string path = fmt::format("messages[{}]", index);
    const json::object* object = (*array)[index].if_object();
    if (object == nullptr) return body.Refuse(path, "expected an object", "invalid_type");
    Fields fields = body.Inside(path, *object);
    Turn turn;
    ReadTurn(fields, &turn);
    const bool only_results = !turn.results.empty() && turn.message.content.empty();
    for (Message& result : turn.results) request->messages.push_back(std::move(result));
    if (!only_results) request->messages.push_back(std::move(turn.message));
  }
  if (body.ok() && request->messages.back().role == "assistant") {
    body.Refuse("messages",
                "the last is the assistant's, expected the user's: answers are made anew",
                "unsupported");
  }
}

// Tools become those of OpenAI's form, which chat formats are written for.
void ReadAnthropicTools(Fields& body, Request* request) {
  const json::array* array = body.Array("tools");
  if (array != nullptr && array->size() > kMaxTools) {
    return body.Refuse("tools",
                       fmt::format("{} tools, expected at most {}", array->size(), kMaxTools),
                       "invalid_value");
  }
  json::array tools;
  std::vector<std::string> names;
  for (size_t index = 0; array != nullptr && index < array->size() && body.ok(); ++index) {
    const std::string path = fmt::format("tools[{}]", index);
    const json::object* object = (*array)[index].if_object();
    if (object == nullptr) return body.Refuse(path, "expected an object", "invalid_type");
    Fields fields = body.Inside(path, *object);
    std::string type = "custom";
    std::string name;
    std::string description;
    fields.String("type", &type);
    if (body.ok() && type != "custom") {
      return fields.Refuse("type", Quoted(type) + ", expected a tool of the client's",
                           "unsupported");
    }
    fields.Require("name");
    fields.String("name", &name);
    fields.String("description", &description);
    fields.Require("input_schema");
    const json::object* schema = fields.Object("input_schema");
    if (schema == nullptr) return;
    json::object function = {{"name", name}};
    if (!description.empty()) function["description"] = description;
    function["parameters"] = *schema;
    tools.push_back(json::object{{"type", "function"}, {"function", std::move(function)}});
    names.push_back(std::move(name));
  }
  if (!body.ok()) return;
  if (!tools.empty()) request->tools = JsonText(tools);

  const json::object* choice = body.Object("tool_choice");
  if (choice == nullptr) return;
  Fields fields = body.Inside("tool_choice", *choice);
  std::string type;
  fields.Require("type");
  fields.String("type", &type);
  if (!body.ok()) return;
  if (type == "auto" || type == "none") {
    request->tool_choice = type;
  } else if (type == "any") {
    request->tool_choice = "required";
  } else if (type == "tool") {
    std::string name;
    fields.Require("name");
    fields.String("name", &name);
    if (body.ok() && std::find(names.begin(), names.end(), name) == names.end()) {
      return fields.Refuse("name", Quoted(name) + ", expected the name of one of tools",
                           "invalid_value");
    }
    request->tool_choice = "function:" + name;
  } else {
    return fields.Refuse("type", Quoted(type) + ", expected auto, any, tool or none",
                         "invalid_value");
  }
  if (body.ok() && names.empty() && (type == "any" || type == "tool")) {
    body.Refuse("tool_choice", "it is given without tools", "invalid_value");
  }
  if (names.empty()) request->tool_choice = "auto";
}

void ReadAnthropicThinking(Fields& body, Request* request) {
  const json::object* thinking = body.Object("thinking");
  if (thinking == nullptr) return;
  Fields fields = body.Inside("thinking", *thinking);
  std::string type;
  fields.Require("type");
  fields.String("type", &type);
  if (body.ok() && type != "enabled" && type != "disabled" && type != "adaptive") {
    fields.Refuse("type", Quoted(type) + ", expected enabled, adaptive or disabled",
                  "invalid_value");
  }
  int64_t budget = 0;
  fields.Int("budget_tokens", &budget, 1, INT32_MAX);
  request->thinking = type == "enabled" || type == "adaptive";
}

}  // namespace

std::optional<ApiError> ParseAnthropicMessages(const json::object& body, bool count_only,
                                               Completion* completion) {
  std::optional<ApiError> error;
  Fields fields(body, "", &error);
  Request request;
  request.parse_answer = true;
  fields.String("model", &completion->model);
  ReadAnthropicMessages(fields, &request);
  ReadAnthropicTools(fields, &request);
  ReadAnthropicThinking(fields, &request);
  if (!count_only) {
    fields.Require("max_tokens");
    fields.Int("max_tokens", &request.max_tokens, 1, INT32_MAX);
    fields.Bool("stream", &completion->stream);
    fields.Number("temperature", &request.sampling.temperature, 0.0, 2.0);
    std::optional<double> top_p;
    fields.Number("top_p", &top_p, 0.0, 1.0);
    if (top_p && *top_p > 0.0) request.sampling.top_p = top_p;
    int64_t top_k = 0;
    fields.Int("top_k", &top_k, 0, INT32_MAX);
    if (top_k > 0) request.sampling.top_k = top_k;
    fields.Strings("stop_sequences", &request.stop, kMaxStops);
    fields.Object("metadata");
  }
  completion->max_tokens_given = true;
  completion->requests.push_back(std::move(request));
  return error;
}

}  // namespace winnow::server
