// From the JSON of OpenAI's API, with DeepSeek's and vLLM's additions, to requests of the engine.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "server/api_error.h"
#include "winnow/winnow.h"

namespace winnow::server {

// What an API call asks for, besides what each of its generations is.
struct Completion {
  std::string model;              // empty: not said
  std::vector<Request> requests;  // one for each prompt; each is run n times
  int64_t n = 1;
  bool stream = false;
  bool include_usage = false;     // in a stream
  bool max_tokens_given = false;  // else requests[].max_tokens is not set
  bool logprobs = false;
  bool echo = false;              // /v1/completions: the prompt is part of the text
  bool return_token_ids = false;  // vLLM's: token_ids beside the text
  bool anthropic_thinking = false;
};

constexpr int64_t kMaxChoices = 128;  // prompts times n

// Each returns what is wrong with the body, if anything is. Fields that it does not know are
// ignored.
std::optional<ApiError> ParseChatCompletion(const json::object& body, Completion* completion);
std::optional<ApiError> ParseTextCompletion(const json::object& body, Completion* completion);

// The messages and tools of a chat, as /tokenize takes them too.
std::optional<ApiError> ParseChatPrompt(const json::object& body, Request* request);

}  // namespace winnow::server
