// Requests that the tests of the server send to the golden model.
#pragma once

#include <fmt/format.h>

#include <string>

#include "cli.h"

namespace winnow {

// What transformers answers to the prompt of the golden case (tests/golden/README.md).
inline const std::string kPrompt =
    "[103,93,63,94,140,157,82,16,78,17,111,131,44,70,13,45,102,47,75,149,37,84,42,128,66,91,145,"
    "118,38,96,107,72,145,100,8,155,62,86,97,105,29,106,108,120,3,100,75,99,150,42,109,17,129,97,"
    "154,138,78,67,150,79,14,147,72,97,42,26,95,22,113,134,133,20,28,45,106,130,90,67,22,63]";
inline const std::string kGreedy = "[51,127,152,9,43,74,59,142]";

inline const std::string kText = "/v1/completions";
inline const std::string kChat = "/v1/chat/completions";

// A body for the golden model: `fields` go after the prompt.
inline std::string Body(const std::string& fields) {
  return "{\"prompt\":" + kPrompt + ",\"ignore_eos\":true," + fields + "}";
}
// Many long answers, one event for each token.
inline std::string Long(int n) {
  return Body(
      fmt::format("\"max_tokens\":4000,\"temperature\":1,\"stream\":true,"
                  "\"return_token_ids\":true,\"n\":{}",
                  n));
}
inline const std::string kLong = Long(1);

}  // namespace winnow
