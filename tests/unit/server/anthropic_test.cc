// Anthropic's Messages API, read and written, without a server or an engine.
#include "server/anthropic.h"

#include <gtest/gtest.h>

#include "server/json_text.h"
#include "unit/server/parse_object.h"

namespace winnow::server {
namespace {

std::optional<ApiError> Parse(const std::string& body, Completion* completion) {
  return ParseAnthropicMessages(Object(body), false, completion);
}

TEST(AnthropicMessages, BecomeThoseOfAChat) {
  Completion completion;
  const auto error = Parse(
      "{\"model\":\"m\",\"max_tokens\":9,\"system\":[{\"type\":\"text\",\"text\":\"S\"}],"
      "\"stop_sequences\":[\"x\"],\"thinking\":{\"type\":\"enabled\",\"budget_tokens\":1024},"
      "\"tools\":[{\"name\":\"f\",\"description\":\"d\",\"input_schema\":{\"type\":\"object\"}}],"
      "\"tool_choice\":{\"type\":\"any\"},\"messages\":["
      "{\"role\":\"user\",\"content\":\"a\"},"
      "{\"role\":\"assistant\",\"content\":[{\"type\":\"thinking\",\"thinking\":\"R\","
      "\"signature\":\"\"},{\"type\":\"text\",\"text\":\"b\"},"
      "{\"type\":\"tool_use\",\"id\":\"1\",\"name\":\"f\",\"input\":{\"n\":1}}]},"
      "{\"role\":\"user\",\"content\":[{\"type\":\"tool_result\",\"tool_use_id\":\"1\","
      "\"content\":[{\"type\":\"text\",\"text\":\"c\"}]},{\"type\":\"text\",\"text\":\"d\"}]}]}",
      &completion);
  ASSERT_FALSE(error) << error->message;
  const Request& request = completion.requests.at(0);
  ASSERT_EQ(request.messages.size(), 5u);
  EXPECT_EQ(request.messages[0].role, "system");
  EXPECT_EQ(request.messages[0].content, "S");
  EXPECT_EQ(request.messages[2].reasoning_content, "R");
  EXPECT_EQ(request.messages[2].content, "b");
  EXPECT_EQ(request.messages[2].tool_calls.at(0).arguments, "{\"n\":1}");
  EXPECT_EQ(request.messages[3].role, "tool");
  EXPECT_EQ(request.messages[3].content, "c");
  EXPECT_EQ(request.messages[4].content, "d");
  EXPECT_EQ(request.tools,
            "[{\"type\":\"function\",\"function\":{\"name\":\"f\",\"description\":\"d\","
            "\"parameters\":{\"type\":\"object\"}}}]");
  EXPECT_EQ(request.tool_choice, "required");
  EXPECT_TRUE(request.thinking);
  EXPECT_EQ(request.max_tokens, 9);
  EXPECT_EQ(request.stop, std::vector<std::string>{"x"});
}

TEST(AnthropicMessages, NameTheFieldThatIsWrong) {
  const std::string user = "{\"role\":\"user\",\"content\":\"a\"}";
  const struct {
    std::string body;
    std::string param;
  } cases[] = {
      {"{\"messages\":[" + user + "]}", "max_tokens"},
      {"{\"max_tokens\":1}", "messages"},
      {"{\"max_tokens\":1,\"messages\":[{\"role\":\"system\",\"content\":\"a\"}]}",
       "messages[0].role"},
      {"{\"max_tokens\":1,\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"image\"}]}]}",
       "messages[0].content[0].type"},
      {"{\"max_tokens\":1,\"messages\":[" + user + "],\"tools\":[{\"name\":\"f\"}]}",
       "tools[0].input_schema"},
      {"{\"max_tokens\":1,\"messages\":[" + user + "],\"tool_choice\":{\"type\":\"any\"}}",
       "tool_choice"},
      {"{\"max_tokens\":1,\"messages\":[" + user + ",{\"role\":\"assistant\",\"content\":\"b\"}]}",
       "messages"},
  };
  for (const auto& one : cases) {
    Completion completion;
    const auto error = Parse(one.body, &completion);
    ASSERT_TRUE(error) << one.body;
    EXPECT_EQ(error->param, one.param) << one.body;
    EXPECT_EQ(error->status, 400);
  }
}

TEST(AnthropicAnswers, StreamBlocksOneAfterAnother) {
  auto writer = MakeMessagesWriter({.id = "msg_1", .model = "m", .stream = true});
  std::string text;
  writer->KeepAlive(0, 0, &text);
  EXPECT_EQ(text, ": queued\n\n");  // nothing but comments before message_start
  text.clear();
  writer->Add(0, {.prefilled = 2, .prompt_tokens = 9, .receipt = {.cached_tokens = 2}}, &text);
  writer->Add(0, {.reasoning = "hm", .prompt_tokens = 9}, &text);
  writer->Add(0, {.text = "a", .prompt_tokens = 9}, &text);
  writer->Add(0, {.tool_calls = {{0, "f", "{\"x\":1}"}}, .finish = FinishReason::kToolCalls},
              &text);
  writer->End({.prompt_tokens = 9, .cached_tokens = 2, .completion_tokens = 5}, &text);
  std::vector<std::string> names;
  std::vector<json::object> events;
  for (size_t at = 0, end; (end = text.find("\n\n", at)) != std::string::npos; at = end + 2) {
    const size_t line = text.find('\n', at);
    names.push_back(text.substr(at + 7, line - at - 7));
    events.push_back(Object(text.substr(line + 7, end - line - 7)));
    EXPECT_EQ(events.back().at("type").as_string(), names.back());
  }
  const std::vector<std::string> expected = {
      "message_start",       "content_block_start", "content_block_delta", "content_block_delta",
      "content_block_stop",  "content_block_start", "content_block_delta", "content_block_stop",
      "content_block_start", "content_block_delta", "content_block_stop",  "message_delta",
      "message_stop"};
  ASSERT_EQ(names, expected);
  EXPECT_EQ(events[0].at("message").at("usage").at("input_tokens").as_int64(), 7);
  EXPECT_EQ(events[0].at("message").at("usage").at("cache_read_input_tokens").as_int64(), 2);
  EXPECT_EQ(events[2].at("delta").at("thinking").as_string(), "hm");
  EXPECT_EQ(events[3].at("delta").at("type").as_string(), "signature_delta");
  EXPECT_EQ(events[6].at("delta").at("text").as_string(), "a");
  EXPECT_EQ(events[8].at("content_block").at("name").as_string(), "f");
  EXPECT_TRUE(events[8].at("content_block").at("input").as_object().empty());
  EXPECT_EQ(events[9].at("delta").at("partial_json").as_string(), "{\"x\":1}");
  EXPECT_EQ(events[9].at("index").as_int64(), 2);
  EXPECT_EQ(events[11].at("delta").at("stop_reason").as_string(), "tool_use");
  EXPECT_EQ(events[11].at("usage").at("output_tokens").as_int64(), 5);
}

TEST(AnthropicAnswers, SayTheSameAsAWhole) {
  auto writer = MakeMessagesWriter({.id = "msg_1", .model = "m"});
  std::string nothing;
  writer->Add(0, {.text = "a", .prompt_tokens = 9}, &nothing);
  writer->Add(0, {.text = "b", .tool_calls = {{0, "f", "{\"x\":"}}}, &nothing);
  writer->Add(0, {.tool_calls = {{0, "", "1}"}}, .finish = FinishReason::kLength}, &nothing);
  const json::object whole = Object(writer->Whole({.prompt_tokens = 9, .completion_tokens = 5}));
  EXPECT_EQ(nothing, "");
  EXPECT_EQ(whole.at("content").at(0).at("text").as_string(), "ab");
  EXPECT_EQ(whole.at("content").at(1).at("input").at("x").as_int64(), 1);
  EXPECT_EQ(whole.at("stop_reason").as_string(), "max_tokens");
  EXPECT_TRUE(whole.at("stop_sequence").is_null());
}

TEST(AnthropicAnswers, NameTheStopSequenceThatEndedThem) {
  auto writer = MakeMessagesWriter({.id = "msg_1", .model = "m"});
  std::string nothing;
  writer->Add(0, {.text = "a", .finish = FinishReason::kStop, .stop = "END"}, &nothing);
  const json::object whole = Object(writer->Whole({}));
  EXPECT_EQ(whole.at("stop_reason").as_string(), "stop_sequence");
  EXPECT_EQ(whole.at("stop_sequence").as_string(), "END");
  auto other = MakeMessagesWriter({.id = "msg_1", .model = "m"});
  other->Add(0, {.text = "a", .finish = FinishReason::kStop}, &nothing);
  EXPECT_EQ(Object(other->Whole({})).at("stop_reason").as_string(), "end_turn");
}

}  // namespace
}  // namespace winnow::server
