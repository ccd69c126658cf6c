// The automata behind json_rules.h.
#include "text/json_rules.h"

#include <algorithm>
#include <map>

#include "base/text.h"
#include "text/json_numbers.h"
#include "text/unicode.h"

namespace winnow {
namespace {

constexpr uint32_t kBar = 0xFF5C;  // ｜
constexpr std::string_view kBarUtf8 = "｜";

// How a string writes a code point that it cannot hold as it is; empty for others.
std::string Escape(uint32_t code_point, JsonStyle style) {
  switch (code_point) {
    case '"':
      return "\\\"";
    case '\\':
      return "\\\\";
    case '\b':
      return "\\b";
    case '\f':
      return "\\f";
    case '\n':
      return "\\n";
    case '\r':
      return "\\r";
    case '\t':
      return "\\t";
    case '/':
      return style == JsonStyle::kNoEndTag ? "\\/" : "";
    case kBar:
      return style == JsonStyle::kNoTokenTag ? "\\uff5c" : "";
    default:
      return code_point < 0x20 ? fmt::format("\\u{:04x}", code_point) : "";
  }
}

void AddHexDigit(ByteNfa& nfa, int32_t from, int32_t to) {
  nfa.AddBytes(from, '0', '9', to);
  nfa.AddBytes(from, 'a', 'f', to);
  nfa.AddBytes(from, 'A', 'F', to);
}

int32_t HexDigits(ByteNfa& nfa, int32_t from, int count) {
  for (; count > 0; --count) {
    const int32_t next = nfa.AddState();
    AddHexDigit(nfa, from, next);
    from = next;
  }
  return from;
}

// Behind \u: four hexadecimal digits of a character, or of half of one and its other half.
void AddUnicodeEscape(ByteNfa& nfa, int32_t from, int32_t to) {
  const int32_t any = nfa.AddState();  // three more digits
  nfa.AddBytes(from, '0', '9', any);
  for (char lower : {'a', 'A'}) {
    nfa.AddBytes(from, lower, lower + 2, any);
    nfa.AddBytes(from, lower + 4, lower + 5, any);
  }
  nfa.AddEmpty(HexDigits(nfa, any, 3), to);
  const int32_t half = nfa.AddState();  // behind d
  nfa.AddBytes(from, 'd', 'd', half);
  nfa.AddBytes(from, 'D', 'D', half);
  nfa.AddEmpty(HexDigits(nfa, nfa.Bytes(half, '0', '7'), 2), to);
  const int32_t high = nfa.AddState();
  nfa.AddBytes(half, '8', '9', high);
  nfa.AddBytes(half, 'a', 'b', high);
  nfa.AddBytes(half, 'A', 'B', high);
  const int32_t second = nfa.Spell(HexDigits(nfa, high, 2), "\\u");
  const int32_t low = nfa.AddState();
  nfa.AddBytes(second, 'd', 'd', low);
  nfa.AddBytes(second, 'D', 'D', low);
  const int32_t tail = nfa.AddState();
  nfa.AddBytes(low, 'c', 'f', tail);
  nfa.AddBytes(low, 'C', 'F', tail);
  nfa.AddEmpty(HexDigits(nfa, tail, 2), to);
}

// Space, at least a byte; `action` goes with the first.
void AddSpaceBytes(ByteNfa& nfa, int32_t from, int32_t to, CountAction action) {
  nfa.AddBytes(from, ' ', ' ', to, action);
  int32_t spaces = nfa.AddState();
  nfa.AddBytes(from, '\n', '\n', spaces, action);
  int32_t tabs = spaces;
  nfa.AddEmpty(spaces, to);
  for (int count = 1; count <= 32; ++count) {
    spaces = nfa.Spell(spaces, " ");
    nfa.AddEmpty(spaces, to);
    if (count > 16) continue;
    tabs = nfa.Spell(tabs, "\t");
    nfa.AddEmpty(tabs, to);
  }
}

}  // namespace

void AppendJsonString(std::string_view text, JsonStyle style, std::string& out) {
  out += '"';
  for (size_t position = 0; position < text.size();) {
    if (text.substr(position).starts_with(kBarUtf8) && style == JsonStyle::kNoTokenTag) {
      out += Escape(kBar, style);
      position += kBarUtf8.size();
      continue;
    }
    const uint8_t byte = static_cast<uint8_t>(text[position]);
    const std::string escaped = byte < 0x80 ? Escape(byte, style) : "";
    if (escaped.empty()) {
      out += text[position];
    } else {
      out += escaped;
    }
    ++position;
  }
  out += '"';
}

std::string PrintJson(const json::value& value, JsonStyle style) {
  std::string out;
  std::string_view separator;
  switch (value.kind()) {
    case json::kind::null:
      return "null";
    case json::kind::bool_:
      return value.get_bool() ? "true" : "false";
    case json::kind::int64:
      return fmt::format("{}", value.get_int64());
    case json::kind::uint64:
      return fmt::format("{}", value.get_uint64());
    case json::kind::double_:
      return fmt::format("{}", value.get_double());
    case json::kind::string:
      AppendJsonString(value.get_string(), style, out);
      return out;
    case json::kind::array:
      out = "[";
      for (const json::value& item : value.get_array()) {
        out += separator;
        out += PrintJson(item, style);
        separator = ",";
      }
      return out + "]";
    case json::kind::object:
      out = "{";
      for (const auto& member : value.get_object()) {
        out += separator;
        AppendJsonString(member.key(), style, out);
        out += ":" + PrintJson(member.value(), style);
        separator = ",";
      }
      return out + "}";
  }
  return out;
}

void AddJsonCharacters(ByteNfa& nfa, int32_t from, uint32_t first, uint32_t last, JsonStyle style,
                       int32_t to) {
  static constexpr uint32_t kEscaped[] = {'"', '/', '\\', kBar};
  const auto add_escaped = [&](uint32_t code_point) {
    const std::string text = Escape(code_point, style);
    if (text.empty()) return false;
    nfa.AddEmpty(nfa.Spell(from, text), to);
    return true;
  };
  for (; first <= last && first < 0x20; ++first) add_escaped(first);
  for (uint32_t code_point : kEscaped) {
    if (code_point < first || code_point > last || !add_escaped(code_point)) continue;
    if (first < code_point) nfa.AddCharacters(from, first, code_point - 1, to);
    first = code_point + 1;
  }
  nfa.AddCharacters(from, first, last, to);
}

int32_t JsonRules::Space() {
  if (space_ >= 0) return space_;
  ByteNfa nfa;
  const int32_t start = nfa.AddState();
  const int32_t end = nfa.AddState();
  AddSpaceBytes(nfa, start, end, CountAction::kNone);
  space_ = builder_.AddRule();
  builder_.Define(space_, nfa, start, end);
  return space_;
}

void JsonRules::AddSpace(ByteNfa& nfa, int32_t from, int32_t to) {
  nfa.AddEmpty(from, to);
  nfa.AddCall(from, Space(), to);
}

int32_t JsonRules::Colon(ByteNfa& nfa, int32_t from) {
  const int32_t colon = nfa.Spell(from, ":");
  const int32_t value = nfa.Spell(colon, " ");
  nfa.AddEmpty(colon, value);
  return value;
}

// Loops from `body` to `body` for each character, and the quote from there to `end`.
void JsonRules::AddStringBody(ByteNfa& nfa, int32_t body, bool is_counted, int32_t end) {
  const CountAction take = is_counted ? CountAction::kTake : CountAction::kNone;
  const CountAction leave = is_counted ? CountAction::kLeave : CountAction::kNone;
  const int32_t escape = nfa.AddState();
  const int32_t opening = nfa.AddState();  // behind <, where a tag may not go on
  const uint32_t forbidden = style_ == JsonStyle::kNoEndTag ? '/' : kBar;
  const auto add = [&](int32_t from, uint32_t first, uint32_t last) {
    if (from == body || forbidden < first || forbidden > last) {
      return nfa.AddCharacters(from, first, last, body, take);
    }
    nfa.AddCharacters(from, first, forbidden - 1, body, take);
    nfa.AddCharacters(from, forbidden + 1, last, body, take);
  };
  for (int32_t from : {body, opening}) {
    add(from, 0x20, '"' - 1);
    add(from, '"' + 1, '<' - 1);
    nfa.AddBytes(from, '<', '<', style_ == JsonStyle::kPlain ? body : opening, take);
    add(from, '<' + 1, '\\' - 1);
    add(from, '\\' + 1, kLastCodePoint);
    nfa.AddBytes(from, '\\', '\\', escape, take);
    nfa.AddBytes(from, '"', '"', end, leave);
  }
  for (uint8_t byte : std::string_view("\"\\/bfnrt")) nfa.AddBytes(escape, byte, byte, body);
  AddUnicodeEscape(nfa, nfa.Spell(escape, "u"), body);
}

int32_t JsonRules::String() {
  if (string_ >= 0) return string_;
  ByteNfa nfa;
  const int32_t start = nfa.AddState();
  const int32_t end = nfa.AddState();
  AddStringBody(nfa, nfa.Spell(start, "\""), /*is_counted=*/false, end);
  string_ = builder_.AddRule();
  builder_.Define(string_, nfa, start, end);
  return string_;
}

int32_t JsonRules::BoundedString(int64_t min, int64_t max) {
  ByteNfa nfa;
  const int32_t start = nfa.AddState();
  const int32_t end = nfa.AddState();
  AddStringBody(nfa, nfa.Spell(start, "\""), /*is_counted=*/true, end);
  const int32_t rule = builder_.AddRule();
  if (min <= max) builder_.Define(rule, nfa, start, end, min, max);
  return rule;
}

int32_t JsonRules::DefineNumber(bool is_integer) {
  ByteNfa nfa;
  const int32_t start = nfa.AddState();
  const int32_t end = nfa.AddState();
  if (is_integer) {
    AddIntegers(nfa, start, {}, end);
  } else {
    AddAnyNumber(nfa, start, end);
  }
  const int32_t rule = builder_.AddRule();
  builder_.Define(rule, nfa, start, end);
  return rule;
}

int32_t JsonRules::Number() {
  if (number_ < 0) number_ = DefineNumber(/*is_integer=*/false);
  return number_;
}

int32_t JsonRules::Integer() {
  if (integer_ < 0) integer_ = DefineNumber(/*is_integer=*/true);
  return integer_;
}

// A tree of the other names' characters; whoever leaves it is free.
void JsonRules::AddName(ByteNfa& nfa, int32_t from, const std::vector<std::string>& others,
                        int32_t to) {
  struct Node {
    std::map<uint32_t, size_t> children;
    bool is_name = false;
  };
  std::vector<Node> tree(1);
  for (const std::string& name : others) {
    size_t node = 0;
    for (size_t position = 0; position < name.size();) {
      const Character character = CharacterAt(name, position);
      position += character.length;
      const auto [child, is_new] =
          tree[node].children.try_emplace(character.code_point, tree.size());
      node = child->second;
      if (is_new) tree.emplace_back();
    }
    tree[node].is_name = true;
  }
  const int32_t free = nfa.AddState();
  // What leads from the tree to the open, shared by its nodes where they have no child.
  constexpr uint32_t kFirst[] = {0, 0x20, 0x80};
  constexpr uint32_t kLast[] = {0x1F, 0x7F, kLastCodePoint};
  int32_t shared[3];
  for (int part = 0; part < 3; ++part) {
    shared[part] = nfa.AddState();
    AddJsonCharacters(nfa, shared[part], kFirst[part], kLast[part], style_, free);
    nfa.AddEmpty(free, shared[part]);
  }
  nfa.AddBytes(free, '"', '"', to);
  std::vector<int32_t> states = {nfa.Spell(from, "\"")};
  while (states.size() < tree.size()) states.push_back(nfa.AddState());
  for (size_t node = 0; node < tree.size(); ++node) {
    if (!tree[node].is_name) nfa.AddBytes(states[node], '"', '"', to);
    auto child = tree[node].children.begin();
    const auto end = tree[node].children.end();
    for (int part = 0; part < 3; ++part) {
      if (child == end || child->first > kLast[part]) {
        nfa.AddEmpty(states[node], shared[part]);
        continue;
      }
      uint32_t next = kFirst[part];
      for (; child != end && child->first <= kLast[part]; ++child) {
        if (next < child->first) {
          AddJsonCharacters(nfa, states[node], next, child->first - 1, style_, free);
        }
        AddJsonCharacters(nfa, states[node], child->first, child->first, style_,
                          states[child->second]);
        next = child->first + 1;
      }
      if (next <= kLast[part]) {
        AddJsonCharacters(nfa, states[node], next, kLast[part], style_, free);
      }
    }
  }
}

int32_t JsonRules::Name() {
  if (name_ >= 0) return name_;
  ByteNfa nfa;
  const int32_t start = nfa.AddState();
  const int32_t end = nfa.AddState();
  AddName(nfa, start, {}, end);
  name_ = builder_.AddRule();
  builder_.Define(name_, nfa, start, end);
  return name_;
}

int32_t JsonRules::Object(int depth) {
  if (objects_[depth] >= 0) return objects_[depth];
  const int32_t rule = objects_[depth] = builder_.AddRule();
  ByteNfa nfa;
  const int32_t start = nfa.AddState();
  const int32_t end = nfa.AddState();
  const int32_t open = nfa.Spell(start, "{");
  const int32_t name = nfa.AddState();
  const int32_t colon = nfa.AddState();
  const int32_t behind = nfa.AddState();
  const int32_t close = nfa.AddState();
  nfa.AddBytes(open, '}', '}', end);
  AddSpace(nfa, open, name);
  nfa.AddCall(name, Name(), colon);
  nfa.AddCall(Colon(nfa, colon), Value(depth - 1), behind);
  AddSpace(nfa, nfa.Spell(behind, ","), name);
  AddSpace(nfa, behind, close);
  nfa.AddBytes(close, '}', '}', end);
  builder_.Define(rule, nfa, start, end);
  return rule;
}

int32_t JsonRules::Array(int depth) {
  if (arrays_[depth] >= 0) return arrays_[depth];
  const int32_t rule = arrays_[depth] = builder_.AddRule();
  ByteNfa nfa;
  const int32_t start = nfa.AddState();
  const int32_t end = nfa.AddState();
  const int32_t open = nfa.Spell(start, "[");
  const int32_t item = nfa.AddState();
  const int32_t behind = nfa.AddState();
  const int32_t close = nfa.AddState();
  nfa.AddBytes(open, ']', ']', end);
  AddSpace(nfa, open, item);
  nfa.AddCall(item, Value(depth - 1), behind);
  AddSpace(nfa, nfa.Spell(behind, ","), item);
  AddSpace(nfa, behind, close);
  nfa.AddBytes(close, ']', ']', end);
  builder_.Define(rule, nfa, start, end);
  return rule;
}

int32_t JsonRules::BoundedArray(int32_t item_rule, int64_t min, int64_t max) {
  const int32_t rule = builder_.AddRule();
  if (min > max) return rule;
  ByteNfa nfa;
  const int32_t start = nfa.AddState();
  const int32_t end = nfa.AddState();
  const int32_t open = nfa.Spell(start, "[");
  if (min == 0) nfa.AddBytes(open, ']', ']', end);
  if (max > 0) {
    // What is counted are commas.
    const int32_t item = nfa.AddState();
    const int32_t behind = nfa.AddState();
    const int32_t close = nfa.AddState();
    const int32_t comma = nfa.AddState();
    AddSpace(nfa, open, item);
    nfa.AddCall(item, item_rule, behind);
    nfa.AddBytes(behind, ',', ',', comma, CountAction::kTake);
    AddSpace(nfa, comma, item);
    nfa.AddBytes(behind, ']', ']', end, CountAction::kLeave);
    AddSpaceBytes(nfa, behind, close, CountAction::kLeave);
    nfa.AddBytes(close, ']', ']', end);
  }
  builder_.Define(rule, nfa, start, end, std::max<int64_t>(min - 1, 0),
                  std::max<int64_t>(max - 1, 0));
  return rule;
}

int32_t JsonRules::Value(int depth) {
  if (values_[depth] >= 0) return values_[depth];
  const int32_t rule = values_[depth] = builder_.AddRule();
  ByteNfa nfa;
  const int32_t start = nfa.AddState();
  const int32_t end = nfa.AddState();
  for (std::string_view literal : {"null", "true", "false"}) {
    nfa.AddEmpty(nfa.Spell(start, literal), end);
  }
  nfa.AddCall(start, String(), end);
  nfa.AddCall(start, Number(), end);
  if (depth > 0) {
    nfa.AddCall(start, Object(depth), end);
    nfa.AddCall(start, Array(depth), end);
  }
  builder_.Define(rule, nfa, start, end);
  return rule;
}

}  // namespace winnow
