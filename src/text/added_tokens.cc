// Added tokens: reading them, and finding them by narrowing a sorted list byte by byte.
#include "text/added_tokens.h"

#include <algorithm>

#include "base/check.h"
#include "base/text.h"

namespace winnow {
namespace {

// Bounds the work at each byte of a text.
constexpr size_t kLongestContent = 1024;

Result<bool> ParseFlag(const json::object& object, std::string_view name,
                       const std::string& field) {
  const json::value* value = object.if_contains(name);
  if (value == nullptr || !value->is_bool()) {
    return Corrupt(fmt::format("{}.{}: expected a boolean", field, name));
  }
  return value->get_bool();
}

}  // namespace

Result<AddedToken> ParseAddedToken(const json::value& value, const std::string& field) {
  const json::object* object = value.if_object();
  if (object == nullptr) {
    return Corrupt(fmt::format("{}: {}, expected an object", field, JsonKindName(value)));
  }
  const json::value* id = object->if_contains("id");
  const json::value* content = object->if_contains("content");
  if (id == nullptr || !id->is_int64() || id->get_int64() < 0 || id->get_int64() > INT32_MAX) {
    return Corrupt(fmt::format("{}.id: expected an integer from 0 to {}", field, INT32_MAX));
  }
  if (content == nullptr || !content->is_string() || content->get_string().empty() ||
      content->get_string().size() > kLongestContent) {
    return Corrupt(
        fmt::format("{}.content: expected a string of 1 to {} bytes", field, kLongestContent));
  }
  AddedToken token = {static_cast<int32_t>(id->get_int64()), std::string(content->get_string()),
                      false, false};
  WINNOW_ASSIGN(token.special, ParseFlag(*object, "special", field));
  WINNOW_ASSIGN(token.normalized, ParseFlag(*object, "normalized", field));
  for (const char* name : {"lstrip", "rstrip", "single_word"}) {
    WINNOW_ASSIGN(const bool flag, ParseFlag(*object, name, field));
    if (flag) {
      return Unsupported(
          fmt::format("{}.{}: true for {}, expected false", field, name, Quoted(token.content)));
    }
  }
  return token;
}

AddedTokenMatcher::AddedTokenMatcher(std::vector<AddedToken> tokens) : tokens_(std::move(tokens)) {
  std::sort(tokens_.begin(), tokens_.end(),
            [](const AddedToken& a, const AddedToken& b) { return a.content < b.content; });
  for (const AddedToken& token : tokens_) begins_[static_cast<uint8_t>(token.content[0])] = true;
}

AddedTokenMatcher::Match AddedTokenMatcher::Find(std::string_view text, size_t from) const {
  for (size_t position = from; position < text.size(); ++position) {
    if (!begins_[static_cast<uint8_t>(text[position])]) continue;
    const Match match = LongestAt(text, position);
    if (match.length > 0) return match;
  }
  return {text.size(), 0, -1};
}

AddedTokenMatcher::Match AddedTokenMatcher::LongestAt(std::string_view text,
                                                      size_t position) const {
  Match match = {position, 0, -1};
  auto first = tokens_.begin();
  auto last = tokens_.end();
  // [first, last) are the tokens that share the `depth` bytes of text read so far.
  for (size_t depth = 0; first != last && position + depth < text.size(); ++depth) {
    const uint8_t byte = text[position + depth];
    const auto byte_of = [depth](const AddedToken& token) {
      return static_cast<uint8_t>(token.content[depth]);
    };
    // A token of exactly `depth` bytes sorts first, and was matched a step ago.
    if (first->content.size() == depth) ++first;
    first = std::partition_point(first, last,
                                 [&](const AddedToken& token) { return byte_of(token) < byte; });
    last = std::partition_point(first, last,
                                [&](const AddedToken& token) { return byte_of(token) == byte; });
    if (first != last && first->content.size() == depth + 1) {
      match.length = depth + 1;
      match.id = first->id;
    }
  }
  return match;
}

}  // namespace winnow
