// The shipped model on a shipped document: that the whole of it works.
#include "base/json.h"
#include "cli.h"

namespace winnow {
namespace {

TEST_F(Cli, AnswersTenQuestionsAboutALongDocument) {
  const auto file = ReadJsonFile(kRoot + "/examples/questions.json", 1 << 20);
  ASSERT_TRUE(file.ok()) << file.error().message();
  const json::array& questions = file->as_object().at("questions").as_array();
  std::string input;
  std::string expected;
  // From the first page to the last, and three that the document does not answer.
  for (const size_t i : {0, 2, 3, 5, 7, 9, 11, 12, 13, 14}) {
    const json::object& question = questions.at(i).as_object();
    input += std::string(question.at("question").as_string()) + "\n";
    expected += std::string(question.at("answer").as_string()) + "\n";
  }
  const Ended run = Winnow(
      "chat " + kNano + " --temperature 0 --document " + kRoot + "/examples/zenda.txt", input);
  EXPECT_EQ(run.code, 0) << run.err;
  EXPECT_EQ(run.out, expected);
}

}  // namespace
}  // namespace winnow
