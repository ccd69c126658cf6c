#include "server/json_text.h"

#include <cmath>

#include "base/text.h"

namespace winnow::server {
namespace {

// The length of the valid sequence at `at`, or 0.
size_t SequenceLength(std::string_view bytes, size_t at) {
  const auto byte = [&](size_t offset) {
    return at + offset < bytes.size() ? static_cast<unsigned char>(bytes[at + offset]) : 0u;
  };
  const auto follows = [&](size_t offset) { return (byte(offset) & 0xC0u) == 0x80u; };
  const unsigned first = byte(0);
  if (first < 0x80) return 1;
  if (first >= 0xC2 && first <= 0xDF) return follows(1) ? 2 : 0;
  if (first >= 0xE0 && first <= 0xEF) {
    if (!follows(1) || !follows(2)) return 0;
    if (first == 0xE0 && byte(1) < 0xA0) return 0;
    if (first == 0xED && byte(1) > 0x9F) return 0;  // surrogates
    return 3;
  }
  if (first >= 0xF0 && first <= 0xF4) {
    if (!follows(1) || !follows(2) || !follows(3)) return 0;
    if (first == 0xF0 && byte(1) < 0x90) return 0;
    if (first == 0xF4 && byte(1) > 0x8F) return 0;
    return 4;
  }
  return 0;
}

void AppendString(std::string_view text, std::string* out) {
  *out += '"';
  for (size_t at = 0; at < text.size();) {
    const unsigned char byte = static_cast<unsigned char>(text[at]);
    if (byte >= 0x80) {
      const size_t length = SequenceLength(text, at);
      *out += length == 0 ? std::string_view("\xEF\xBF\xBD") : text.substr(at, length);
      at += std::max<size_t>(length, 1);
      continue;
    }
    ++at;
    switch (byte) {
      case '"':
        *out += "\\\"";
        break;
      case '\\':
        *out += "\\\\";
        break;
      case '\n':
        *out += "\\n";
        break;
      case '\r':
        *out += "\\r";
        break;
      case '\t':
        *out += "\\t";
        break;
      default:
        if (byte < 0x20 || byte == 0x7f) {
          *out += fmt::format("\\u{:04x}", byte);
        } else {
          *out += static_cast<char>(byte);
        }
    }
  }
  *out += '"';
}

void AppendDouble(double number, std::string* out) {
  if (!std::isfinite(number)) {
    *out += "null";
    return;
  }
  const std::string text = fmt::format("{}", number);
  *out += text;
  if (text.find_first_of(".e") == std::string::npos) *out += ".0";
}

void AppendValue(const json::value& value, std::string* out) {
  switch (value.kind()) {
    case json::kind::null:
      *out += "null";
      break;
    case json::kind::bool_:
      *out += value.get_bool() ? "true" : "false";
      break;
    case json::kind::int64:
      *out += std::to_string(value.get_int64());
      break;
    case json::kind::uint64:
      *out += std::to_string(value.get_uint64());
      break;
    case json::kind::double_:
      AppendDouble(value.get_double(), out);
      break;
    case json::kind::string:
      AppendString({value.get_string().data(), value.get_string().size()}, out);
      break;
    case json::kind::array: {
      *out += '[';
      bool first = true;
      for (const json::value& element : value.get_array()) {
        if (!first) *out += ',';
        first = false;
        AppendValue(element, out);
      }
      *out += ']';
      break;
    }
    case json::kind::object: {
      *out += '{';
      bool first = true;
      for (const auto& member : value.get_object()) {
        if (!first) *out += ',';
        first = false;
        AppendString({member.key().data(), member.key().size()}, out);
        *out += ':';
        AppendValue(member.value(), out);
      }
      *out += '}';
      break;
    }
  }
}

}  // namespace

std::string JsonText(const json::value& value) {
  std::string text;
  AppendValue(value, &text);
  return text;
}

std::string JsonText(const json::object& object) {
  std::string text;
  AppendValue(json::value(object), &text);
  return text;
}

std::string ValidUtf8(std::string_view bytes) {
  std::string text;
  for (size_t at = 0; at < bytes.size();) {
    const size_t length = SequenceLength(bytes, at);
    text += length == 0 ? std::string_view("\xEF\xBF\xBD") : bytes.substr(at, length);
    at += std::max<size_t>(length, 1);
  }
  return text;
}

bool IsUtf8(std::string_view bytes) {
  for (size_t at = 0; at < bytes.size();) {
    const size_t length = SequenceLength(bytes, at);
    if (length == 0) return false;
    at += length;
  }
  return true;
}

}  // namespace winnow::server
