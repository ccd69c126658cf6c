// JSON as it leaves the server: numbers as people and Python write them ("0.5", not "5E-1"), and
// only valid UTF-8.
#pragma once

#include <string>
#include <string_view>

#include "base/json.h"

namespace winnow::server {

std::string JsonText(const json::value& value);
std::string JsonText(const json::object& object);

// `bytes` with each invalid sequence of UTF-8 replaced by U+FFFD.
std::string ValidUtf8(std::string_view bytes);
bool IsUtf8(std::string_view bytes);

inline std::string Text(const json::string& text) { return {text.data(), text.size()}; }

}  // namespace winnow::server
