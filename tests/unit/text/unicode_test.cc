// Characters: reading and repairing UTF-8, classes.
#include "text/unicode.h"

#include <gtest/gtest.h>

#include <vector>

namespace winnow {
namespace {

TEST(CharacterAt, ReadsSequencesOfEveryLength) {
  EXPECT_EQ(CharacterAt("A", 0).code_point, 0x41u);
  EXPECT_EQ(CharacterAt("xé", 1).code_point, 0xE9u);
  EXPECT_EQ(CharacterAt("中", 0).code_point, 0x4E2Du);
  const Character emoji = CharacterAt("\U0001F600", 0);
  EXPECT_EQ(emoji.code_point, 0x1F600u);
  EXPECT_EQ(emoji.length, 4);
}

TEST(CharacterAt, TakesBytesThatAreNotUtf8OneByOne) {
  // A lone continuation, an overlong form, a surrogate, beyond U+10FFFF, and cut short.
  for (const char* text : {"\x80", "\xC0\xAF", "\xE0\x80\x80", "\xED\xA0\x80", "\xF4\x90\x80\x80",
                           "\xF5", "\xE4\xB8"}) {
    const Character character = CharacterAt(text, 0);
    EXPECT_EQ(character.code_point, kInvalidCodePoint);
    EXPECT_EQ(character.length, 1);
    EXPECT_EQ(character.char_class, CharClass::kOther);
  }
}

TEST(CharacterAt, KnowsClasses) {
  const auto class_of = [](const char* text) { return CharacterAt(text, 0).char_class; };
  for (const char* letter : {"a", "Z", "é", "ж", "中", "ʰ", "\U00020000"}) {
    EXPECT_EQ(class_of(letter), CharClass::kLetter) << letter;
  }
  for (const char* number : {"0", "9", "²", "½", "Ⅷ", "٣"}) {
    EXPECT_EQ(class_of(number), CharClass::kNumber) << number;
  }
  EXPECT_EQ(class_of("\u0301"), CharClass::kMark);
  for (const char* sign : {"!", "_", "-", "。", "«"}) {
    EXPECT_EQ(class_of(sign), CharClass::kPunctuation) << sign;
  }
  for (const char* sign : {"$", "+", "<", "^", "`", "|", "~", "©", "\U0001F600"}) {
    EXPECT_EQ(class_of(sign), CharClass::kSymbol) << sign;
  }
  for (const char* space : {" ", "\t", "\n", "\v", "\f", "\r", "\u0085", "\u00A0", "\u3000"}) {
    EXPECT_EQ(class_of(space), CharClass::kSpace) << space;
  }
  // A control, a zero-width space, private use, and a code point that Unicode 16 leaves unassigned.
  for (const char* other : {"\x01", "\u200B", "\uE000", "\u0378"}) {
    EXPECT_EQ(class_of(other), CharClass::kOther) << other;
  }
  // New in Unicode 16: Garay letters, Kirat Rai numbers.
  EXPECT_EQ(class_of("\U00010D50"), CharClass::kLetter);
  EXPECT_EQ(class_of("\U00016D70"), CharClass::kNumber);
}

TEST(AppendUtf8, GivesWhatCharacterAtReads) {
  for (uint32_t code_point : {0x0u, 0x7Fu, 0x80u, 0x7FFu, 0x800u, 0xFFFFu, 0x10000u, 0x10FFFFu}) {
    std::string text;
    AppendUtf8(code_point, text);
    EXPECT_EQ(CharacterAt(text, 0).code_point, code_point);
    EXPECT_EQ(CharacterAt(text, 0).length, static_cast<int>(text.size()));
  }
}

std::string Repaired(std::string_view bytes, size_t step) {
  Utf8Repair repair;
  std::string text;
  for (size_t first = 0; first < bytes.size(); first += step) {
    text += repair.Append(bytes.substr(first, step));
  }
  return text + repair.Flush();
}

TEST(Utf8Repair, ReplacesEachMaximalBrokenPart) {
  // The example of the Unicode Standard, section 3.9, table 3-8.
  const std::string_view bytes = "\x61\xF1\x80\x80\xE1\x80\xC2\x62\x80\x63\x80\xBF\x64";
  for (size_t step : {1, 2, 3, 100}) {
    EXPECT_EQ(Repaired(bytes, step), "a\uFFFD\uFFFD\uFFFDb\uFFFDc\uFFFD\uFFFDd") << step;
  }
}

TEST(Utf8Repair, KeepsBackOnlyWhatMayBecomeACharacter) {
  Utf8Repair repair;
  EXPECT_EQ(repair.Append("a\xF0\x9F"), "a");
  EXPECT_EQ(repair.Append("\x98"), "");
  EXPECT_EQ(repair.Append("\x80z"), "\U0001F600z");
  EXPECT_EQ(repair.Append("\xE4"), "");
  EXPECT_EQ(repair.Append("b"), "\uFFFDb");
  EXPECT_EQ(repair.Append("\xE4\xB8"), "");
  EXPECT_EQ(repair.Flush(), "\uFFFD");
  EXPECT_EQ(repair.Flush(), "");
}

}  // namespace
}  // namespace winnow
