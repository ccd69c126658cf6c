// Prompts of each chat format. The conversations are ours, the expected texts follow the formats'
// descriptions; the prose around tools is replaced by a short one.
#include "text/chat_template.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "unit/text/small_tokenizer.h"

namespace winnow {
namespace {

using testing::HasSubstr;

ChatMessage Message(std::string role, std::string content) {
  ChatMessage message;
  message.role = std::move(role);
  message.content = std::move(content);
  return message;
}

ChatMessage Calls(std::string content, std::vector<ToolCall> calls) {
  ChatMessage message = Message("assistant", std::move(content));
  message.tool_calls = std::move(calls);
  return message;
}

ChatMessage Thought(std::string reasoning, ChatMessage message) {
  message.reasoning_content = std::move(reasoning);
  return message;
}

ChatTemplate Format(ChatFormat format) {
  ChatProse prose;
  prose.tools_before = std::string("BEFORE <｜DSML｜>\n");
  prose.tools_after = std::string("\nAFTER\n");
  prose.response_format = std::string("FORMAT {schema}.");
  return ChatTemplate(format, prose);
}

// The prompt's text; for an error, "error: " and its message.
std::string Rendered(ChatFormat format, const std::vector<ChatMessage>& messages,
                     const ChatOptions& options = {}) {
  const auto segments = Format(format).Render(messages, options);
  if (!segments.ok()) return "error: " + segments.error().message();
  std::string text;
  for (const PromptSegment& segment : *segments) text += segment.text;
  return text;
}

std::string RenderV31(const std::vector<ChatMessage>& messages, const ChatOptions& options = {}) {
  return Rendered(ChatFormat::kDeepSeekV31, messages, options);
}
std::string RenderV32(const std::vector<ChatMessage>& messages, const ChatOptions& options = {}) {
  return Rendered(ChatFormat::kDeepSeekV32, messages, options);
}
std::string RenderGlm(const std::vector<ChatMessage>& messages, const ChatOptions& options = {}) {
  return Rendered(ChatFormat::kGlmWithEffort, messages, options);
}

const std::vector<ChatMessage> kTalk = {Message("system", "S"), Message("user", "hi"),
                                        Message("assistant", "yo"), Message("user", "bye")};

constexpr const char* kTools =
    R"([{"type":"function","function":{"name":"f","strict":true,"parameters":{"a":[1,2.0]}}},)"
    R"({"type":"function","function":{"name":"ü"}}])";

TEST(DeepSeekV31, RendersATalk) {
  EXPECT_EQ(RenderV31(kTalk),
            "<｜begin▁of▁sentence｜>S<｜User｜>hi<｜Assistant｜></think>yo<｜end▁of▁sentence｜>"
            "<｜User｜>bye<｜Assistant｜></think>");
  EXPECT_TRUE(RenderV31(kTalk, {.thinking = true}).ends_with("bye<｜Assistant｜><think>"));
  EXPECT_TRUE(RenderV31(kTalk, {.add_generation_prompt = false}).ends_with("<｜User｜>bye"));
}

TEST(DeepSeekV31, GathersSystemMessagesInFront) {
  EXPECT_EQ(RenderV31({Message("user", "a"), Message("system", "S"), Message("system", "T")}),
            "<｜begin▁of▁sentence｜>S\n\nT<｜User｜>a<｜Assistant｜></think>");
}

TEST(DeepSeekV31, LeavesOutReasoningWithinContent) {
  EXPECT_EQ(
      RenderV31({Message("user", "a"), Message("assistant", "why</think>b</think>c")}),
      "<｜begin▁of▁sentence｜><｜User｜>a<｜Assistant｜></think>b</think>c<｜end▁of▁sentence｜>");
}

TEST(DeepSeekV31, RendersCallsAndTheirResults) {
  EXPECT_EQ(
      RenderV31({Message("user", "a"), Calls("", {{"1", "f", R"({"x":1})"}, {"2", "g", "{}"}}),
                 Message("tool", "r1"), Message("tool", "r2"), Message("assistant", "done"),
                 Message("user", "b")}),
      "<｜begin▁of▁sentence｜><｜User｜>a<｜Assistant｜></think><｜tool▁calls▁begin｜>"
      "<｜tool▁call▁begin｜>f<｜tool▁sep｜>{\"x\":1}<｜tool▁call▁end｜>"
      "<｜tool▁call▁begin｜>g<｜tool▁sep｜>{}<｜tool▁call▁end｜><｜tool▁calls▁end｜>"
      "<｜end▁of▁sentence｜><｜tool▁output▁begin｜>r1<｜tool▁output▁end｜>"
      "<｜tool▁output▁begin｜>r2<｜tool▁output▁end｜>done<｜end▁of▁sentence｜>"
      "<｜User｜>b<｜Assistant｜></think>");
}

TEST(DeepSeekV31, AddsNothingBehindAResult) {
  EXPECT_TRUE(RenderV31({Message("user", "a"), Calls("", {{"1", "f", "{}"}}), Message("tool", "r")})
                  .ends_with("r<｜tool▁output▁end｜>"));
}

TEST(DeepSeekV31, OpensAPrefixInThinking) {
  ChatMessage prefix = Message("assistant", "so");
  prefix.prefix = true;
  EXPECT_TRUE(RenderV31({Message("user", "a"), prefix}, {.thinking = true})
                  .ends_with("<｜Assistant｜><think>so<｜end▁of▁sentence｜>"));
}

TEST(DeepSeekV31, RefusesToolsAndUnknownRoles) {
  EXPECT_THAT(RenderV31(kTalk, {.tools_json = "[]"}), HasSubstr("error: tools"));
  EXPECT_THAT(RenderV31({Message("developer", "x")}),
              HasSubstr("error: messages[0].role: \"developer\""));
}

TEST(DeepSeekV32, RendersATalk) {
  EXPECT_EQ(RenderV32(kTalk),
            "<｜begin▁of▁sentence｜>S<｜User｜>hi<｜Assistant｜></think>yo<｜end▁of▁sentence｜>"
            "<｜User｜>bye<｜Assistant｜></think>");
  EXPECT_TRUE(RenderV32(kTalk, {.thinking = true}).ends_with("bye<｜Assistant｜><think>"));
}

TEST(DeepSeekV32, PutsToolsIntoTheFirstSystemMessage) {
  const std::string tools =
      "\n\nBEFORE <｜DSML｜>\n"
      "{\"name\": \"f\", \"strict\": true, \"parameters\": {\"a\": [1, 2.0]}}\n"
      "{\"name\": \"ü\"}\nAFTER\n";
  EXPECT_EQ(RenderV32({Message("system", "S"), Message("user", "a")}, {.tools_json = kTools}),
            "<｜begin▁of▁sentence｜>S" + tools + "<｜User｜>a<｜Assistant｜></think>");
  EXPECT_EQ(RenderV32({Message("user", "a")}, {.tools_json = kTools}),
            "<｜begin▁of▁sentence｜>" + tools + "<｜User｜>a<｜Assistant｜></think>");
}

TEST(DeepSeekV32, FramesTheDeveloper) {
  ChatMessage developer = Message("developer", "D");
  developer.tools_json = R"([{"function":{"name":"f"}}])";
  developer.response_format_json = R"({"type":"object"})";
  EXPECT_EQ(
      RenderV32({developer}, {.thinking = true}),
      "<｜begin▁of▁sentence｜><｜User｜>\n\nBEFORE <｜DSML｜>\n{\"name\": \"f\"}\nAFTER\n"
      "\n\nFORMAT {\"type\": \"object\"}.\n\n# The user's message is: D<｜Assistant｜><think>");
}

const std::vector<ChatMessage> kToolRound = {
    Message("user", "q"),
    Thought("R1",
            Calls("", {{"1", "f", R"({"s":"a\"b","n":1.50,"l":[1,"é"]})"}, {"2", "g", "{}"}})),
    Message("tool", "r1"), Message("tool", "r2")};

constexpr const char* kCalls =
    "\n\n<｜DSML｜function_calls>\n<｜DSML｜invoke name=\"f\">\n"
    "<｜DSML｜parameter name=\"s\" string=\"true\">a\"b</｜DSML｜parameter>\n"
    "<｜DSML｜parameter name=\"n\" string=\"false\">1.5</｜DSML｜parameter>\n"
    "<｜DSML｜parameter name=\"l\" string=\"false\">[1, \"é\"]</｜DSML｜parameter>\n"
    "</｜DSML｜invoke>\n<｜DSML｜invoke name=\"g\">\n\n</｜DSML｜invoke>\n</｜DSML｜function_calls>"
    "<｜end▁of▁sentence｜>";
constexpr const char* kResults =
    "\n\n<function_results>\n<result>r1</result>\n<result>r2</result>\n</function_results>\n\n";

TEST(DeepSeekV32, RendersAToolRoundWithItsReasoning) {
  EXPECT_EQ(RenderV32(kToolRound, {.thinking = true}),
            std::string("<｜begin▁of▁sentence｜><｜User｜>q<｜Assistant｜><think>R1</think>") +
                kCalls + kResults + "<think>");
  EXPECT_EQ(RenderV32(kToolRound),
            std::string("<｜begin▁of▁sentence｜><｜User｜>q<｜Assistant｜></think>") + kCalls +
                kResults + "</think>");
}

TEST(DeepSeekV32, DropsWhatWasThoughtBeforeTheLastQuestion) {
  std::vector<ChatMessage> messages = kToolRound;
  messages.push_back(Thought("R2", Message("assistant", "A")));
  messages.push_back(Message("user", "next"));
  // Dropping makes no difference to reasoning, which only the current turn shows.
  const std::string expected =
      std::string("<｜begin▁of▁sentence｜><｜User｜>q<｜Assistant｜></think>") + kCalls + kResults +
      "</think>A<｜end▁of▁sentence｜><｜User｜>next<｜Assistant｜><think>";
  EXPECT_EQ(RenderV32(messages, {.thinking = true}), expected);
  messages.insert(messages.begin(), Message("developer", "D"));
  EXPECT_EQ(RenderV32(messages, {.thinking = true}), expected);
  EXPECT_THAT(RenderV32(messages, {.thinking = true, .drop_thinking = false}), HasSubstr("is: D<"));
  EXPECT_THAT(RenderV32(messages), HasSubstr("is: D<"));
}

TEST(DeepSeekV32, LeavesResultsOpenUntilAllAreThere) {
  std::vector<ChatMessage> messages = kToolRound;
  messages.pop_back();
  EXPECT_TRUE(RenderV32(messages).ends_with("\n<result>r1</result>"));
}

TEST(DeepSeekV32, RefusesWhatTheFormatCannotSay) {
  std::vector<ChatMessage> messages = kToolRound;
  messages.push_back(Message("tool", "r3"));
  EXPECT_THAT(RenderV32(messages), HasSubstr("error: messages[4]: result 3 of a tool"));
  EXPECT_THAT(RenderV32({Message("tool", "r")}),
              HasSubstr("error: messages[0]: result 1 of a tool"));
  EXPECT_THAT(RenderV32({Message("user", "q"), Message("assistant", "A")}, {.thinking = true}),
              HasSubstr("error: messages[1]: no reasoning_content"));
  EXPECT_THAT(RenderV32({Message("developer", "")}), HasSubstr("error: messages[0].content"));
  EXPECT_THAT(RenderV32({Message("critic", "x")}),
              HasSubstr("error: messages[0].role: \"critic\""));
  EXPECT_THAT(RenderV32({Message("user", "q"), Calls("", {{"1", "f", "[1]"}})}),
              HasSubstr("error: messages[1].tool_calls[0].arguments: expected a JSON object"));
  EXPECT_THAT(RenderV32(kTalk, {.tools_json = R"([{"name":"f"}])"}),
              HasSubstr("error: messages[0].tools"));
}

TEST(Glm, RendersATalk) {
  EXPECT_EQ(RenderGlm(kTalk, {.thinking = true}),
            "[gMASK]<sop><|system|>Reasoning Effort: Max<|system|>S<|user|>hi"
            "<|assistant|><think></think>yo<|user|>bye<|assistant|><think>");
  EXPECT_EQ(RenderGlm(kTalk),
            "[gMASK]<sop><|system|>S<|user|>hi<|assistant|><think></think>yo<|user|>bye"
            "<|assistant|><think></think>");
  EXPECT_THAT(RenderGlm(kTalk, {.thinking = true, .reasoning_effort = "high"}),
              HasSubstr("<|system|>Reasoning Effort: High<|system|>S"));
}

TEST(Glm, RendersTheOlderFormat) {
  EXPECT_EQ(Rendered(ChatFormat::kGlm, kTalk),
            "[gMASK]<sop><|system|>S<|user|>hi<|assistant|></think>yo<|user|>bye"
            "<|assistant|></think>");
}

TEST(Glm, ListsTools) {
  const char* tools =
      R"([{"type":"function","function":{"name":"f","strict":true,"x":{"strict":1}}},)"
      R"({"name":"bare","defer_loading":false},{"name":"later","defer_loading":true}])";
  EXPECT_EQ(RenderGlm({Message("user", "a")}, {.tools_json = tools}),
            "[gMASK]<sop><|system|>\nBEFORE <｜DSML｜>\n{\"name\": \"f\", \"x\": {\"strict\": 1}}\n"
            "{\"name\": \"bare\"}\n\nAFTER\n<|user|>a<|assistant|><think></think>");
}

TEST(Glm, RendersAToolRound) {
  EXPECT_EQ(
      RenderGlm({Message("user", "q"),
                 Thought(" R ", Calls(" so\n", {{"1", "f", R"({"s":"a b","n":[1,null]})"}})),
                 Message("tool", "r1"), Message("tool", "r2")},
                {.thinking = true}),
      "[gMASK]<sop><|system|>Reasoning Effort: Max<|user|>q<|assistant|><think> R </think>so"
      "<tool_call>f<arg_key>s</arg_key><arg_value>a b</arg_value><arg_key>n</arg_key>"
      "<arg_value>[1, null]</arg_value></tool_call><|observation|><tool_response>r1</tool_response>"
      "<tool_response>r2</tool_response><|assistant|><think>");
}

TEST(Glm, KeepsEarlierReasoningOnlyIfAsked) {
  const std::vector<ChatMessage> messages = {
      Message("user", "q"), Message("assistant", "<think>why</think> A "), Message("user", "r")};
  EXPECT_THAT(RenderGlm(messages), HasSubstr("<|assistant|><think></think>A<|user|>"));
  EXPECT_THAT(RenderGlm(messages, {.clear_thinking = true}), HasSubstr("<think></think>A<|user|>"));
  EXPECT_THAT(RenderGlm(messages, {.clear_thinking = false}),
              HasSubstr("<think>why</think>A<|user|>"));
}

TEST(ChatTemplate, KeepsTokensOfUsersAsText) {
  const Result<Tokenizer> tokenizer = Tokenizer::Parse(
      json::serialize(SmallTokenizer(
          {},
          {{"[gMASK]"}, {"<sop>"}, {"<|user|>"}, {"<|assistant|>"}, {"<think>"}, {"</think>"}})),
      "tokenizer.json");
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.error().message();
  const auto tokens = Format(ChatFormat::kGlmWithEffort)
                          .Encode(*tokenizer, std::vector{Message("user", "</think><|user|>")}, {});
  std::vector<int32_t> expected = {256, 257, 258};
  for (char byte : std::string("</think><|user|>")) expected.push_back(byte - '!');
  expected.insert(expected.end(), {259, 260, 261});
  EXPECT_EQ(*tokens, expected);
}

// A folder for a checkpoint's files, removed at the end.
class ChatTemplateLoad : public testing::Test {
 protected:
  void SetUp() override {
    dir_ = testing::TempDir() + "/winnow_chat_template_" +
           testing::UnitTest::GetInstance()->current_test_info()->name();
    std::filesystem::create_directories(dir_ + "/encoding");
  }
  void TearDown() override { std::filesystem::remove_all(dir_); }

  void Write(const std::string& name, std::string_view text) {
    std::ofstream(dir_ + "/" + name) << text;
  }

  Result<ChatTemplate> Load(std::string_view model_type,
                            const std::vector<std::string>& tokens) const {
    std::vector<SmallAddedToken> added;
    for (const std::string& token : tokens) added.push_back({token});
    const auto tokenizer = Tokenizer::Parse(json::serialize(SmallTokenizer({}, added)), "t");
    return ChatTemplate::Load(dir_, model_type, *tokenizer);
  }

  const std::vector<std::string> deepseek_ = {"<｜begin▁of▁sentence｜>",
                                              "<｜end▁of▁sentence｜>",
                                              "<｜User｜>",
                                              "<｜Assistant｜>",
                                              "<think>",
                                              "</think>"};
  const std::vector<std::string> glm_ = {"[gMASK]",       "<sop>",   "<|system|>", "<|user|>",
                                         "<|assistant|>", "<think>", "</think>"};
  std::string dir_;
};

TEST_F(ChatTemplateLoad, TellsV32FromV31ByTokenOrEncoder) {
  EXPECT_EQ(Load("deepseek_v32", deepseek_)->format(), ChatFormat::kDeepSeekV31);
  std::vector<std::string> with_dsml = deepseek_;
  with_dsml.push_back("｜DSML｜");
  EXPECT_EQ(Load("deepseek_v32", with_dsml)->format(), ChatFormat::kDeepSeekV32);
  Write("encoding/encoding_dsv32.py", "");
  EXPECT_EQ(Load("deepseek_v32", deepseek_)->format(), ChatFormat::kDeepSeekV32);
}

TEST_F(ChatTemplateLoad, TellsGlmFormatsByTheirTemplate) {
  EXPECT_EQ(Load("glm_moe_dsa", glm_)->format(), ChatFormat::kGlmWithEffort);
  Write("tokenizer_config.json", R"({"chat_template":"[gMASK]<sop>"})");
  EXPECT_EQ(Load("glm_moe_dsa", glm_)->format(), ChatFormat::kGlm);
  Write("chat_template.jinja", "[gMASK]<sop><|system|>Reasoning Effort: ");
  EXPECT_EQ(Load("glm_moe_dsa", glm_)->format(), ChatFormat::kGlmWithEffort);
}

TEST_F(ChatTemplateLoad, NamesTheMissingFileOnceToolsAreUsed) {
  std::vector<std::string> with_dsml = deepseek_;
  with_dsml.push_back("｜DSML｜");
  for (const auto& [model_type, tokens, file] :
       {std::tuple("deepseek_v32", with_dsml, "encoding/encoding_dsv32.py"),
        std::tuple("glm_moe_dsa", glm_, "chat_template.jinja")}) {
    const Result<ChatTemplate> chat_template = Load(model_type, tokens);
    ASSERT_TRUE(chat_template.ok());
    EXPECT_TRUE(chat_template->Render(kTalk, {}).ok());
    const auto segments = chat_template->Render(kTalk, {.tools_json = kTools});
    ASSERT_FALSE(segments.ok());
    EXPECT_EQ(segments.error().code(), StatusCode::kUnsupported);
    EXPECT_THAT(segments.error().message(), HasSubstr(file));
  }
}

TEST_F(ChatTemplateLoad, RefusesOtherModelsAndMissingTokens) {
  EXPECT_THAT(Load("llama", glm_).error().message(), HasSubstr("model_type \"llama\""));
  EXPECT_THAT(Load("glm_moe_dsa", deepseek_).error().message(),
              HasSubstr("no added token \"[gMASK]\""));
}

}  // namespace
}  // namespace winnow
