// A machine that looks for one tag at a time at the front of what is not decided. Whatever it
// decides on a text holds for every continuation of it, which makes the pieces of no account.
#include "text/answer_parser.h"

#include <algorithm>

#include "base/check.h"
#include "base/json.h"
#include "text/json_rules.h"

namespace winnow {
namespace {

constexpr size_t kLongestName = 256;               // bytes, of tools and arguments
constexpr size_t kLongestSpace = 64;               // between tags
constexpr size_t kLargestValue = size_t{1} << 20;  // bytes kept until they are whole
constexpr size_t kMaxArguments = 1024;             // of a call

constexpr std::string_view kEndOfReasoning = "</think>";
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

// Whether what was looked for is there, is not, or may be once more text has come.
enum class Found { kYes, kNo, kPerhaps };

// Reads forward over the front of a text.
class Cursor {
 public:
  explicit Cursor(std::string_view text) : text_(text) {}

  size_t position() const { return position_; }

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

  // A name up to `end`, which stays.
  Found ReadName(char end, std::string& name) {
    for (size_t next = position_; next < text_.size(); ++next) {
      const char byte = text_[next];
      if (byte == end) {
        name = text_.substr(position_, next - position_);
        position_ = next;
        return name.empty() ? Found::kNo : Found::kYes;
      }
      const bool is_control = static_cast<uint8_t>(byte) < 0x20 && !(end == '<' && IsSpace(byte));
      if (is_control || next - position_ >= kLongestName) return Found::kNo;
    }
    return Found::kPerhaps;
  }

