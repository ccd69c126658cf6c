// Reading JSON from files that nobody vouches for: bounded depth, no duplicate keys, errors that
// name the file and the field. Boost.JSON does the parsing.
#pragma once

#include <boost/json.hpp>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "winnow/status.h"

namespace winnow {

namespace json = boost::json;

// Parses `text`; `what` names it in errors ("config.json"). Nesting deeper than 32, duplicate keys
// in an object, invalid UTF-8, and trailing text are kCorrupt. Numbers are finite.
Result<json::value> ParseJson(std::string_view text, std::string_view what);

// Reads and parses the file at `path`, at most `max_bytes` long. Errors name the file's last part.
Result<json::value> ReadJsonFile(const std::string& path, int64_t max_bytes);

// The kind of `value` as an error should call it: "a string", "an object", …
const char* JsonKindName(const json::value& value);

}  // namespace winnow
