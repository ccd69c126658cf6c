// Small text helpers that several layers share.
#pragma once

#include <fmt/format.h>

#include <string>
#include <string_view>

namespace winnow {

// A value from outside as it may appear in an error: quoted, control bytes escaped, cut after 80
// bytes.
std::string Quoted(std::string_view text);

// With 'a' to 'z' for 'A' to 'Z'; all other bytes as they are.
std::string LowerAscii(std::string_view text);

// `text` without white space (blanks, tabs, line ends) at either end.
std::string Trimmed(const std::string& text);

}  // namespace winnow
