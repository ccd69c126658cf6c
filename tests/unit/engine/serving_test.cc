// Many requests at once, held against each of them alone, bit for bit.
#include <gtest/gtest.h>

#include <chrono>
#include <random>
#include <thread>

#include "winnow/winnow.h"

namespace winnow {
namespace {

const std::string kGolden = std::string(WINNOW_SOURCE_DIR) + "/tests/golden/";

struct Answer {
  std::vector<int32_t> tokens;
  std::vector<double> logprobs;  // of each token and its rivals: made from every logit of a row
  Receipt receipt;
  FinishReason finish = FinishReason::kNone;
};

Answer AnswerOf(Stream& stream) {
  Answer answer;
  const auto add = [&](const std::vector<TokenDetail>& details) {
    for (const TokenDetail& detail : details) {
      answer.logprobs.push_back(detail.chosen.logprob);
      for (const TokenLogprob& rival : detail.top) answer.logprobs.push_back(rival.logprob);
    }
  };
  while (std::optional<Chunk> chunk = stream.Next().value()) {
    answer.tokens.insert(answer.tokens.end(), chunk->token_ids.begin(), chunk->token_ids.end());
    add(chunk->prompt_details);
    add(chunk->details);
    answer.receipt = chunk->receipt;
    answer.finish = chunk->finish;
  }
  return answer;
}

Engine LoadGolden(const std::string& model,
                  const std::function<void(EngineOptions&)>& change = {}) {
  EngineOptions options;
  options.model_dir = kGolden + model;
  options.backend = SERVING_BACKEND;
  options.num_threads = 2;
  if (change) change(options);
  return Engine::Load(options).value();
}

class Random {
 public:
  explicit Random(uint32_t seed) : engine_(seed) {}
  int64_t Draw(int64_t least, int64_t most) {
    return std::uniform_int_distribution<int64_t>(least, most)(engine_);
  }

  std::vector<int32_t> Tokens(int64_t count, int64_t vocab) {
    std::vector<int32_t> tokens;
    while (static_cast<int64_t>(tokens.size()) < count) {
      tokens.push_back(static_cast<int32_t>(Draw(0, vocab - 1)));
    }
    return tokens;
  }

