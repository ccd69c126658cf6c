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

TEST(ShorterTexts, AreNamedWithWhatTheyHave) {
  ShorterTexts texts;
  texts.Add("long.txt", 8192, 8192);
  texts.Add("any.txt", 5, 0);
  json::object report;
  texts.AddTo(report);
  EXPECT_EQ(texts.Note(), "");
  EXPECT_TRUE(report.empty());
  texts.Add("short.txt", 700, 8192);
  texts.AddTo(report);
  EXPECT_EQ(texts.Note(),
            "\nnote: short.txt has 700 tokens, fewer than the 8192 asked for: all of it is used\n");
  EXPECT_EQ(json::serialize(report), R"({"shorter_texts":[{"name":"short.txt","tokens":700}]})");
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
  fs::create_symlink(folder.path() + "/later.json", folder.path() + "/link.json");
  EvalOptions link;
  link.json = folder.path() + "/link.json";
  EXPECT_NE(CheckOutputs(link).message().find("link.json: a link to"), std::string::npos);
}

TEST(Outputs, AreTwoFilesWhateverTheyAreCalled) {
  const TestFolder folder;
  fs::create_directory(folder.path() + "/in");
  fs::create_directory_symlink(folder.path(), folder.path() + "/in/up");
  for (const char* other : {"/x", "/./x", "/in/../x", "/in/up/x"}) {
    for (const bool exists : {false, true}) {
      EvalOptions options;
      options.json = folder.path() + "/x";
      options.svg = folder.path() + other;
      if (exists) folder.Write("x", "old");
      EXPECT_NE(CheckOutputs(options).message().find(options.svg + ": json and svg name"),
                std::string::npos)
          << other;
      fs::remove(options.json);
    }
  }
}

TEST(Outputs, ReplaceNothingThatIsRead) {
  const TestFolder folder;
  fs::create_directory(folder.path() + "/model");
  EvalOptions options;
  options.engine.model_dir = folder.path() + "/model";
  options.texts = {folder.Write("a.txt", "a"), folder.Write("b.txt", "b")};
  const std::string needles = folder.Write("needles.json", "{}");
  const std::string weights = folder.Write("stored", "w");
  folder.Write("model/config.json", "{}");
  fs::create_symlink(weights, folder.path() + "/model/model.safetensors");
  fs::create_symlink("a.txt", folder.path() + "/link.txt");
  for (const std::string name : {"a.txt", "./b.txt", "link.txt", "needles.json", "stored",
                                 "model/config.json", "model/model.safetensors"}) {
    for (std::string EvalOptions::*output : {&EvalOptions::json, &EvalOptions::svg}) {
      EvalOptions bad = options;
      bad.*output = folder.path() + "/" + name;
      const Status status = CheckOutputs(bad, needles);
      EXPECT_EQ(status.code(), StatusCode::kInvalidArgument) << name;
      EXPECT_NE(status.message().find(bad.*output + ": it would replace"), std::string::npos);
    }
  }
  options.json = folder.path() + "/model/new.json";
  options.svg = folder.Write("old.svg", "old");
  EXPECT_TRUE(CheckOutputs(options, needles).ok());
}

TEST(Texts, AreRefusedByName) {
  const TestFolder folder;
  EXPECT_FALSE(ReadTexts({}).ok());
  EXPECT_EQ(ReadTexts({folder.path() + "/none.txt"}).status().code(), StatusCode::kNotFound);
  const std::pair<std::string, std::string> bad[] = {
      {"", "it is empty"},
      {" \n\t\xE2\x80\x83\n", "it holds no words"},  // an em space
      {"caf\xE9 au lait", "byte 3 is 0xe9, expected UTF-8"},
      {"caf\xC3", "byte 3 is 0xc3, expected UTF-8"},
      {std::string("\xFF\xFEh\0i\0", 6), "byte 0 is 0xff, expected UTF-8"},
  };
  for (const auto& [bytes, says] : bad) {
    const std::string good = folder.Write("good.txt", "caf\xC3\xA9");
    const std::string path = folder.Write("bad.txt", bytes);
    const Status status = ReadTexts({good, path}).status();
    EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
    EXPECT_NE(status.message().find(path + ": " + says), std::string::npos) << status.message();
  }
}

TEST(LongRest, IsSaidOnceItIsKnownAndLong) {
  EXPECT_EQ(LongRest(10, 1, 61), "about 10 minutes");
  EXPECT_EQ(LongRest(60, 25, 100), "about 3 minutes");
  EXPECT_EQ(LongRest(30, 1, 721), "about 6 hours");
  EXPECT_EQ(LongRest(1, 1, 10'000), "") << "one second says little";
  EXPECT_EQ(LongRest(10, 0, 61), "");
  EXPECT_EQ(LongRest(60, 50, 100), "") << "one more minute is not long";
  EXPECT_EQ(LongRest(6000, 100, 100), "");
}

TEST(Meter, TellsTheShareDoneAndStopsOnRequest) {
  std::vector<double> fractions;
  EvalOptions options;
  options.progress = [&fractions](double fraction, const std::string& note) {
    EXPECT_EQ(note, "reading");
    fractions.push_back(fraction);
    return fractions.size() < 3;
  };
  Meter meter(options, 8);
  EXPECT_TRUE(meter.Add(2, "reading").ok());
  EXPECT_TRUE(meter.Add(4, "reading").ok());
  EXPECT_EQ(meter.Add(3, "reading").code(), StatusCode::kCancelled);
  EXPECT_EQ(fractions, (std::vector<double>{0.25, 0.75, 1}));
}

TEST(Printable, KeepsValidCharactersOnly) {
  EXPECT_EQ(Printable("a\x01\nb\x7f"), "ab");
  EXPECT_EQ(Printable("\xC3\xA9 \xC3("), "\xC3\xA9 \xEF\xBF\xBD(");
}

}  // namespace
}  // namespace winnow::eval
