// Scanners for the split expressions of the supported tokenizers.
//
// A scanner is a function (text, position) → length of the match that begins there, 0 if none does.
// Each is the hand-compiled form of one expression: alternatives in order, backtracking only where
// it can change the outcome.
#include "text/pre_tokenizer.h"

#include <string>
#include <vector>

#include "base/check.h"
#include "base/text.h"
#include "text/unicode.h"

namespace winnow {
namespace {

constexpr std::string_view kNumbers = R"(\p{N}{1,3})";
constexpr std::string_view kChineseAndKana = "[一-龥\u3040-ゟ゠-ヿ]+";
constexpr std::string_view kDeepSeekWords =
    R"([!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|)"
    R"([^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kGlmContractions =
    "(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])";
constexpr std::string_view kGlmFoldedContractions = "(?i:'s|'t|'re|'ve|'m|'ll|'d)";
constexpr std::string_view kGlmWords =
    R"(|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

bool IsNewline(char byte) { return byte == '\r' || byte == '\n'; }
bool IsAsciiLetter(char byte) { return (byte | 0x20) >= 'a' && (byte | 0x20) <= 'z'; }

template <typename Predicate>
size_t SkipWhile(std::string_view text, size_t position, Predicate predicate) {
  while (position < text.size()) {
    const Character character = CharacterAt(text, position);
    if (!predicate(character)) break;
    position += character.length;
  }
  return position;
}

size_t SkipNewlines(std::string_view text, size_t position) {
  while (position < text.size() && IsNewline(text[position])) ++position;
  return position;
}

bool IsWhitespace(const Character& character) { return character.char_class == CharClass::kSpace; }

// \p{N}{1,3}
size_t MatchNumbers(std::string_view text, size_t position) {
  int count = 0;
  return SkipWhile(text, position,
                   [&](const Character& character) {
                     return character.char_class == CharClass::kNumber && ++count <= 3;
                   }) -
         position;
}

// [一-龥぀-ゟ゠-ヿ]+
size_t MatchChineseAndKana(std::string_view text, size_t position) {
  return SkipWhile(text, position,
                   [](const Character& character) {
                     const uint32_t c = character.code_point;
                     return (c >= 0x4E00 && c <= 0x9FA5) || (c >= 0x3040 && c <= 0x30FF);
                   }) -
         position;
}

// \s*[\r\n]+|\s+(?!\S)|\s+
size_t MatchWhitespace(std::string_view text, size_t position) {
  size_t end = position;            // of the run of white space
  size_t last = position;           // where its last character begins
  size_t after_newline = position;  // behind its last line break
  while (end < text.size()) {
    const Character character = CharacterAt(text, end);
    if (!IsWhitespace(character)) break;
    last = end;
    end += character.length;
    if (IsNewline(text[last])) after_newline = end;
  }
  if (after_newline > position) return after_newline - position;
  // Before a word the look-ahead leaves the last character of a longer run to the word.
  if (end == text.size() || last == position) return end - position;
  return last - position;
}

// The third expression of DeepSeek V3.
size_t MatchDeepSeekWords(std::string_view text, size_t position) {
  const auto is_word = [](const Character& character) {
    return character.char_class == CharClass::kLetter || character.char_class == CharClass::kMark;
  };
  const auto is_sign = [](const Character& character) {
    return character.char_class == CharClass::kPunctuation ||
           character.char_class == CharClass::kSymbol;
  };
  const Character first = CharacterAt(text, position);
  const size_t second = position + first.length;

  // Punctuation of ASCII, all of it, then letters of ASCII.
  if (is_sign(first) && first.code_point < 0x80) {
    size_t end = second;
    while (end < text.size() && IsAsciiLetter(text[end])) ++end;
    if (end > second) return end - position;
  }
  // A word, with at most one character before it that is no line break, letter, punctuation or
  // symbol. A mark may be that character or begin the word; the match is the same.
  if (is_word(first)) return SkipWhile(text, second, is_word) - position;
  if (!is_sign(first) && !IsNewline(text[position])) {
    const size_t end = SkipWhile(text, second, is_word);
    if (end > second) return end - position;
  }
  // Punctuation and symbols, with at most one space before and line breaks after.
  const size_t signs = text[position] == ' ' ? second : position;
  const size_t end = SkipWhile(text, signs, is_sign);
  if (end > signs) return SkipNewlines(text, end) - position;
  return MatchWhitespace(text, position);
}

// 's 't 're 've 'm 'll 'd in any case.
size_t MatchContraction(std::string_view text, size_t position, bool fold_long_s) {
  if (text[position] != '\'' || position + 1 >= text.size()) return 0;
  const std::string_view rest = text.substr(position + 1);
  const auto lower = [&](size_t index) {
    return index < rest.size() && IsAsciiLetter(rest[index]) ? rest[index] | 0x20 : 0;
  };
  switch (lower(0)) {
    case 's':
    case 't':
    case 'm':
    case 'd':
      return 2;
    case 'r':
    case 'v':
      return lower(1) == 'e' ? 3 : 0;
    case 'l':
      return lower(1) == 'l' ? 3 : 0;
    default:
      return fold_long_s && rest.starts_with("\u017F") ? 3 : 0;
  }
}

size_t MatchGlm(std::string_view text, size_t position, bool fold_long_s) {
  const auto is_letter = [](const Character& character) {
    return character.char_class == CharClass::kLetter;
  };
  const auto is_sign = [](const Character& character) {
    return character.char_class != CharClass::kSpace &&
           character.char_class != CharClass::kLetter && character.char_class != CharClass::kNumber;
  };
  if (const size_t length = MatchContraction(text, position, fold_long_s)) return length;
  const Character first = CharacterAt(text, position);
  const size_t second = position + first.length;
  if (is_letter(first)) return SkipWhile(text, second, is_letter) - position;
  if (first.char_class == CharClass::kNumber) return MatchNumbers(text, position);
  if (!IsNewline(text[position])) {
    const size_t end = SkipWhile(text, second, is_letter);
    if (end > second) return end - position;
  }
  const size_t signs = text[position] == ' ' ? second : position;
  const size_t end = SkipWhile(text, signs, is_sign);
  if (end > signs) return SkipNewlines(text, end) - position;
  return MatchWhitespace(text, position);
}

// "Isolated": the matches and the gaps between them are the pieces.
template <typename Match, typename Piece>
void Isolate(std::string_view text, Match match, Piece piece) {
  size_t gap = 0;
  size_t position = 0;
  while (position < text.size()) {
    const size_t length = match(text, position);
    if (length == 0) {
      position += CharacterAt(text, position).length;
      continue;
    }
    if (gap < position) piece(text.substr(gap, position - gap));
    piece(text.substr(position, length));
    position += length;
    gap = position;
  }
  if (gap < text.size()) piece(text.substr(gap));
}

// The expression, with the control characters that some files carry in it spelled as escapes.
std::string SpellNewlines(std::string_view expression) {
  std::string spelled;
  for (char byte : expression) {
    if (byte == '\r') {
      spelled += "\\r";
    } else if (byte == '\n') {
      spelled += "\\n";
    } else {
      spelled += byte;
    }
  }
  return spelled;
}

bool Is(const json::object& object, std::string_view key, const json::value& expected) {
  const json::value* value = object.if_contains(key);
  return value != nullptr && *value == expected;
}

// The expression of one Split, which must isolate its matches.
Result<std::string> ParseSplit(const json::value& split, const std::string& field) {
  const json::object* object = split.if_object();
  if (object == nullptr || !Is(*object, "type", "Split")) {
    return Unsupported(fmt::format("{}: {}, expected a Split before the last ByteLevel", field,
                                   Quoted(json::serialize(split))));
  }
  const json::value* pattern = object->if_contains("pattern");
  const json::object* pattern_object = pattern != nullptr ? pattern->if_object() : nullptr;
  const json::value* regex =
      pattern_object != nullptr ? pattern_object->if_contains("Regex") : nullptr;
  if (regex == nullptr || !regex->is_string()) {
    return Unsupported(fmt::format("{}.pattern: no string Regex, expected one", field));
  }
  if (!Is(*object, "behavior", "Isolated") || !Is(*object, "invert", false)) {
    return Unsupported(
        fmt::format("{}: expected \"behavior\" \"Isolated\" and \"invert\" false", field));
  }
  return SpellNewlines(regex->get_string());
}

Status CheckByteLevel(const json::value& byte_level, const std::string& field) {
  const json::object* object = byte_level.if_object();
  if (object == nullptr || !Is(*object, "type", "ByteLevel") ||
      !Is(*object, "add_prefix_space", false) || !Is(*object, "use_regex", false)) {
    return Unsupported(fmt::format(
        "{}: {}, expected a ByteLevel with \"add_prefix_space\" false and \"use_regex\" false",
        field, Quoted(json::serialize(byte_level))));
  }
  return OkStatus();
}

}  // namespace

Result<SplitPattern> ParsePreTokenizer(const json::value& pre_tokenizer, std::string_view what) {
  const json::object* object = pre_tokenizer.if_object();
  const json::value* steps = object != nullptr && Is(*object, "type", "Sequence")
                                 ? object->if_contains("pretokenizers")
                                 : nullptr;
  if (steps == nullptr || !steps->is_array() || steps->get_array().empty()) {
    return Unsupported(
        fmt::format("{}: pre_tokenizer: {}, expected a Sequence of Splits and a ByteLevel", what,
                    Quoted(json::serialize(pre_tokenizer))));
  }
  const json::array& array = steps->get_array();
  const auto field = [&](size_t index) {
    return fmt::format("{}: pre_tokenizer.pretokenizers[{}]", what, index);
  };
  std::vector<std::string> expressions;
  for (size_t index = 0; index + 1 < array.size(); ++index) {
    WINNOW_ASSIGN(std::string expression, ParseSplit(array[index], field(index)));
    expressions.push_back(std::move(expression));
  }
  WINNOW_TRY(CheckByteLevel(array.back(), field(array.size() - 1)));

  using Expressions = std::vector<std::string>;
  if (expressions == Expressions{std::string(kNumbers), std::string(kChineseAndKana),
                                 std::string(kDeepSeekWords)}) {
    return SplitPattern::kDeepSeekV3;
  }
  const std::string words(kGlmWords);
  if (expressions == Expressions{std::string(kGlmContractions) + words}) return SplitPattern::kGlm;
  if (expressions == Expressions{std::string(kGlmFoldedContractions) + words}) {
    return SplitPattern::kGlmCaseInsensitive;
  }
  std::string found;
  for (const std::string& expression : expressions) {
    found += fmt::format("{}{}", found.empty() ? "" : ", ", Quoted(expression));
  }
  return Unsupported(fmt::format(
      "{}: pre_tokenizer: {} Splits by {}, expected the three of DeepSeek V3 or the one of GLM",
      what, expressions.size(), found.empty() ? "nothing" : found));
}

void SplitText(SplitPattern pattern, std::string_view text,
               const std::function<void(std::string_view piece)>& piece) {
  if (pattern == SplitPattern::kDeepSeekV3) {
    // Each expression sees the pieces of the one before as texts of their own.
    Isolate(text, MatchNumbers, [&](std::string_view part) {
      Isolate(part, MatchChineseAndKana,
              [&](std::string_view run) { Isolate(run, MatchDeepSeekWords, piece); });
    });
    return;
  }
  const bool fold_long_s = pattern == SplitPattern::kGlmCaseInsensitive;
  Isolate(
      text,
      [=](std::string_view part, size_t position) { return MatchGlm(part, position, fold_long_s); },
      piece);
}

}  // namespace winnow
