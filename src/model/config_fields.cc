// Typed reading of JSON objects, and the search for misspelt keys.
#include "model/config_fields.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/text.h"

namespace winnow {
namespace {

constexpr double kLargestWholeDouble = 9007199254740992.0;  // 2^53

// Letters to insert, delete, replace or swap with their neighbour to turn `a` into `b`.
size_t EditDistance(std::string_view a, std::string_view b) {
  std::vector<size_t> before(b.size() + 1), above(b.size() + 1), row(b.size() + 1);
  for (size_t column = 0; column <= b.size(); ++column) above[column] = column;
  for (size_t line = 1; line <= a.size(); ++line) {
    row[0] = line;
    for (size_t column = 1; column <= b.size(); ++column) {
      const size_t replace = above[column - 1] + (a[line - 1] != b[column - 1] ? 1 : 0);
      row[column] = std::min({above[column] + 1, row[column - 1] + 1, replace});
      const bool swapped =
          line > 1 && column > 1 && a[line - 1] == b[column - 2] && a[line - 2] == b[column - 1];
      if (swapped) row[column] = std::min(row[column], before[column - 2] + 1);
    }
    std::swap(before, above);
    std::swap(above, row);
  }
  return above[b.size()];
}

// How many slips of the hand a key of this length may hold and still be recognised.
size_t ToleratedSlips(size_t length) { return length >= 8 ? 2 : length >= 5 ? 1 : 0; }

}  // namespace

std::string Described(const json::value& value) {
  if (const double* number = value.if_double()) return fmt::format("{}", *number);
  if (value.is_number() || value.is_bool()) return json::serialize(value);
  if (const json::string* text = value.if_string()) return Quoted({text->data(), text->size()});
  return JsonKindName(value);
}

const json::value* FieldReader::Find(std::string_view key) {
  asked_.emplace(key);
  const json::value* value = object_.if_contains({key.data(), key.size()});
  return value == nullptr || value->is_null() ? nullptr : value;
}

void FieldReader::Fail(Status status) {
  if (status_.ok()) status_ = std::move(status);
}

void FieldReader::Fail(StatusCode code, std::string_view key, std::string_view issue,
                       std::string hint) {
  Fail(Status(code, fmt::format("{}: {} {}", what_, key, issue), std::move(hint)));
}

const json::value* FieldReader::Require(std::string_view key, std::string_view expected) {
  const json::value* value = Find(key);
  if (value == nullptr) {
    Fail(StatusCode::kInvalidArgument, key, fmt::format("is missing, expected {}", expected));
  }
  return value;
}

int64_t FieldReader::ToInt(const json::value& value, std::string_view key, Range<int64_t> range) {
  const int64_t* whole = value.if_int64();
  const double* real = value.if_double();
  int64_t number = whole != nullptr ? *whole : 0;
  bool valid = whole != nullptr;
  if (real != nullptr && std::trunc(*real) == *real && std::fabs(*real) <= kLargestWholeDouble) {
    number = static_cast<int64_t>(*real);
    valid = true;
  }
  if (valid && number >= range.least && number <= range.most) return number;
  Fail(StatusCode::kInvalidArgument, key,
       fmt::format("is {}, expected an integer from {} to {}", Described(value), range.least,
                   range.most));
  return range.least;
}

double FieldReader::ToNumber(const json::value& value, std::string_view key, Range<double> range) {
  boost::json::error_code error;
  const double number = value.is_number() ? value.to_number<double>(error) : std::nan("");
  if (number >= range.least && number <= range.most) return number;
  Fail(StatusCode::kInvalidArgument, key,
       fmt::format("is {}, expected a number from {} to {}", Described(value), range.least,
                   range.most));
  return range.least;
}

std::string FieldReader::ToString(const json::value& value, std::string_view key) {
  if (const json::string* text = value.if_string()) return {text->data(), text->size()};
  Fail(StatusCode::kInvalidArgument, key,
       fmt::format("is {}, expected a string", Described(value)));
  return {};
}

int64_t FieldReader::Int(std::string_view key, Range<int64_t> range) {
  const std::string expected = fmt::format("an integer from {} to {}", range.least, range.most);
  const json::value* value = Require(key, expected);
  return value == nullptr ? range.least : ToInt(*value, key, range);
}

int64_t FieldReader::Int(std::string_view key, Range<int64_t> range, int64_t absent) {
  const json::value* value = Find(key);
  return value == nullptr ? absent : ToInt(*value, key, range);
}

double FieldReader::Number(std::string_view key, Range<double> range) {
  const json::value* value = Require(key, "a number");
  return value == nullptr ? range.least : ToNumber(*value, key, range);
}

double FieldReader::Number(std::string_view key, Range<double> range, double absent) {
  const json::value* value = Find(key);
  return value == nullptr ? absent : ToNumber(*value, key, range);
}

bool FieldReader::Bool(std::string_view key, bool absent) {
  const json::value* value = Find(key);
  if (value == nullptr) return absent;
  if (const bool* truth = value->if_bool()) return *truth;
  Fail(StatusCode::kInvalidArgument, key,
       fmt::format("is {}, expected true or false", Described(*value)));
  return absent;
}

std::string FieldReader::String(std::string_view key) {
  const json::value* value = Require(key, "a string");
  return value == nullptr ? std::string() : ToString(*value, key);
}

std::string FieldReader::String(std::string_view key, std::string absent) {
  const json::value* value = Find(key);
  return value == nullptr ? std::move(absent) : ToString(*value, key);
}

std::vector<std::string> FieldReader::Strings(std::string_view key) {
  std::vector<std::string> strings;
  const json::value* value = Find(key);
  if (value == nullptr) return strings;
  const json::array* array = value->if_array();
  if (array == nullptr) {
    Fail(StatusCode::kInvalidArgument, key,
         fmt::format("is {}, expected an array of strings", Described(*value)));
    return strings;
  }
  for (const json::value& element : *array) strings.push_back(ToString(element, key));
  return strings;
}

std::vector<int32_t> FieldReader::TokenIds(std::string_view key) {
  constexpr Range<int64_t> kTokenId = {0, std::numeric_limits<int32_t>::max()};
  std::vector<int32_t> ids;
  const json::value* value = Find(key);
  if (value == nullptr) return ids;
  if (const json::array* array = value->if_array()) {
    for (const json::value& element : *array) {
      ids.push_back(static_cast<int32_t>(ToInt(element, key, kTokenId)));
    }
  } else {
    ids.push_back(static_cast<int32_t>(ToInt(*value, key, kTokenId)));
  }
  return ids;
}

void FieldReader::RefuseMisspelt(std::span<const std::string_view> ignored,
                                 std::span<const std::string_view> prefixes) {
  // No configuration has as many fields or such long ones; comparing them all would take long.
  constexpr size_t kMostKeys = 1024;
  constexpr size_t kLongestKey = 64;
  if (object_.size() > kMostKeys) {
    status_ = InvalidArgument(
        fmt::format("{}: {} fields, expected at most {}", what_, object_.size(), kMostKeys));
    return;
  }
  std::set<std::string_view> known(asked_.begin(), asked_.end());
  known.insert(ignored.begin(), ignored.end());
  for (const auto& member : object_) {
    const std::string_view key(member.key().data(), member.key().size());
    if (known.count(key) > 0) continue;
    std::string_view nearest;
    size_t distance = kLongestKey;
    for (std::string_view candidate : known) {
      if (key.size() > kLongestKey) break;
      const size_t slips = EditDistance(key, candidate);
      if (slips < distance) {
        distance = slips;
        nearest = candidate;
      }
    }
    const bool begins_like_known = std::any_of(
        prefixes.begin(), prefixes.end(), [&](auto prefix) { return key.starts_with(prefix); });
    if (!begins_like_known && distance > ToleratedSlips(key.size())) continue;
    status_ = InvalidArgument(
        fmt::format("{}: {} is not a known field", what_, Quoted(key)),
        nearest.empty() ? "" : fmt::format("the nearest known one is \"{}\"", nearest));
    return;
  }
}

}  // namespace winnow
