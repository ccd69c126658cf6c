#include "server/batch_line.h"

#include <gtest/gtest.h>

namespace winnow::server {
namespace {

const BatchRules kRules{.model_names = {"nano", "winnow-nano"}};

std::optional<ApiError> ParseLine(const std::string& text, BatchLine* line = nullptr,
                                  const BatchRules& rules = kRules) {
  BatchLine ignored;
  return ParseBatchLine(text, rules, line != nullptr ? line : &ignored);
}

std::string Line(const std::string& fields, const std::string& body = "{\"prompt\":[1]}") {
  return "{\"method\":\"POST\",\"url\":\"/v1/completions\",\"body\":" + body + "," + fields + "}";
}

TEST(BatchLine, ReadsBothEndpoints) {
  BatchLine line;
  ASSERT_FALSE(ParseLine(R"({"custom_id":"a","method":"POST","url":"/v1/chat/completions","extra":1,
                        "body":{"model":"nano","messages":[{"role":"user","content":"hi"}]}})",
                         &line));
  EXPECT_EQ(line.custom_id, "a");
  EXPECT_EQ(line.endpoint, BatchEndpoint::kChatCompletions);
  ASSERT_EQ(line.completion.requests.size(), 1u);
  EXPECT_EQ(line.completion.requests[0].messages[0].content, "hi");
  ASSERT_FALSE(ParseLine(Line("\"custom_id\":\"b\"", "{\"prompt\":[[1,2],[3]],\"n\":2}"), &line));
  EXPECT_EQ(line.endpoint, BatchEndpoint::kCompletions);
  EXPECT_EQ(line.completion.requests.size(), 2u);
  EXPECT_EQ(line.completion.n, 2);
}

TEST(BatchLine, NamesTheFieldAndTheValueThatIsWrong) {
  const auto expect = [](const std::string& text, const std::string& param,
                         const std::string& part) {
    const auto error = ParseLine(text);
    ASSERT_TRUE(error) << text;
    EXPECT_EQ(error->param, param) << text;
    EXPECT_NE(error->message.find(part), std::string::npos) << error->message;
  };
  expect("{", "", "at byte 1");
  expect("[]", "", "an array");
  expect("{\"a\":1,\"a\":2}", "", "twice");
  expect(std::string(40, '[') + std::string(40, ']'), "", "too deep");
  expect(Line("\"x\":1"), "custom_id", "custom_id: it is missing");
  expect(Line("\"custom_id\":\"\""), "custom_id", "empty");
  expect(Line("\"custom_id\":7"), "custom_id", "a number");
  expect(Line("\"custom_id\":\"" + std::string(513, 'x') + "\""), "custom_id", "513 bytes");
  expect(R"({"custom_id":"a","method":"GET","url":"/v1/completions","body":{}})", "method",
         "method: \"GET\", expected \"POST\"");
  expect(R"({"custom_id":"a","method":"POST","url":"/v1/embeddings","body":{}})", "url",
         "\"/v1/embeddings\"");
  expect(R"({"custom_id":"a","method":"POST","url":"/v1/completions"})", "body", "missing");
  expect(Line("\"custom_id\":\"a\"", "[]"), "body", "an array");
  expect(Line("\"custom_id\":\"a\"", "{}"), "body.prompt", "body.prompt: it is missing");
  expect(Line("\"custom_id\":\"a\"", "{\"prompt\":[1],\"temperature\":9}"), "body.temperature",
         "body.temperature: 9, expected");
  expect(Line("\"custom_id\":\"a\"", "{\"prompt\":[1],\"stream\":true}"), "body.stream", "true");
  expect(Line("\"custom_id\":\"a\"", "{\"prompt\":[1],\"model\":\"gpt\"}"), "body.model",
         "body.model: \"gpt\", expected \"nano\"");
}

TEST(BatchLine, RefusesOtherEndpointsThanTheBatchs) {
  BatchRules rules = kRules;
  rules.endpoint = BatchEndpoint::kChatCompletions;
  const auto error = ParseLine(Line("\"custom_id\":\"a\""), nullptr, rules);
  ASSERT_TRUE(error);
  EXPECT_EQ(error->param, "url");
  EXPECT_EQ(error->code, "mismatched_url");
}

TEST(BatchLine, ReadsBackItsResults) {
  const std::string id = "a\"\\\n\xE2\x82\xAC";
  const std::string line = ResultLine(id, 200, "req_1", "{\"x\":\"\\n\"}");
  EXPECT_EQ(line.find('\n'), line.size() - 1);
  const auto result = ReadResultLine(line.substr(0, line.size() - 1));
  ASSERT_TRUE(result);
  EXPECT_EQ(result->custom_id, id);
  EXPECT_EQ(result->status, 200);
  const auto value = ParseJson(line, "line");
  ASSERT_TRUE(value.ok());
  EXPECT_EQ(value->at("response").at("body").at("x").as_string(), "\n");
  EXPECT_EQ(value->at("response").at("request_id").as_string(), "req_1");
  EXPECT_TRUE(value->at("error").is_null());
}

TEST(BatchLine, TakesNothingElseForAResult) {
  for (const char* text : {"", "{}", "{\"id\":\"batch_req_1\"}", "{\"custom_id\":\"a\"}",
                           "{\"id\":\"batch_req_1\",\"custom_id\":\"a\",\"response\":null}",
                           "{\"id\":\"batch_req_1\",\"custom_id\":1,\"response\":{\"status_code\":"
                           "200}}",
                           "{\"id\":\"batch_req_1\",\"custom_id\":\"a\",\"response\":{\"status_"
                           "code\":2}}",
                           "{\"id\":\"batch_req_1"}) {
    EXPECT_FALSE(ReadResultLine(text)) << text;
  }
}

}  // namespace
}  // namespace winnow::server
