// Requests through the public header, on the small models of tests/golden and on winnow-nano.
#include <gtest/gtest.h>

#include "base/json.h"
#include "winnow/winnow.h"

namespace winnow {
namespace {

const std::string kSmall = std::string(WINNOW_SOURCE_DIR) + "/tests/golden/v32-groups-f32";
const std::string kNano = std::string(WINNOW_SOURCE_DIR) + "/models/winnow-nano";

Engine LoadModel(const std::string& folder, int64_t context = 0) {
  EngineOptions options;
  options.model_dir = folder;
  options.max_context = context;
  return Engine::Load(options).value();
}

std::vector<int32_t> CyclicTokens(int count, int first = 1) {
  std::vector<int32_t> tokens;
  for (int token = 0; token < count; ++token) tokens.push_back((first + token * 7) % 90);
  return tokens;
}

Request Continue(std::vector<int32_t> tokens, int64_t max_tokens) {
  Request request;
  request.token_ids = std::move(tokens);
  request.max_tokens = max_tokens;
  request.ignore_eos = true;
  request.sampling.temperature = 0.0;
  return request;
}

struct Outcome {
  std::vector<int32_t> tokens;
  std::string text;
  Chunk last;
};

Outcome Drain(Stream& stream) {
  Outcome outcome;
  while (std::optional<Chunk> chunk = stream.Next().value()) {
    outcome.tokens.insert(outcome.tokens.end(), chunk->token_ids.begin(), chunk->token_ids.end());
    outcome.text += chunk->text;
    outcome.last = *chunk;
  }
  return outcome;
}

Outcome RunToEnd(Engine& engine, const Request& request) {
  Stream stream = engine.Submit(request).value();
  return Drain(stream);
}

TEST(Engine, ContinuesFromTheCacheWithTheSameTokens) {
  Engine engine = LoadModel(kSmall);
  const Outcome first = RunToEnd(engine, Continue(CyclicTokens(60), 8));
  std::vector<int32_t> longer = CyclicTokens(60);
  longer.insert(longer.end(), first.tokens.begin(), first.tokens.end());
  const Outcome second = RunToEnd(engine, Continue(longer, 8));
  EXPECT_GE(second.last.receipt.cached_tokens, 60);

  Engine fresh = LoadModel(kSmall);
  const Outcome alone = RunToEnd(fresh, Continue(longer, 8));
  EXPECT_EQ(alone.last.receipt.cached_tokens, 0);
  EXPECT_EQ(second.tokens, alone.tokens);
}

TEST(Engine, ForgetsTheCacheOfAnotherBeginning) {
  Engine engine = LoadModel(kSmall);
  RunToEnd(engine, Continue(CyclicTokens(60), 4));
  const Outcome other = RunToEnd(engine, Continue(CyclicTokens(60, 2), 4));
  EXPECT_EQ(other.last.receipt.cached_tokens, 0);
  Engine fresh = LoadModel(kSmall);
  EXPECT_EQ(other.tokens, RunToEnd(fresh, Continue(CyclicTokens(60, 2), 4)).tokens);
}

TEST(Engine, AnswersTheSamePromptTwiceFromTheCache) {
  Engine engine = LoadModel(kSmall);
  const Outcome first = RunToEnd(engine, Continue(CyclicTokens(40), 6));
  const Outcome second = RunToEnd(engine, Continue(CyclicTokens(40), 6));
  EXPECT_EQ(second.last.receipt.cached_tokens, 39);
  EXPECT_EQ(first.tokens, second.tokens);
}

TEST(Engine, CountsWhatItReads) {
  Engine engine = LoadModel(kSmall);
  const int64_t K = engine.info().index_topk;
  const int64_t L = engine.info().num_hidden_layers;
  const int n = static_cast<int>(K) + 10;
  const Receipt receipt = RunToEnd(engine, Continue(CyclicTokens(n), 1)).last.receipt;
  EXPECT_EQ(receipt.prompt_tokens, n);
  EXPECT_EQ(receipt.completion_tokens, 1);
  EXPECT_EQ(receipt.attention_rows_dense, L * n * (n + 1) / 2);
  EXPECT_EQ(receipt.attention_rows_read, L * (K * (K + 1) / 2 + 10 * K));
  EXPECT_EQ(receipt.last_rows_read, K);
  EXPECT_EQ(receipt.last_rows_dense, n);
}

TEST(Engine, RefusesAPromptThatLeavesNoRoomWithBothNumbers) {
  Engine engine = LoadModel(kSmall, 64);
  const auto stream = engine.Submit(Continue(CyclicTokens(64), 1));
  ASSERT_FALSE(stream.ok());
  EXPECT_EQ(stream.status().code(), StatusCode::kOutOfRange);
  EXPECT_NE(stream.status().message().find("64 tokens, expected fewer than the context of 64"),
            std::string::npos);
}

TEST(Engine, EndsAnAnswerWhereTheContextEnds) {
  Engine engine = LoadModel(kSmall, 64);
  const Outcome outcome = RunToEnd(engine, Continue(CyclicTokens(60), 100));
  EXPECT_EQ(outcome.tokens.size(), 4u);
  EXPECT_EQ(outcome.last.finish, FinishReason::kLength);
}

TEST(Engine, RefusesWhatARequestMayNotSay) {
  Engine engine = LoadModel(kSmall);
  EXPECT_FALSE(engine.Submit({}).ok());
  EXPECT_FALSE(engine.Submit(Continue({1, 2, 999999}, 1)).ok());
  EXPECT_FALSE(engine.Submit(Continue({-1}, 1)).ok());
  EXPECT_FALSE(engine.Submit(Continue({1}, 0)).ok());
  Request both = Continue({1}, 1);
  both.prompt = "text";
  EXPECT_FALSE(engine.Submit(both).ok());
  Request text;
  text.prompt = "no tokenizer here";
  const auto stream = engine.Submit(text);
  ASSERT_FALSE(stream.ok());
  EXPECT_NE(stream.status().message().find("tokenizer.json"), std::string::npos);
}

TEST(Engine, StopsAtAStopToken) {
  Engine engine = LoadModel(kSmall);
  const Outcome free = RunToEnd(engine, Continue(CyclicTokens(50), 6));
  Request request = Continue(CyclicTokens(50), 6);
  request.stop_token_ids = {free.tokens[2]};
  const Outcome stopped = RunToEnd(engine, request);
  EXPECT_EQ(stopped.last.finish, FinishReason::kStop);
  EXPECT_LE(stopped.tokens.size(), 3u);
  EXPECT_EQ(stopped.tokens.back(), free.tokens[2]);
}

TEST(Engine, EndsAStreamThatIsCancelled) {
  Engine engine = LoadModel(kSmall);
  Stream stream = engine.Submit(Continue(CyclicTokens(50), 3000)).value();
  stream.Cancel();
  const Outcome outcome = Drain(stream);
  EXPECT_EQ(outcome.last.finish, FinishReason::kCancelled);
  EXPECT_LT(outcome.tokens.size(), 3000u);
  // The engine is free for the next.
  EXPECT_EQ(RunToEnd(engine, Continue(CyclicTokens(50), 2)).tokens.size(), 2u);
}

TEST(Engine, TellsOpenStreamsThatItGoesAway) {
  std::optional<Engine> engine = LoadModel(kSmall);
  Stream running = engine->Submit(Continue(CyclicTokens(50), 3000)).value();
  Stream waiting = engine->Submit(Continue(CyclicTokens(50), 3000)).value();
  engine.reset();
  // Either it was cancelled in time or it never began; in no case does Next block or invent an end.
  for (Stream* stream : {&running, &waiting}) {
    FinishReason finish = FinishReason::kNone;
    Status error;
    for (;;) {
      auto next = stream->Next();
      if (!next.ok()) {
        error = next.status();
        break;
      }
      if (!*next) break;
      finish = (*next)->finish;
    }
    EXPECT_TRUE(finish == FinishReason::kCancelled || error.code() == StatusCode::kUnavailable);
  }
}

TEST(Engine, EndsTheStreamsOfAnEngineThatIsReplaced) {
  Engine engine = LoadModel(kSmall);
  Stream running = engine.Submit(Continue(CyclicTokens(50), 3000)).value();
  Stream waiting = engine.Submit(Continue(CyclicTokens(50), 3000)).value();
  engine = LoadModel(kSmall);
  // Neither blocks, whether it had begun or not.
  for (Stream* stream : {&running, &waiting}) {
    auto next = stream->Next();
    while (next.ok() && *next) next = stream->Next();
  }
  EXPECT_EQ(RunToEnd(engine, Continue(CyclicTokens(50), 2)).tokens.size(), 2u);
}

TEST(Engine, RunsRequestsInTheirOrder) {
  Engine engine = LoadModel(kSmall);
  Stream first = engine.Submit(Continue(CyclicTokens(30), 5)).value();
  Stream second = engine.Submit(Continue(CyclicTokens(40), 5)).value();
  EXPECT_EQ(Drain(second).tokens.size(), 5u);
  EXPECT_EQ(Drain(first).tokens.size(), 5u);
}

TEST(Engine, RefusesOptionsByName) {
  EngineOptions options;
  options.model_dir = kSmall;
  options.chunk = 0;
  EXPECT_NE(Engine::Load(options).status().message().find("chunk"), std::string::npos);
  options.chunk = 16;
  options.max_context = 1 << 30;
  EXPECT_NE(Engine::Load(options).status().message().find("max_context"), std::string::npos);
  options.max_context = 0;
  options.instruction_set = "sse9";
  EXPECT_NE(Engine::Load(options).status().message().find("sse9"), std::string::npos);
  options.model_dir = "/nowhere";
  EXPECT_EQ(Engine::Load(options).status().code(), StatusCode::kNotFound);
}

TEST(Engine, KeepsMarkersInTextAsTextUnlessAllowed) {
  Engine engine = LoadModel(kNano, 512);
  const auto as_text = engine.Tokenize("<｜User｜>", false).value();
  const auto as_token = engine.Tokenize("<｜User｜>", true).value();
  EXPECT_EQ(as_token.size(), 1u);
  EXPECT_GT(as_text.size(), 1u);
  EXPECT_EQ(engine.Detokenize(as_text).value(), "<｜User｜>");
}

TEST(Engine, StopsAtAStopTextAndGivesTheSameTextForTheSameSeed) {
  Engine engine = LoadModel(kNano, 512);
  Request request;
  request.prompt = "It was a dark night, and the old house";
  request.max_tokens = 24;
  request.sampling.temperature = 1.0;
  request.sampling.seed = 5;
  request.logprobs = 1;
  const Outcome first = RunToEnd(engine, request);
  EXPECT_EQ(first.text, RunToEnd(engine, request).text);
  ASSERT_GT(first.text.size(), 8u);
  request.stop = {first.text.substr(4, 3)};
  const Outcome stopped = RunToEnd(engine, request);
  EXPECT_EQ(stopped.last.finish, FinishReason::kStop);
  EXPECT_EQ(stopped.text, first.text.substr(0, first.text.find(request.stop[0])));
}

TEST(Engine, KeepsAnAnswerWithinJsonAndItsSchema) {
  Engine engine = LoadModel(kNano, 1024);
  Request request;
  request.messages = {{.role = "user", .content = "Who guards the harbor, and since when?"}};
  request.answer_format = AnswerFormat::kJsonSchema;
  request.json_schema = R"({"type": "object", "properties": {
      "guard": {"type": "string", "maxLength": 12}, "since": {"type": "integer"},
      "kind": {"enum": ["person", "ghost"]}},
      "required": ["guard", "since", "kind"], "additionalProperties": false})";
  request.max_tokens = 200;
  request.logprobs = 0;
  for (const double temperature : {0.0, 1.5}) {
    request.sampling.temperature = temperature;
    request.sampling.seed = 3;
    const Outcome outcome = RunToEnd(engine, request);
    EXPECT_EQ(outcome.last.finish, FinishReason::kStop);
    const json::value answer = json::parse(outcome.text);
    EXPECT_LE(answer.at("guard").as_string().size(), 12u * 4);
    EXPECT_TRUE(answer.at("since").is_int64() || answer.at("since").is_uint64());
    EXPECT_TRUE(answer.at("kind") == "person" || answer.at("kind") == "ghost");
    EXPECT_EQ(answer.as_object().size(), 3u);
  }
  request.answer_format = AnswerFormat::kJsonObject;
  request.max_tokens = 400;
  request.sampling.temperature = 1.0;
  const Outcome object = RunToEnd(engine, request);
  if (object.last.finish == FinishReason::kStop) {
    EXPECT_TRUE(json::parse(object.text).is_object());
  }
  EXPECT_EQ(object.text.substr(0, 1), "{");
}

