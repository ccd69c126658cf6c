// JSON as Python's json.dumps(…, ensure_ascii=False) prints it: one line, ", " and ": " between,
// text unescaped. Models were trained on tools and arguments in this form. Unlike json::value it
// keeps integers of any size as they are written.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "winnow/status.h"

namespace winnow {

struct PythonMember;

struct PythonJson {
  enum class Kind { kObject, kArray, kString, kOther };

  Kind kind = Kind::kOther;
  std::string text;  // a string's value; what json.dumps prints for a number, true, false or null
  std::vector<PythonMember> members;  // in order; keys are empty in an array

  // The member of an object, null if there is none.
  const PythonJson* Find(std::string_view key) const;

  // What json.dumps prints.
  std::string Print() const;
};

struct PythonMember {
  std::string key;
  PythonJson value;
};

// Parses with the limits of ParseJson (base/json.h), what breaks them is kInvalidArgument. `what`
// names the text in errors.
Result<PythonJson> ParsePythonJson(std::string_view text, std::string_view what);

}  // namespace winnow
