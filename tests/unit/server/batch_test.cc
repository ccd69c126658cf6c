// Batches as programs run them, with the small golden model.
#include "winnow/batch.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <set>
#include <sstream>

#include "base/json.h"

namespace winnow {
namespace {

namespace fs = std::filesystem;

const std::string kModel = std::string(WINNOW_SOURCE_DIR) + "/tests/golden/v32-groups-f32";

class BatchTest : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    EngineOptions options;
    options.model_dir = kModel;
    options.num_threads = 1;
    options.max_sequences = 4;
    engine_ = std::make_unique<Engine>(Engine::Load(options).value());
  }
  static void TearDownTestSuite() { engine_.reset(); }

  void SetUp() override {
    folder_ = fs::path(testing::TempDir()) / ("batch_" + std::to_string(getpid()));
    fs::create_directories(folder_);
    options_.engine.model_dir = kModel;
    options_.engine.max_sequences = 4;
    options_.input = Path("in.jsonl");
    options_.output = Path("out.jsonl");
  }
  void TearDown() override { fs::remove_all(folder_); }

  std::string Path(const std::string& name) const { return (folder_ / name).string(); }
  void Write(const std::string& name, const std::string& text) const {
    std::ofstream(Path(name), std::ios::binary) << text;
  }
  std::string Read(const std::string& name) const {
    std::ifstream file(Path(name), std::ios::binary);
    std::ostringstream text;
    text << file.rdbuf();
    return text.str();
  }
  static std::string Line(const std::string& id, const std::string& prompt, int max_tokens) {
    return "{\"custom_id\":\"" + id +
           "\",\"method\":\"POST\",\"url\":\"/v1/completions\",\"body\":{\"prompt\":" + prompt +
           ",\"max_tokens\":" + std::to_string(max_tokens) +
           ",\"temperature\":0,\"ignore_eos\":true,\"return_token_ids\":true}}\n";
  }
  // The choices, or the error, of each result by custom_id; no custom_id may come twice.
  std::map<std::string, std::string> Answers() const {
    std::map<std::string, std::string> answers;
    std::istringstream lines(Read("out.jsonl"));
    for (std::string line; std::getline(lines, line);) {
      const auto value = ParseJson(line, "result");
      EXPECT_TRUE(value.ok()) << line;
      if (!value.ok()) continue;
      const json::object& body = value->at("response").at("body").as_object();
      const std::string id = value->at("custom_id").as_string().c_str();
      const bool refused = body.contains("error");
      const std::string answer =
          std::to_string(value->at("response").at("status_code").as_int64()) + " " +
          json::serialize(refused ? body.at("error") : body.at("choices"));
      EXPECT_TRUE(answers.emplace(id, answer).second) << id;
    }
    return answers;
  }
  std::string OpenError() const {
    const auto batch = Batch::Open(options_);
    return batch.ok() ? "" : batch.error().message();
  }
  // Runs what is not done.
  BatchSummary Run() const {
    auto batch = Batch::Open(options_);
    EXPECT_TRUE(batch.ok()) << (batch.ok() ? "" : batch.error().message());
    const Status status = batch->Run(*engine_);
    EXPECT_TRUE(status.ok()) << status.message();
    return batch->summary();
  }

  static std::unique_ptr<Engine> engine_;
  fs::path folder_;
  BatchOptions options_;
};

std::unique_ptr<Engine> BatchTest::engine_;

