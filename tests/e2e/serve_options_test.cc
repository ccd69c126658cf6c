// Servers of their own: keys, limits, how they end, options, and the trained model in both APIs.
#include "serve.h"
#include "serve_bodies.h"

namespace winnow {
namespace {

TEST(ServeKeys, AsksForAKeyEverywhereButForHealth) {
  Serve serve({kSmall, "--api-key", "alice=secret-1", "--api-key", "secret-2", "--allowed-origin",
               "https://app.example", "--allowed-host", "winnow.example"});
  Client client(serve.port());
  const std::string body = Body("\"max_tokens\":1,\"temperature\":0");
  for (const char* path : {"/v1/models", "/metrics", "/version", "/nothing", "/v1/completions"}) {
    const Reply reply = client.Get(path);
    EXPECT_EQ(reply.status, 401) << path;
    EXPECT_EQ(reply.headers.at("www-authenticate"), "Bearer");
  }
  EXPECT_EQ(client.Post(kText, body, "Authorization: Bearer secret-3\r\n").status, 401);
  client = Client(serve.port());
  EXPECT_EQ(client.Post(kText, body, "Authorization: Bearer secret-1\r\n").status, 200);
  EXPECT_EQ(client.Post(kText, body, "X-Api-Key: secret-2\r\n").status, 200);
  EXPECT_EQ(client.Post("/v1/messages", "{}").Json().at("type").as_string(), "error");
  // A page of a site that may use the server asks first.
  client = Client(serve.port());
  client.Send(
      "OPTIONS /v1/completions HTTP/1.1\r\nHost: winnow.example\r\nOrigin: https://app.example\r\n"
      "Access-Control-Request-Method: POST\r\nAccess-Control-Request-Headers: "
      "authorization\r\n\r\n");
  const Reply preflight = client.Read();
  EXPECT_EQ(preflight.status, 204);
  EXPECT_EQ(preflight.headers.at("access-control-allow-origin"), "https://app.example");
  EXPECT_EQ(preflight.headers.at("access-control-allow-headers"), "authorization");
  EXPECT_NE(serve.errors().find("\"key\":\"alice\""), std::string::npos);
  EXPECT_EQ(serve.errors().find("secret"), std::string::npos);
}

TEST(ServeLimits, RefusesWhatDoesNotFitIntoTheQueue) {
  Serve serve({kNano, "--max-sequences", "1", "--max-queue", "1"});
  const std::string body =
      "{\"prompt\":[5,6,7],\"ignore_eos\":true,\"max_tokens\":60000,\"stream\":true}";
  Client running(serve.port());
  Client waiting(serve.port());
  running.SendPost(kText, body);
  ASSERT_TRUE(running.ReadUntil("data: "));
  waiting.SendPost(kText, body);
  ASSERT_TRUE(waiting.ReadUntil("200 OK"));
  const Reply refused = Client(serve.port()).Post(kText, body);
  EXPECT_EQ(refused.status, 429) << refused.body;
  EXPECT_NE(refused.headers.count("retry-after"), 0u);
  EXPECT_EQ(refused.ErrorField("type"), "rate_limit_error");
}

TEST(ServeLimits, BeyondItsConnectionsItOnlySaysHowItIs) {
  Serve serve({kSmall, "--max-connections", "4"});
  std::vector<Client> clients;
  for (int index = 0; index < 4; ++index) {
    clients.emplace_back(serve.port());
    EXPECT_EQ(clients.back().Get("/version").status, 200);
  }
  const Reply refused = Client(serve.port()).Get("/v1/models");
  EXPECT_EQ(refused.status, 503);
  EXPECT_NE(refused.headers.count("retry-after"), 0u);
  EXPECT_EQ(Client(serve.port()).Get("/health").status, 200);
  clients.pop_back();
  EXPECT_TRUE(
      Serve::Eventually([&] { return Client(serve.port()).Get("/v1/models").status == 200; }));
}

TEST(ServeLimits, LivesThroughALackOfFileDescriptors) {
  Serve serve({kSmall}, /*open_files=*/40);
  {
    std::vector<Client> clients;
    for (int index = 0; index < 60; ++index) clients.emplace_back(serve.port());
    EXPECT_EQ(clients[0].Get("/health").status, 200);
    std::this_thread::sleep_for(std::chrono::milliseconds(300));
    EXPECT_EQ(clients[1].Get("/health").status, 200);
  }
  EXPECT_TRUE(
      Serve::Eventually([&] { return Client(serve.port()).Get("/v1/models").status == 200; }));
}

TEST(ServeEnd, LetsRunningAnswersEndAndTakesNoMore) {
  Serve serve({kSmall, "--drain-seconds", "30"});
  Client idle(serve.port());
  EXPECT_EQ(idle.Get("/health").status, 200);
  Client running(serve.port());
  running.SendPost(kText, Long(8));
  ASSERT_TRUE(running.ReadUntil("data: "));
  serve.Signal(SIGTERM);
  EXPECT_TRUE(idle.ReadToEnd());
  const Reply health = Client(serve.port()).Get("/health");
  EXPECT_EQ(health.status, 503);
  EXPECT_NE(health.body.find("draining"), std::string::npos);
  const Reply late = Client(serve.port()).Post(kText, Body("\"max_tokens\":1"));
  EXPECT_EQ(late.status, 503);
  EXPECT_NE(late.headers.count("retry-after"), 0u);
  EXPECT_TRUE(running.ReadUntil("data: [DONE]"));
  EXPECT_NE(running.input().find("\"finish_reason\":\"length\""), std::string::npos);
  EXPECT_EQ(serve.Wait(), 0);
}

TEST(ServeEnd, CancelsWhatOutlastsTheDrain) {
  Serve serve({kSmall, "--drain-seconds", "0"});
  Client running(serve.port());
  running.SendPost(kText, Long(64));
  ASSERT_TRUE(running.ReadUntil("data: "));
  serve.Signal(SIGTERM);
  EXPECT_TRUE(running.ReadToEnd());
  EXPECT_NE(running.input().find("shutting down"), std::string::npos);
  EXPECT_EQ(serve.Wait(), 0);
}

TEST(ServeEnd, EndsAtOnceWhenAskedTwice) {
  Serve serve({kSmall, "--drain-seconds", "600"});
  Client running(serve.port());
  running.SendPost(kText, Long(64));
  ASSERT_TRUE(running.ReadUntil("data: "));
  serve.Signal(SIGTERM);
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  serve.Signal(SIGINT);
  EXPECT_EQ(serve.Wait(10.0), 130);
}

class ServeStart : public Cli {};

TEST_F(ServeStart, SaysWhatIsWrongWithItsOptions) {
  EXPECT_EQ(Winnow("serve " + kSmall + " --port 65536").code, 2);
  EXPECT_EQ(Winnow("serve " + kSmall + " --max-queue 0").code, 2);
  EXPECT_EQ(Winnow("serve " + kSmall + " --host no.such.host.invalid").code, 2);
  EXPECT_EQ(Winnow("serve " + kSmall + " --tls-cert x.pem").code, 2);
  EXPECT_EQ(Winnow("serve " + kSmall + " --api-key-file " + Path("none")).code, 2);
  EXPECT_EQ(Winnow("serve " + Path("none") + " --port 0").code, 2);
  EXPECT_EQ(Winnow("serve " + kSmall + " --limit nonsense").code, 2);
  const Ended unpriced = Winnow("serve " + kSmall + " --limit \"a=5 dollars/month\"");
  EXPECT_EQ(unpriced.code, 2);
  EXPECT_NE(unpriced.err.find("--price"), std::string::npos) << unpriced.err;
  const Ended nobody = Winnow("serve " + kSmall + " --api-key a=x --limit \"b=5 tokens/day\"");
  EXPECT_EQ(nobody.code, 2);
  EXPECT_NE(nobody.err.find("\"b\""), std::string::npos) << nobody.err;
  const Ended keys = Winnow("serve " + kSmall + " --api-key a=x --api-key b=x");
  EXPECT_EQ(keys.code, 2);
  EXPECT_NE(keys.err.find("--api-key"), std::string::npos) << keys.err;
}

// --- The trained model --------------------------------------------------------------------------

TEST(ServeChat, AnswersAsAChatInBothApis) {
  Serve serve({kNano, "--price", "2", "--served-model-name", "nano", "--context", "2048"});
  Client client(serve.port());
  const std::string question =
      "\"messages\":[{\"role\":\"user\",\"content\":\"The door code of the Dublin library is 70316."
      "\\n\\nWhat is the door code of the Dublin library?\"}],\"temperature\":0,\"model\":\"nano\"";
  const json::object chat = client.Post(kChat, "{" + question + "}").Json();
  EXPECT_EQ(chat.at("choices").at(0).at("message").at("content").as_string(), "70316");
  EXPECT_EQ(chat.at("choices").at(0).at("finish_reason").as_string(), "stop");
  EXPECT_GT(chat.at("usage").at("winnow").at("dollars").as_double(), 0.0);
  const json::object again = client.Post(kChat, "{" + question + "}").Json();
  EXPECT_GT(again.at("usage").at("prompt_cache_hit_tokens").as_int64(), 0);
  EXPECT_EQ(again.at("choices").at(0).at("message").at("content").as_string(), "70316");
  const json::object message =
      client.Post("/v1/messages", "{\"max_tokens\":20," + question + "}").Json();
  EXPECT_EQ(message.at("content").at(0).at("text").as_string(), "70316");
  EXPECT_EQ(message.at("stop_reason").as_string(), "end_turn");
  const json::object stopped =
      client
          .Post("/v1/messages", "{\"max_tokens\":20,\"stop_sequences\":[\"31\"]," + question + "}")
          .Json();
  EXPECT_EQ(stopped.at("content").at(0).at("text").as_string(), "70");
  EXPECT_EQ(stopped.at("stop_reason").as_string(), "stop_sequence");
  EXPECT_EQ(stopped.at("stop_sequence").as_string(), "31");
  const Reply stream =
      client.Post("/v1/messages", "{\"max_tokens\":20,\"stream\":true," + question + "}");
  size_t at = 0;
  for (const char* event : {"message_start", "content_block_start", "content_block_delta",
                            "content_block_stop", "message_delta", "message_stop"}) {
    at = stream.body.find(std::string("event: ") + event + "\n", at);
    EXPECT_NE(at, std::string::npos) << event;
  }
  const json::object count = client.Post("/v1/messages/count_tokens", "{" + question + "}").Json();
  EXPECT_EQ(count.at("input_tokens").as_int64(), chat.at("usage").at("prompt_tokens").as_int64());
  const json::object tokens = client.Post("/tokenize", "{\"prompt\":\"a <｜User｜> b\"}").Json();
  const json::object text =
      client.Post("/detokenize", "{\"tokens\":" + json::serialize(tokens.at("tokens")) + "}")
          .Json();
  EXPECT_EQ(text.at("prompt").as_string(), "a <｜User｜> b");
  // A marker of the chat format in a client's text is text: more than one token.
  const json::object marker = client.Post("/tokenize", "{\"prompt\":\"<｜User｜>\"}").Json();
  EXPECT_GT(marker.at("count").as_int64(), 1);
  EXPECT_EQ(serve.errors().find("Dublin"), std::string::npos);
}

}  // namespace
}  // namespace winnow
