// Reading the fields of a request's body one by one; the first thing that is wrong is kept.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "server/api_error.h"

namespace winnow::server {

// What a request may hold at most.
constexpr size_t kMaxStops = 16;
constexpr size_t kMaxMessages = 16384;
constexpr size_t kMaxTools = 1024;

// The object of a request's body. Besides what ParseJson refuses, bodies with more than 500,000
// values: a small text could otherwise become a large object.
Result<json::value> ParseBody(std::string_view body);

// The fields of one object. A field that is null counts as absent. Each reader leaves its target
// alone if the field is absent, and remembers an ApiError that names the field if it is wrong.
class Fields {
 public:
  // `path` goes before the names: "messages[0]". `error` is shared by all Fields of a body.
  Fields(const json::object& object, std::string path, std::optional<ApiError>* error)
      : object_(object), path_(std::move(path)), error_(error) {}

  bool ok() const { return !error_->has_value(); }
  bool Has(std::string_view name) const { return Get(name) != nullptr; }
  // The field, or null.
  const json::value* Get(std::string_view name) const;
  std::string Path(std::string_view name) const;
  // Remembers an error about a field, if it is the first.
  void Refuse(std::string_view name, std::string message, std::string code = {});

  void Bool(std::string_view name, bool* target);
  void String(std::string_view name, std::string* target);
  void Int(std::string_view name, int64_t* target, int64_t least, int64_t most);
  void Number(std::string_view name, double* target, double least, double most);
  void Number(std::string_view name, std::optional<double>* target, double least, double most);
  // One string, or an array of at most `most`; none of them empty.
  void Strings(std::string_view name, std::vector<std::string>* target, size_t most);
  // An array of token ids.
  void Tokens(std::string_view name, std::vector<int32_t>* target, size_t most);
  // The field as an object or array; null if it is absent or something else, which is remembered.
  const json::object* Object(std::string_view name);
  const json::array* Array(std::string_view name);
  // The field must be there.
  void Require(std::string_view name);
  Fields Inside(std::string_view name, const json::object& object) const {
    return {object, Path(name), error_};
  }
  std::optional<ApiError>* error() const { return error_; }

 private:
  void RefuseKind(std::string_view name, const json::value& value, const char* expected);

  const json::object& object_;
  std::string path_;
  std::optional<ApiError>* error_;
};

// Whether a JSON number is a whole one that fits, and which. 3.0 counts.
std::optional<int64_t> AsInt(const json::value& value);
std::optional<double> AsNumber(const json::value& value);
// A token id in [0, 2^31).
std::optional<int32_t> AsToken(const json::value& value);

}  // namespace winnow::server
