// JSON printed as Python prints it. Expected texts are those of CPython 3.13's json module.
#include "text/python_json.h"

#include <gtest/gtest.h>

namespace winnow {
namespace {

std::string Reprinted(std::string_view text) {
  const Result<PythonJson> value = ParsePythonJson(text, "test");
  return value.ok() ? value->Print() : value.error().message();
}

TEST(PythonJson, KeepsOrderAndSeparates) {
  EXPECT_EQ(Reprinted(R"({"b":1,"a":[1,2,{"c":[]}],"é":{}})"),
            R"({"b": 1, "a": [1, 2, {"c": []}], "é": {}})");
}

TEST(PythonJson, PrintsNumbersAsPythonDoes) {
  EXPECT_EQ(Reprinted("[1.0, 2.50, 1e5, 1E16, 1e15, 0.1, 1e-5, 0.0001, 1.5e300, 5e-324, -0.0]"),
            "[1.0, 2.5, 100000.0, 1e+16, 1000000000000000.0, 0.1, 1e-05, 0.0001, 1.5e+300, "
            "5e-324, -0.0]");
  EXPECT_EQ(Reprinted("[-0, -12, 18446744073709551615, 123456789012345678901234567890]"),
            "[0, -12, 18446744073709551615, 123456789012345678901234567890]");
}

TEST(PythonJson, EscapesOnlyWhatPythonEscapes) {
  EXPECT_EQ(Reprinted(R"(["é\u00e9\n\r\t\b\f\"\\\/\u0001\u001f\u007f\u2028\ud83d\ude00"])"),
            "[\"éé\\n\\r\\t\\b\\f\\\"\\\\/\\u0001\\u001f\x7f\u2028\U0001F600\"]");
}

TEST(PythonJson, PrintsScalarsAtTheTop) {
  EXPECT_EQ(Reprinted("true"), "true");
  EXPECT_EQ(Reprinted("null"), "null");
  EXPECT_EQ(Reprinted("17"), "17");
  EXPECT_EQ(Reprinted("\"x\""), "\"x\"");
}

TEST(PythonJson, GivesStringsUnescaped) {
  const Result<PythonJson> value = ParsePythonJson(R"({"k":"a\"\n"})", "test");
  ASSERT_TRUE(value.ok());
  ASSERT_NE(value->Find("k"), nullptr);
  EXPECT_EQ(value->Find("k")->kind, PythonJson::Kind::kString);
  EXPECT_EQ(value->Find("k")->text, "a\"\n");
  EXPECT_EQ(value->Find("l"), nullptr);
}

TEST(PythonJson, RefusesBrokenText) {
  for (const char* text : {"", "{", "[1,]", "{\"a\":1,\"a\":2}", "[1] x", "nan"}) {
    const Result<PythonJson> value = ParsePythonJson(text, "arguments");
    ASSERT_FALSE(value.ok()) << text;
    EXPECT_EQ(value.error().code(), StatusCode::kInvalidArgument);
    EXPECT_EQ(value.error().message().rfind("arguments: ", 0), 0u) << value.error().message();
  }
}

}  // namespace
}  // namespace winnow
