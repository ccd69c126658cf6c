#include "base/json.h"

#include <boost/json/basic_parser_impl.hpp>
#include <unordered_set>

#include "base/check.h"
#include "base/file.h"
#include "base/text.h"

namespace winnow {
namespace {

constexpr size_t kMaxDepth = 32;

// Boost.JSON keeps the last of two equal keys. Two values for one field are two readings of one
// file, so the events of its SAX parser are watched for them first.
struct DuplicateKeyHandler {
  static constexpr size_t max_array_size = static_cast<size_t>(-1);
  static constexpr size_t max_object_size = static_cast<size_t>(-1);
  static constexpr size_t max_string_size = static_cast<size_t>(-1);
  static constexpr size_t max_key_size = static_cast<size_t>(-1);

  using Error = boost::json::error_code;
  using View = boost::json::string_view;

  std::vector<std::unordered_set<std::string>> objects;
  std::string key;
  std::string duplicate;

  bool on_document_begin(Error&) { return true; }
  bool on_document_end(Error&) { return true; }
  bool on_object_begin(Error&) {
    objects.emplace_back();
    return true;
  }
  bool on_object_end(size_t, Error&) {
    objects.pop_back();
    return true;
  }
  bool on_array_begin(Error&) { return true; }
  bool on_array_end(size_t, Error&) { return true; }
  bool on_key_part(View part, size_t, Error&) {
    key.append(part.data(), part.size());
    return true;
  }
  bool on_key(View part, size_t, Error& error) {
    key.append(part.data(), part.size());
    if (!objects.back().insert(key).second) {
      duplicate = key;
      error = boost::json::error::syntax;
      return false;
    }
    key.clear();
    return true;
  }
  bool on_string_part(View, size_t, Error&) { return true; }
  bool on_string(View, size_t, Error&) { return true; }
  bool on_number_part(View, Error&) { return true; }
  bool on_int64(int64_t, View, Error&) { return true; }
  bool on_uint64(uint64_t, View, Error&) { return true; }
  bool on_double(double, View, Error&) { return true; }
  bool on_bool(bool, Error&) { return true; }
  bool on_null(Error&) { return true; }
  bool on_comment_part(View, Error&) { return true; }
  bool on_comment(View, Error&) { return true; }
};

Status CheckDuplicateKeys(std::string_view text, std::string_view what) {
  json::parse_options options;
  options.max_depth = kMaxDepth;
  json::basic_parser<DuplicateKeyHandler> parser(options);
  boost::json::error_code error;
  const size_t read = parser.write_some(false, text.data(), text.size(), error);
  if (!parser.handler().duplicate.empty()) {
    return Corrupt(fmt::format("{}: key {} appears twice in one object", what,
                               Quoted(parser.handler().duplicate)));
  }
  if (error) return Corrupt(fmt::format("{}: {} at byte {}", what, error.message(), read));
  return OkStatus();
}

bool AllFinite(const json::value& value) {
  if (const double* number = value.if_double()) return *number - *number == 0.0;
  if (const json::array* array = value.if_array()) {
    for (const json::value& element : *array) {
      if (!AllFinite(element)) return false;
    }
  }
  if (const json::object* object = value.if_object()) {
    for (const auto& member : *object) {
      if (!AllFinite(member.value())) return false;
    }
  }
  return true;
}

}  // namespace

Result<json::value> ParseJson(std::string_view text, std::string_view what) {
  WINNOW_TRY(CheckDuplicateKeys(text, what));
  json::parse_options options;
  options.max_depth = kMaxDepth;
  boost::json::error_code error;
  json::value value = json::parse({text.data(), text.size()}, error, {}, options);
  if (error) return Corrupt(fmt::format("{}: {}", what, error.message()));
  if (!AllFinite(value)) return Corrupt(fmt::format("{}: a number is out of range", what));
  return value;
}

Result<json::value> ReadJsonFile(const std::string& path, int64_t max_bytes) {
  WINNOW_ASSIGN(const std::string text, ReadFile(path, max_bytes));
  return ParseJson(text, FileName(path));
}

const char* JsonKindName(const json::value& value) {
  switch (value.kind()) {
    case json::kind::null:
      return "null";
    case json::kind::bool_:
      return "a boolean";
    case json::kind::int64:
    case json::kind::uint64:
    case json::kind::double_:
      return "a number";
    case json::kind::string:
      return "a string";
    case json::kind::array:
      return "an array";
    case json::kind::object:
      return "an object";
  }
  return "unknown";
}

}  // namespace winnow
