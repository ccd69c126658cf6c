// How the arguments of tools are to be read in a format that does not mark strings (GLM).
#pragma once

#include <cstddef>
#include <map>
#include <string>
#include <string_view>

namespace winnow {

constexpr size_t kLargestTools = size_t{1} << 18;  // bytes of JSON that is read for arguments

enum class ArgumentKind {
  kString,
  kJson,    // never a string
  kEither,  // JSON if it reads as a value of another type that the schema allows, else a string
};

class ArgumentKinds {
 public:
  ArgumentKinds() = default;
  // From an array of functions in OpenAI's form. What cannot be understood tells nothing.
  explicit ArgumentKinds(std::string_view tools_json);

  // kString for tools and arguments that are not known.
  ArgumentKind Of(const std::string& tool, const std::string& argument) const;

  // Whether `text` is JSON of a type that the argument allows besides strings.
  bool IsOtherValue(const std::string& tool, const std::string& argument,
                    std::string_view text) const;

 private:
  std::map<std::string, std::map<std::string, uint32_t>> types_;  // a TypeSet of schema_rules.h
};

}  // namespace winnow
