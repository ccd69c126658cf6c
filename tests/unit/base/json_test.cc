// What is refused of JSON that nobody vouches for.
#include "base/json.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

namespace winnow {
namespace {

StatusCode CodeOf(std::string_view text) { return ParseJson(text, "test.json").status().code(); }

std::string Nested(int depth) { return std::string(depth, '[') + std::string(depth, ']'); }

TEST(Json, ParsesEveryKindOfValue) {
  const json::value value =
      ParseJson(R"({"a": [1, -2.5, "x\u00e9", true, null, {}]})", "test.json").value();
  const json::array& array = value.at("a").as_array();
  EXPECT_EQ(array[0].as_int64(), 1);
  EXPECT_EQ(array[1].as_double(), -2.5);
  EXPECT_EQ(array[2].as_string(), "x\xc3\xa9");
  EXPECT_TRUE(array[3].as_bool());
  EXPECT_TRUE(array[4].is_null());
  EXPECT_TRUE(array[5].as_object().empty());
}

TEST(Json, RefusesDuplicateKeysAndNamesThem) {
  const Status status = ParseJson(R"({"a": {"key": 1, "key": 1}})", "test.json").status();
  EXPECT_EQ(status.code(), StatusCode::kCorrupt);
  EXPECT_EQ(status.message(), "test.json: key \"key\" appears twice in one object");
  EXPECT_EQ(CodeOf(R"({"key": 1, "\u006bey": 2})"), StatusCode::kCorrupt);
}

TEST(Json, AllowsOneKeyInSeveralObjects) {
  EXPECT_EQ(CodeOf(R"([{"a": 1}, {"a": {"a": 2}}])"), StatusCode::kOk);
}

TEST(Json, RefusesDeepNesting) {
  EXPECT_EQ(CodeOf(Nested(32)), StatusCode::kOk);
  EXPECT_EQ(CodeOf(Nested(33)), StatusCode::kCorrupt);
  EXPECT_EQ(CodeOf(std::string(1000000, '[')), StatusCode::kCorrupt);
}

TEST(Json, RefusesWhatIsNotOneWholeDocument) {
  for (const char* text : {"", "{", "{} {}", "{}x", "[1,]", "{'a': 1}", "nul", "\xef\xbb\xbf{}"}) {
    EXPECT_EQ(CodeOf(text), StatusCode::kCorrupt) << text;
  }
}

TEST(Json, RefusesInvalidUtf8) {
  EXPECT_EQ(CodeOf("[\"\xff\"]"), StatusCode::kCorrupt);
  EXPECT_EQ(CodeOf("[\"\xc0\x80\"]"), StatusCode::kCorrupt);
}

TEST(Json, RefusesNumbersThatAreNotFinite) {
  EXPECT_EQ(CodeOf("[1e999]"), StatusCode::kCorrupt);
  EXPECT_EQ(CodeOf("{\"a\": [-1e999]}"), StatusCode::kCorrupt);
  EXPECT_EQ(CodeOf("[NaN]"), StatusCode::kCorrupt);
  EXPECT_EQ(CodeOf("[Infinity]"), StatusCode::kCorrupt);
}

TEST(Json, KindsAreNamedForErrors) {
  EXPECT_STREQ(JsonKindName(json::value(nullptr)), "null");
  EXPECT_STREQ(JsonKindName(json::value(true)), "a boolean");
  EXPECT_STREQ(JsonKindName(json::value(1.5)), "a number");
  EXPECT_STREQ(JsonKindName(json::value("x")), "a string");
  EXPECT_STREQ(JsonKindName(json::array()), "an array");
  EXPECT_STREQ(JsonKindName(json::object()), "an object");
}

TEST(Json, FilesAreNamedByTheirLastPart) {
  std::string pattern = testing::TempDir() + "winnow_json_XXXXXX";
  const std::string folder = mkdtemp(pattern.data());
  const std::string path = folder + "/broken.json";
  std::ofstream(path) << "{\"a\": }";
  const Status status = ReadJsonFile(path, 1000).status();
  EXPECT_EQ(status.code(), StatusCode::kCorrupt);
  EXPECT_TRUE(status.message().starts_with("broken.json: ")) << status.message();
  EXPECT_EQ(ReadJsonFile(path, 3).status().code(), StatusCode::kInvalidArgument);
  std::filesystem::remove_all(folder);
}

}  // namespace
}  // namespace winnow
