// Readers that go forward over tags and names.
#include "text/call_tags.h"

#include <algorithm>

namespace winnow {
namespace {

constexpr size_t kLongestName = 256;  // bytes, of tools and arguments
constexpr size_t kLongestSpace = 64;  // between tags

constexpr std::string_view kBegin31 = "<｜tool▁calls▁begin｜>";
constexpr std::string_view kEnd31 = "<｜tool▁calls▁end｜>";
constexpr std::string_view kBeginCall31 = "<｜tool▁call▁begin｜>";
constexpr std::string_view kSeparator31 = "<｜tool▁sep｜>";
constexpr std::string_view kEndCall31 = "<｜tool▁call▁end｜>";
constexpr std::string_view kBegin32 = "<｜DSML｜function_calls>";
constexpr std::string_view kEnd32 = "</｜DSML｜function_calls>";
constexpr std::string_view kBeginCall32 = "<｜DSML｜invoke name=\"";
constexpr std::string_view kEndCall32 = "</｜DSML｜invoke>";
constexpr std::string_view kBeginArgument32 = "<｜DSML｜parameter name=\"";
constexpr std::string_view kEndArgument32 = "</｜DSML｜parameter>";
constexpr std::string_view kBeginGlm = "<tool_call>";
constexpr std::string_view kEndGlm = "</tool_call>";
constexpr std::string_view kKeyGlm = "<arg_key>";
constexpr std::string_view kEndKeyGlm = "</arg_key>";
constexpr std::string_view kValueGlm = "<arg_value>";
constexpr std::string_view kEndArgumentGlm = "</arg_value>";

bool IsSpace(char byte) { return byte == ' ' || byte == '\n' || byte == '\r' || byte == '\t'; }
bool IsControl(char byte) { return static_cast<uint8_t>(byte) < 0x20; }

// Reads forward over the front of a text; what was read is counted in the head.
class Cursor {
 public:
  Cursor(std::string_view text, CallHead& head) : text_(text), position_(head.length) {}

  Found Skip(std::string_view literal) {
    const std::string_view rest = text_.substr(position_);
    if (rest.starts_with(literal)) {
      position_ += literal.size();
      return Found::kYes;
    }
    return literal.starts_with(rest) ? Found::kPerhaps : Found::kNo;
  }

  Found SkipSpace() {
    const size_t end = std::min(text_.size(), position_ + kLongestSpace + 1);
    size_t next = position_;
    while (next < end && IsSpace(text_[next])) ++next;
    if (next - position_ > kLongestSpace) return Found::kNo;
    if (next == text_.size()) return Found::kPerhaps;
    position_ = next;
    return Found::kYes;
  }

  // A name up to `end`, which stays. Between tags it may have space around it.
  Found ReadName(char end, std::string& name) {
    for (size_t next = position_; next < text_.size(); ++next) {
      if (text_[next] == end) {
        const std::string_view read = text_.substr(position_, next - position_);
        name = end == '<' ? Trimmed(read) : read;
        position_ = next;
        return name.empty() || std::any_of(name.begin(), name.end(), IsControl) ? Found::kNo
                                                                                : Found::kYes;
      }
      if (next - position_ >= kLongestName) return Found::kNo;
    }
    return Found::kPerhaps;
  }