TEST_F(BatchTest, AnswersAsTheEngineDoes) {
  const std::vector<std::vector<int32_t>> prompts = {
      {5, 6, 7}, {8}, {9, 10, 11, 12, 13}, {5, 6}, {20, 30, 40}, {50, 60}, {70}};
  std::string input;
  std::map<std::string, std::string> expected;
  for (size_t index = 0; index < prompts.size(); ++index) {
    Request request;
    request.token_ids = prompts[index];
    request.max_tokens = static_cast<int64_t>(3 + index);
    request.ignore_eos = true;
    request.sampling.temperature = 0.0;
    Stream stream = engine_->Submit(request).value();
    json::array tokens;
    while (std::optional<Chunk> chunk = stream.Next().value()) {
      for (const int32_t token : chunk->token_ids) tokens.push_back(token);
    }
    const std::string id = "r" + std::to_string(index);
    input +=
        Line(id, json::serialize(json::value_from(prompts[index])), static_cast<int>(3 + index));
    expected[id] = "200 " + json::serialize(json::array{json::object{{"index", 0},
                                                                     {"text", ""},
                                                                     {"logprobs", nullptr},
                                                                     {"finish_reason", "length"},
                                                                     {"stop_reason", nullptr},
                                                                     {"token_ids", tokens}}});
  }
  Write("in.jsonl", input);
  for (const int64_t concurrency : {1, 3, 64}) {
    fs::remove(Path("out.jsonl"));
    options_.concurrency = concurrency;
    const BatchSummary summary = Run();
    EXPECT_EQ(Answers(), expected);
    EXPECT_EQ(summary.answered, 7);
    EXPECT_EQ(summary.receipt.prompt_tokens, 17);
    EXPECT_EQ(summary.receipt.completion_tokens, 3 + 4 + 5 + 6 + 7 + 8 + 9);
  }
}

TEST_F(BatchTest, RunsWhatIsMissingWhereverItWasCut) {
  std::string input;
  for (int index = 0; index < 4; ++index) {
    input += Line("r" + std::to_string(index), "[" + std::to_string(5 + index) + "]", 2);
  }
  Write("in.jsonl", input);
  Run();
  const std::string whole = Read("out.jsonl");
  const auto expected = Answers();
  ASSERT_EQ(expected.size(), 4u);
  for (size_t cut = 0; cut <= whole.size(); cut += whole[cut] == '\n' ? 1 : 23) {
    Write("out.jsonl", whole.substr(0, cut));
    const BatchSummary summary = Run();
    EXPECT_EQ(summary.done_before,
              std::count(whole.begin(), whole.begin() + static_cast<long>(cut), '\n'));
    EXPECT_EQ(summary.done_before + summary.answered, 4);
    EXPECT_EQ(Answers(), expected) << cut;
  }
}

TEST_F(BatchTest, ChecksEveryLineBeforeItRunsAny) {
  Write("in.jsonl", Line("a", "[5]", 2) + "{\n\n" + Line("a", "[6]", 2) + Line("b", "7", 2));
  EXPECT_EQ(OpenError(),
            options_.input + ": line 2: incomplete JSON at byte 1\n" + options_.input +
                ": line 4: custom_id: \"a\", which line 1 has as well, expected another\n" +
                options_.input + ": line 5: body.prompt: a number, expected text or token ids");
  EXPECT_FALSE(fs::exists(options_.output));
  Write("in.jsonl", "\n \r\n");
  EXPECT_EQ(OpenError(), options_.input + ": it has no requests, expected some");
  Write("in.jsonl", "");
  EXPECT_EQ(OpenError(), options_.input + ": it has no requests, expected some");
}

TEST_F(BatchTest, TakesALastLineWithoutItsEnd) {
  const std::string line = Line("a", "[5]", 1);
  Write("in.jsonl", line + "\r\n" + line.substr(0, 15) + "2" + line.substr(15, line.size() - 16));
  EXPECT_EQ(Run().answered, 2);
}

TEST_F(BatchTest, GivesRefusedRequestsALineAndGoesOn) {
  std::string prompt = "[5";
  for (int token = 0; token < 5000; ++token) prompt += ",6";
  Write("in.jsonl", Line("long", prompt + "]", 2) + Line("word", "\"text\"", 2) +
                        Line("id", "[160]", 2) + Line("good", "[5]", 2));
  const BatchSummary summary = Run();
  EXPECT_EQ(summary.refused, 3);
  EXPECT_EQ(summary.answered, 1);
  const auto answers = Answers();
  EXPECT_NE(answers.at("long").find("400 "), std::string::npos);
  EXPECT_NE(answers.at("long").find("context_length_exceeded"), std::string::npos);
  EXPECT_NE(answers.at("word").find("400 "), std::string::npos);
  EXPECT_NE(answers.at("id").find("400 "), std::string::npos);
  EXPECT_NE(answers.at("good").find("200 "), std::string::npos);
  EXPECT_EQ(Run().done_before, 4);
}

