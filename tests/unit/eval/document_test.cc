#include "eval/document.h"

#include <gtest/gtest.h>

#include <fstream>
#include <sstream>

namespace winnow::eval {
namespace {

const Tokenizer& NanoTokenizer() {
  static const Tokenizer tokenizer =
      Tokenizer::Load(std::string(WINNOW_SOURCE_DIR) + "/models/winnow-nano/tokenizer.json")
          .value();
  return tokenizer;
}

std::string Novel() {
  std::ifstream file(std::string(WINNOW_SOURCE_DIR) + "/examples/zenda.txt");
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

std::vector<Hidden> Statements(int64_t count) {
  std::vector<Hidden> statements;
  for (int64_t index = 0; index < count; ++index) {
    statements.push_back(
        {"The statement number " + std::to_string(7000 + index) + " stands here.", index % 2 == 1});
  }
  return statements;
}

size_t Occurrences(const std::string& text, const std::string& part) {
  size_t count = 0;
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++count;
  return count;
}

TEST(Document, HasExactlyTheTokensAndEachStatementOnceAtItsDepth) {
  const std::string novel = Novel();
  for (const int64_t length : {400, 1000, 1999, 4096}) {
    for (const size_t end : {size_t{5000}, size_t{40001}, novel.size()}) {
      for (const int64_t count : {1, 2, 10}) {
        const std::vector<Hidden> statements = Statements(count);
        const auto document = BuildDocument(novel, end, statements, length, NanoTokenizer());
        ASSERT_TRUE(document.ok()) << document.status().ToString();
        const std::vector<int32_t> tokens = NanoTokenizer().Encode(document->text).value();
        EXPECT_EQ(static_cast<int64_t>(tokens.size()), length);
        EXPECT_EQ(document->tokens, tokens);
        for (int64_t index = 0; index < count; ++index) {
          const Hidden& hidden = statements[static_cast<size_t>(index)];
          const size_t begin = document->statement_begins[static_cast<size_t>(index)];
          const size_t behind = begin + hidden.text.size();
          EXPECT_EQ(document->text.substr(begin, hidden.text.size()), hidden.text);
          EXPECT_EQ(Occurrences(document->text, hidden.text), 1u);
          // Half the distance of two statements, and a little for what is between the words.
          const double place = static_cast<double>(begin) /
                               static_cast<double>(behind - begin + document->text.size());
          EXPECT_NEAR(place, DepthOf(index, count), 0.5 / static_cast<double>(count) + 0.1);
          const bool starts = begin == 0 || document->text[begin - 1] == '\n';
          const bool ends = behind == document->text.size() || document->text[behind] == '\n';
          if (hidden.own_line) {
            EXPECT_TRUE(starts && ends) << document->text.substr(begin > 30 ? begin - 30 : 0, 90);
          } else {
            EXPECT_TRUE(starts || document->text[begin - 1] == ' ');
            EXPECT_TRUE(ends || document->text[behind] == ' ');
          }
        }
      }
    }
  }
}

TEST(Document, StatesBehindWholeSentencesAndLines) {
  std::string source;
  for (int number = 0; number < 400; ++number) {
    source += number % 5 == 4 ? "It was late.\n" : "Nobody came that day. ";
  }
  const auto document =
      BuildDocument(source, source.size() - 1, Statements(7), 900, NanoTokenizer());
  ASSERT_TRUE(document.ok());
  for (size_t index = 1; index < 6; ++index) {
    const size_t begin = document->statement_begins[index];
    const std::string before = document->text.substr(begin - 2, 2);
    EXPECT_EQ(before, index % 2 == 1 ? ".\n" : ". ") << index;
  }
}

TEST(Document, KeepsTheOrderOfCrowdedStatements) {
  const std::vector<Hidden> statements = Statements(30);
  const auto document = BuildDocument(Novel(), 30000, statements, 700, NanoTokenizer());
  ASSERT_TRUE(document.ok()) << document.status().ToString();
  for (size_t index = 0; index < statements.size(); ++index) {
    const size_t begin = document->statement_begins[index];
    EXPECT_EQ(document->text.find(statements[index].text), begin);
    EXPECT_NEAR(static_cast<double>(begin) / static_cast<double>(document->text.size()),
                DepthOf(static_cast<int64_t>(index), 30), 0.12);
  }
}

TEST(Document, BeginsAnewWhereTheSourceIsTooShort) {
  const std::string source = "A short story. It ends soon.\n\n";
  const auto once = BuildDocument(Novel(), 30000, Statements(2), 500, NanoTokenizer());
  const auto again = BuildDocument(source, 20, Statements(2), 500, NanoTokenizer());
  ASSERT_TRUE(once.ok() && again.ok());
  EXPECT_FALSE(once->repeats);
  EXPECT_TRUE(again->repeats);
  EXPECT_EQ(again->tokens.size(), 500u);
  EXPECT_GT(Occurrences(again->text, "A short story."), 10u);
}

TEST(Document, CutsTextsWithoutSentencesLinesOrEvenWords) {
  std::string words;
  for (int number = 0; number < 3000; ++number) words += "word ";
  for (const std::string& source : {words, std::string(20000, 'x'), std::string("é")}) {
    const auto document = BuildDocument(source, source.size(), Statements(3), 300, NanoTokenizer());
    ASSERT_TRUE(document.ok()) << document.status().ToString();
    EXPECT_EQ(document->tokens.size(), 300u);
    for (const Hidden& hidden : Statements(3)) {
      EXPECT_EQ(Occurrences(document->text, hidden.text), 1u);
    }
  }
}

TEST(Document, RefusesTextsWithoutWordsAndTooManyStatements) {
  EXPECT_FALSE(BuildDocument(" \n ", 2, Statements(1), 300, NanoTokenizer()).ok());
  const auto crowded = BuildDocument(Novel(), 30000, Statements(50), 300, NanoTokenizer());
  ASSERT_FALSE(crowded.ok());
  EXPECT_EQ(crowded.status().code(), StatusCode::kInvalidArgument);
  EXPECT_NE(crowded.status().message().find("expected at most the 300 tokens"), std::string::npos);
}

TEST(Quotation, IsTwelveTokensAndTheTwentyThatFollow) {
  const std::vector<Hidden> statements = Statements(10);
  const auto document = BuildDocument(Novel(), 60000, statements, 3000, NanoTokenizer());
  ASSERT_TRUE(document.ok());
  for (int64_t index = 0; index < 10; ++index) {
    const double depth = DepthOf(index, 10);
    const Quotation quotation = QuoteAt(*document, statements, depth, NanoTokenizer());
    ASSERT_FALSE(quotation.passage.empty());
    EXPECT_EQ(Occurrences(document->text, quotation.passage), 1u);
    const size_t place = document->text.find(quotation.passage);
    const size_t after = place + quotation.passage.size();
    EXPECT_EQ(document->text.find(quotation.continuation, after), after + 1);
    EXPECT_NEAR(static_cast<double>(place) / static_cast<double>(document->text.size()), depth,
                0.1);
    EXPECT_EQ(quotation.passage.find("statement number"), std::string::npos);
    EXPECT_EQ(quotation.continuation.find("statement number"), std::string::npos);
    // Whole words: what stands around the passage is space.
    EXPECT_TRUE(place == 0 || document->text[place - 1] == ' ' ||
                document->text[place - 1] == '\n');
    EXPECT_EQ(document->text[after], ' ');
    // Twelve tokens and twenty of the document, found again by their bytes.
    const auto tokens_in = [&](size_t begin, size_t end) {
      int64_t count = 0;
      size_t at = 0;
      for (const int32_t token : document->tokens) {
        at += NanoTokenizer().TokenBytes(token).size();
        if (at > begin && at <= end) ++count;
      }
      return count;
    };
    EXPECT_EQ(tokens_in(place, after), kPassageTokens);
    EXPECT_EQ(tokens_in(after, after + 1 + quotation.continuation.size()), kContinuationTokens);
  }
}

TEST(Quotation, OfATextThatIsTooShortIsEmpty) {
  Document document;
  document.text = "Too short.";
  document.tokens = NanoTokenizer().Encode(document.text).value();
  EXPECT_EQ(QuoteAt(document, {}, 0.5, NanoTokenizer()).passage, "");
}

}  // namespace
}  // namespace winnow::eval
