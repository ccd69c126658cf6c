#include "server/openai_request.h"

#include <algorithm>
#include <limits>

#include "base/text.h"
#include "server/json_fields.h"
#include "server/json_text.h"

namespace winnow::server {
namespace {

constexpr size_t kMaxStopTokens = 64;
constexpr size_t kMaxBiases = 1024;
constexpr size_t kMaxPromptTokens = size_t{4} << 20;
constexpr int64_t kMaxTokens = INT32_MAX;
constexpr int64_t kMaxTopLogprobs = 20;

// "abc" or [{"type": "text", "text": "abc"}, …].
void ReadContent(Fields& message, std::string* content) {
  const json::value* value = message.Get("content");
  if (value == nullptr) return;
  if (const json::string* text = value->if_string()) {
    *content = Text(*text);
    return;
  }
  const json::array* parts = value->if_array();
  if (parts == nullptr) {
    return message.Refuse(
        "content",
        fmt::format("{}, expected a string or an array of text parts", JsonKindName(*value)),
        "invalid_type");
  }
  for (size_t index = 0; index < parts->size(); ++index) {
    const std::string name = fmt::format("content[{}]", index);
    const json::object* part = (*parts)[index].if_object();
    if (part == nullptr) {
      return message.Refuse(name, "expected an object with type and text", "invalid_type");
    }
    Fields fields = message.Inside(name, *part);
    std::string type;
    fields.String("type", &type);
    if (type == "refusal") continue;
    if (type != "text") {
      return message.Refuse(name,
                            fmt::format("type {}, expected \"text\": the model reads no images, "
                                        "sounds or files",
                                        Quoted(type)),
                            "unsupported_content");
    }
    fields.Require("text");
    std::string text;
    fields.String("text", &text);
    *content += text;
  }
}

void ReadToolCalls(Fields& message, std::vector<ToolCall>* calls) {
  const json::array* array = message.Array("tool_calls");
  if (array == nullptr) return;
  for (size_t index = 0; index < array->size(); ++index) {
    const std::string name = fmt::format("tool_calls[{}]", index);
    const json::object* object = (*array)[index].if_object();
    if (object == nullptr) return message.Refuse(name, "expected an object", "invalid_type");
    Fields call = message.Inside(name, *object);
    ToolCall read;
    call.String("id", &read.id);
    call.Require("function");
    const json::object* function = call.Object("function");
    if (function == nullptr) return;
    Fields inner = call.Inside("function", *function);
    inner.Require("name");
    inner.String("name", &read.name);
    inner.String("arguments", &read.arguments);
    if (read.arguments.empty()) read.arguments = "{}";
    const auto parsed = ParseJson(read.arguments, "arguments");
    if (!parsed.ok() || !parsed->is_object()) {
      return inner.Refuse("arguments", "expected the text of a JSON object", "invalid_value");
    }
    calls->push_back(std::move(read));
  }
}

// Formats match results to calls by order; clients by id. Brings a run of results after an
// assistant's calls into the order of the calls, if their ids are all known and different.
void OrderResults(const std::vector<std::string>& ids, size_t first, std::vector<Message>* messages,
                  const std::vector<std::string>& result_ids) {
  std::vector<size_t> places;
  for (const std::string& id : result_ids) {
    const auto found = std::find(ids.begin(), ids.end(), id);
    if (id.empty() || found == ids.end()) return;
    const size_t place = static_cast<size_t>(found - ids.begin());
    if (std::find(places.begin(), places.end(), place) != places.end()) return;
    places.push_back(place);
  }
  std::vector<std::pair<size_t, Message>> run;
  for (size_t index = 0; index < places.size(); ++index) {
    run.emplace_back(places[index], std::move((*messages)[first + index]));
  }
  std::sort(run.begin(), run.end(),
            [](const auto& one, const auto& other) { return one.first < other.first; });
  for (size_t index = 0; index < run.size(); ++index) {
    (*messages)[first + index] = std::move(run[index].second);
  }
}

void ReadMessage(Fields& message, Message* read, std::string* tool_call_id) {
  message.Require("role");
  message.String("role", &read->role);
  if (!message.ok()) return;
  if (read->role == "developer") read->role = "system";
  if (read->role != "system" && read->role != "user" && read->role != "assistant" &&
      read->role != "tool") {
    return message.Refuse(
        "role",
        fmt::format("{}, expected system, developer, user, assistant or tool", Quoted(read->role)),
        "invalid_value");
  }
  ReadContent(message, &read->content);
  if (read->role == "assistant") {
    ReadToolCalls(message, &read->tool_calls);
    message.String("reasoning_content", &read->reasoning_content);
    bool prefix = false;
    message.Bool("prefix", &prefix);
    if (prefix) {
      message.Refuse("prefix", "true, expected an answer that is to be made anew", "unsupported");
    }
  } else if (read->role == "tool") {
    message.String("tool_call_id", tool_call_id);
  }
  if (!message.Has("content") && read->tool_calls.empty()) message.Require("content");
}

void ReadChatMessages(Fields& body, Request* request) {
  body.Require("messages");
  const json::array* array = body.Array("messages");
  if (array == nullptr) return;
  if (array->empty()) {
    return body.Refuse("messages", "an empty array, expected at least one message",
                       "invalid_value");
  }
  if (array->size() > kMaxMessages) {
    return body.Refuse("messages",
                       fmt::format("{} messages, expected at most {}", array->size(), kMaxMessages),
                       "array_above_max_length");
  }
  std::vector<std::string> call_ids;
  std::vector<std::string> result_ids;
  size_t first_result = 0;
  const auto end_run = [&] {
    OrderResults(call_ids, first_result, &request->messages, result_ids);
    result_ids.clear();
  };
  for (size_t index = 0; index < array->size() && body.ok(); ++index) {
    const std::string name = fmt::format("messages[{}]", index);
    const json::object* object = (*array)[index].if_object();
    if (object == nullptr) return body.Refuse(name, "expected an object", "invalid_type");
    Fields fields = body.Inside(name, *object);
    Message message;
    std::string tool_call_id;
    ReadMessage(fields, &message, &tool_call_id);
    if (message.role == "tool") {
      if (result_ids.empty()) first_result = request->messages.size();
      result_ids.push_back(tool_call_id);
    } else {
      end_run();
      call_ids.clear();
      for (const ToolCall& call : message.tool_calls) call_ids.push_back(call.id);
    }
    request->messages.push_back(std::move(message));
  }
  if (body.ok()) end_run();
}

bool IsToolName(std::string_view name) {
  return !name.empty() && name.size() <= 128 &&
         std::all_of(name.begin(), name.end(), [](unsigned char letter) {
           return std::isalnum(letter) != 0 || letter == '_' || letter == '-' || letter == '.';
         });
}

void ReadChatTools(Fields& body, Request* request) {
  const json::array* tools = body.Array("tools");
  std::vector<std::string> names;
  for (size_t index = 0; tools != nullptr && index < tools->size() && body.ok(); ++index) {
    if (tools->size() > kMaxTools) {
      return body.Refuse("tools",
                         fmt::format("{} tools, expected at most {}", tools->size(), kMaxTools),
                         "array_above_max_length");
    }
    const std::string path = fmt::format("tools[{}]", index);
    const json::object* object = (*tools)[index].if_object();
    if (object == nullptr) return body.Refuse(path, "expected an object", "invalid_type");
    Fields tool = body.Inside(path, *object);
    std::string type = "function";
    tool.String("type", &type);
    if (type != "function") {
      return tool.Refuse("type", Quoted(type) + ", expected \"function\"", "invalid_value");
    }
    tool.Require("function");
    const json::object* function = tool.Object("function");
    if (function == nullptr) return;
    Fields fields = tool.Inside("function", *function);
    std::string name;
    fields.Require("name");
    fields.String("name", &name);
    std::string description;
    fields.String("description", &description);
    fields.Object("parameters");
    if (!IsToolName(name)) {
      return fields.Refuse("name", Quoted(name) + ", expected letters, digits, '_', '-' and '.'",
                           "invalid_value");
    }
    names.push_back(std::move(name));
  }
  if (!body.ok()) return;
  if (!names.empty()) request->tools = JsonText(*tools);

  const json::value* choice = body.Get("tool_choice");
  if (choice == nullptr) return;
  if (const json::string* word = choice->if_string()) {
    request->tool_choice = Text(*word);
    if (request->tool_choice != "none" && request->tool_choice != "auto" &&
        request->tool_choice != "required") {
      return body.Refuse("tool_choice",
                         Quoted(request->tool_choice) +
                             ", expected none, auto, required or an object with a function",
                         "invalid_value");
    }
  } else if (const json::object* object = body.Object("tool_choice")) {
    Fields fields = body.Inside("tool_choice", *object);
    fields.Require("function");
    const json::object* function = fields.Object("function");
    if (function == nullptr) return;
    std::string name;
    Fields inner = fields.Inside("function", *function);
    inner.Require("name");
    inner.String("name", &name);
    if (body.ok() && std::find(names.begin(), names.end(), name) == names.end()) {
      return inner.Refuse("name", Quoted(name) + ", expected the name of one of tools",
                          "invalid_value");
    }
    request->tool_choice = "function:" + name;
  }
  if (body.ok() && names.empty() && request->tool_choice != "none" &&
      request->tool_choice != "auto") {
    body.Refuse("tool_choice", "it is given without tools", "invalid_value");
  }
  if (names.empty()) request->tool_choice = "auto";
}

void ReadChatThinking(Fields& body, Request* request) {
  if (const json::object* kwargs = body.Object("chat_template_kwargs")) {
    Fields fields = body.Inside("chat_template_kwargs", *kwargs);
    fields.Bool("thinking", &request->thinking);
    fields.Bool("enable_thinking", &request->thinking);
  }
  if (const json::object* thinking = body.Object("thinking")) {
    Fields fields = body.Inside("thinking", *thinking);
    std::string type;
    fields.Require("type");
    fields.String("type", &type);
    if (body.ok() && type != "enabled" && type != "disabled" && type != "auto") {
      fields.Refuse("type", Quoted(type) + ", expected enabled or disabled", "invalid_value");
    }
    request->thinking = type == "enabled";
  }
  std::string effort;
  body.String("reasoning_effort", &effort);
}

void ReadAnswerFormat(Fields& body, Request* request) {
  const json::object* object = body.Object("response_format");
  if (object == nullptr) return;
  Fields format = body.Inside("response_format", *object);
  std::string type;
  format.Require("type");
  format.String("type", &type);
  if (!body.ok() || type == "text") return;
  if (type == "json_object") {
    request->answer_format = AnswerFormat::kJsonObject;
  } else if (type == "json_schema") {
    format.Require("json_schema");
    const json::object* named = format.Object("json_schema");
    if (named == nullptr) return;
    Fields inner = format.Inside("json_schema", *named);
    inner.Require("schema");
    const json::object* schema = inner.Object("schema");
    if (schema == nullptr) return;
    request->answer_format = AnswerFormat::kJsonSchema;
    request->json_schema = JsonText(*schema);
  } else {
    format.Refuse("type", Quoted(type) + ", expected text, json_object or json_schema",
                  "invalid_value");
  }
}

void ReadLogitBias(Fields& body, SamplingParams* sampling) {
  const json::object* biases = body.Object("logit_bias");
  if (biases == nullptr) return;
  if (biases->size() > kMaxBiases) {
    return body.Refuse("logit_bias",
                       fmt::format("{} tokens, expected at most {}", biases->size(), kMaxBiases),
                       "object_above_max_properties");
  }
  for (const auto& member : *biases) {
    const std::string_view key(member.key().data(), member.key().size());
    int64_t token = 0;
    bool whole = !key.empty() && key.size() <= 10;
    for (const char digit : key.substr(0, 10)) {
      whole = whole && digit >= '0' && digit <= '9';
      token = token * 10 + (digit - '0');
    }
    if (!whole || token > INT32_MAX) {
      return body.Refuse("logit_bias", Quoted(key) + ", expected token ids as names",
                         "invalid_value");
    }
    const std::optional<double> bias = AsNumber(member.value());
    if (!bias || !(*bias >= -100.0 && *bias <= 100.0)) {
      return body.Refuse("logit_bias",
                         fmt::format("{} for token {}, expected a number from -100 to 100",
                                     json::serialize(member.value()).substr(0, 40), token),
                         "invalid_value");
    }
    sampling->logit_bias.emplace_back(static_cast<int32_t>(token), *bias);
  }
}

void ReadSampling(Fields& body, Request* request) {
  constexpr double kTiny = std::numeric_limits<double>::min();
  SamplingParams& sampling = request->sampling;
  body.Number("temperature", &sampling.temperature, 0.0, 2.0);
  body.Number("top_p", &sampling.top_p, 0.0, 1.0);
  // 0 keeps the likeliest token only, which is what the smallest positive share does.
  if (sampling.top_p && *sampling.top_p == 0.0) sampling.top_p = kTiny;
  int64_t top_k = -1;
  body.Int("top_k", &top_k, -1, INT32_MAX);
  if (body.Has("top_k")) sampling.top_k = std::max<int64_t>(top_k, 0);  // vLLM: -1 is all
  body.Number("min_p", &sampling.min_p, 0.0, 1.0);
  body.Number("repetition_penalty", &sampling.repetition_penalty, 0.01, 100.0);
  body.Number("presence_penalty", &sampling.presence_penalty, -2.0, 2.0);
  body.Number("frequency_penalty", &sampling.frequency_penalty, -2.0, 2.0);
  int64_t seed = 0;
  body.Int("seed", &seed, INT64_MIN, INT64_MAX);
  if (body.Has("seed")) sampling.seed = static_cast<uint64_t>(seed);
  ReadLogitBias(body, &sampling);
  body.Strings("stop", &request->stop, kMaxStops);
  body.Tokens("stop_token_ids", &request->stop_token_ids, kMaxStopTokens);
  body.Bool("ignore_eos", &request->ignore_eos);
  body.Bool("skip_special_tokens", &request->skip_special_tokens);
  body.String("cache_salt", &request->cache_salt);
}

// What chat and text completions share; `request` is the first.
void ReadCommon(Fields& body, Completion* completion, Request* request) {
  body.String("model", &completion->model);
  body.Bool("stream", &completion->stream);
  if (const json::object* options = body.Object("stream_options")) {
    Fields fields = body.Inside("stream_options", *options);
    fields.Bool("include_usage", &completion->include_usage);
  }
  body.Int("n", &completion->n, 1, kMaxChoices);
  body.Bool("return_token_ids", &completion->return_token_ids);
  std::string user;
  body.String("user", &user);
  body.Object("metadata");
  ReadSampling(body, request);
  ReadAnswerFormat(body, request);
}

void ReadPrompts(Fields& body, const Request& shared, std::vector<Request>* requests) {
  body.Require("prompt");
  const json::value* prompt = body.Get("prompt");
  if (prompt == nullptr) return;
  const auto add = [&](const std::string& name, const json::value& value) {
    Request request = shared;
    if (const json::string* text = value.if_string()) {
      if (text->empty()) {
        return body.Refuse(name, "an empty string, expected text", "invalid_value");
      }
      request.prompt = Text(*text);
    } else if (const json::array* tokens = value.if_array()) {
      if (tokens->empty() || tokens->size() > kMaxPromptTokens) {
        return body.Refuse(
            name, fmt::format("{} tokens, expected 1 to {}", tokens->size(), kMaxPromptTokens),
            "invalid_value");
      }
      for (const json::value& element : *tokens) {
        const std::optional<int32_t> token = AsToken(element);
        if (!token) {
          return body.Refuse(name, "expected token ids, which are whole numbers from 0",
                             "invalid_type");
        }
        request.token_ids.push_back(*token);
      }
    } else {
      return body.Refuse(name, fmt::format("{}, expected text or token ids", JsonKindName(value)),
                         "invalid_type");
    }
    requests->push_back(std::move(request));
  };
  const json::array* array = prompt->if_array();
  const bool several = array != nullptr && !array->empty() &&
                       (array->front().is_string() || array->front().is_array());
  if (!several) return add("prompt", *prompt);
  if (static_cast<int64_t>(array->size()) > kMaxChoices) {
    return body.Refuse("prompt",
                       fmt::format("{} prompts, expected at most {}", array->size(), kMaxChoices),
                       "array_above_max_length");
  }
  for (size_t index = 0; index < array->size() && body.ok(); ++index) {
    add(fmt::format("prompt[{}]", index), (*array)[index]);
  }
}

}  // namespace

std::optional<ApiError> ParseChatPrompt(const json::object& body, Request* request) {
  std::optional<ApiError> error;
  Fields fields(body, "", &error);
  ReadChatMessages(fields, request);
  ReadChatTools(fields, request);
  ReadChatThinking(fields, request);
  return error;
}

std::optional<ApiError> ParseChatCompletion(const json::object& body, Completion* completion) {
  std::optional<ApiError> error;
  Fields fields(body, "", &error);
  Request request;
  request.parse_answer = true;
  ReadCommon(fields, completion, &request);
  if (!error) error = ParseChatPrompt(body, &request);
  int64_t max_tokens = 0;
  fields.Int("max_tokens", &max_tokens, 1, kMaxTokens);
  fields.Int("max_completion_tokens", &max_tokens, 1, kMaxTokens);
  completion->max_tokens_given = max_tokens > 0;
  request.max_tokens = max_tokens;
  fields.Bool("logprobs", &completion->logprobs);
  int64_t top = 0;
  fields.Int("top_logprobs", &top, 0, kMaxTopLogprobs);
  if (top > 0 && !completion->logprobs) {
    fields.Refuse("top_logprobs", "it is given, but logprobs is not true", "invalid_value");
  }
  if (completion->logprobs) request.logprobs = top;
  bool parallel = true;
  fields.Bool("parallel_tool_calls", &parallel);
  completion->requests.push_back(std::move(request));
  return error;
}

std::optional<ApiError> ParseTextCompletion(const json::object& body, Completion* completion) {
  std::optional<ApiError> error;
  Fields fields(body, "", &error);
  Request shared;
  shared.max_tokens = 16;
  ReadCommon(fields, completion, &shared);
  fields.Bool("echo", &completion->echo);
  fields.Bool("allow_special_tokens", &shared.allow_special_tokens);
  fields.Int("max_tokens", &shared.max_tokens, completion->echo ? 0 : 1, kMaxTokens);
  completion->max_tokens_given = true;
  int64_t logprobs = -1;
  fields.Int("logprobs", &logprobs, 0, kMaxTopLogprobs);
  completion->logprobs = logprobs >= 0;
  shared.logprobs = logprobs;
  shared.prompt_logprobs = completion->echo && completion->logprobs;
  int64_t best_of = completion->n;
  fields.Int("best_of", &best_of, 1, kMaxChoices);
  if (best_of != completion->n) {
    fields.Refuse("best_of", "expected the same as n, or none", "unsupported");
  }
  std::string suffix;
  fields.String("suffix", &suffix);
  if (!suffix.empty()) fields.Refuse("suffix", "it is given, expected none", "unsupported");
  ReadPrompts(fields, shared, &completion->requests);
  if (!error && static_cast<int64_t>(completion->requests.size()) * completion->n > kMaxChoices) {
    fields.Refuse("n",
                  fmt::format("{} prompts times {}, expected at most {} answers",
                              completion->requests.size(), completion->n, kMaxChoices),
                  "invalid_value");
  }
  return error;
}

}  // namespace winnow::server
