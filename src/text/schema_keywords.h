// What a schema's keywords say, read one by one with errors that name them.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "base/json.h"
#include "text/json_numbers.h"
#include "text/schema_rules.h"

namespace winnow {

// The path of a part, for errors.
std::string JoinPath(const std::string& path, std::string_view part);

// kUnsupported unless every keyword is known: those that restrict nothing are, and names that begin
// with "x-".
Status CheckKeywords(const json::object& schema, const std::string& path);

// Whether the keyword restricts nothing.
bool IsAnnotation(std::string_view keyword);

// The member, null if there is none.
const json::value* Find(const json::object& schema, std::string_view keyword);

// The types that `schema` allows: those it names, else those its keywords are about, else all.
Result<TypeSet> TypesOf(const json::object& schema, const std::string& path);

// The type of a value; whole numbers are integers.
TypeSet TypeOf(const json::value& value);

// A count such as minLength, not negative and at most 10^9.
Result<std::optional<int64_t>> ReadCount(const json::object& schema, std::string_view keyword,
                                         const std::string& path);

// minimum, maximum and their exclusive forms; nothing if there are none. Bounds of numbers that are
// not whole are kUnsupported, as is multipleOf.
Result<std::optional<NumberBounds>> ReadBounds(const json::object& schema, bool is_integer,
                                               const std::string& path);

// The pattern of a string: its own, or that of its format if it has a format that Winnow knows.
Result<std::optional<std::string>> ReadPattern(const json::object& schema, const std::string& path);

}  // namespace winnow