TEST(Engine, RefusesSchemasAndToolChoicesThatCannotWork) {
  Engine engine = LoadModel(kNano, 1024);
  Request request;
  request.messages = {{.role = "user", .content = "Hello"}};
  request.answer_format = AnswerFormat::kJsonSchema;
  request.json_schema = "{\"type\": \"strin\"}";
  EXPECT_FALSE(engine.Submit(request).ok());
  request.json_schema = "{";
  EXPECT_FALSE(engine.Submit(request).ok());
  request.answer_format = AnswerFormat::kText;
  request.tool_choice = "sometimes";
  EXPECT_NE(engine.Submit(request).status().message().find("tool_choice: \"sometimes\""),
            std::string::npos);
  request.tool_choice = "required";
  EXPECT_NE(engine.Submit(request).status().message().find("no tools"), std::string::npos);
}

TEST(Engine, TellsReasoningAndAnswerApart) {
  Engine engine = LoadModel(kNano, 1024);
  const int32_t end_of_reasoning = engine.Tokenize("</think>", true).value().front();
  Request request;
  request.messages = {{.role = "user", .content = "Hello"}};
  request.thinking = true;
  request.parse_answer = true;
  request.answer_format = AnswerFormat::kJsonSchema;
  request.json_schema = R"({"enum": ["yes", "no"]})";
  request.sampling.temperature = 0.0;
  request.max_tokens = 6;
  request.sampling.logit_bias = {{end_of_reasoning, -100.0}};
  const Outcome thinking = RunToEnd(engine, request);
  EXPECT_EQ(thinking.text, "");
  EXPECT_EQ(thinking.last.receipt.reasoning_tokens, 6);

  request.sampling.logit_bias = {{end_of_reasoning, 100.0}};
  request.max_tokens = 20;
  Stream stream = engine.Submit(request).value();
  std::string text, reasoning;
  Receipt receipt;
  while (std::optional<Chunk> chunk = stream.Next().value()) {
    text += chunk->text;
    reasoning += chunk->reasoning;
    receipt = chunk->receipt;
  }
  EXPECT_TRUE(text == "\"yes\"" || text == "\"no\"") << text;
  EXPECT_EQ(reasoning, "");
  EXPECT_EQ(receipt.reasoning_tokens, 1);
}

}  // namespace
}  // namespace winnow