TEST_F(BatchTest, WaitsWhileTheQueueIsFull) {
  EngineOptions engine_options;
  engine_options.model_dir = kModel;
  engine_options.num_threads = 1;
  engine_options.max_sequences = 1;
  engine_options.max_queue = 1;
  Engine engine = Engine::Load(engine_options).value();
  std::string input;
  for (int index = 0; index < 12; ++index) {
    input += Line("r" + std::to_string(index), "[[5,6],[7,8,9]]", 3);
  }
  Write("in.jsonl", input);
  options_.concurrency = 8;
  Batch batch = Batch::Open(options_).value();
  EXPECT_TRUE(batch.Run(engine).ok());
  EXPECT_EQ(batch.summary().answered, 12);
  EXPECT_EQ(batch.summary().refused, 0);
  EXPECT_EQ(Answers().size(), 12u);
}

TEST_F(BatchTest, StopsAndGoesOn) {
  std::string input;
  for (int index = 0; index < 6; ++index) {
    input += Line("r" + std::to_string(index), "[5,6,7]", index == 0 ? 2 : 3000);
  }
  Write("in.jsonl", input);
  options_.concurrency = 2;
  Batch batch = Batch::Open(options_).value();
  const Status status = batch.Run(*engine_, [&batch](const BatchSummary& so_far) {
    if (so_far.answered > 0) batch.Stop();
  });
  EXPECT_EQ(status.code(), StatusCode::kCancelled);
  EXPECT_EQ(batch.summary().answered, 1);
  EXPECT_GE(batch.summary().interrupted, 1);
  EXPECT_GT(batch.summary().receipt.completion_tokens, 2);
  EXPECT_EQ(Answers().size(), 1u);
}

TEST_F(BatchTest, RefusesResultsOfOtherRequests) {
  Write("in.jsonl", Line("a", "[5]", 1));
  Run();
  Write("in.jsonl", Line("b", "[5]", 1));
  EXPECT_NE(OpenError().find(options_.output + ": line 1: custom_id: \"a\", which"),
            std::string::npos)
      << OpenError();
  Write("in.jsonl", Line("a", "[5]", 1));
  Write("out.jsonl", Read("out.jsonl") + Read("out.jsonl"));
  EXPECT_NE(OpenError().find("line 2: custom_id: \"a\" for the second time"), std::string::npos);
}

TEST_F(BatchTest, ReplacesNeitherItsInputNorTheModel) {
  const std::string input = Line("a", "[5]", 1);
  Write("in.jsonl", input);
  options_.output = options_.input;
  EXPECT_NE(OpenError().find("one file"), std::string::npos);
  fs::create_symlink(options_.input, Path("link"));
  options_.output = Path("link");
  EXPECT_NE(OpenError().find("one file"), std::string::npos);
  fs::create_hard_link(options_.input, Path("hard"));
  options_.output = Path("hard");
  EXPECT_NE(OpenError().find("one file"), std::string::npos);
  options_.output = kModel + "/config.json";
  EXPECT_NE(OpenError().find("file of the model"), std::string::npos);
  EXPECT_EQ(Read("in.jsonl"), input);
}

TEST_F(BatchTest, StopsWhenTheDiskIsFullAndGoesOnLater) {
  std::string input;
  for (int index = 0; index < 6; ++index) {
    input += Line("r" + std::to_string(index), "[5]", 2);
  }
  Write("in.jsonl", input);
  signal(SIGXFSZ, SIG_IGN);
  rlimit before{};
  getrlimit(RLIMIT_FSIZE, &before);
  rlimit full = before;
  full.rlim_cur = 3000;
  {
    Batch batch = Batch::Open(options_).value();
    ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &full), 0);
    const Status status = batch.Run(*engine_);
    setrlimit(RLIMIT_FSIZE, &before);
    EXPECT_EQ(status.code(), StatusCode::kResourceExhausted);
    EXPECT_NE(status.message().find(options_.output + ": writing: "), std::string::npos);
  }
  const size_t kept = Answers().size();
  EXPECT_GE(kept, 1u);
  EXPECT_LT(kept, 6u);
  EXPECT_EQ(Run().done_before, static_cast<int64_t>(kept));
  EXPECT_EQ(Answers().size(), 6u);
}

}  // namespace
}  // namespace winnow