 private:
  std::string_view text_;
  size_t position_ = 0;
};

#define WINNOW_FIND(expression) \
  if (const Found found = (expression); found != Found::kYes) return found

std::string Trimmed(std::string_view text) {
  while (!text.empty() && IsSpace(text.front())) text.remove_prefix(1);
  while (!text.empty() && IsSpace(text.back())) text.remove_suffix(1);
  return std::string(text);
}

// `text` as it stands within a string of JSON.
std::string Escaped(std::string_view text) {
  std::string quoted;
  AppendJsonString(text, JsonStyle::kPlain, quoted);
  return quoted.substr(1, quoted.size() - 2);
}

std::string Quote(std::string_view text) { return '"' + Escaped(text) + '"'; }

}  // namespace

// What stands at the front of a call or behind an argument: the next argument, or the end.
struct AnswerParser::Head {
  std::string name;  // of the tool, if a call begins
  bool ends = false;
  std::string key;
  bool is_string = false;  // of V3.2
};

namespace {

template <typename Head>
Found ReadNext32(Cursor& cursor, Head& head) {
  WINNOW_FIND(cursor.SkipSpace());
  const Found end = cursor.Skip(kEndCall32);
  if (end != Found::kNo) {
    head.ends = true;
    return end;
  }
  WINNOW_FIND(cursor.Skip(kBeginArgument32));
  WINNOW_FIND(cursor.ReadName('"', head.key));
  WINNOW_FIND(cursor.Skip("\" string=\""));
  const Found is_true = cursor.Skip("true\">");
  head.is_string = true;
  if (is_true != Found::kNo) return is_true;
  head.is_string = false;
  return cursor.Skip("false\">");
}

template <typename Head>
Found ReadCall32(Cursor& cursor, Head& head) {
  WINNOW_FIND(cursor.Skip(kBeginCall32));
  WINNOW_FIND(cursor.ReadName('"', head.name));
  WINNOW_FIND(cursor.Skip("\">"));
  return ReadNext32(cursor, head);
}

template <typename Head>
Found ReadNextGlm(Cursor& cursor, Head& head) {
  WINNOW_FIND(cursor.SkipSpace());
  const Found end = cursor.Skip(kEndGlm);
  if (end != Found::kNo) {
    head.ends = true;
    return end;
  }
  WINNOW_FIND(cursor.Skip(kKeyGlm));
  WINNOW_FIND(cursor.ReadName('<', head.key));
  WINNOW_FIND(cursor.Skip(kEndKeyGlm));
  WINNOW_FIND(cursor.SkipSpace());
  return cursor.Skip(kValueGlm);
}

template <typename Head>
Found ReadCallGlm(Cursor& cursor, Head& head) {
  WINNOW_FIND(cursor.Skip(kBeginGlm));
  WINNOW_FIND(cursor.ReadName('<', head.name));
  head.name = Trimmed(head.name);
  const bool is_name = !head.name.empty() &&
                       std::none_of(head.name.begin(), head.name.end(),
                                    [](char byte) { return static_cast<uint8_t>(byte) < 0x20; });
  return is_name ? ReadNextGlm(cursor, head) : Found::kNo;
}

template <typename Head>
Found ReadCall31(Cursor& cursor, Head& head) {
  WINNOW_FIND(cursor.Skip(kBeginCall31));
  WINNOW_FIND(cursor.ReadName('<', head.name));
  head.name = Trimmed(head.name);
  if (head.name.empty()) return Found::kNo;
  return cursor.Skip(kSeparator31);
}

// The front of a block of calls, or of a call where there are no blocks.
template <typename Head>
Found ReadFirstCall(ChatFormat format, Cursor& cursor, Head& head) {
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

// How a block of calls begins, as far as content must not show it.
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

// Bytes at the end of `text` that may be the beginning of `tag`.
size_t OpenTail(std::string_view text, std::string_view tag) {
  for (size_t length = std::min(text.size(), tag.size() - 1); length > 0; --length) {
    if (tag.starts_with(text.substr(text.size() - length))) return length;
  }
  return 0;
}

}  // namespace

bool RendersTools(ChatFormat format) { return format != ChatFormat::kDeepSeekV31; }

bool BeginsInReasoning(std::span<const PromptSegment> prompt) {
  return !prompt.empty() && prompt.back().special_tokens == SpecialTokens::kRecognize &&
         prompt.back().text.ends_with("<think>");
}

AnswerParser::AnswerParser(const AnswerParserOptions& options)
    : format_(options.format),
      finds_calls_(options.tool_calls),
      kinds_(options.tools_json),
      state_(options.in_reasoning ? State::kReasoning : State::kContent) {}

AnswerPiece AnswerParser::Append(std::string_view text) {
  AnswerPiece piece;
  pending_ += text;
  while (Advance(piece)) {
  }
  return piece;
}

// One step; false if it needs more text.
bool AnswerParser::Advance(AnswerPiece& piece) {
  switch (state_) {
    case State::kReasoning:
      return ScanReasoning(piece);
    case State::kContent:
      return ScanContent(piece);
    case State::kOpening:
      return ReadOpening(piece);
    case State::kBlock:
      return ReadBlock(piece);
    case State::kArguments:
      return ReadArguments(piece);
    case State::kText:
      return ScanText(piece);
    case State::kValue:
      return ScanValue(piece);
    case State::kWholeCall:
      return ScanWholeCall(piece);
  }
  return false;
}

std::string AnswerParser::Take(size_t length) {
  std::string taken = pending_.substr(0, length);
  pending_.erase(0, length);
  return taken;
}

// The bytes of pending_ in front of `tag` or of what may become it. `found` is the tag's length if
// it is there, else 0.
size_t AnswerParser::DecidedLength(std::string_view tag, size_t& found) const {
  const size_t position = pending_.find(tag);
  found = position == std::string::npos ? 0 : tag.size();
  return found > 0 ? position : pending_.size() - OpenTail(pending_, tag);
}

bool AnswerParser::ScanReasoning(AnswerPiece& piece) {
  size_t tag = 0;
  piece.reasoning += Take(DecidedLength(kEndOfReasoning, tag));
  if (tag == 0) return false;
  Take(tag);
  state_ = State::kContent;
  return true;
}

bool AnswerParser::ScanContent(AnswerPiece& piece) {
  if (!finds_calls_) {
    piece.text += Take(pending_.size());
    return false;
  }
  size_t tag = 0;
  size_t length = DecidedLength(OpeningTag(format_), tag);
  if (format_ == ChatFormat::kDeepSeekV32) {
    // Two line ends in front belong to the calls.
    for (int line = 0; line < 2 && length > 0 && pending_[length - 1] == '\n'; ++line) --length;
  }
  piece.text += Take(length);
  if (tag == 0) return false;
  state_ = State::kOpening;
  return true;
}

bool AnswerParser::ReadOpening(AnswerPiece& piece) {
  Cursor cursor(pending_);
  Head head;
  const Found found = ReadFirstCall(format_, cursor, head);
  if (found == Found::kPerhaps) return false;
  if (found == Found::kNo) {
    const std::string_view tag = OpeningTag(format_);
    piece.text += Take(pending_.find(tag) + tag.size());
    state_ = State::kContent;
    return true;
  }
  verbatim_ = Take(cursor.position());
  told_in_block_ = false;
  BeginCall(head, piece);
  return true;
}

bool AnswerParser::ReadBlock(AnswerPiece& piece) {
  const bool is_v32 = format_ == ChatFormat::kDeepSeekV32;
  Cursor cursor(pending_);
  Head head;
  Found found = cursor.SkipSpace();
  if (found == Found::kYes) {
    found = cursor.Skip(is_v32 ? kEnd32 : kEnd31);
    if (found == Found::kYes) {
      const std::string end = Take(cursor.position());
      if (!told_in_block_) piece.text += end;
      state_ = State::kContent;
      return true;
    }
    if (found == Found::kNo) found = is_v32 ? ReadCall32(cursor, head) : ReadCall31(cursor, head);
  }
  if (found == Found::kPerhaps) return false;
  if (found == Found::kNo) {
    state_ = State::kContent;
    return true;
  }
  verbatim_ = Take(cursor.position());
  BeginCall(head, piece);
  return true;
}

bool AnswerParser::ReadArguments(AnswerPiece& piece) {
  Cursor cursor(pending_);
  Head head;
  const Found found =
      format_ == ChatFormat::kDeepSeekV32 ? ReadNext32(cursor, head) : ReadNextGlm(cursor, head);
  if (found == Found::kPerhaps) return false;
  if (found == Found::kYes && head.ends) {
    Take(cursor.position());
    EndCall(piece);
    return true;
  }
  if (found == Found::kYes && BeginArgument(head, piece)) {
    Take(cursor.position());
    return true;
  }
  TellArguments("}", piece);
  state_ = State::kContent;
  return true;
}

void AnswerParser::BeginCall(const Head& head, AnswerPiece& piece) {
  name_ = head.name;
  keys_.clear();
  value_.clear();
  if (format_ == ChatFormat::kDeepSeekV31) {
    state_ = State::kWholeCall;
    return;
  }
  TellCall("{", piece);
  if (head.ends) {
    EndCall(piece);
  } else {
    BeginArgument(head, piece);
  }
}

// False if there was one of the name before.
bool AnswerParser::BeginArgument(const Head& head, AnswerPiece& piece) {
  if (keys_.size() >= kMaxArguments || !keys_.insert(head.key).second) return false;
  TellArguments((keys_.size() > 1 ? ", " : "") + Quote(head.key) + ": ", piece);
  value_.clear();
  if (format_ == ChatFormat::kDeepSeekV32) {
    kind_ = head.is_string ? ArgumentKind::kString : ArgumentKind::kJson;
  } else {
    kind_ = kinds_.Of(name_, head.key);
  }
  key_ = head.key;
  state_ = kind_ == ArgumentKind::kString ? State::kText : State::kValue;
  if (kind_ == ArgumentKind::kString) TellArguments("\"", piece);
  return true;
}

void AnswerParser::EndCall(AnswerPiece& piece) {
  TellArguments("}", piece);
  state_ = format_ == ChatFormat::kDeepSeekV32 ? State::kBlock : State::kContent;
}

void AnswerParser::TellCall(std::string_view arguments, AnswerPiece& piece) {
  piece.tool_calls.push_back({num_calls_++, name_, std::string(arguments)});
  told_in_block_ = true;
}

void AnswerParser::TellArguments(std::string_view arguments, AnswerPiece& piece) {
  const int64_t index = num_calls_ - 1;
  if (piece.tool_calls.empty() || piece.tool_calls.back().index != index) {
    piece.tool_calls.push_back({index, "", ""});
  }
  piece.tool_calls.back().arguments += arguments;
}

bool AnswerParser::ScanText(AnswerPiece& piece) {
  size_t tag = 0;
  const size_t length =
      DecidedLength(format_ == ChatFormat::kDeepSeekV32 ? kEndArgument32 : kEndArgumentGlm, tag);
  if (length > 0) TellArguments(Escaped(Take(length)), piece);
  if (tag == 0) return false;
  Take(tag);
  TellArguments("\"", piece);
  state_ = State::kArguments;
  return true;
}

bool AnswerParser::ScanValue(AnswerPiece& piece) {
  size_t tag = 0;
  const size_t length =
      DecidedLength(format_ == ChatFormat::kDeepSeekV32 ? kEndArgument32 : kEndArgumentGlm, tag);
  if (value_.size() + length > kLargestValue) {
    // Too much to keep: a string, whose beginning is told now.
    TellArguments('"' + Escaped(value_), piece);
    value_.clear();
    state_ = State::kText;
    return true;
  }
  value_ += Take(length);
  if (tag == 0) return false;
  Take(tag);
  const bool is_value = kind_ == ArgumentKind::kEither ? kinds_.IsOtherValue(name_, key_, value_)
                                                       : ParseJson(value_, "argument").ok();
  TellArguments(is_value ? value_ : Quote(value_), piece);
  state_ = State::kArguments;
  return true;
}

bool AnswerParser::ScanWholeCall(AnswerPiece& piece) {
  size_t tag = 0;
  const size_t length = DecidedLength(kEndCall31, tag);
  if (value_.size() + length > kLargestValue) {
    // Too much to keep: as much as could be is text, and what follows is read anew.
    size_t rest = kLargestValue - value_.size();
    while (rest > 0 && (pending_[rest] & 0xC0) == 0x80) --rest;
    piece.text += verbatim_ + value_ + Take(rest);
    state_ = State::kContent;
    return true;
  }
  value_ += Take(length);
  if (tag == 0) return false;
  const std::string end = Take(tag);
  const Result<json::value> arguments = ParseJson(value_, "arguments");
  if (arguments.ok() && arguments->is_object()) {
    TellCall(value_, piece);
  } else {
    piece.text += verbatim_ + value_ + end;
  }
  state_ = State::kBlock;
  return true;
}

AnswerPiece AnswerParser::Flush() {
  AnswerPiece piece;
  std::string rest = Take(pending_.size());
  switch (state_) {
    case State::kReasoning:
      piece.reasoning = std::move(rest);
      break;
    case State::kContent:
    case State::kOpening:
      piece.text = std::move(rest);
      break;
    case State::kBlock:
      if (!told_in_block_) piece.text = std::move(rest);
      break;
    case State::kArguments:
      break;
    case State::kText:
      TellArguments(Escaped(rest), piece);
      break;
    case State::kValue:
      TellArguments(kind_ == ArgumentKind::kEither ? '"' + Escaped(value_ + rest) : value_ + rest,
                    piece);
      break;
    case State::kWholeCall:
      value_ += rest;
      if (Trimmed(value_).starts_with('{')) {
        TellCall(value_, piece);
      } else {
        piece.text = verbatim_ + value_;
      }
      break;
  }
  state_ = State::kContent;
  return piece;
}

}  // namespace winnow
