#include "server/json_fields.h"

#include <cmath>

#include "base/text.h"

namespace winnow::server {
namespace {

constexpr int64_t kMaxValues = 500'000;

// At least as many as there are values in the JSON `text`.
int64_t CountValues(std::string_view text) {
  int64_t count = 1;
  bool in_string = false;
  for (size_t at = 0; at < text.size(); ++at) {
    const char byte = text[at];
    if (in_string) {
      if (byte == '\\') {
        ++at;
      } else if (byte == '"') {
        in_string = false;
      }
    } else if (byte == '"') {
      in_string = true;
    } else if (byte == ',' || byte == '[' || byte == '{') {
      ++count;
    }
  }
  return count;
}

}  // namespace

Result<json::value> ParseBody(std::string_view body) {
  if (CountValues(body) > kMaxValues) {
    return InvalidArgument(
        fmt::format("request body: more than {} values, expected fewer", kMaxValues));
  }
  auto value = ParseJson(body, "request body");
  // What is wrong with a client's bytes is the client's mistake, not a damaged file.
  if (!value.ok()) return InvalidArgument(value.error().message());
  if (!value->is_object()) {
    return InvalidArgument(
        fmt::format("request body: {}, expected an object", JsonKindName(*value)));
  }
  return value;
}

std::optional<int64_t> AsInt(const json::value& value) {
  if (const int64_t* number = value.if_int64()) return *number;
  if (const double* number = value.if_double()) {
    if (*number == std::floor(*number) && std::fabs(*number) < 9e15) {
      return static_cast<int64_t>(*number);
    }
  }
  return std::nullopt;
}

std::optional<double> AsNumber(const json::value& value) {
  if (const int64_t* number = value.if_int64()) return static_cast<double>(*number);
  if (const uint64_t* number = value.if_uint64()) return static_cast<double>(*number);
  if (const double* number = value.if_double()) return *number;
  return std::nullopt;
}

std::optional<int32_t> AsToken(const json::value& value) {
  const int64_t* number = value.if_int64();
  if (number == nullptr || *number < 0 || *number > INT32_MAX) return std::nullopt;
  return static_cast<int32_t>(*number);
}

const json::value* Fields::Get(std::string_view name) const {
  const json::value* value = object_.if_contains({name.data(), name.size()});
  return value != nullptr && value->is_null() ? nullptr : value;
}

std::string Fields::Path(std::string_view name) const {
  if (path_.empty()) return std::string(name);
  if (name.empty()) return path_;
  return path_ + "." + std::string(name);
}

void Fields::Refuse(std::string_view name, std::string message, std::string code) {
  if (ok()) *error_ = BadField(Path(name), std::move(message), std::move(code));
}

void Fields::RefuseKind(std::string_view name, const json::value& value, const char* expected) {
  Refuse(name, fmt::format("{}, expected {}", JsonKindName(value), expected), "invalid_type");
}

void Fields::Bool(std::string_view name, bool* target) {
  const json::value* value = Get(name);
  if (value == nullptr) return;
  if (!value->is_bool()) return RefuseKind(name, *value, "a boolean");
  *target = value->get_bool();
}

void Fields::String(std::string_view name, std::string* target) {
  const json::value* value = Get(name);
  if (value == nullptr) return;
  if (!value->is_string()) return RefuseKind(name, *value, "a string");
  target->assign(value->get_string().data(), value->get_string().size());
}

void Fields::Int(std::string_view name, int64_t* target, int64_t least, int64_t most) {
  const json::value* value = Get(name);
  if (value == nullptr) return;
  const std::optional<int64_t> number = AsInt(*value);
  if (!number && !AsNumber(*value)) return RefuseKind(name, *value, "a whole number");
  if (!number || *number < least || *number > most) {
    return Refuse(name,
                  fmt::format("{}, expected a whole number from {} to {}",
                              json::serialize(*value).substr(0, 40), least, most),
                  "invalid_value");
  }
  *target = *number;
}

void Fields::Number(std::string_view name, std::optional<double>* target, double least,
                    double most) {
  const json::value* value = Get(name);
  if (value == nullptr) return;
  const std::optional<double> number = AsNumber(*value);
  if (!number) return RefuseKind(name, *value, "a number");
  if (!(*number >= least && *number <= most)) {
    return Refuse(name, fmt::format("{}, expected a number from {} to {}", *number, least, most),
                  "invalid_value");
  }
  *target = *number;
}

void Fields::Number(std::string_view name, double* target, double least, double most) {
  std::optional<double> number;
  Number(name, &number, least, most);
  if (number) *target = *number;
}

void Fields::Strings(std::string_view name, std::vector<std::string>* target, size_t most) {
  const json::value* value = Get(name);
  if (value == nullptr) return;
  const auto take = [&](const json::value& element) {
    if (!element.is_string()) return RefuseKind(name, element, "a string");
    const auto& text = element.get_string();
    if (text.empty()) return Refuse(name, "an empty string, expected text", "invalid_value");
    target->emplace_back(text.data(), text.size());
  };
  if (!value->is_array()) return take(*value);
  if (value->get_array().size() > most) {
    return Refuse(name,
                  fmt::format("{} strings, expected at most {}", value->get_array().size(), most),
                  "array_above_max_length");
  }
  for (const json::value& element : value->get_array()) take(element);
}

void Fields::Tokens(std::string_view name, std::vector<int32_t>* target, size_t most) {
  const json::array* array = Array(name);
  if (array == nullptr) return;
  if (array->size() > most) {
    return Refuse(name, fmt::format("{} tokens, expected at most {}", array->size(), most),
                  "array_above_max_length");
  }
  for (const json::value& element : *array) {
    const std::optional<int32_t> token = AsToken(element);
    if (!token) {
      return Refuse(name,
                    fmt::format("{}, expected token ids", json::serialize(element).substr(0, 40)),
                    "invalid_value");
    }
    target->push_back(*token);
  }
}

const json::object* Fields::Object(std::string_view name) {
  const json::value* value = Get(name);
  if (value == nullptr) return nullptr;
  if (!value->is_object()) RefuseKind(name, *value, "an object");
  return value->if_object();
}

const json::array* Fields::Array(std::string_view name) {
  const json::value* value = Get(name);
  if (value == nullptr) return nullptr;
  if (!value->is_array()) RefuseKind(name, *value, "an array");
  return value->if_array();
}

void Fields::Require(std::string_view name) {
  if (!Has(name)) Refuse(name, "it is missing", "missing_required_parameter");
}

}  // namespace winnow::server
