// Fuzzing what chat formats read: JSON of tools and arguments, and the sources of checkpoints.
#include <string>

#include "base/check.h"
#include "text/chat_prose.h"
#include "text/python_json.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  const winnow::Result<winnow::PythonJson> value = winnow::ParsePythonJson(input, "fuzz");
  if (value.ok()) {
    const std::string printed = value->Print();
    const winnow::Result<winnow::PythonJson> again = winnow::ParsePythonJson(printed, "fuzz");
    WINNOW_CHECK(again.ok() && again->Print() == printed, "printed JSON reads differently");
  }
  winnow::ReadDeepSeekProse(input);
  winnow::ReadGlmProse(input);

  winnow::ToolCall call;
  call.name = "f";
  call.arguments = input;
  winnow::ChatMessage message;
  message.role = "assistant";
  message.content = input;
  message.tool_calls = {call};
  winnow::ChatOptions options;
  options.tools_json = input;
  for (winnow::ChatFormat format :
       {winnow::ChatFormat::kDeepSeekV31, winnow::ChatFormat::kDeepSeekV32,
        winnow::ChatFormat::kGlm, winnow::ChatFormat::kGlmWithEffort}) {
    winnow::ChatProse prose;
    prose.tools_before = std::string("before");
    prose.tools_after = std::string("after");
    const winnow::ChatTemplate chat_template(format, prose);
    (void)chat_template.Render(std::span(&message, 1), {}).ok();
    (void)chat_template.Render(std::span(&message, 1), options).ok();
  }
  return 0;
}