 private:
  std::string_view text_;
  size_t& position_;
};

#define WINNOW_FIND(expression) \
  if (const Found found = (expression); found != Found::kYes) return found

Found ReadArgument32(Cursor& cursor, CallHead& head) {
  WINNOW_FIND(cursor.SkipSpace());
  const Found end = cursor.Skip(kEndCall32);
  head.ends = end != Found::kNo;
  if (head.ends) return end;
  WINNOW_FIND(cursor.Skip(kBeginArgument32));
  WINNOW_FIND(cursor.ReadName('"', head.key));
  WINNOW_FIND(cursor.Skip("\" string=\""));
  const Found is_true = cursor.Skip("true\">");
  head.is_string = is_true != Found::kNo;
  return head.is_string ? is_true : cursor.Skip("false\">");
}

Found ReadCall32(Cursor& cursor, CallHead& head) {
  WINNOW_FIND(cursor.Skip(kBeginCall32));
  WINNOW_FIND(cursor.ReadName('"', head.name));
  WINNOW_FIND(cursor.Skip("\">"));
  return ReadArgument32(cursor, head);
}

Found ReadArgumentGlm(Cursor& cursor, CallHead& head) {
  WINNOW_FIND(cursor.SkipSpace());
  const Found end = cursor.Skip(kEndGlm);
  head.ends = end != Found::kNo;
  if (head.ends) return end;
  WINNOW_FIND(cursor.Skip(kKeyGlm));
  WINNOW_FIND(cursor.ReadName('<', head.key));
  WINNOW_FIND(cursor.Skip(kEndKeyGlm));
  WINNOW_FIND(cursor.SkipSpace());
  return cursor.Skip(kValueGlm);
}

Found ReadCallGlm(Cursor& cursor, CallHead& head) {
  WINNOW_FIND(cursor.Skip(kBeginGlm));
  WINNOW_FIND(cursor.ReadName('<', head.name));
  return ReadArgumentGlm(cursor, head);
}

Found ReadCall31(Cursor& cursor, CallHead& head) {
  WINNOW_FIND(cursor.Skip(kBeginCall31));
  WINNOW_FIND(cursor.ReadName('<', head.name));
  return cursor.Skip(kSeparator31);
}

}  // namespace

Found ReadFirstCall(ChatFormat format, std::string_view text, CallHead& head) {
  Cursor cursor(text, head);
  switch (format) {
    case ChatFormat::kDeepSeekV31:
      WINNOW_FIND(cursor.Skip(kBegin31));
      WINNOW_FIND(cursor.SkipSpace());
      return ReadCall31(cursor, head);
    case ChatFormat::kDeepSeekV32:
      for (int line = 0; line < 2; ++line) {
        if (cursor.Skip("\n") == Found::kPerhaps) return Found::kPerhaps;
      }
      WINNOW_FIND(cursor.Skip(kBegin32));
      WINNOW_FIND(cursor.SkipSpace());
      return ReadCall32(cursor, head);
    case ChatFormat::kGlm:
    case ChatFormat::kGlmWithEffort:
      break;
  }
  return ReadCallGlm(cursor, head);
}

Found ReadNextCall(ChatFormat format, std::string_view text, CallHead& head) {
  const bool is_v31 = format == ChatFormat::kDeepSeekV31;
  Cursor cursor(text, head);
  WINNOW_FIND(cursor.SkipSpace());
  const Found end = cursor.Skip(is_v31 ? kEnd31 : kEnd32);
  head.ends = end != Found::kNo;
  if (head.ends) return end;
  return is_v31 ? ReadCall31(cursor, head) : ReadCall32(cursor, head);
}

Found ReadNextArgument(ChatFormat format, std::string_view text, CallHead& head) {
  Cursor cursor(text, head);
  return format == ChatFormat::kDeepSeekV32 ? ReadArgument32(cursor, head)
                                            : ReadArgumentGlm(cursor, head);
}

#undef WINNOW_FIND

std::string_view OpeningTag(ChatFormat format) {
  switch (format) {
    case ChatFormat::kDeepSeekV31:
      return kBegin31;
    case ChatFormat::kDeepSeekV32:
      return kBegin32;
    case ChatFormat::kGlm:
    case ChatFormat::kGlmWithEffort:
      break;
  }
  return kBeginGlm;
}

std::string_view ValueEndTag(ChatFormat format) {
  switch (format) {
    case ChatFormat::kDeepSeekV31:
      return kEndCall31;
    case ChatFormat::kDeepSeekV32:
      return kEndArgument32;
    case ChatFormat::kGlm:
    case ChatFormat::kGlmWithEffort:
      break;
  }
  return kEndArgumentGlm;
}

std::string_view Trimmed(std::string_view text) {
  while (!text.empty() && IsSpace(text.front())) text.remove_prefix(1);
  while (!text.empty() && IsSpace(text.back())) text.remove_suffix(1);
  return text;
}

}  // namespace winnow
