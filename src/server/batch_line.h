// One line of a batch, as OpenAI writes them: requests that come in, results that go out.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "server/api_error.h"
#include "server/openai_request.h"
#include "winnow/status.h"

namespace winnow::server {

enum class BatchEndpoint { kChatCompletions, kCompletions };

// "/v1/chat/completions"
const char* Path(BatchEndpoint endpoint);
std::optional<BatchEndpoint> ParseBatchEndpoint(std::string_view path);

// What a line has to keep to.
struct BatchRules {
  int64_t max_lines = 0;                      // 0: any number
  int64_t max_line_bytes = int64_t{8} << 20;  // without the line's end
  std::vector<std::string> model_names;       // what body.model may be
  std::optional<BatchEndpoint> endpoint;      // the only one; none: each line has its own
};

constexpr size_t kMaxCustomIdBytes = 512;

struct BatchLine {
  std::string custom_id;
  BatchEndpoint endpoint = BatchEndpoint::kChatCompletions;
  Completion completion;
};

// Reads {"custom_id", "method": "POST", "url", "body"}; other fields are ignored. An error names
// the field of the line in `param` ("body.messages[0].role") and says what was found.
std::optional<ApiError> ParseBatchLine(std::string_view text, const BatchRules& rules,
                                       BatchLine* line);

// A result, with its end of line. `body` is the JSON of the answer or error.
std::string ResultLine(std::string_view custom_id, int status, std::string_view request_id,
                       std::string_view body);

struct BatchResult {
  std::string custom_id;
  int status = 0;
};

// Reads back what ResultLine wrote, without the end of line; nothing if it is something else.
std::optional<BatchResult> ReadResultLine(std::string_view text);

// Whether `text` could be the beginning of a result.
bool BeginsResultLine(std::string_view text);

}  // namespace winnow::server
