// Tables of keywords, types and formats.
#include "text/schema_keywords.h"

#include <algorithm>
#include <cmath>
#include <iterator>

#include "base/check.h"
#include "base/text.h"

namespace winnow {
namespace {

constexpr int64_t kLargestCount = 1'000'000'000;

constexpr std::string_view kAnnotations[] = {
    "$anchor",          "$comment",      "$defs",       "$id",        "$schema",
    "contentEncoding",  "default",       "definitions", "deprecated", "description",
    "contentMediaType", "discriminator", "example",     "examples",   "id",
    "readOnly",         "strict",        "title",       "writeOnly"};

constexpr std::string_view kKeywords[] = {"$ref",
                                          "additionalProperties",
                                          "allOf",
                                          "anyOf",
                                          "const",
                                          "enum",
                                          "exclusiveMaximum",
                                          "exclusiveMinimum",
                                          "format",
                                          "items",
                                          "maxItems",
                                          "maxLength",
                                          "maximum",
                                          "minItems",
                                          "minLength",
                                          "minimum",
                                          "multipleOf",
                                          "nullable",
                                          "oneOf",
                                          "pattern",
                                          "prefixItems",
                                          "properties",
                                          "required",
                                          "type"};

constexpr std::pair<std::string_view, TypeSet> kTypes[] = {
    {"null", kNullType},     {"boolean", kBooleanType}, {"integer", kIntegerType},
    {"number", kNumberType}, {"string", kStringType},   {"array", kArrayType},
    {"object", kObjectType}};

// Keywords that are about one type, for schemas that name none.
constexpr std::pair<std::string_view, TypeSet> kTypeOfKeyword[] = {
    {"properties", kObjectType},
    {"required", kObjectType},
    {"additionalProperties", kObjectType},
    {"items", kArrayType},
    {"prefixItems", kArrayType},
    {"minItems", kArrayType},
    {"maxItems", kArrayType},
    {"minLength", kStringType},
    {"maxLength", kStringType},
    {"pattern", kStringType},
    {"format", kStringType},
    {"minimum", kNumberType},
    {"maximum", kNumberType},
    {"exclusiveMinimum", kNumberType},
    {"exclusiveMaximum", kNumberType},
    {"multipleOf", kNumberType}};

#define WINNOW_TIME \
  "([01]\\d|2[0-3]):[0-5]\\d:[0-5]\\d(\\.\\d{1,6})?(Z|[+-]([01]\\d|2[0-3]):[0-5]\\d)"
// Days that there are, of the years from 1: 31, 30 or 28 in a month, and one more in leap years.
#define WINNOW_YEAR "(\\d{3}[1-9]|\\d{2}[1-9]0|\\d[1-9]00|[1-9]000)"
#define WINNOW_DAY                            \
  "((0[13578]|1[02])-(0[1-9]|[12]\\d|3[01])|" \
  "(0[469]|11)-(0[1-9]|[12]\\d|30)|"          \
  "02-(0[1-9]|1\\d|2[0-8]))"
#define WINNOW_LEAP_YEAR                    \
  "(\\d{2}(0[48]|[2468][048]|[13579][26])|" \
  "(0[48]|[2468][048]|[13579][26])00)"
#define WINNOW_DATE "(" WINNOW_YEAR "-" WINNOW_DAY "|" WINNOW_LEAP_YEAR "-02-29)"
constexpr std::pair<std::string_view, std::string_view> kFormats[] = {
    {"date", "^" WINNOW_DATE "$"},
    {"time", "^" WINNOW_TIME "$"},
    {"date-time", "^" WINNOW_DATE "T" WINNOW_TIME "$"},
    {"uuid", "^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$"}};

template <typename Table>
bool Contains(const Table& table, std::string_view key) {
  return std::find(std::begin(table), std::end(table), key) != std::end(table);
}

Status Mismatch(const std::string& path, std::string_view keyword, const json::value& found,
                std::string_view expected) {
  return InvalidArgument(
      fmt::format("{}: {}, expected {}", JoinPath(path, keyword), JsonKindName(found), expected));
}

// One bound, as a double and whether it is there.
Result<std::optional<double>> ReadNumber(const json::object& schema, std::string_view keyword,
                                         const std::string& path) {
  const json::value* value = Find(schema, keyword);
  if (value == nullptr) return std::optional<double>();
  if (value->is_bool()) {
    return Unsupported(fmt::format("{}: a boolean, expected a number (JSON schema since draft 6)",
                                   JoinPath(path, keyword)));
  }
  if (!value->is_number()) return Mismatch(path, keyword, *value, "a number");
  return std::optional<double>(value->to_number<double>());
}

// Whether a schema of names of properties is one that every name obeys.
bool AllowsEveryName(const json::value& schema) {
  if (schema.is_bool()) return schema.get_bool();
  const json::object* object = schema.if_object();
  return object != nullptr && std::all_of(object->begin(), object->end(), [](const auto& member) {
           const std::string_view keyword(member.key().data(), member.key().size());
           return IsAnnotation(keyword) || (keyword == "type" && member.value() == "string");
         });
}

}  // namespace

std::string JoinPath(const std::string& path, std::string_view part) {
  constexpr size_t kLongestPart = 80;
  return fmt::format("{}.{}", path, part.substr(0, kLongestPart));
}

const json::value* Find(const json::object& schema, std::string_view keyword) {
  return schema.if_contains(json::string_view(keyword.data(), keyword.size()));
}

bool IsAnnotation(std::string_view keyword) {
  return Contains(kAnnotations, keyword) || keyword.starts_with("x-");
}

Status CheckKeywords(const json::object& schema, const std::string& path) {
  for (const auto& member : schema) {
    const std::string_view keyword(member.key().data(), member.key().size());
    if (Contains(kKeywords, keyword) || IsAnnotation(keyword)) continue;
    const json::value& value = member.value();
    if (keyword == "propertyNames" && AllowsEveryName(value)) continue;
    const bool restricts_nothing =
        (keyword == "uniqueItems" && value.is_bool() && !value.get_bool()) ||
        (keyword == "minProperties" && value.is_int64() && value.get_int64() == 0);
    if (restricts_nothing) continue;
    return Unsupported(fmt::format("{}: a keyword that constrained answers do not support",
                                   JoinPath(path, keyword)));
  }
  return OkStatus();
}

Result<TypeSet> TypesOf(const json::object& schema, const std::string& path) {
  TypeSet types = 0;
  const auto add = [&](const json::value& name) {
    if (!name.is_string()) return false;
    for (const auto& [known, type] : kTypes) {
      if (name.get_string() != json::string_view(known.data(), known.size())) continue;
      types |= type;
      return true;
    }
    return false;
  };
  const json::value* named = Find(schema, "type");
  if (named == nullptr) {
    for (const auto& [keyword, type] : kTypeOfKeyword) {
      if (Find(schema, keyword) != nullptr) types |= type;
    }
    return types == 0 ? kAnyType : types;
  }
  bool is_valid = false;
  if (const json::array* list = named->if_array()) {
    is_valid = !list->empty() && std::all_of(list->begin(), list->end(), add);
  } else {
    is_valid = add(*named);
  }
  if (!is_valid) {
    return InvalidArgument(
        fmt::format("{}: {}, expected null, boolean, integer, number, string, array, object or a "
                    "list of them",
                    JoinPath(path, "type"),
                    named->is_string() ? Quoted(std::string_view(named->get_string()))
                                       : json::serialize(*named).substr(0, 80)));
  }
  const json::value* nullable = Find(schema, "nullable");
  if (nullable != nullptr && nullable->is_bool() && nullable->get_bool()) types |= kNullType;
  return types;
}

TypeSet TypeOf(const json::value& value) {
  switch (value.kind()) {
    case json::kind::null:
      return kNullType;
    case json::kind::bool_:
      return kBooleanType;
    case json::kind::int64:
    case json::kind::uint64:
      return kIntegerType | kNumberType;
    case json::kind::double_:
      return std::trunc(value.get_double()) == value.get_double() ? kIntegerType | kNumberType
                                                                  : kNumberType;
    case json::kind::string:
      return kStringType;
    case json::kind::array:
      return kArrayType;
    case json::kind::object:
      return kObjectType;
  }
  return 0;
}

Result<std::optional<int64_t>> ReadCount(const json::object& schema, std::string_view keyword,
                                         const std::string& path) {
  WINNOW_ASSIGN(const std::optional<double> number, ReadNumber(schema, keyword, path));
  if (!number) return std::optional<int64_t>();
  if (!(*number >= 0 && *number <= kLargestCount) || std::trunc(*number) != *number) {
    return InvalidArgument(fmt::format("{}: {}, expected a whole number in [0, {}]",
                                       JoinPath(path, keyword), *number, kLargestCount));
  }
  return std::optional<int64_t>(static_cast<int64_t>(*number));
}

Result<std::optional<NumberBounds>> ReadBounds(const json::object& schema, bool is_integer,
                                               const std::string& path) {
  if (const json::value* step = Find(schema, "multipleOf")) {
    const bool is_one = step->is_number() && step->to_number<double>() == 1.0;
    if (!is_one || !is_integer) {
      return Unsupported(fmt::format("{}: a keyword that constrained answers do not support",
                                     JoinPath(path, "multipleOf")));
    }
  }
  NumberBounds bounds;
  bool has_bounds = false;
  struct Side {
    std::string_view keyword;
    bool is_min;
    bool is_exclusive;
  };
  constexpr Side kSides[] = {{"minimum", true, false},
                             {"exclusiveMinimum", true, true},
                             {"maximum", false, false},
                             {"exclusiveMaximum", false, true}};
  for (const Side& side : kSides) {
    WINNOW_ASSIGN(const std::optional<double> number, ReadNumber(schema, side.keyword, path));
    if (!number) continue;
    has_bounds = true;
    const bool is_whole = std::trunc(*number) == *number;
    if (!is_whole && !is_integer) {
      return Unsupported(
          fmt::format("{}: {}, expected a whole number", JoinPath(path, side.keyword), *number));
    }
    const double whole = side.is_min ? std::ceil(*number) : std::floor(*number);
    // What lies outside of all numbers that are written bounds nothing, or leaves nothing.
    if (std::abs(whole) >= 1e18) {
      if ((whole > 0) != side.is_min) continue;
      return Unsupported(fmt::format("{}: {}, expected a bound that numbers of 18 digits can keep",
                                     JoinPath(path, side.keyword), *number));
    }
    int64_t bound = static_cast<int64_t>(whole);
    bool is_exclusive = side.is_exclusive && is_whole;
    if (is_exclusive && is_integer) {
      bound += side.is_min ? 1 : -1;
      is_exclusive = false;
    }
    if (side.is_min && (bound > bounds.min || (bound == bounds.min && is_exclusive))) {
      bounds.min = bound;
      bounds.excludes_min = is_exclusive;
    }
    if (!side.is_min && (bound < bounds.max || (bound == bounds.max && is_exclusive))) {
      bounds.max = bound;
      bounds.excludes_max = is_exclusive;
    }
  }
  if (!has_bounds) return std::optional<NumberBounds>();
  return std::optional<NumberBounds>(bounds);
}

Result<std::optional<std::string>> ReadPattern(const json::object& schema,
                                               const std::string& path) {
  std::optional<std::string> found;
  const json::value* format = Find(schema, "format");
  if (format != nullptr && format->is_string()) {
    for (const auto& [name, pattern] : kFormats) {
      if (format->get_string() == json::string_view(name.data(), name.size())) found = pattern;
    }
  }
  if (const json::value* pattern = Find(schema, "pattern")) {
    if (!pattern->is_string()) return Mismatch(path, "pattern", *pattern, "a string");
    if (found) {
      return Unsupported(fmt::format("{}: beside format {}, expected one of the two",
                                     JoinPath(path, "pattern"), json::serialize(*format)));
    }
    found = std::string(pattern->get_string());
  }
  return found;
}

}  // namespace winnow
