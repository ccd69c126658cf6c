#include "server/batch_output.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <sstream>

namespace winnow::server {
namespace {

class BatchOutputTest : public testing::Test {
 protected:
  void SetUp() override {
    path_ = testing::TempDir() + "batch_output_" + std::to_string(getpid()) + ".jsonl";
    std::filesystem::remove(path_);
  }
  void TearDown() override { std::filesystem::remove(path_); }

  void Write(const std::string& text) const { std::ofstream(path_, std::ios::binary) << text; }
  std::string Text() const {
    std::ifstream file(path_, std::ios::binary);
    std::ostringstream text;
    text << file.rdbuf();
    return text.str();
  }
  // Opens the file and notes what it has.
  Result<BatchOutput> Open() {
    found_.clear();
    return BatchOutput::Open(path_, [this](const BatchResult& result) {
      found_.push_back(result.custom_id);
      return OkStatus();
    });
  }

  std::string path_;
  std::vector<std::string> found_;
};

TEST_F(BatchOutputTest, KeepsWholeLinesWhereverItWasCut) {
  std::string text;
  std::vector<size_t> ends = {0};
  for (const char* id : {"one", "two", "three"}) {
    text += ResultLine(id, 200, "req_x", "{\"k\":[1,2,{\"t\":\"\\n}\"}]}");
    ends.push_back(text.size());
  }
  for (size_t cut = 0; cut <= text.size(); ++cut) {
    Write(text.substr(0, cut));
    const size_t whole =
        static_cast<size_t>(std::upper_bound(ends.begin(), ends.end(), cut) - ends.begin()) - 1;
    {
      auto output = Open();
      ASSERT_TRUE(output.ok()) << cut << ": " << output.error().message();
      EXPECT_EQ(found_.size(), whole) << cut;
      ASSERT_TRUE(output->Append(ResultLine("more", 400, "req_y", "{}")).ok());
      ASSERT_TRUE(output->Sync().ok());
    }
    ASSERT_TRUE(Open().ok()) << cut;
    ASSERT_EQ(found_.size(), whole + 1) << cut;
    EXPECT_EQ(found_.back(), "more");
    EXPECT_EQ(Text().substr(0, ends[whole]), text.substr(0, ends[whole])) << cut;
  }
}

TEST_F(BatchOutputTest, LeavesFilesOfOthersAsTheyAre) {
  const std::string result = ResultLine("a", 200, "r", "{}");
  for (const std::string& text :
       {std::string("notes without an end"), std::string("notes\n"), result + "notes\n",
        std::string("{\"id\":\"chatcmpl"), "\n" + result}) {
    Write(text);
    const auto output = Open();
    ASSERT_FALSE(output.ok()) << text;
    EXPECT_EQ(output.error().code(), StatusCode::kInvalidArgument);
    EXPECT_NE(output.error().message().find(path_ + ": line "), std::string::npos);
    EXPECT_EQ(Text(), text);
  }
}

TEST_F(BatchOutputTest, CutsOffTheZerosOfALossOfPower) {
  const std::string result = ResultLine("a", 200, "r", "{}");
  Write(std::string(100, '\0'));
  ASSERT_TRUE(Open().ok());
  EXPECT_EQ(Text(), "");
  Write(result + std::string(100, '\0'));
  ASSERT_TRUE(Open().ok());
  EXPECT_EQ(Text(), result);
}

TEST_F(BatchOutputTest, BelongsToOneAtATime) {
  const auto first = Open();
  ASSERT_TRUE(first.ok());
  const auto second = Open();
  ASSERT_FALSE(second.ok());
  EXPECT_EQ(second.error().code(), StatusCode::kUnavailable);
}

TEST_F(BatchOutputTest, RefusesWhatIsNoFile) {
  EXPECT_FALSE(BatchOutput::Open("/dev/null", [](const BatchResult&) { return OkStatus(); }).ok());
  EXPECT_FALSE(
      BatchOutput::Open(testing::TempDir(), [](const BatchResult&) { return OkStatus(); }).ok());
}

TEST_F(BatchOutputTest, StaysWholeWhenTheDiskIsFull) {
  const std::string line =
      ResultLine("a", 200, "r", "{\"text\":\"" + std::string(400, 'x') + "\"}");
  signal(SIGXFSZ, SIG_IGN);
  rlimit before{};
  getrlimit(RLIMIT_FSIZE, &before);
  rlimit full = before;
  full.rlim_cur = 2 * line.size() + line.size() / 2;
  auto output = Open();
  ASSERT_TRUE(output.ok());
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &full), 0);
  EXPECT_TRUE(output->Append(line).ok());
  EXPECT_TRUE(output->Append(line).ok());
  const Status status = output->Append(line);
  setrlimit(RLIMIT_FSIZE, &before);
  EXPECT_EQ(status.code(), StatusCode::kResourceExhausted);
  EXPECT_NE(status.message().find(path_), std::string::npos);
  EXPECT_EQ(Text(), line + line);
  EXPECT_TRUE(output->Append(line).ok());
  EXPECT_EQ(Text(), line + line + line);
}

}  // namespace
}  // namespace winnow::server
