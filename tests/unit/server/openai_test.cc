// Requests read from OpenAI's JSON, and answers written in it, without a server or an engine.
#include <gtest/gtest.h>

#include "server/json_fields.h"
#include "server/json_text.h"
#include "server/openai_answer.h"
#include "server/openai_request.h"
#include "unit/server/parse_object.h"

namespace winnow::server {
namespace {

// The request that a chat's body becomes; it must be good.
Completion Chat(const std::string& fields) {
  Completion completion;
  const auto error = ParseChatCompletion(
      Object("{\"messages\":[{\"role\":\"user\",\"content\":\"Hi\"}]" + fields + "}"), &completion);
  EXPECT_FALSE(error) << error->message;
  return completion;
}

std::vector<std::string> Events(const std::string& text) {
  std::vector<std::string> events;
  for (size_t at = 0, end; (end = text.find("\n\n", at)) != std::string::npos; at = end + 2) {
    EXPECT_EQ(text.substr(at, 6), "data: ");
    events.push_back(text.substr(at + 6, end - at - 6));
  }
  return events;
}

TEST(ChatCompletions, ReadsEveryFieldOfSampling) {
  const Completion completion = Chat(
      ",\"model\":\"m\",\"temperature\":0.5,\"top_p\":0.9,\"top_k\":40,\"min_p\":0.05,"
      "\"repetition_penalty\":1.1,\"presence_penalty\":-1,\"frequency_penalty\":2,\"seed\":12,"
      "\"stop\":[\"a\",\"b\"],\"max_tokens\":7,\"n\":3,\"logprobs\":true,\"top_logprobs\":4,"
      "\"logit_bias\":{\"5\":-100,\"6\":2.5},\"ignore_eos\":true,\"stop_token_ids\":[9],"
      "\"cache_salt\":\"s\",\"stream\":true,\"stream_options\":{\"include_usage\":true},"
      "\"unknown\":{\"of\":\"tomorrow\"}");
  const Request& request = completion.requests.at(0);
  EXPECT_EQ(completion.model, "m");
  EXPECT_EQ(completion.n, 3);
  EXPECT_TRUE(completion.stream && completion.include_usage && completion.logprobs);
  EXPECT_EQ(request.sampling.temperature, 0.5);
  EXPECT_EQ(request.sampling.top_p, 0.9);
  EXPECT_EQ(request.sampling.top_k, 40);
  EXPECT_EQ(request.sampling.min_p, 0.05);
  EXPECT_EQ(request.sampling.repetition_penalty, 1.1);
  EXPECT_EQ(request.sampling.presence_penalty, -1.0);
  EXPECT_EQ(request.sampling.frequency_penalty, 2.0);
  EXPECT_EQ(request.sampling.seed, 12u);
  EXPECT_EQ(request.stop, (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(request.stop_token_ids, std::vector<int32_t>{9});
  EXPECT_EQ(request.max_tokens, 7);
  EXPECT_EQ(request.logprobs, 4);
  EXPECT_TRUE(request.ignore_eos && request.parse_answer);
  EXPECT_EQ(request.cache_salt, "s");
  const std::vector<std::pair<int32_t, double>> biases = {{5, -100.0}, {6, 2.5}};
  EXPECT_EQ(request.sampling.logit_bias, biases);
}

TEST(ChatCompletions, TakesNullForAbsent) {
  const Completion completion =
      Chat(",\"temperature\":null,\"max_tokens\":null,\"stop\":null,\"tools\":null,\"n\":null");
  EXPECT_FALSE(completion.max_tokens_given);
  EXPECT_FALSE(completion.requests[0].sampling.temperature);
  EXPECT_EQ(completion.n, 1);
}

TEST(ChatCompletions, JoinsPartsOfTextAndKeepsReasoningAndCalls) {
  Completion completion;
  const auto error = ParseChatCompletion(
      Object(
          "{\"messages\":["
          "{\"role\":\"developer\",\"content\":\"S\"},"
          "{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"a\"},"
          "{\"type\":\"text\",\"text\":\"b\"}]},"
          "{\"role\":\"assistant\",\"content\":null,\"reasoning_content\":\"R\",\"tool_calls\":["
          "{\"id\":\"1\",\"type\":\"function\",\"function\":{\"name\":\"f\",\"arguments\":\"{}\"}},"
          "{\"id\":\"2\",\"type\":\"function\",\"function\":{\"name\":\"g\",\"arguments\":\"{}\"}}]"
          "},"
          "{\"role\":\"tool\",\"tool_call_id\":\"2\",\"content\":\"of g\"},"
          "{\"role\":\"tool\",\"tool_call_id\":\"1\",\"content\":\"of f\"}]}"),
      &completion);
  ASSERT_FALSE(error) << error->message;
  const std::vector<Message>& messages = completion.requests[0].messages;
  ASSERT_EQ(messages.size(), 5u);
  EXPECT_EQ(messages[0].role, "system");
  EXPECT_EQ(messages[1].content, "ab");
  EXPECT_EQ(messages[2].reasoning_content, "R");
  EXPECT_EQ(messages[2].tool_calls.at(1).name, "g");
  // Results stand in the order of the calls, which is how chat formats match them.
  EXPECT_EQ(messages[3].content, "of f");
  EXPECT_EQ(messages[4].content, "of g");
}

TEST(ChatCompletions, ReadsToolsChoicesFormatsAndThinking) {
  const std::string tools =
      ",\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\",\"parameters\":{\"type\":"
      "\"object\",\"minimum\":0.5}}}]";
  EXPECT_EQ(Chat(tools).requests[0].tools,
            "[{\"type\":\"function\",\"function\":{\"name\":\"f\",\"parameters\":{\"type\":"
            "\"object\",\"minimum\":0.5}}}]");
  EXPECT_EQ(Chat(tools + ",\"tool_choice\":\"required\"").requests[0].tool_choice, "required");
  EXPECT_EQ(Chat(tools + ",\"tool_choice\":{\"type\":\"function\",\"function\":{\"name\":\"f\"}}")
                .requests[0]
                .tool_choice,
            "function:f");
  EXPECT_EQ(Chat(",\"response_format\":{\"type\":\"json_object\"}").requests[0].answer_format,
            AnswerFormat::kJsonObject);
  const Completion schema = Chat(
      ",\"response_format\":{\"type\":\"json_schema\",\"json_schema\":{\"name\":\"n\",\"schema\":"
      "{\"type\":\"object\"}}}");
  EXPECT_EQ(schema.requests[0].json_schema, "{\"type\":\"object\"}");
  EXPECT_TRUE(Chat(",\"thinking\":{\"type\":\"enabled\"}").requests[0].thinking);
  EXPECT_TRUE(Chat(",\"chat_template_kwargs\":{\"thinking\":true}").requests[0].thinking);
  EXPECT_TRUE(Chat(",\"chat_template_kwargs\":{\"enable_thinking\":true}").requests[0].thinking);
  EXPECT_FALSE(Chat(",\"reasoning_effort\":\"high\"").requests[0].thinking);
}

TEST(TextCompletions, TakesTextAndTokensOneOrSeveral) {
  const auto prompts = [](const std::string& prompt) {
    Completion completion;
    const auto error = ParseTextCompletion(Object("{\"prompt\":" + prompt + "}"), &completion);
    EXPECT_FALSE(error) << error->message;
    return completion.requests;
  };
  EXPECT_EQ(prompts("\"a\"").at(0).prompt, "a");
  EXPECT_EQ(prompts("[\"a\",\"b\"]").at(1).prompt, "b");
  EXPECT_EQ(prompts("[1,2]").at(0).token_ids, (std::vector<int32_t>{1, 2}));
  EXPECT_EQ(prompts("[[1],[2,3]]").at(1).token_ids, (std::vector<int32_t>{2, 3}));
  EXPECT_EQ(prompts("\"a\"").at(0).max_tokens, 16);  // as OpenAI documents
}

TEST(Fields, CountsValuesBeforeItMakesThem) {
  EXPECT_TRUE(ParseBody("{\"a\":\"" + std::string(1 << 20, ',') + "\"}").ok());
  std::string many = "{\"a\":[0";
  for (int value = 0; value < 500'000; ++value) many += ",0";
  EXPECT_FALSE(ParseBody(many + "]}").ok());
}

TEST(JsonText, WritesNumbersAsPythonDoesAndValidText) {
  json::array numbers = {0.5, 1.0, 1e22, -0.0, 1e-7, 3, true, nullptr};
  EXPECT_EQ(JsonText(numbers), "[0.5,1.0,1e+22,-0.0,1e-07,3,true,null]");
  EXPECT_EQ(JsonText(json::value("a\xffz\"\n\x01")), "\"a\xEF\xBF\xBDz\\\"\\n\\u0001\"");
  EXPECT_EQ(ValidUtf8("\xE2\x82"), "\xEF\xBF\xBD\xEF\xBF\xBD");
  EXPECT_FALSE(IsUtf8("\xED\xA0\x80"));  // a surrogate
  EXPECT_FALSE(IsUtf8("\xC0\xAF"));      // '/' in two bytes
}

TEST(ChatAnswers, StreamARoleThenPiecesThenTheEnd) {
  auto writer = MakeChatWriter(
      {.id = "chatcmpl-1", .model = "m", .created = 5, .stream = true, .include_usage = true});
  std::string text;
  writer->Add(0, {.prefilled = 3, .prompt_tokens = 9}, &text);
  EXPECT_EQ(text, "");  // how far the prompt is is said in comments
  writer->Add(0, {.reasoning = "hm", .token_ids = {1}}, &text);
  writer->Add(0, {.text = "Hel", .token_ids = {2}}, &text);
  writer->Add(0,
              {.text = "lo",
               .tool_calls = {{0, "f", "{\"a\""}, {0, "", ":1}"}, {1, "g", "{}"}},
               .token_ids = {3},
               .finish = FinishReason::kToolCalls},
              &text);
  writer->End({.prompt_tokens = 9, .cached_tokens = 4, .completion_tokens = 3}, &text);
  const auto events = Events(text);
  ASSERT_EQ(events.size(), 7u) << text;
  const auto delta = [&](size_t index) {
    return Object(events[index]).at("choices").at(0).at("delta").as_object();
  };
  EXPECT_EQ(delta(0).at("role").as_string(), "assistant");
  EXPECT_EQ(delta(1).at("reasoning_content").as_string(), "hm");
  EXPECT_EQ(delta(2).at("content").as_string(), "Hel");
  const json::object calls = delta(3);
  const json::array& pieces = calls.at("tool_calls").as_array();
  EXPECT_EQ(pieces[0].at("function").at("name").as_string(), "f");
  EXPECT_TRUE(pieces[0].at("id").as_string().starts_with("call_"));
  EXPECT_EQ(pieces[1].as_object().if_contains("id"), nullptr);
  EXPECT_EQ(pieces[1].at("function").at("arguments").as_string(), ":1}");
  EXPECT_EQ(pieces[2].at("index").as_int64(), 1);
  EXPECT_EQ(Object(events[4]).at("choices").at(0).at("finish_reason").as_string(), "tool_calls");
  const json::object usage = Object(events[5]).at("usage").as_object();
  EXPECT_EQ(usage.at("total_tokens").as_int64(), 12);
  EXPECT_EQ(usage.at("prompt_cache_hit_tokens").as_int64(), 4);
  EXPECT_EQ(usage.at("prompt_cache_miss_tokens").as_int64(), 5);
  EXPECT_EQ(usage.at("prompt_tokens_details").at("cached_tokens").as_int64(), 4);
  EXPECT_EQ(events[6], "[DONE]");
}

TEST(ChatAnswers, SayTheSameAsAWhole) {
  auto writer = MakeChatWriter({.id = "chatcmpl-1", .model = "m", .logprobs = true});
  std::string nothing;
  writer->Add(0, {.reasoning = "hm"}, &nothing);
  writer->Add(0,
              {.tool_calls = {{0, "f", "{\"a\""}},
               .token_ids = {3},
               .details = {{{3, "\xE2\x82", -0.5}, {{4, "x", -1e300}}}}},
              &nothing);
  writer->Add(0, {.tool_calls = {{0, "", ":1}"}}, .finish = FinishReason::kToolCalls}, &nothing);
  EXPECT_EQ(nothing, "");
  const json::object whole = Object(writer->Whole({}));
  const json::object& choice = whole.at("choices").at(0).as_object();
  EXPECT_TRUE(choice.at("message").at("content").is_null());
  EXPECT_EQ(choice.at("message").at("reasoning_content").as_string(), "hm");
  const json::value& function = choice.at("message").at("tool_calls").at(0).at("function");
  EXPECT_EQ(function.at("arguments").as_string(), "{\"a\":1}");
  const json::value& token = choice.at("logprobs").at("content").at(0);
  EXPECT_EQ(token.at("token").as_string(), "bytes:\\xe2\\x82");
  EXPECT_EQ(token.at("bytes").at(1).as_int64(), 0x82);
  EXPECT_EQ(token.at("top_logprobs").at(0).at("logprob").as_double(), -9999.0);
}

TEST(Answers, NameTheStopThatEndedThem) {
  for (const bool chat : {false, true}) {
    const AnswerShape shape{.id = "1", .model = "m"};
    auto writer = chat ? MakeChatWriter(shape) : MakeTextWriter(shape, {});
    std::string nothing;
    writer->Add(0, {.text = "a", .finish = FinishReason::kStop, .stop = "END"}, &nothing);
    const json::object choice = Object(writer->Whole({})).at("choices").at(0).as_object();
    EXPECT_EQ(choice.at("finish_reason").as_string(), "stop");
    EXPECT_EQ(choice.at("stop_reason").as_string(), "END");
  }
}

TEST(TextAnswers, RepeatThePromptWithItsLogprobs) {
  auto writer = MakeTextWriter({.id = "cmpl-1", .model = "m", .logprobs = true}, {"One two"});
  std::string nothing;
  writer->Add(0, {.prompt_details = {{{7, " two", -2.0}, {{7, " two", -2.0}}}}}, &nothing);
  writer->Add(0,
              {.text = " three",
               .token_ids = {8},
               .details = {{{8, " three", -1.0}, {}}},
               .finish = FinishReason::kLength},
              &nothing);
  const json::object choice = Object(writer->Whole({})).at("choices").at(0).as_object();
  EXPECT_EQ(choice.at("text").as_string(), "One two three");
  const json::object& logprobs = choice.at("logprobs").as_object();
  EXPECT_EQ(json::serialize(logprobs.at("tokens")), "[\"One\",\" two\",\" three\"]");
  EXPECT_EQ(json::serialize(logprobs.at("text_offset")), "[0,3,7]");
  EXPECT_TRUE(logprobs.at("token_logprobs").at(0).is_null());
  EXPECT_EQ(logprobs.at("token_logprobs").at(2).as_double(), -1.0);
}

}  // namespace
}  // namespace winnow::server
