#include "eval/needle_file.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <set>

#include "eval/needle.h"
#include "unit/model/checkpoint.h"

namespace winnow::eval {
namespace {

TEST(NeedleFile, OfWhatTheModelLearnedIsSound) {
  const auto file =
      ReadNeedleFile(std::string(WINNOW_SOURCE_DIR) + "/examples/needles_learned.json");
  EXPECT_TRUE(file.ok()) << file.status().ToString();
}

TEST(NeedleFile, OfTheExamplesIsSound) {
  const auto file = ReadNeedleFile(std::string(WINNOW_SOURCE_DIR) + "/examples/needles.json");
  ASSERT_TRUE(file.ok()) << file.status().ToString();
  EXPECT_GE(file->needles.size(), 60u);
  std::set<std::string> statements, questions;
  for (const Needle& needle : file->needles) {
    EXPECT_TRUE(statements.insert(needle.statement).second) << needle.statement;
    EXPECT_TRUE(questions.insert(needle.question).second) << needle.question;
    EXPECT_NE(needle.statement.find(needle.answer), std::string::npos) << needle.statement;
    EXPECT_EQ(needle.question.find(needle.answer), std::string::npos) << needle.question;
    EXPECT_LE(needle.answer.size(), 24u) << needle.answer;
    EXPECT_EQ(needle.statement.back(), '.') << needle.statement;
  }
}

TEST(NeedleFile, PutsThePassageIntoItsQuestion) {
  NeedleFile file;
  file.quote_question = "Go on after \"{passage}\", please.";
  EXPECT_EQ(file.QuoteQuestion("so it was"), "Go on after \"so it was\", please.");
}

struct BadFile {
  const char* text;
  const char* says;
};

TEST(NeedleFile, RefusesWhatItCannotUseByField) {
  const BadFile files[] = {
      {"[]", "an array, expected an object"},
      {R"({"quote_question": "{passage}", "needles": []})", "absent_answer: it is missing"},
      {R"({"absent_answer": 3, "quote_question": "{passage}", "needles": []})",
       "absent_answer: a number, expected a text"},
      {R"({"absent_answer": "no", "quote_question": "Go on", "needles": []})", "{passage}"},
      {R"({"absent_answer": "no", "quote_question": "{passage}"})", "needles: missing"},
      {R"({"absent_answer": "no", "quote_question": "{passage}", "needles": [7]})",
       "needles[0]: a number, expected an object"},
      {R"({"absent_answer": "no", "quote_question": "{passage}", "needles": [{"statement": "a"}]})",
       "needles[0].question: it is missing"},
      {R"({"absent_answer": "no", "quote_question": "{passage}",
           "needles": [{"statement": "", "question": "b", "answer": "c"}]})",
       "needles[0].statement: it is blank"},
      {R"({"absent_answer": "no", "quote_question": "{passage}",
           "needles": [{"statement": "a", "question": "b", "answer": " \n"}]})",
       "needles[0].answer: it is blank"},
      {R"({"absent_answer": "no", "quote_question": "{passage}", "needles": []})",
       "needles: an empty array, expected at least one"},
      {R"({"absent_answer": "no", "quote_question": "{passage}", "needles": [
           {"statement": "a", "question": "b", "answer": "c"},
           {"statement": "d", "question": "e", "answer": "f"},
           {"statement": "a", "question": "h", "answer": "i"}]})",
       "needles[2].statement: \"a\", expected another than that of needles[0]"},
      {R"({"absent_answer": "no", "quote_question": "{passage}", "needles": [
           {"statement": "a", "question": "b", "answer": "c"},
           {"statement": "d", "question": "b", "answer": "f"}]})",
       "needles[1].question: \"b\", expected another than that of needles[0]"},
      {R"({"absent_answer": "no", "absent_answer": "yes"})", "\"absent_answer\" appears twice"},
      {R"({"absent_answer": "no", "quote_question": "{passage}", "needle": []})", "\"needle\""},
      {"{", "bad.json"},
  };
  const TestFolder folder;
  for (const BadFile& bad : files) {
    const auto file = ReadNeedleFile(folder.Write("bad.json", bad.text));
    ASSERT_FALSE(file.ok()) << bad.text;
    EXPECT_EQ(file.status().code(), StatusCode::kInvalidArgument) << bad.text;
    EXPECT_NE(file.status().message().find(bad.says), std::string::npos)
        << file.status().ToString();
    EXPECT_NE(file.status().message().find("bad.json"), std::string::npos);
  }
  EXPECT_EQ(ReadNeedleFile(folder.path() + "/none.json").status().code(), StatusCode::kNotFound);
}

TEST(Needle, IsRightWhenEqualAfterTrimming) {
  const Question fact{QuestionKind::kFact, 0, "?", "48213"};
  EXPECT_TRUE(IsRight(fact, " 48213\n"));
  EXPECT_FALSE(IsRight(fact, "482131"));
  EXPECT_FALSE(IsRight(fact, ""));
  const Question quote{QuestionKind::kQuote, 0, "?", "the moon shone"};
  EXPECT_TRUE(IsRight(quote, " the moon shone out"));
  EXPECT_FALSE(IsRight(quote, " the moon"));
}

}  // namespace
}  // namespace winnow::eval
