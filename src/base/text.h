// Small text helpers that several layers share.
#pragma once

#include <string>
#include <string_view>

#include <fmt/format.h>

namespace winnow {

// A value from outside as it may appear in an error: quoted, control bytes escaped, cut after 80 bytes.
std::string Quoted(std::string_view text);

}  // namespace winnow