 private:
  std::mt19937 engine_;
};

// Requests that share documents, of several keys and salts, some drawn and some greedy.
std::vector<Request> DrawRequests(Random& random, int64_t count, const ModelInfo& info) {
  std::vector<std::vector<int32_t>> documents;
  for (int64_t length : {20, 130, 200}) documents.push_back(random.Tokens(length, info.vocab_size));
  std::vector<Request> requests;
  for (int64_t index = 0; index < count; ++index) {
    Request request;
    const auto& document = documents[static_cast<size_t>(random.Draw(0, 2))];
    request.token_ids.assign(
        document.begin(), document.begin() + random.Draw(1, static_cast<int64_t>(document.size())));
    const std::vector<int32_t> question = random.Tokens(random.Draw(0, 12), info.vocab_size);
    request.token_ids.insert(request.token_ids.end(), question.begin(), question.end());
    request.max_tokens = random.Draw(1, 24);
    request.ignore_eos = true;
    request.logprobs = 3;
    request.prompt_logprobs = random.Draw(0, 5) == 0;
    request.sampling.seed = static_cast<uint64_t>(index);
    request.sampling.temperature = random.Draw(0, 1) ? 1.0 : 0.0;
    request.sampling.repetition_penalty = 1.1;
    request.key = std::to_string(random.Draw(0, 2));
    request.cache_salt = random.Draw(0, 2) ? "" : "salt";
    requests.push_back(std::move(request));
  }
  return requests;
}

class Serving : public testing::TestWithParam<std::string> {};

TEST_P(Serving, GivesEachRequestTheBitsThatItGetsAlone) {
  Engine alone = LoadGolden(GetParam(), [](EngineOptions& options) {
    options.prefix_cache = false;
    options.max_sequences = 1;
    options.num_threads = 1;
  });
  int64_t preempted = 0;
  for (uint32_t seed = 0; seed < 4; ++seed) {
    Random random(seed);
    const std::vector<Request> requests = DrawRequests(random, 24, alone.info());
    std::vector<Answer> expected;
    for (const Request& request : requests) {
      Stream stream = alone.Submit(request).value();
      expected.push_back(AnswerOf(stream));
    }
    Engine engine = LoadGolden(GetParam(), [&](EngineOptions& options) {
      options.max_context = 256;
      options.cache_tokens = random.Draw(4, 9) * 64;
      options.max_sequences = random.Draw(2, 8);
      options.chunk = random.Draw(8, 100);
      options.prefix_cache = seed != 3;
    });
    std::vector<Stream> streams;
    for (const Request& request : requests) {
      streams.push_back(engine.Submit(request).value());
      if (random.Draw(0, 2) == 0) {
        std::this_thread::sleep_for(std::chrono::microseconds(random.Draw(0, 3000)));
      }
      if (random.Draw(0, 5) == 0) {  // one that goes away leaves no trace
        Stream lost = engine.Submit(requests[static_cast<size_t>(random.Draw(0, 23))]).value();
        if (random.Draw(0, 1)) static_cast<void>(lost.Next());
      }
    }
    int64_t shared = 0;
    for (size_t index = 0; index < requests.size(); ++index) {
      const Answer answer = AnswerOf(streams[index]);
      EXPECT_EQ(answer.tokens, expected[index].tokens) << "seed " << seed << " request " << index;
      EXPECT_EQ(answer.logprobs, expected[index].logprobs) << seed << " request " << index;
      const Receipt& r = answer.receipt;
      EXPECT_EQ(r.cached_tokens + r.computed_tokens, r.prompt_tokens);
      EXPECT_EQ(r.completion_tokens, requests[index].max_tokens);
      shared += r.cached_tokens;
    }
    EXPECT_EQ(shared > 0, seed != 3);
    preempted += engine.stats().preempted;
  }
  EXPECT_GT(preempted, 0);
}

INSTANTIATE_TEST_SUITE_P(Models, Serving,
                         testing::Values("v32-groups-f32", "glm-list-f32", "v32-odd-bf16"),
                         [](const auto& info) {
                           std::string name = info.param;
                           std::erase(name, '-');
                           return name;
                         });

Request Prompted(std::vector<int32_t> tokens, int64_t max_tokens) {
  Request request;
  request.token_ids = std::move(tokens);
  request.max_tokens = max_tokens;
  request.ignore_eos = true;
  request.sampling.temperature = 0.0;
  return request;
}

std::vector<int32_t> RandomTokens(int64_t count) { return Random(1).Tokens(count, 90); }

TEST(ServingLimits, RefusesMoreRequestsThanMayWaitAndTakesThemLater) {
  Engine engine = LoadGolden("v32-groups-f32", [](EngineOptions& options) {
    options.max_sequences = 1;
    options.max_queue = 2;
  });
  std::vector<Stream> streams;
  Status refused;
  for (int index = 0; index < 20 && refused.ok(); ++index) {
    auto stream = engine.Submit(Prompted(RandomTokens(200), 50));
    if (stream.ok()) {
      streams.push_back(std::move(*stream));
    } else {
      refused = stream.status();
    }
  }
  EXPECT_EQ(refused.code(), StatusCode::kResourceExhausted);
  for (Stream& stream : streams) EXPECT_EQ(AnswerOf(stream).tokens.size(), 50u);
  EXPECT_TRUE(engine.Submit(Prompted(RandomTokens(20), 1)).ok());
}

TEST(ServingLimits, OneSaltGetsNothingOfAnothersCache) {
  Engine engine = LoadGolden("v32-groups-f32");
  Request request = Prompted(RandomTokens(200), 1);
  const auto cached = [&](const std::string& salt) {
    request.cache_salt = salt;
    Stream stream = engine.Submit(request).value();
    return AnswerOf(stream).receipt.cached_tokens;
  };
  EXPECT_EQ(cached("a"), 0);
  EXPECT_EQ(cached("b"), 0);
  EXPECT_EQ(cached("a"), 199);
}

TEST(ServingLimits, TheCacheIsAtLeastAsLargeAsTheContextAsked) {
  EngineOptions options;
  options.model_dir = kGolden + "v32-groups-f32";
  options.max_context = 256;
  options.cache_tokens = 128;
  EXPECT_NE(Engine::Load(options).status().message().find("cache_tokens: 128"), std::string::npos);
  options.cache_tokens = 0;
  options.max_sequences = 0;
  EXPECT_NE(Engine::Load(options).status().message().find("max_sequences: 0"), std::string::npos);
}

TEST(ServingReceipts, SharesOfTheTimeAddUpToTheStepsAndDenseCostsMore) {
  Engine engine =
      LoadGolden("v32-groups-f32", [](EngineOptions& options) { options.measure_rates = true; });
  std::vector<Stream> streams;
  for (int index = 0; index < 4; ++index) {
    Request request = Prompted(Random(index).Tokens(240, 90), 16);
    streams.push_back(engine.Submit(request).value());
  }
  double seconds = 0;
  int64_t rows = 0;
  for (Stream& stream : streams) {
    const Receipt r = AnswerOf(stream).receipt;
    seconds += r.prefill.seconds + r.decode.seconds;
    rows += r.attention_rows_read;
    EXPECT_GT(r.prefill.dense_flops, 0);
    EXPECT_GT(r.prefill.dense_bytes, r.prefill.bytes / 2);
    EXPECT_GT(r.decode.dense_seconds, 0);
    EXPECT_GE(r.prefill_seconds, 0);
  }
  const EngineStats stats = engine.stats();
  EXPECT_NEAR(seconds, stats.busy_seconds, 1e-9 + 1e-6 * stats.busy_seconds);
  EXPECT_EQ(rows, stats.attention_rows_read);
  EXPECT_EQ(stats.requests, 4);
  EXPECT_EQ(stats.completion_tokens, 64);
}

TEST(ServingReceipts, LogprobsOfThePromptAreThoseOfTheTokensDrawn) {
  Engine engine = LoadGolden("v32-groups-f32");
  Request request = Prompted(RandomTokens(30), 10);
  request.logprobs = 2;
  Stream first = engine.Submit(request).value();
  std::vector<TokenDetail> drawn;
  while (std::optional<Chunk> chunk = first.Next().value()) {
    drawn.insert(drawn.end(), chunk->details.begin(), chunk->details.end());
  }
  for (const TokenDetail& detail : drawn) request.token_ids.push_back(detail.chosen.token_id);
  request.prompt_logprobs = true;
  request.max_tokens = 0;
  Stream second = engine.Submit(request).value();
  std::vector<TokenDetail> prompt;
  FinishReason finish = FinishReason::kNone;
  while (std::optional<Chunk> chunk = second.Next().value()) {
    prompt.insert(prompt.end(), chunk->prompt_details.begin(), chunk->prompt_details.end());
    finish = chunk->finish;
  }
  EXPECT_EQ(finish, FinishReason::kLength);
  ASSERT_EQ(prompt.size(), 39u);
  for (size_t index = 0; index < 10; ++index) {
    EXPECT_EQ(prompt[29 + index].chosen.token_id, drawn[index].chosen.token_id);
    EXPECT_EQ(prompt[29 + index].chosen.logprob, drawn[index].chosen.logprob);
    EXPECT_EQ(prompt[29 + index].top[0].token_id, drawn[index].top[0].token_id);
  }
}

TEST(ServingReceipts, ABiasOfMinusHundredBansATokenAndOneOfHundredBringsIt) {
  Engine engine = LoadGolden("v32-groups-f32");
  Request request = Prompted(RandomTokens(30), 5);
  request.sampling.logit_bias = {{7, 100.0}};
  Stream always = engine.Submit(request).value();
  EXPECT_EQ(AnswerOf(always).tokens, std::vector<int32_t>(5, 7));
  request.sampling.logit_bias = {{7, 100.0}, {7, -100.0}, {8, 100.0}, {9, 50.0}, {8, -100.0}};
  Stream other = engine.Submit(request).value();
  EXPECT_EQ(AnswerOf(other).tokens, std::vector<int32_t>(5, 9));
  request.sampling.logit_bias = {{1 << 20, 1.0}};
  EXPECT_NE(engine.Submit(request).status().message().find("logit_bias: 1048576"),
            std::string::npos);
}

TEST(ServingStreams, AWakeIsCalledForEveryPieceAndOnceAtTheBeginning) {
  Engine engine = LoadGolden("v32-groups-f32");
  Stream stream = engine.Submit(Prompted(RandomTokens(30), 5)).value();
  std::atomic<int> calls{0};
  stream.Notify([&] { ++calls; });
  EXPECT_GE(calls.load(), 1);
  size_t tokens = 0;
  for (bool over = false; !over;) {
    if (!stream.Ready()) {
      std::this_thread::yield();
      continue;
    }
    const std::optional<Chunk> chunk = stream.Next().value();
    over = !chunk.has_value();
    if (!over) tokens += chunk->token_ids.size();
  }
  EXPECT_EQ(tokens, 5u);
  EXPECT_TRUE(stream.Ready());
  stream.Notify({});
}

// Without logprobs the device draws the token and the logits stay there.
TEST(ServingLimits, TokensAreTheSameWhetherLogitsAreAskedForOrNot) {
  for (const std::string model : {"v32-groups-f32", "v32-odd-bf16"}) {
    Engine engine = LoadGolden(model);
    Random random(4);
    std::vector<Stream> with, without;
    for (int index = 0; index < 12; ++index) {
      Request request = Prompted(random.Tokens(random.Draw(1, 200), 90), random.Draw(1, 40));
      request.sampling.temperature = index % 3 == 2 ? 0.0 : 1.0;  // some greedy
      if (index % 3 == 1) request.sampling.top_p = 0.8;
      if (index % 4 == 1) request.sampling.top_k = 20;
      if (index % 5 == 1) request.sampling.min_p = 0.02;
      request.sampling.seed = static_cast<uint64_t>(index);
      if (index % 4 == 3) request.sampling.repetition_penalty = 1.1;  // drawn on the host
      without.push_back(engine.Submit(request).value());
      request.logprobs = 0;
      with.push_back(engine.Submit(request).value());
    }
    for (size_t index = 0; index < with.size(); ++index) {
      EXPECT_EQ(AnswerOf(without[index]).tokens, AnswerOf(with[index]).tokens)
          << model << " " << index;
    }
  }
}

}  // namespace
}  // namespace winnow
