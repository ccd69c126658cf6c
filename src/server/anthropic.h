// The Messages API of Anthropic: its requests as those of the engine, and answers in its form.
#pragma once

#include <memory>
#include <optional>

#include "base/json.h"
#include "server/answer_writer.h"
#include "server/api_error.h"
#include "server/openai_request.h"

namespace winnow::server {

// What is wrong with the body of /v1/messages, if anything is. `count_only`: of count_tokens, which
// needs no max_tokens.
std::optional<ApiError> ParseAnthropicMessages(const json::object& body, bool count_only,
                                               Completion* completion);

std::unique_ptr<AnswerWriter> MakeMessagesWriter(AnswerShape shape);

}  // namespace winnow::server
