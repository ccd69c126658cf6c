// Reading string constants out of Python, and recognising prose. The prose itself is not in this
// repository, so only its refusal can be tested here.
#include "text/chat_prose.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace winnow {
namespace {

using testing::HasSubstr;

std::string Constant(std::string_view python) {
  const Result<std::string> value = PythonStringConstant(python, "NAME", "file.py");
  return value.ok() ? *value : "error: " + value.error().message();
}

TEST(PythonStringConstant, ReadsLiteralsOfEveryQuote) {
  EXPECT_EQ(Constant("import x\nNAME = \"it's\"\n"), "it's");
  EXPECT_EQ(Constant("NAME: str = 'say \"hi\"'  # comment"), "say \"hi\"");
  EXPECT_EQ(Constant("NAME=\"\"\"two\n\"lines\"\n\"\"\"\n"), "two\n\"lines\"\n");
  EXPECT_EQ(Constant("NAME = '''\\\nfirst'''"), "first");
}

TEST(PythonStringConstant, ReadsEscapesAndNeighbours) {
  EXPECT_EQ(Constant(R"(NAME = "a\n\t\\\"\'b")"), "a\n\t\\\"'b");
  EXPECT_EQ(Constant("NAME = (\n  \"a\"\n  'b'\n)\n"), "ab");
  EXPECT_EQ(Constant("NAME = \"a\" \"b\"\n\"c\""), "ab");
}

TEST(PythonStringConstant, FindsTheAssignmentAndNothingElse) {
  EXPECT_EQ(Constant("print(NAME)\n  NAME = 'x'\nNAMES = 'y'\nNAME = 'z'\n"), "z");
}

TEST(PythonStringConstant, RefusesWhatIsNoPlainString) {
  for (const char* python :
       {"", "NAME", "NAME = 1", "NAME = f\"x\"", "NAME = \"x", "NAME = \"x\ny\"",
        "NAME = \"\\x41\"", "NAME = (\"x\"", "NAME = \"\"\"x", "NAME = \"\\"}) {
    EXPECT_THAT(Constant(python), HasSubstr("error: file.py: NAME: ")) << python;
  }
}

TEST(ReadDeepSeekProse, RefusesAnUnknownPreamble) {
  const ChatProse prose = ReadDeepSeekProse(
      "TOOLS_SYSTEM_TEMPLATE = \"\"\"Tools:\n{tool_schemas}\n</functions>\n\"\"\"\n"
      "response_format_template: str = (\n    \"Answer by:\\n{schema}\"\n)\n");
  ASSERT_FALSE(prose.tools_before.ok());
  EXPECT_EQ(prose.tools_before.error().code(), StatusCode::kUnsupported);
  EXPECT_THAT(prose.tools_before.error().message(),
              HasSubstr("TOOLS_SYSTEM_TEMPLATE: 7 bytes with SHA-256 "));
  EXPECT_FALSE(prose.tools_after.ok());
  ASSERT_TRUE(prose.response_format.ok());
  EXPECT_EQ(*prose.response_format, "Answer by:\n{schema}");
}

TEST(ReadDeepSeekProse, RefusesAFormatWithoutItsPlaceholder) {
  for (const char* python :
       {"response_format_template = \"x\"\n", "response_format_template = \"{schema}{schema}\"\n",
        "response_format_template = \"{name} {schema}\"\n"}) {
    EXPECT_FALSE(ReadDeepSeekProse(python).response_format.ok()) << python;
  }
}

TEST(ReadGlmProse, RefusesUnknownProse) {
  const ChatProse prose = ReadGlmProse("# Tools\n<tools>\n{{x}}</tools>y...</tool_call>");
  ASSERT_FALSE(prose.tools_before.ok());
  EXPECT_THAT(prose.tools_before.error().message(), HasSubstr("chat_template.jinja"));
  EXPECT_FALSE(prose.tools_after.ok());
  EXPECT_FALSE(ReadGlmProse("").tools_before.ok());
}

}  // namespace
}  // namespace winnow
