// Answers taken apart. Expected pieces follow the descriptions of the formats.
#include "text/answer_parser.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

#include "base/json.h"

namespace winnow {
namespace {

struct Call {
  std::string name;
  std::string arguments;
  bool operator==(const Call&) const = default;
};
void PrintTo(const Call& call, std::ostream* out) { *out << call.name << call.arguments; }

struct Parsed {
  std::string reasoning;
  std::string text;
  std::vector<Call> calls;
  bool operator==(const Parsed&) const = default;
};
void PrintTo(const Parsed& parsed, std::ostream* out) {
  *out << "reasoning " << testing::PrintToString(parsed.reasoning) << " text "
       << testing::PrintToString(parsed.text) << " calls " << testing::PrintToString(parsed.calls);
}

void Add(const AnswerPiece& piece, Parsed& parsed) {
  parsed.reasoning += piece.reasoning;
  parsed.text += piece.text;
  for (const ToolCallPiece& call : piece.tool_calls) {
    if (call.index == std::ssize(parsed.calls)) {
      EXPECT_FALSE(call.name.empty());
      parsed.calls.push_back({call.name, ""});
    } else {
      EXPECT_EQ(call.name, "");
      ASSERT_EQ(call.index + 1, std::ssize(parsed.calls));
    }
    parsed.calls.back().arguments += call.arguments;
  }
}

// The answer at once; cut in all ways at random it must give the same.
Parsed ParseAnswer(const AnswerParserOptions& options, std::string_view answer) {
  Parsed whole;
  AnswerParser at_once(options);
  Add(at_once.Append(answer), whole);
  Add(at_once.Flush(), whole);
  EXPECT_EQ(at_once.num_calls(), std::ssize(whole.calls));
  std::mt19937 random(1);
  for (int round = 0; round < 50; ++round) {
    Parsed pieces;
    AnswerParser parser(options);
    for (size_t position = 0; position < answer.size();) {
      const size_t length = round == 0 ? 1 : 1 + random() % 9;
      Add(parser.Append(answer.substr(position, length)), pieces);
      position += length;
    }
    Add(parser.Flush(), pieces);
    EXPECT_EQ(pieces, whole);
  }
  return whole;
}

AnswerParserOptions Options(ChatFormat format, std::string_view tools = "") {
  return {.format = format, .tool_calls = true, .tools_json = tools};
}
Parsed ParseV31(std::string_view answer) {
  return ParseAnswer(Options(ChatFormat::kDeepSeekV31), answer);
}
Parsed ParseV32(std::string_view answer) {
  return ParseAnswer(Options(ChatFormat::kDeepSeekV32), answer);
}

constexpr std::string_view kGlmTools =
    R"([{"type":"function","function":{"name":"f","parameters":{"type":"object","properties":{
         "s":{"type":"string"},"n":{"type":"integer"},"o":{"$ref":"#/$defs/o"},
         "u":{"anyOf":[{"type":"string"},{"type":"null"}]},"any":{}},
         "$defs":{"o":{"type":"object"}}}}}])";
Parsed ParseGlm(std::string_view answer) {
  return ParseAnswer(Options(ChatFormat::kGlmWithEffort, kGlmTools), answer);
}

TEST(AnswerParser, TakesReasoningUpToItsEnd) {
  AnswerParserOptions options;
  options.in_reasoning = true;
  EXPECT_EQ(ParseAnswer(options, "so</thin</think>\nyes</think>"),
            (Parsed{"so</thin", "\nyes</think>", {}}));
  EXPECT_EQ(ParseAnswer(options, "no end</thi"), (Parsed{"no end</thi", "", {}}));
  options.in_reasoning = false;
  EXPECT_EQ(ParseAnswer(options, "so</think>yes"), (Parsed{"", "so</think>yes", {}}));
}

TEST(AnswerParser, SaysWhenReasoningIsOver) {
  AnswerParser parser({.in_reasoning = true});
  parser.Append("a");
  EXPECT_TRUE(parser.in_reasoning());
  EXPECT_EQ(parser.Append("</think>b").text, "b");
  EXPECT_FALSE(parser.in_reasoning());
}

