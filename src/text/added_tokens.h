// Tokens that are found in a text as they are written, before it is cut into pieces: roles, the
// ends of sentences, tags.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "winnow/status.h"

namespace winnow {

// One element of added_tokens in a tokenizer.json.
struct AddedToken {
  int32_t id;
  std::string content;
  bool special;
  bool normalized;
};

// Reads one element; `field` names it in errors. Tokens that swallow the space around them or ask
// for a word of their own (lstrip, rstrip, single_word) are kUnsupported.
Result<AddedToken> ParseAddedToken(const json::value& value, const std::string& field);

// Finds tokens by content.
class AddedTokenMatcher {
 public:
  AddedTokenMatcher() = default;
  explicit AddedTokenMatcher(std::vector<AddedToken> tokens);

  struct Match {
    size_t position;
    size_t length;  // 0: there is none
    int32_t id;
  };

  // The leftmost match at or after `from`, and of those the longest.
  Match Find(std::string_view text, size_t from) const;

 private:
  Match LongestAt(std::string_view text, size_t position) const;

  std::vector<AddedToken> tokens_;  // by content
  bool begins_[256] = {};           // which bytes begin a token
};

}  // namespace winnow
