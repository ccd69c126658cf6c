#include "server/batch_line.h"

#include <algorithm>

#include "base/text.h"
#include "server/answer_writer.h"
#include "server/json_fields.h"
#include "server/json_text.h"

namespace winnow::server {
namespace {

constexpr std::string_view kResultStart = "{\"id\":\"batch_req_";
constexpr std::string_view kBody = "request body: ";

// The body's own error, about a field of the line.
ApiError InsideBody(ApiError error) {
  if (!error.param.empty() && error.message.starts_with(error.param)) {
    error.message = "body." + error.message;
  }
  error.param = error.param.empty() ? "body" : "body." + error.param;
  return error;
}

std::optional<ApiError> CheckCustomId(Fields& fields, std::string* custom_id) {
  fields.Require("custom_id");
  fields.String("custom_id", custom_id);
  if (custom_id->empty()) {
    fields.Refuse("custom_id", "an empty string, expected a name of the request", "invalid_value");
  }
  if (custom_id->size() > kMaxCustomIdBytes) {
    fields.Refuse(
        "custom_id",
        fmt::format("{} bytes, expected at most {}", custom_id->size(), kMaxCustomIdBytes),
        "string_above_max_length");
  }
  return *fields.error();
}

std::optional<ApiError> CheckTarget(Fields& fields, const BatchRules& rules,
                                    BatchEndpoint* endpoint) {
  std::string method;
  fields.Require("method");
  fields.String("method", &method);
  if (method != "POST") {
    fields.Refuse("method", Quoted(method) + ", expected \"POST\"", "invalid_value");
  }
  std::string url;
  fields.Require("url");
  fields.String("url", &url);
  const std::optional<BatchEndpoint> found = ParseBatchEndpoint(url);
  if (!found) {
    fields.Refuse("url", Quoted(url) + ", expected /v1/chat/completions or /v1/completions",
                  "invalid_url");
  } else if (rules.endpoint && *found != *rules.endpoint) {
    fields.Refuse("url",
                  fmt::format("{}, expected {}, which is the endpoint of the batch", Quoted(url),
                              Path(*rules.endpoint)),
                  "mismatched_url");
  } else {
    *endpoint = *found;
  }
  return *fields.error();
}

std::optional<ApiError> CheckCompletion(const Completion& completion, const BatchRules& rules) {
  if (completion.stream) {
    return BadField("stream", "true, expected false: the results of a batch are whole",
                    "unsupported");
  }
  const auto& names = rules.model_names;
  if (completion.model.empty() ||
      std::find(names.begin(), names.end(), completion.model) != names.end()) {
    return std::nullopt;
  }
  return BadField("model",
                  names.empty()
                      ? Quoted(completion.model) + ", expected none"
                      : fmt::format("{}, expected {}", Quoted(completion.model), Quoted(names[0])),
                  "model_not_found");
}

}  // namespace

const char* Path(BatchEndpoint endpoint) {
  return endpoint == BatchEndpoint::kChatCompletions ? "/v1/chat/completions" : "/v1/completions";
}

std::optional<BatchEndpoint> ParseBatchEndpoint(std::string_view path) {
  for (const BatchEndpoint endpoint :
       {BatchEndpoint::kChatCompletions, BatchEndpoint::kCompletions}) {
    if (path == Path(endpoint)) return endpoint;
  }
  return std::nullopt;
}

std::optional<ApiError> ParseBatchLine(std::string_view text, const BatchRules& rules,
                                       BatchLine* line) {
  const auto value = ParseBody(text);
  if (!value.ok()) {
    std::string message = value.error().message();
    if (message.starts_with(kBody)) message.erase(0, kBody.size());
    return BadField("", std::move(message), "invalid_json_line");
  }
  std::optional<ApiError> error;
  Fields fields(value->get_object(), "", &error);
  if (auto wrong = CheckCustomId(fields, &line->custom_id)) return wrong;
  if (auto wrong = CheckTarget(fields, rules, &line->endpoint)) return wrong;
  fields.Require("body");
  const json::object* body = fields.Object("body");
  if (error) return error;
  line->completion = {};
  auto wrong = line->endpoint == BatchEndpoint::kChatCompletions
                   ? ParseChatCompletion(*body, &line->completion)
                   : ParseTextCompletion(*body, &line->completion);
  if (!wrong) wrong = CheckCompletion(line->completion, rules);
  if (wrong) return InsideBody(std::move(*wrong));
  return std::nullopt;
}

std::string ResultLine(std::string_view custom_id, int status, std::string_view request_id,
                       std::string_view body) {
  const json::string_view id(custom_id.data(), custom_id.size());
  std::string line = RandomId(kResultStart);
  line += "\",\"custom_id\":" + JsonText(json::value(id));
  line += fmt::format(",\"response\":{{\"status_code\":{},\"request_id\":\"{}\",\"body\":", status,
                      request_id);
  line += body;
  line += "},\"error\":null}\n";
  return line;
}

std::optional<BatchResult> ReadResultLine(std::string_view text) {
  if (!text.starts_with(kResultStart)) return std::nullopt;
  const auto value = ParseJson(text, "result");
  if (!value.ok() || !value->is_object()) return std::nullopt;
  const json::value* custom_id = value->get_object().if_contains("custom_id");
  const json::value* response = value->get_object().if_contains("response");
  if (custom_id == nullptr || !custom_id->is_string()) return std::nullopt;
  if (response == nullptr || !response->is_object()) return std::nullopt;
  const json::value* status = response->get_object().if_contains("status_code");
  const std::optional<int64_t> code = status ? AsInt(*status) : std::nullopt;
  if (!code || *code < 100 || *code > 599) return std::nullopt;
  const json::string& id = custom_id->get_string();
  return BatchResult{{id.data(), id.size()}, static_cast<int>(*code)};
}

bool BeginsResultLine(std::string_view text) {
  const size_t length = std::min(text.size(), kResultStart.size());
  return text.substr(0, length) == kResultStart.substr(0, length);
}

}  // namespace winnow::server
