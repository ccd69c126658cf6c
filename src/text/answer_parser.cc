// A machine that looks for one tag at a time at the front of what is not decided. Whatever it
// decides on a text holds for every continuation of it, which makes the pieces of no account.
#include "text/answer_parser.h"

#include <algorithm>

#include "base/check.h"
#include "base/json.h"
#include "text/json_rules.h"

namespace winnow {
namespace {

constexpr size_t kLargestValue = size_t{1} << 20;  // bytes kept until they are whole
constexpr size_t kMaxArguments = 1024;             // of a call

constexpr std::string_view kEndOfReasoning = "</think>";

// `text` as it stands within a string of JSON.
std::string Escaped(std::string_view text) {
  std::string quoted;
  AppendJsonString(text, JsonStyle::kPlain, quoted);
  return quoted.substr(1, quoted.size() - 2);
}

std::string Quote(std::string_view text) { return '"' + Escaped(text) + '"'; }

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
  CallHead head;
  const Found found = ReadFirstCall(format_, pending_, head);
  if (found == Found::kPerhaps) return false;
  if (found == Found::kNo) {
    const std::string_view tag = OpeningTag(format_);
    piece.text += Take(pending_.find(tag) + tag.size());
    state_ = State::kContent;
    return true;
  }
  verbatim_ = Take(head.length);
  told_in_block_ = false;
  BeginCall(head, piece);
  return true;
}

bool AnswerParser::ReadBlock(AnswerPiece& piece) {
  CallHead head;
  const Found found = ReadNextCall(format_, pending_, head);
  if (found == Found::kPerhaps) return false;
  if (found == Found::kNo) {
    state_ = State::kContent;
    return true;
  }
  verbatim_ = Take(head.length);
  if (!head.ends || !head.name.empty()) {
    BeginCall(head, piece);
    return true;
  }
  if (!told_in_block_) piece.text += verbatim_;
  state_ = State::kContent;
  return true;
}

bool AnswerParser::ReadArguments(AnswerPiece& piece) {
  CallHead head;
  const Found found = ReadNextArgument(format_, pending_, head);
  if (found == Found::kPerhaps) return false;
  if (found == Found::kYes && head.ends) {
    Take(head.length);
    EndCall(piece);
    return true;
  }
  if (found == Found::kYes && BeginArgument(head, piece)) {
    Take(head.length);
    return true;
  }
  TellArguments("}", piece);
  state_ = State::kContent;
  return true;
}

void AnswerParser::BeginCall(const CallHead& head, AnswerPiece& piece) {
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
bool AnswerParser::BeginArgument(const CallHead& head, AnswerPiece& piece) {
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
  const size_t length = DecidedLength(ValueEndTag(format_), tag);
  if (length > 0) TellArguments(Escaped(Take(length)), piece);
  if (tag == 0) return false;
  Take(tag);
  TellArguments("\"", piece);
  state_ = State::kArguments;
  return true;
}

bool AnswerParser::ScanValue(AnswerPiece& piece) {
  size_t tag = 0;
  const size_t length = DecidedLength(ValueEndTag(format_), tag);
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
  const size_t length = DecidedLength(ValueEndTag(format_), tag);
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
