// How chunks of generations become what a client reads: one implementation for each API.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "server/api_error.h"
#include "winnow/winnow.h"

namespace winnow::server {

// What all answers say of themselves.
struct AnswerShape {
  std::string id;  // "chatcmpl-…"
  std::string model;
  int64_t created = 0;  // seconds since 1970
  size_t num_choices = 1;
  int64_t n = 1;  // choices of each prompt; choice = prompt * n + its number
  bool stream = false;
  bool include_usage = false;
  bool logprobs = false;
  bool return_token_ids = false;
  std::string system_fingerprint;  // empty: none
  std::optional<double> dollars_per_hour;
};

// Takes the chunks of each choice in their order. One thread at a time.
class AnswerWriter {
 public:
  virtual ~AnswerWriter() = default;
  // Takes the next chunk of a choice; of a stream, appends its events. Chunks without tokens tell
  // how far the prompt is.
  virtual void Add(size_t choice, Chunk chunk, std::string* events) = 0;
  // After the last chunk of all choices; `total` is what they cost together. Of a stream.
  virtual void End(const Receipt& total, std::string* events) = 0;
  // Likewise of an answer that is sent as a whole.
  virtual std::string Whole(const Receipt& total) = 0;
  // A stream that cannot go on.
  virtual void Fail(const ApiError& error, std::string* events) = 0;
  // Said in a stream while there is nothing else to say. `prefilled` of `prompt_tokens`, which is 0
  // while the request waits.
  virtual void KeepAlive(int64_t prefilled, int64_t prompt_tokens, std::string* events) = 0;
  virtual ErrorStyle error_style() const = 0;
};

// ": queued" or ": prefill 12000/30000".
std::string ProgressComment(int64_t prefilled, int64_t prompt_tokens);

// "prefix" and 24 random letters and digits.
std::string RandomId(std::string_view prefix);

}  // namespace winnow::server
