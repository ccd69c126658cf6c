#include "server/api_error.h"

#include "server/json_text.h"

namespace winnow::server {
namespace {

int HttpStatus(StatusCode code) {
  switch (code) {
    case StatusCode::kOk:
      return 200;
    case StatusCode::kInvalidArgument:
    case StatusCode::kOutOfRange:
    case StatusCode::kUnsupported:
      return 400;
    case StatusCode::kNotFound:
      return 404;
    case StatusCode::kResourceExhausted:
      return 429;
    case StatusCode::kUnavailable:
    case StatusCode::kCancelled:
      return 503;
    case StatusCode::kCorrupt:
    case StatusCode::kInternal:
      return 500;
  }
  return 500;
}

const char* OpenAiType(int status) {
  switch (status) {
    case 401:
      return "authentication_error";
    case 403:
    case 421:
      return "permission_error";
    case 404:
      return "not_found_error";
    case 429:
      return "rate_limit_error";
    default:
      return status >= 500 ? "server_error" : "invalid_request_error";
  }
}

const char* AnthropicType(int status) {
  switch (status) {
    case 401:
      return "authentication_error";
    case 403:
    case 421:
      return "permission_error";
    case 404:
      return "not_found_error";
    case 413:
      return "request_too_large";
    case 429:
      return "rate_limit_error";
    case 503:
      return "overloaded_error";
    default:
      return status >= 500 ? "api_error" : "invalid_request_error";
  }
}

}  // namespace

ApiError ToApiError(const Status& status) {
  ApiError error;
  error.status = HttpStatus(status.code());
  error.message = status.message();
  if (!status.hint().empty()) error.message += " (" + status.hint() + ")";
  if (error.status == 429 || error.status == 503) error.retry_after = 1;
  return error;
}

ApiError BadField(std::string param, std::string message, std::string code) {
  return {.status = 400,
          .message = param.empty() ? std::move(message) : param + ": " + message,
          .param = std::move(param),
          .code = std::move(code)};
}

const char* ErrorType(int status, ErrorStyle style) {
  return style == ErrorStyle::kOpenAi ? OpenAiType(status) : AnthropicType(status);
}

std::string ErrorBody(const ApiError& error, ErrorStyle style, std::string_view request_id) {
  json::object inner = {{"type", ErrorType(error.status, style)}, {"message", error.message}};
  if (style == ErrorStyle::kAnthropic) {
    json::object outer = {{"type", "error"}, {"error", std::move(inner)}};
    if (!request_id.empty()) outer["request_id"] = request_id;
    return JsonText(outer);
  }
  inner["param"] = error.param.empty() ? json::value(nullptr) : json::value(error.param);
  inner["code"] = error.code.empty() ? json::value(nullptr) : json::value(error.code);
  return JsonText(json::object{{"error", std::move(inner)}});
}

HttpResponse ErrorResponse(const ApiError& error, ErrorStyle style, std::string_view request_id) {
  HttpResponse response;
  response.status = error.status;
  response.body = ErrorBody(error, style, request_id);
  if (error.retry_after > 0) {
    response.headers.emplace_back("Retry-After", std::to_string(error.retry_after));
  }
  if (error.status == 401) response.headers.emplace_back("WWW-Authenticate", "Bearer");
  return response;
}

ErrorStyle StyleOf(std::string_view path) {
  return path == "/v1/messages" || path.starts_with("/v1/messages/") ? ErrorStyle::kAnthropic
                                                                     : ErrorStyle::kOpenAi;
}

}  // namespace winnow::server
