// The server as its clients meet it: right answers, and none of what hostile or careless clients do
// may reach another.
#include "serve.h"

#include <fmt/format.h>

#include "serve_bodies.h"

namespace winnow {
namespace {

// One server for all tests that need no other; with short deadlines.
Serve& Small() {
  static Serve serve({kSmall,
                      "--header-seconds",
                      "1",
                      "--body-seconds",
                      "1",
                      "--write-seconds",
                      "1",
                      "--comment-seconds",
                      "0.2",
                      "--max-body",
                      "1",
                      "--max-sequences",
                      "2",
                      "--vllm-metrics",
                      "--threads",
                      "1",
                      "--kv-cache",
                      "f32",
                      "--index-keys",
                      "f32"});
  return serve;
}

class Serving : public testing::Test {
 protected:
  // Whatever a test did: the server answers, at once and rightly, and nothing runs on.
  void TearDown() override {
    const auto start = std::chrono::steady_clock::now();
    EXPECT_EQ(Client(Small().port()).Get("/health").status, 200);
    EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(1));
    EXPECT_TRUE(Serve::Eventually([] { return Small().Metric("winnow_requests_running") == 0.0; }));
    const Reply reply = Client(Small().port())
                            .Post(kText, Body("\"max_tokens\":8,\"temperature\":0,"
                                              "\"return_token_ids\":true"));
    ASSERT_EQ(reply.status, 200) << reply.body;
    EXPECT_NE(reply.body.find("\"token_ids\":" + kGreedy), std::string::npos) << reply.body;
  }
  int port() const { return Small().port(); }
  Client New() const { return Client(port()); }
};

// --- Answers ------------------------------------------------------------------------------------

TEST_F(Serving, StreamsTheTokensThatItAnswersAsAWhole) {
  Client client = New();
  const Reply reply = client.Post(kText, Body("\"max_tokens\":8,\"temperature\":0,\"stream\":true,"
                                              "\"return_token_ids\":true,"
                                              "\"stream_options\":{\"include_usage\":true}"));
  EXPECT_EQ(reply.status, 200);
  EXPECT_EQ(reply.headers.at("content-type"), "text/event-stream; charset=utf-8");
  std::vector<int64_t> tokens;
  std::vector<std::string> events;
  for (size_t at = 0, end; (end = reply.body.find("\n\n", at)) != std::string::npos; at = end + 2) {
    const std::string event = reply.body.substr(at, end - at);
    if (event.rfind("data: ", 0) == 0) events.push_back(event.substr(6));
  }
  ASSERT_GE(events.size(), 3u);
  EXPECT_EQ(events.back(), "[DONE]");
  for (size_t index = 0; index + 2 < events.size(); ++index) {
    const auto event = ParseJson(events[index], "event");
    ASSERT_TRUE(event.ok());
    const json::object& choice = event->at("choices").at(0).as_object();
    EXPECT_TRUE(event->at("usage").is_null());
    for (const json::value& token : choice.at("token_ids").as_array()) {
      tokens.push_back(token.as_int64());
    }
  }
  EXPECT_EQ(json::serialize(json::value_from(tokens)), kGreedy);
  const auto last = ParseJson(events[events.size() - 2], "event");
  ASSERT_TRUE(last.ok());
  EXPECT_TRUE(last->at("choices").as_array().empty());
  EXPECT_EQ(last->at("usage").at("prompt_tokens").as_int64(), 80);
  EXPECT_EQ(last->at("usage").at("completion_tokens").as_int64(), 8);
  EXPECT_EQ(last->at("usage").at("prompt_cache_hit_tokens").as_int64() +
                last->at("usage").at("prompt_cache_miss_tokens").as_int64(),
            80);
}

TEST_F(Serving, AnswersSeveralPromptsAndChoicesInTheirOrder) {
  const Reply reply =
      New().Post(kText, "{\"prompt\":[[5,6,7]," + kPrompt +
                            "],\"n\":2,\"max_tokens\":8,\"temperature\":0,\"ignore_eos\":true,"
                            "\"return_token_ids\":true}");
  ASSERT_EQ(reply.status, 200) << reply.body;
  const json::object object = reply.Json();
  const json::array& choices = object.at("choices").as_array();
  ASSERT_EQ(choices.size(), 4u);
  EXPECT_EQ(json::serialize(choices[2].at("token_ids")), kGreedy);
  EXPECT_EQ(json::serialize(choices[3].at("token_ids")), kGreedy);
  EXPECT_EQ(object.at("usage").at("prompt_tokens").as_int64(), 83);
  EXPECT_EQ(object.at("usage").at("completion_tokens").as_int64(), 32);
}

TEST_F(Serving, CarriesAReceipt) {
  const json::object object =
      New().Post(kText, Body("\"max_tokens\":4,\"temperature\":0,\"cache_salt\":\"fresh\"")).Json();
  const json::object& receipt = object.at("usage").at("winnow").as_object();
  EXPECT_EQ(receipt.at("prefill").at("tokens").as_int64(), 80);
  EXPECT_EQ(receipt.at("decode").at("tokens").as_int64(), 4);
  // Two layers, and the token at position p reads all of p + 1 rows, densely; 12 of them, sparsely.
  int64_t dense = 0;
  int64_t sparse = 0;
  for (int64_t position = 0; position < 83; ++position) {
    dense += 2 * (position + 1);
    sparse += 2 * std::min<int64_t>(position + 1, 12);
  }
  EXPECT_EQ(receipt.at("attention_rows_dense").as_int64(), dense);
  EXPECT_EQ(receipt.at("attention_rows_read").as_int64(), sparse);
}

TEST_F(Serving, GivesChoicesOfOneSeedTheSeedsThatFollowIt) {
  const auto tokens = [&](int seed, int n) {
    const json::object object =
        New()
            .Post(kText, Body(fmt::format("\"max_tokens\":6,\"temperature\":2,\"seed\":{},\"n\":{},"
                                          "\"return_token_ids\":true",
                                          seed, n)))
            .Json();
    std::vector<std::string> lists;
    for (const json::value& choice : object.at("choices").as_array()) {
      lists.push_back(json::serialize(choice.at("token_ids")));
    }
    return lists;
  };
  const auto both = tokens(7, 2);
  ASSERT_EQ(both.size(), 2u);
  EXPECT_EQ(both[0], tokens(7, 1)[0]);
  EXPECT_EQ(both[1], tokens(8, 1)[0]);
  EXPECT_NE(both[0], both[1]);
}

TEST_F(Serving, AnswersRequestsThatWereSentTogetherInTheirOrder) {
  Client client = New();
  client.Send(
      "GET /version HTTP/1.1\r\nHost: localhost\r\n\r\n"
      "GET /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n"
      "\r\nHEAD /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
      "GET /version HTTP/1.0\r\n\r\n");
  EXPECT_NE(client.Read().body.find("version"), std::string::npos);
  EXPECT_NE(client.Read().body.find("v32-groups-f32"), std::string::npos);
  const Reply head = client.Read(/*head=*/true);
  EXPECT_EQ(head.headers.at("content-length"), "15");
  const Reply last = client.Read();
  EXPECT_NE(last.body.find("version"), std::string::npos);
  EXPECT_EQ(last.headers.at("connection"), "close");
  EXPECT_TRUE(client.ReadToEnd());
}

TEST_F(Serving, TakesBodiesInChunksAndAfterAsking) {
  Client client = New();
  const std::string body = Body("\"max_tokens\":1,\"temperature\":0");
  client.Send(
      "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\n"
      "Content-Length: " +
      std::to_string(body.size()) + "\r\n\r\n");
  ASSERT_TRUE(client.ReadUntil("100 Continue\r\n\r\n"));
  client.Send(body);
  EXPECT_EQ(client.Read().status, 200);
  std::string chunks;
  for (const char byte : body) chunks += std::string("1\r\n") + byte + "\r\n";
  client.Send(
      "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n"
      "\r\n" +
      chunks + "0\r\n\r\n");
  EXPECT_EQ(client.Read().status, 200);
}

TEST_F(Serving, StreamsToOldClientsUntilTheConnectionEnds) {
  Client client = New();
  const std::string body = Body("\"max_tokens\":3,\"temperature\":0,\"stream\":true");
  client.Send("POST /v1/completions HTTP/1.0\r\nContent-Length: " + std::to_string(body.size()) +
              "\r\n\r\n" + body);
  EXPECT_TRUE(client.ReadToEnd());
  EXPECT_NE(client.input().find("\r\n\r\ndata: {"), std::string::npos);
  EXPECT_TRUE(client.input().ends_with("data: [DONE]\n\n"));
}

TEST_F(Serving, NamesRequestsAsTheClientDoesIfThatIsSane) {
  EXPECT_EQ(New().Get("/health", "X-Request-Id: abc-1.2\r\n").headers.at("x-request-id"),
            "abc-1.2");
  const std::string made =
      New().Get("/health", "X-Request-Id: a\"b\r\n").headers.at("x-request-id");
  EXPECT_EQ(made.rfind("req_", 0), 0u) << made;
}

TEST_F(Serving, CountsForPrometheus) {
  const double before = Small().Metric("winnow_completion_tokens_total");
  New().Post(kText, Body("\"max_tokens\":5,\"temperature\":0"));
  EXPECT_EQ(Small().Metric("winnow_completion_tokens_total"), before + 5);
  const std::string text = New().Get("/metrics").body;
  for (const char* name : {"winnow_time_to_first_token_seconds_bucket{le=\"+Inf\"}",
                           "winnow_cache_pages{state=\"free\"}",
                           "winnow_requests_total{route=\"/v1/completions\",code=\"200\"}",
                           "vllm:num_requests_running{model_name=\"v32-groups-f32\"} 0"}) {
    EXPECT_NE(text.find(name), std::string::npos) << name;
  }
}

// --- Refusals -----------------------------------------------------------------------------------

TEST_F(Serving, RefusesMalformedRequestsAndEndsTheConnection) {
  const std::string host = "Host: localhost\r\n";
  const struct {
    std::string bytes;
    int status;
  } cases[] = {
      {"POST /tokenize HTTP/1.1\r\n" + host +
           "Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n",
       400},
      {"POST /tokenize HTTP/1.1\r\n" + host +
           "Transfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n",
       400},
      {"POST /tokenize HTTP/1.1\r\n" + host + "Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}",
       400},
      {"POST /tokenize HTTP/1.1\r\n" + host + "Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
       400},
      {"POST /tokenize HTTP/1.1\r\n" + host + "Content-Length: -1\r\n\r\n", 400},
      {"POST /tokenize HTTP/1.1\r\n" + host + "Content-Length: 2, 2\r\n\r\n{}", 400},
      {"POST /tokenize HTTP/1.1\r\n" + host + "Expect: 200-ok\r\nContent-Length: 2\r\n\r\n{}", 417},
      {"POST /tokenize HTTP/1.1\r\n" + host +
           "Content-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}",
       415},
      {"POST /tokenize HTTP/1.1\r\n" + host + "Content-Length: 99999999999999999999\r\n\r\n", 400},
      {"POST /tokenize HTTP/1.1\r\n" + host + "Transfer-Encoding: gzip, chunked\r\n\r\n", 400},
      {"POST /tokenize HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n",
       400},
      {"POST /tokenize HTTP/1.1\r\n" + host +
           "Transfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n",
       400},
      {"POST /tokenize HTTP/1.1\r\n" + host + "Content-Length: 2097152\r\n\r\n", 413},
      {"POST /tokenize HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\n\r\n200000\r\n", 413},
      {"GET /health HTTP/1.1\r\n\r\n", 400},
      {"GET /health HTTP/1.1\r\n" + host + host + "\r\n", 400},
      {"GET /health HTTP/3.0\r\n" + host + "\r\n", 505},
      {"GET http://localhost/health HTTP/1.1\r\n" + host + "\r\n", 400},
      {"GET /health\r\n\r\n", 400},
      {"\x16\x03\x01\x02\r\n\r\n", 400},
      {"GET /health HTTP/1.1\r\n" + host + "X: " + std::string(40000, 'x') + "\r\n\r\n", 431},
      {"GET /" + std::string(40000, 'x') + " HTTP/1.1\r\n" + host + "\r\n", 431},
      {"GET /health HTTP/1.1\r\n" + host + "a b: c\r\n\r\n", 400},
  };
  for (const auto& one : cases) {
    Client client = New();
    client.Send(one.bytes);
    const Reply reply = client.Read();
    EXPECT_EQ(reply.status, one.status) << one.bytes.substr(0, 200);
    EXPECT_NE(reply.ErrorField("message"), "") << one.bytes.substr(0, 200);
    EXPECT_EQ(reply.headers.at("connection"), "close");
    EXPECT_TRUE(client.ReadToEnd()) << one.bytes.substr(0, 200);
  }
}

TEST_F(Serving, ClientsThatSendTooMuchStillReadWhy) {
  const std::string body(8 << 20, 'x');
  Client client = New();
  EXPECT_TRUE(client.Send("POST /tokenize HTTP/1.1\r\nHost: localhost\r\nContent-Length: " +
                          std::to_string(body.size()) + "\r\n\r\n" + body));
  EXPECT_EQ(client.Read().status, 413);
}

TEST_F(Serving, RefusesBodiesThatAreNotWhatTheyShouldBe) {
  std::string deep = "{\"prompt\":";
  for (int level = 0; level < 100'000; ++level) deep += '[';
  std::string values = "{\"prompt\":[1";
  for (int value = 0; value < 510'000; ++value) values += ",1";
  std::string biases = "{\"prompt\":[1],\"logit_bias\":{\"0\":1";
  for (int token = 1; token < 50'000; ++token) biases += fmt::format(",\"{}\":1", token);
  const struct {
    std::string path;
    std::string body;
    std::string param;
  } cases[] = {
      {kText, "", ""},
      {kText, "[]", ""},
      {kText, "{", ""},
      {kText, deep, ""},
      {kText, values + "]}", ""},
      {kText, biases + "}}", "logit_bias"},
      {kText, "{\"prompt\":[1],\"prompt\":[2]}", ""},
      {kText, "{\"prompt\":\"\\ud800\"}", ""},
      {kText, "{\"prompt\":\"\xff\"}", ""},
      {kText, "{\"prompt\":[1],\"temperature\":1e999}", ""},
      {kText, "{}", "prompt"},
      {kText, "{\"prompt\":[]}", "prompt"},
      {kText, "{\"prompt\":[-1]}", "prompt"},
      {kText, "{\"prompt\":[1.5]}", "prompt"},
      {kText, "{\"prompt\":[160]}", "prompt[0]"},
      {kText, "{\"prompt\":[1],\"max_tokens\":0}", "max_tokens"},
      {kText, "{\"prompt\":[1],\"max_tokens\":\"1\"}", "max_tokens"},
      {kText, "{\"prompt\":[1],\"max_tokens\":1e300}", "max_tokens"},
      {kText, "{\"prompt\":[1],\"temperature\":-1}", "temperature"},
      {kText, "{\"prompt\":[1],\"temperature\":\"hot\"}", "temperature"},
      {kText, "{\"prompt\":[1],\"top_p\":2}", "top_p"},
      {kText, "{\"prompt\":[1],\"n\":129}", "n"},
      {kText, "{\"prompt\":[1],\"logprobs\":21}", "logprobs"},
      {kText, "{\"prompt\":[1],\"stop\":[\"\"]}", "stop"},
      {kText, "{\"prompt\":[1],\"stop\":[1]}", "stop"},
      {kText, "{\"prompt\":[1],\"logit_bias\":{\"1\":101}}", "logit_bias"},
      {kText, "{\"prompt\":[1],\"logit_bias\":{\"x\":1}}", "logit_bias"},
      {kText, "{\"prompt\":[1],\"logit_bias\":[1]}", "logit_bias"},
      {kText, "{\"prompt\":[1],\"stream\":1}", "stream"},
      {kText, "{\"prompt\":[1],\"seed\":1.5}", "seed"},
      {kText, "{\"prompt\":[1],\"stream_options\":{\"include_usage\":2}}",
       "stream_options.include_usage"},
      {kChat, "{\"messages\":[]}", "messages"},
      {kChat, "{\"messages\":[{\"role\":\"user\"}]}", "messages[0].content"},
      {kChat, "{\"messages\":[{\"role\":\"king\",\"content\":\"x\"}]}", "messages[0].role"},
      {kChat,
       "{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"image_url\",\"image_url\":{}}]}]"
       "}",
       "messages[0].content[0]"},
      {kChat, "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],\"top_logprobs\":2}",
       "top_logprobs"},
      {kChat, "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],\"tool_choice\":\"required\"}",
       "tool_choice"},
      {kChat,
       "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],"
       "\"response_format\":{\"type\":\"yaml\"}}",
       "response_format.type"},
  };
  Client client = New();
  for (const auto& one : cases) {
    const Reply reply = client.Post(one.path, one.body);
    EXPECT_EQ(reply.status, 400) << one.body.substr(0, 200) << reply.body;
    EXPECT_EQ(reply.ErrorField("param"), one.param) << one.body.substr(0, 200) << reply.body;
    EXPECT_EQ(reply.ErrorField("type"), "invalid_request_error");
  }
}

TEST_F(Serving, KeepsNoMemoryOfBombs) {
  New().Post(kText, Body("\"max_tokens\":1"));
  const int64_t before = Small().Memory();
  std::string lists = "{\"x\":[[]";
  std::string names = "{\"0\":0";
  for (int count = 1; count < 80'000; ++count) {
    lists += ",[]";
    names += fmt::format(",\"{}\":0", count);
  }
  for (int time = 0; time < 3; ++time) {
    EXPECT_EQ(New().Post(kText, lists + "]}").status, 400);
    EXPECT_EQ(New().Post(kText, names + "}").status, 400);
    EXPECT_EQ(New().Post(kText, std::string(1 << 20, '[')).status, 400);
    EXPECT_EQ(New().Post(kText, "{\"x\":\"" + std::string(1'000'000, 'a') + "\"}").status, 400);
  }
  std::vector<Client> slow;
  for (int index = 0; index < 100; ++index) {
    slow.push_back(New());
    slow.back().Send(
        "POST /tokenize HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n{");
  }
  EXPECT_EQ(New().Get("/health").status, 200);
  EXPECT_TRUE(Serve::Eventually([&] { return Small().Memory() - before < kShadow * (8 << 20); },
                                /*seconds=*/5.0))
      << Small().Memory() - before;
}

TEST_F(Serving, SaysHowLongAPromptIsAndHowLongItMayBe) {
  std::string tokens = "5";
  for (int count = 1; count < 5000; ++count) tokens += ",5";
  const Reply reply = New().Post(kText, "{\"prompt\":[" + tokens + "]}");
  EXPECT_EQ(reply.status, 400);
  EXPECT_EQ(reply.ErrorField("code"), "context_length_exceeded");
  EXPECT_NE(reply.ErrorField("message").find("5000"), std::string::npos) << reply.body;
  EXPECT_NE(reply.ErrorField("message").find("4096"), std::string::npos) << reply.body;
}

TEST_F(Serving, KnowsItsPathsMethodsAndNames) {
  Client client = New();
  EXPECT_EQ(client.Get("/v1/nothing").status, 404);
  EXPECT_EQ(client.Get("/../../etc/passwd").status, 404);
  EXPECT_EQ(client.Get("/v1/models/other").ErrorField("code"), "model_not_found");
  EXPECT_EQ(client.Get("/v1/models/v32-groups-f32").status, 200);
  const Reply method = client.Get(kText);
  EXPECT_EQ(method.status, 405);
  EXPECT_EQ(method.headers.at("allow"), "POST, OPTIONS");
  const Reply model = client.Post(kText, "{\"model\":\"gpt-4\",\"prompt\":[1]}");
  EXPECT_EQ(model.status, 404);
  EXPECT_EQ(model.ErrorField("code"), "model_not_found");
  // A model without a tokenizer has no chat and says why.
  const Reply chat = client.Post(kChat, "{\"messages\":[{\"role\":\"user\",\"content\":\"Hi\"}]}");
  EXPECT_EQ(chat.status, 400);
  EXPECT_NE(chat.ErrorField("message").find("tokenizer"), std::string::npos) << chat.body;
  const Reply anthropic = client.Post("/v1/messages", "{\"messages\":[]}");
  EXPECT_EQ(anthropic.Json().at("type").as_string(), "error");
}

TEST_F(Serving, RefusesPagesOfOtherSites) {
  Client client = New();
  client.Send("GET /v1/models HTTP/1.1\r\nHost: evil.example\r\n\r\n");
  EXPECT_EQ(client.Read().status, 421);
  for (const char* host : {"127.0.0.1:80", "LOCALHOST:1", "[::1]:8000"}) {
    client.Send(std::string("GET /v1/models HTTP/1.1\r\nHost: ") + host + "\r\n\r\n");
    EXPECT_EQ(client.Read().status, 200) << host;
  }
  const std::string body = Body("\"max_tokens\":1");
  EXPECT_EQ(client.Post(kText, body, "Origin: https://evil.example\r\n").status, 403);
  client = Client(port());
  EXPECT_EQ(client.Post(kText, body, "Origin: null\r\n").status, 403);
  client = Client(port());
  EXPECT_EQ(client.Post(kText, body, "Origin: http://localhost\r\n").status, 200);
}

// --- Slow, leaving and many clients -------------------------------------------------------------

TEST_F(Serving, EndsConnectionsThatDoNotSend) {
  Client header = New();
  Client body = New();
  Client drops = New();
  header.Send("GET /health HTTP/1.1\r\nHost: loc");
  body.Send("POST /tokenize HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{");
  for (int drop = 0; drop < 30; ++drop) {
    if (!drops.Send(drop == 0 ? "GET /health HTTP/1.1\r\nX: " : "x")) break;
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  }
  EXPECT_EQ(header.Read().status, 408);
  EXPECT_TRUE(header.ReadToEnd());
  EXPECT_EQ(body.Read().status, 408);
  EXPECT_TRUE(body.ReadToEnd());
  EXPECT_EQ(drops.Read().status, 408);
}

TEST_F(Serving, CancelsWhatAClientWasWaitingForWhenItLeaves) {
  const double before = Small().Metric("winnow_cancelled_total");
  {
    Client streaming = New();
    Client queued = New();
    Client whole = New();
    streaming.SendPost(kText, Long(64));
    ASSERT_TRUE(streaming.ReadUntil("data: "));
    queued.SendPost(kText, kLong);
    whole.SendPost(kText, Body("\"max_tokens\":4000,\"temperature\":1"));
    ASSERT_TRUE(queued.ReadUntil("200 OK"));
    ASSERT_TRUE(
        Serve::Eventually([] { return Small().Metric("winnow_requests_waiting") >= 50.0; }));
  }
  EXPECT_TRUE(Serve::Eventually([&] {
    return Small().Metric("winnow_cancelled_total") >= before + 50.0;
  })) << Small().Metric("winnow_cancelled_total") - before;
  EXPECT_EQ(Small().Metric("winnow_requests_waiting"), 0.0);
}

TEST_F(Serving, LeavesInEveryPhaseDoNoHarm) {
  const std::string request =
      "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: " +
      std::to_string(kLong.size()) + "\r\n\r\n" + kLong;
  for (size_t length = 0; length <= request.size(); length += 37) {
    New().Send(request.substr(0, length));
  }
  for (int time = 0; time < 5; ++time) {
    Client client = New();
    client.Send(request);
    client.ReadUntil("HTTP/1.1");
  }
}

TEST_F(Serving, TellsHowLongTheWaitIsWhileThereIsNothingElseToTell) {
  Client first = New();
  first.SendPost(kText, Long(64));
  ASSERT_TRUE(first.ReadUntil("data: "));
  Client second = New();
  second.SendPost(kText, kLong);
  EXPECT_TRUE(second.ReadUntil(": queued\n\n"));
}

TEST_F(Serving, ASlowReaderHoldsUpNobodyAndIsLetGo) {
  const double before = Small().Metric("winnow_cancelled_total");
  const int64_t memory = Small().Memory();
  Client slow(port(), 4096);
  slow.SendPost(kText, Long(128));
  const Reply other = New().Post(kText, Body("\"max_tokens\":8,\"temperature\":0"));
  EXPECT_EQ(other.status, 200);
  EXPECT_TRUE(
      Serve::Eventually([&] { return Small().Metric("winnow_cancelled_total") >= before + 64.0; }));
  EXPECT_LT(Small().Memory() - memory, kShadow * (32 << 20));
}

TEST_F(Serving, HundredsOfConnectionsAtATime) {
  std::vector<Client> clients;
  for (int index = 0; index < 300; ++index) {
    clients.push_back(New());
    ASSERT_TRUE(clients.back().connected());
  }
  for (Client& client : clients) {
    client.SendPost(kText, Body("\"max_tokens\":8,\"temperature\":0,\"stream\":true,"
                                "\"return_token_ids\":true"));
  }
  int complete = 0;
  for (Client& client : clients) complete += client.ReadUntil("data: [DONE]") ? 1 : 0;
  EXPECT_EQ(complete, 300);
}

}  // namespace
}  // namespace winnow
