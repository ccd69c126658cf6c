// Fuzzing the reading of answers. The input up to its first NUL is a list of tools, the rest is the
// answer; without a NUL all of it is both. However it is cut, the outcome is one.
#include <algorithm>
#include <string>
#include <vector>

#include "base/check.h"
#include "base/json.h"
#include "text/answer_parser.h"

namespace {

using namespace winnow;

struct Parsed {
  std::string text;
  std::string reasoning;
  std::vector<std::string> names;
  std::vector<std::string> arguments;
  bool operator==(const Parsed&) const = default;
};

void Add(const AnswerPiece& piece, Parsed& parsed) {
  parsed.text += piece.text;
  parsed.reasoning += piece.reasoning;
  for (const ToolCallPiece& call : piece.tool_calls) {
    if (!call.name.empty()) {
      WINNOW_CHECK(call.index == std::ssize(parsed.names), "calls count up");
      parsed.names.push_back(call.name);
      parsed.arguments.emplace_back();
    }
    WINNOW_CHECK(call.index + 1 == std::ssize(parsed.names), "pieces of the last call");
    parsed.arguments.back() += call.arguments;
  }
}

// `step` 0: at once; else in pieces of 1 to `step` bytes.
Parsed Parse(const AnswerParserOptions& options, std::string_view answer, size_t step) {
  Parsed parsed;
  AnswerParser parser(options);
  for (size_t position = 0; position < answer.size();) {
    const size_t length = step == 0 ? answer.size() : 1 + (position * 7 + answer.size()) % step;
    Add(parser.Append(answer.substr(position, length)), parsed);
    position += length;
  }
  Add(parser.Flush(), parsed);
  return parsed;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  const size_t end = input.find('\0');
  const std::string_view tools = input.substr(0, end);
  const std::string_view answer = end == std::string_view::npos ? input : input.substr(end + 1);
  for (ChatFormat format : {ChatFormat::kDeepSeekV31, ChatFormat::kDeepSeekV32, ChatFormat::kGlm}) {
    for (bool in_reasoning : {false, true}) {
      const AnswerParserOptions options = {
          .format = format, .in_reasoning = in_reasoning, .tool_calls = true, .tools_json = tools};
      const Parsed parsed = Parse(options, answer, 0);
      WINNOW_CHECK(Parse(options, answer, 1) == parsed, "pieces of a byte read differently");
      WINNOW_CHECK(Parse(options, answer, 13) == parsed, "pieces read differently");
      if (parsed.names.empty() && !in_reasoning) {
        WINNOW_CHECK(parsed.text == answer, "text is lost");
      }
      // Bytes that are no UTF-8 pass into strings; no decoder gives any.
      for (size_t call = 0; call + 1 < parsed.names.size(); ++call) {
        const Result<json::value> arguments = ParseJson(parsed.arguments[call], "arguments");
        const bool is_utf8 = ParseJson(json::serialize(json::string(answer)), "answer").ok();
        WINNOW_CHECK(!is_utf8 || (arguments.ok() && arguments->is_object()),
                     "arguments that are no object");
      }
    }
  }
  return 0;
}
