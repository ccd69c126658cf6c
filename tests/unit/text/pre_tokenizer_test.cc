// Splits, worked out by hand from the expressions; parity with Hugging Face is in
// tokenizer_vectors_test.cc.
#include "text/pre_tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace winnow {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

std::vector<std::string> Pieces(SplitPattern pattern, std::string_view text) {
  std::vector<std::string> pieces;
  SplitText(pattern, text, [&](std::string_view piece) { pieces.emplace_back(piece); });
  return pieces;
}

std::vector<std::string> DeepSeek(std::string_view text) {
  return Pieces(SplitPattern::kDeepSeekV3, text);
}
std::vector<std::string> SplitGlm(std::string_view text) {
  return Pieces(SplitPattern::kGlm, text);
}

TEST(SplitText, CutsNumbersIntoThrees) {
  EXPECT_THAT(DeepSeek("1234567"), ElementsAre("123", "456", "7"));
  EXPECT_THAT(SplitGlm("1234567"), ElementsAre("123", "456", "7"));
}

TEST(SplitText, GivesOneSpaceToTheWordBehind) {
  EXPECT_THAT(DeepSeek("a   b"), ElementsAre("a", "  ", " b"));
  EXPECT_THAT(SplitGlm("a   b"), ElementsAre("a", "  ", " b"));
}

TEST(SplitText, EndsTheLookAheadWhereANumberCutsTheText) {
  // DeepSeek's numbers are cut out first, so white space before one is at the end of its text; in
  // GLM's one expression the last space stays alone.
  EXPECT_THAT(DeepSeek("a  1"), ElementsAre("a", "  ", "1"));
  EXPECT_THAT(SplitGlm("a  1"), ElementsAre("a", " ", " ", "1"));
}

TEST(SplitText, KeepsLineBreaksWithWhatIsBeforeThem) {
  EXPECT_THAT(DeepSeek("a \n\n  b;\r\n"), ElementsAre("a", " \n\n", " ", " b", ";\r\n"));
  EXPECT_THAT(SplitGlm("a \n\n  b;\r\n"), ElementsAre("a", " \n\n", " ", " b", ";\r\n"));
}

TEST(SplitText, JoinsAsciiPunctuationToLettersOfAsciiOnly) {
  EXPECT_THAT(DeepSeek(".word"), ElementsAre(".word"));
  EXPECT_THAT(DeepSeek(".worté"), ElementsAre(".wort", "é"));
  EXPECT_THAT(DeepSeek("..word"), ElementsAre("..", "word"));
  EXPECT_THAT(DeepSeek("«word"), ElementsAre("«", "word"));
  EXPECT_THAT(SplitGlm(".worté«word"), ElementsAre(".worté", "«word"));
}

TEST(SplitText, TakesMarksIntoWordsInDeepSeekOnly) {
  EXPECT_THAT(DeepSeek("e\u0301a"), ElementsAre("e\u0301a"));
  EXPECT_THAT(SplitGlm("e\u0301a"), ElementsAre("e", "\u0301a"));
}

TEST(SplitText, CutsOutChineseAndKana) {
  EXPECT_THAT(DeepSeek("中文と日本語a中"), ElementsAre("中文と日本語", "a", "中"));
  // The middle dot of katakana is punctuation, so the third expression cuts there too.
  EXPECT_THAT(DeepSeek("カ・ナ"), ElementsAre("カ", "・", "ナ"));
}

TEST(SplitText, FindsContractionsInGlmOnly) {
  EXPECT_THAT(SplitGlm("it's We'LL x'd'"), ElementsAre("it", "'s", " We", "'LL", " x", "'d", "'"));
  EXPECT_THAT(DeepSeek("it's"), ElementsAre("it", "'s"));
  EXPECT_THAT(SplitGlm("'later"), ElementsAre("'later"));
  EXPECT_THAT(SplitGlm("'street"), ElementsAre("'s", "treet"));
}

TEST(SplitText, FoldsTheLongSOnlyWhereTheExpressionIgnoresCase) {
  EXPECT_THAT(SplitGlm("'ſt"), ElementsAre("'ſt"));
  EXPECT_THAT(Pieces(SplitPattern::kGlmCaseInsensitive, "'ſt"), ElementsAre("'ſ", "t"));
}

TEST(SplitText, LeavesWhatNothingMatchesInOnePiece) {
  EXPECT_THAT(DeepSeek(std::string_view("\x01\x02\x03", 3)), ElementsAre("\x01\x02\x03"));
  EXPECT_THAT(DeepSeek("\x01\x02word"), ElementsAre("\x01", "\x02word"));
}

TEST(SplitText, KeepsEveryByteOfBrokenUtf8) {
  const std::string text = "a\xFF\xFE b\xE4\xB8 1\xC3";
  for (SplitPattern pattern : {SplitPattern::kDeepSeekV3, SplitPattern::kGlm}) {
    std::string joined;
    for (const std::string& piece : Pieces(pattern, text)) joined += piece;
    EXPECT_EQ(joined, text);
  }
}

constexpr std::string_view kByteLevel =
    R"({"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true,"use_regex":false})";

Result<SplitPattern> ParseSteps(std::string steps) {
  const Result<json::value> value =
      ParseJson(R"({"type":"Sequence","pretokenizers":[)" + steps + "]}", "test");
  return ParsePreTokenizer(*value, "tokenizer.json");
}

TEST(ParsePreTokenizer, RefusesOtherExpressionsByName) {
  const auto pattern = ParseSteps(
      R"({"type":"Split","pattern":{"Regex":"\\w+"},"behavior":"Isolated","invert":false},)" +
      std::string(kByteLevel));
  ASSERT_FALSE(pattern.ok());
  EXPECT_EQ(pattern.error().code(), StatusCode::kUnsupported);
  EXPECT_THAT(pattern.error().message(), HasSubstr("tokenizer.json: pre_tokenizer"));
  EXPECT_THAT(pattern.error().message(), HasSubstr(R"(\\w+)"));
}

TEST(ParsePreTokenizer, RefusesOtherBehaviors) {
  const auto pattern = ParseSteps(
      R"({"type":"Split","pattern":{"Regex":"\\p{N}{1,3}"},"behavior":"Removed","invert":false},)" +
      std::string(kByteLevel));
  ASSERT_FALSE(pattern.ok());
  EXPECT_THAT(pattern.error().message(), HasSubstr("pretokenizers[0]"));
}

TEST(ParsePreTokenizer, RefusesAByteLevelThatSplitsOrAddsSpaces) {
  for (const char* step : {R"({"type":"ByteLevel","add_prefix_space":true,"use_regex":false})",
                           R"({"type":"ByteLevel","add_prefix_space":false})"}) {
    const auto pattern = ParseSteps(step);
    ASSERT_FALSE(pattern.ok());
    EXPECT_EQ(pattern.error().code(), StatusCode::kUnsupported);
  }
}

}  // namespace
}  // namespace winnow
