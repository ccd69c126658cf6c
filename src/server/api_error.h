// Errors as clients of the OpenAI and Anthropic APIs expect them.
#pragma once

#include <string>
#include <string_view>

#include "server/http.h"
#include "winnow/status.h"

namespace winnow::server {

// Which API's shape an answer has.
enum class ErrorStyle { kOpenAi, kAnthropic };

struct ApiError {
  int status = 400;
  std::string message;
  std::string param;    // "messages[0].content"; empty: none
  std::string code;     // "model_not_found"; empty: none
  int retry_after = 0;  // seconds; 0: none
};

// The one translation of a Status (docs/serve.md has the table).
ApiError ToApiError(const Status& status);

// A 400 about one field of the body.
ApiError BadField(std::string param, std::string message, std::string code = {});

// "invalid_request_error", … for an HTTP status.
const char* ErrorType(int status, ErrorStyle style);

// The body, and the whole response. `request_id` may be empty.
std::string ErrorBody(const ApiError& error, ErrorStyle style, std::string_view request_id);
HttpResponse ErrorResponse(const ApiError& error, ErrorStyle style, std::string_view request_id);

// The style of the API that a path belongs to.
ErrorStyle StyleOf(std::string_view path);

}  // namespace winnow::server
