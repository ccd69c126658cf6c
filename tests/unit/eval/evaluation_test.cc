#include "eval/evaluation.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>
#include <sstream>

#include "unit/model/checkpoint.h"

namespace winnow::eval {
namespace {

namespace fs = std::filesystem;

std::string Slurp(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

TEST(Outputs, AreCheckedWithoutATraceAndReplacedWhole) {
  const TestFolder folder;
  EvalOptions options;
  options.json = folder.path() + "/out.json";
  options.svg = folder.Write("out.svg", "old");
  EXPECT_TRUE(CheckOutputs(options).ok());
  EXPECT_FALSE(fs::exists(options.json));
  EXPECT_EQ(Slurp(options.svg), "old");
  EXPECT_TRUE(Finish(options, {"", "{}", "<svg/>"}).ok());
  EXPECT_EQ(Slurp(options.json), "{}\n");
  EXPECT_EQ(Slurp(options.svg), "<svg/>");
  size_t files = 0;
  for ([[maybe_unused]] const auto& entry : fs::directory_iterator(folder.path())) ++files;
  EXPECT_EQ(files, 2u);
}

TEST(Outputs, FollowALinkAndKeepIt) {
  const TestFolder folder;
  EvalOptions options;
  const std::string target = folder.Write("target.json", "old");
  options.json = folder.path() + "/link.json";
  fs::create_symlink(target, options.json);
  EXPECT_TRUE(Finish(options, {"", "{}", ""}).ok());
  EXPECT_TRUE(fs::is_symlink(options.json));
  EXPECT_EQ(Slurp(target), "{}\n");
}

TEST(Outputs, AreRefusedBeforeTheWorkByName) {
  const TestFolder folder;
  mkfifo((folder.path() + "/pipe").c_str(), 0600);
  for (const std::string& path : {folder.path(), folder.path() + "/none/out.json",
                                  folder.path() + "/pipe", std::string("/dev/null")}) {
    EvalOptions options;
    options.svg = path;
    const Status status = CheckOutputs(options);
    EXPECT_FALSE(status.ok()) << path;
    EXPECT_NE(status.message().find(path), std::string::npos) << status.message();
  }
  EvalOptions same;
  same.json = same.svg = folder.path() + "/x";
  EXPECT_FALSE(CheckOutputs(same).ok());
}

TEST(Texts, AreRefusedByName) {
  const TestFolder folder;
  EXPECT_FALSE(ReadTexts({}).ok());
  const std::string empty = folder.Write("empty.txt", "");
  EXPECT_NE(ReadTexts({empty}).status().message().find(empty), std::string::npos);
  EXPECT_EQ(ReadTexts({folder.path() + "/none.txt"}).status().code(), StatusCode::kNotFound);
}

TEST(Printable, KeepsValidCharactersOnly) {
  EXPECT_EQ(Printable("a\x01\nb\x7f"), "ab");
  EXPECT_EQ(Printable("\xC3\xA9 \xC3("), "\xC3\xA9 \xEF\xBF\xBD(");
}

}  // namespace
}  // namespace winnow::eval