TEST(AnswerParser, TellsTextAtOnceUnlessItMayBeATag) {
  AnswerParser parser(Options(ChatFormat::kDeepSeekV32));
  EXPECT_EQ(parser.Append("a\n\n\nb < c").text, "a\n\n\nb < c");
  EXPECT_EQ(parser.Append("d\n").text, "d");
  EXPECT_EQ(parser.Append("\n<").text, "");
  EXPECT_EQ(parser.Append("e").text, "\n\n<e");
}

TEST(AnswerParser, LeavesCallsInTheTextWhenNotAsked) {
  const AnswerParserOptions options = {.format = ChatFormat::kGlm};
  EXPECT_EQ(ParseAnswer(options, "<tool_call>f</tool_call>").text, "<tool_call>f</tool_call>");
}

TEST(DeepSeekV32Answers, BecomeCalls) {
  EXPECT_EQ(
      ParseV32(
          "Let me see.\n\n<｜DSML｜function_calls>\n"
          "<｜DSML｜invoke name=\"weather\">\n"
          "<｜DSML｜parameter name=\"city\" string=\"true\">\"Köln\"\n<a></｜DSML｜parameter>\n"
          "<｜DSML｜parameter name=\"days\" string=\"false\">[1, 2.0]</｜DSML｜parameter>\n"
          "</｜DSML｜invoke>\n"
          "<｜DSML｜invoke name=\"stop\">\n"
          "\n"
          "</｜DSML｜invoke>\n"
          "</｜DSML｜function_calls>"),
      (Parsed{"",
              "Let me see.",
              {{"weather", R"({"city": "\"Köln\"\n<a>", "days": [1, 2.0]})"}, {"stop", "{}"}}}));
}

TEST(DeepSeekV32Answers, KeepLineEndsThatAreNotTheCallsOwn) {
  EXPECT_EQ(ParseV32("a\n\n\n<｜DSML｜function_calls>\n<｜DSML｜invoke name=\"f\">\n\n"
                     "</｜DSML｜invoke>\n</｜DSML｜function_calls>\n"),
            (Parsed{"", "a\n\n", {{"f", "{}"}}}));
}

TEST(DeepSeekV32Answers, ThatBreakTheFormAreText) {
  for (std::string_view answer :
       {"a\n\n<｜DSML｜function_calls>\nf()\n</｜DSML｜function_calls>",
        "\n\n<｜DSML｜function_calls>\n<｜DSML｜invoke name=\"\">\n\n</｜DSML｜invoke>",
        "\n\n<｜DSML｜function_calls>\n<｜DSML｜invoke name=\"f\">\n{}\n</｜DSML｜invoke>",
        "\n\n<｜DSML｜function_calls>\n<｜DSML｜invoke name=\"f\">\n<｜DSML｜parameter name=\"a\">",
        "\n\n<｜DSML｜function_ca", "\n\n<｜DSML｜function_calls>\n<｜DSML｜invoke name=\"f"}) {
    EXPECT_EQ(ParseV32(answer), (Parsed{"", std::string(answer), {}}));
  }
}

TEST(DeepSeekV32Answers, CloseArgumentsWhereTheFormBreaksLater) {
  EXPECT_EQ(ParseV32("\n\n<｜DSML｜function_calls>\n<｜DSML｜invoke name=\"f\">\n"
                     "<｜DSML｜parameter name=\"a\" string=\"true\">x</｜DSML｜parameter>\noops"),
            (Parsed{"", "\noops", {{"f", R"({"a": "x"})"}}}));
  // The same argument twice.
  EXPECT_EQ(ParseV32("\n\n<｜DSML｜function_calls>\n<｜DSML｜invoke name=\"f\">\n"
                     "<｜DSML｜parameter name=\"a\" string=\"true\">x</｜DSML｜parameter>\n"
                     "<｜DSML｜parameter name=\"a\" string=\"true\">y</｜DSML｜parameter>"),
            (Parsed{"",
                    "\n<｜DSML｜parameter name=\"a\" string=\"true\">y</｜DSML｜parameter>",
                    {{"f", R"({"a": "x"})"}}}));
}

TEST(DeepSeekV32Answers, MakeStringsOfValuesThatAreNoJson) {
  EXPECT_EQ(ParseV32("\n\n<｜DSML｜function_calls>\n<｜DSML｜invoke name=\"f\">\n"
                     "<｜DSML｜parameter name=\"a\" string=\"false\">{x</｜DSML｜parameter>\n"
                     "</｜DSML｜invoke>\n</｜DSML｜function_calls>")
                .calls,
            (std::vector<Call>{{"f", R"({"a": "{x"})"}}));
}

TEST(DeepSeekV32Answers, LeaveArgumentsOpenWhenCutOff) {
  const std::string call =
      "\n\n<｜DSML｜function_calls>\n<｜DSML｜invoke name=\"f\">\n"
      "<｜DSML｜parameter name=\"a\" string=\"true\">x\ny";
  EXPECT_EQ(ParseV32(call), (Parsed{"", "", {{"f", R"({"a": "x\ny)"}}}));
  EXPECT_EQ(ParseV32(call + "</｜DSML"), (Parsed{"", "", {{"f", R"({"a": "x\ny</｜DSML)"}}}));
  EXPECT_EQ(ParseV32(call + "</｜DSML｜parameter>\n</"),
            (Parsed{"", "", {{"f", R"({"a": "x\ny")"}}}));
  EXPECT_EQ(ParseV32("\n\n<｜DSML｜function_calls>\n<｜DSML｜invoke name=\"f\">\n"
                     "<｜DSML｜parameter name=\"a\" string=\"false\">[1, "),
            (Parsed{"", "", {{"f", R"({"a": [1, )"}}}));
}

TEST(DeepSeekV32Answers, TellStringsAsTheyAreSpoken) {
  AnswerParser parser(Options(ChatFormat::kDeepSeekV32));
  parser.Append("\n\n<｜DSML｜function_calls>\n<｜DSML｜invoke name=\"f\">\n");
  AnswerPiece piece = parser.Append("<｜DSML｜parameter name=\"a\" string=\"true\">Winn");
  ASSERT_EQ(piece.tool_calls.size(), 1u);
  EXPECT_EQ(piece.tool_calls[0].name, "f");
  EXPECT_EQ(piece.tool_calls[0].arguments, R"({"a": "Winn)");
  piece = parser.Append("ow");
  ASSERT_EQ(piece.tool_calls.size(), 1u);
  EXPECT_EQ(piece.tool_calls[0].arguments, "ow");
}

TEST(GlmAnswers, BecomeCalls) {
  EXPECT_EQ(
      ParseGlm("I look.<tool_call>f<arg_key>s</arg_key><arg_value>12</arg_value>"
               "<arg_key>n</arg_key><arg_value>12</arg_value>"
               "<arg_key>o</arg_key><arg_value>{\"a\": null}</arg_value></tool_call>"
               "<tool_call>g</tool_call>"),
      (Parsed{"", "I look.", {{"f", R"({"s": "12", "n": 12, "o": {"a": null}})"}, {"g", "{}"}}}));
}

TEST(GlmAnswers, ReadArgumentsByTheirSchema) {
  const auto argument = [](std::string key, std::string value) {
    const Parsed parsed = ParseGlm("<tool_call>f<arg_key>" + key + "</arg_key><arg_value>" + value +
                                   "</arg_value></tool_call>");
    EXPECT_EQ(parsed.calls.size(), 1u);
    return parsed.calls.at(0).arguments;
  };
  EXPECT_EQ(argument("s", "null"), R"({"s": "null"})");
  EXPECT_EQ(argument("u", "null"), R"({"u": null})");
  EXPECT_EQ(argument("u", "12"), R"({"u": "12"})");
  EXPECT_EQ(argument("n", "twelve"), R"({"n": "twelve"})");
  EXPECT_EQ(argument("any", "[1]"), R"({"any": [1]})");
  EXPECT_EQ(argument("any", "a \"b\""), R"({"any": "a \"b\""})");
  EXPECT_EQ(argument("unknown", "1"), R"({"unknown": "1"})");
}

TEST(GlmAnswers, MayHaveSpaceBetweenTags) {
  EXPECT_EQ(ParseGlm("<tool_call>f\n<arg_key>n</arg_key>\n<arg_value>1</arg_value>\n</tool_call>"),
            (Parsed{"", "", {{"f", R"({"n": 1})"}}}));
}

TEST(GlmAnswers, ThatBreakTheFormAreText) {
  for (std::string_view answer :
       {"<tool_call>", "<tool_call></tool_call>", "<tool_call>f</arg_key>",
        "<tool_call>f<arg_key>n", "a <tool_c", "<tool_call>a\nb</tool_call>"}) {
    EXPECT_EQ(ParseGlm(answer), (Parsed{"", std::string(answer), {}}));
  }
  EXPECT_EQ(ParseGlm("<tool_call><tool_call>f</tool_call>"),
            (Parsed{"", "<tool_call>", {{"f", "{}"}}}));
}

TEST(DeepSeekV31Answers, BecomeCalls) {
  EXPECT_EQ(ParseV31("Well.<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>f<｜tool▁sep｜>{\"x\":1}"
                     "<｜tool▁call▁end｜><｜tool▁call▁begin｜>g<｜tool▁sep｜>{}<｜tool▁call▁end｜>"
                     "<｜tool▁calls▁end｜>"),
            (Parsed{"", "Well.", {{"f", R"({"x":1})"}, {"g", "{}"}}}));
}

TEST(DeepSeekV31Answers, ThatBreakTheFormAreText) {
  const std::string call =
      "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>f<｜tool▁sep｜>[1]<｜tool▁call▁end｜>";
  EXPECT_EQ(ParseV31(call + "<｜tool▁calls▁end｜>"),
            (Parsed{"", call + "<｜tool▁calls▁end｜>", {}}));
  EXPECT_EQ(
      ParseV31(call +
               "<｜tool▁call▁begin｜>g<｜tool▁sep｜>{}<｜tool▁call▁end｜><｜tool▁calls▁end｜>"),
      (Parsed{"", call, {{"g", "{}"}}}));
  const std::string other = "<｜tool▁calls▁begin｜>f<｜tool▁calls▁end｜>";
  EXPECT_EQ(ParseV31(other), (Parsed{"", other, {}}));
}

TEST(DeepSeekV31Answers, TellWhatThereIsOfACallThatIsCutOff) {
  EXPECT_EQ(ParseV31("<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>f<｜tool▁sep｜>{\"x\":"),
            (Parsed{"", "", {{"f", "{\"x\":"}}}));
}

TEST(AnswerParser, KeepsNoMoreThanOneValue) {
  // An array too long to be kept becomes a string; a call too long to be kept is text.
  const std::string open =
      "\n\n<｜DSML｜function_calls>\n<｜DSML｜invoke name=\"f\">\n"
      "<｜DSML｜parameter name=\"a\" string=\"false\">[";
  const std::string close = "]</｜DSML｜parameter>\n</｜DSML｜invoke>";
  for (const auto& [length, quote] : {std::pair(1 << 19, ""), std::pair(1 << 20, "\"")}) {
    const std::string spaces(length, ' ');
    AnswerParser parser(Options(ChatFormat::kDeepSeekV32));
    Parsed parsed;
    Add(parser.Append(open), parsed);
    for (int part = 0; part < length; part += 1 << 12) {
      Add(parser.Append(spaces.substr(part, 1 << 12)), parsed);
    }
    Add(parser.Append(close), parsed);
    EXPECT_EQ(parsed.text, "");
    ASSERT_EQ(parsed.calls.size(), 1u);
    EXPECT_TRUE(parsed.calls[0].arguments ==
                std::string("{\"a\": ") + quote + "[" + spaces + "]" + quote + "}");
  }
}

// Random sequences of fragments: however they are cut, the outcome is one, calls that are not cut
// off have JSON objects for arguments, and without tags nothing is lost.
TEST(AnswerParser, MakesSenseOfAnything) {
  const std::vector<std::string> fragments = {"a",
                                              "\n",
                                              "\n\n",
                                              "<",
                                              "\"",
                                              "x y",
                                              "ü",
                                              "{\"k\":[1]}",
                                              "12",
                                              "</think>",
                                              "<｜DSML｜function_calls>",
                                              "</｜DSML｜function_calls>",
                                              "<｜DSML｜invoke name=\"f\">",
                                              "</｜DSML｜invoke>",
                                              "<｜DSML｜parameter name=\"s\" string=\"true\">",
                                              "<｜DSML｜parameter name=\"n\" string=\"false\">",
                                              "</｜DSML｜parameter>",
                                              "<tool_call>f",
                                              "</tool_call>",
                                              "<arg_key>n</arg_key>",
                                              "<arg_key>s</arg_key>",
                                              "<arg_value>",
                                              "</arg_value>",
                                              "<｜tool▁calls▁begin｜>",
                                              "<｜tool▁calls▁end｜>",
                                              "<｜tool▁call▁begin｜>f",
                                              "<｜tool▁sep｜>",
                                              "<｜tool▁call▁end｜>"};
  std::mt19937 random(7);
  for (int round = 0; round < 500; ++round) {
    std::string answer;
    for (int count = 1 + random() % 14; count > 0; --count) {
      answer += fragments[random() % fragments.size()];
    }
    for (ChatFormat format :
         {ChatFormat::kDeepSeekV31, ChatFormat::kDeepSeekV32, ChatFormat::kGlm}) {
      AnswerParserOptions options = Options(format, kGlmTools);
      options.in_reasoning = random() % 4 == 0;
      const Parsed parsed = ParseAnswer(options, answer);
      if (parsed.calls.empty() && !options.in_reasoning) {
        EXPECT_EQ(parsed.text, answer);
      }
      for (size_t call = 0; call + 1 < parsed.calls.size(); ++call) {
        const Result<json::value> arguments = ParseJson(parsed.calls[call].arguments, answer);
        EXPECT_TRUE(arguments.ok() && arguments->is_object()) << parsed.calls[call].arguments;
      }
    }
  }
}

TEST(RendersTools, IsFalseForV31Only) {
  EXPECT_FALSE(RendersTools(ChatFormat::kDeepSeekV31));
  EXPECT_TRUE(RendersTools(ChatFormat::kDeepSeekV32));
  EXPECT_TRUE(RendersTools(ChatFormat::kGlm));
  EXPECT_TRUE(RendersTools(ChatFormat::kGlmWithEffort));
}

TEST(BeginsInReasoning, LooksAtWhatThePromptEndsWith) {
  const auto rendered = [](ChatFormat format, bool thinking, std::string content) {
    ChatMessage message;
    message.role = "user";
    message.content = std::move(content);
    ChatOptions options;
    options.thinking = thinking;
    return ChatTemplate(format, ChatProse()).Render(std::span(&message, 1), options).value();
  };
  for (ChatFormat format : {ChatFormat::kDeepSeekV31, ChatFormat::kDeepSeekV32, ChatFormat::kGlm,
                            ChatFormat::kGlmWithEffort}) {
    EXPECT_TRUE(BeginsInReasoning(rendered(format, true, "x")));
    EXPECT_FALSE(BeginsInReasoning(rendered(format, false, "x")));
  }
  // Words of a user are no tag.
  const PromptSegment words = {"<think>", SpecialTokens::kAsText};
  EXPECT_FALSE(BeginsInReasoning(std::span(&words, 1)));
}

}  // namespace
}  // namespace winnow
