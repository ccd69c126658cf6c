// Tokens that more than one chat format writes.
#pragma once

#include <string_view>

namespace winnow {

// DeepSeek's.
inline constexpr std::string_view kBegin = "<｜begin▁of▁sentence｜>";
inline constexpr std::string_view kEnd = "<｜end▁of▁sentence｜>";
inline constexpr std::string_view kUser = "<｜User｜>";
inline constexpr std::string_view kAssistant = "<｜Assistant｜>";

// DeepSeek's and GLM's.
inline constexpr std::string_view kThink = "<think>";
inline constexpr std::string_view kEndThink = "</think>";

}  // namespace winnow
