// Fuzzing what turns the bodies of clients into requests: whatever the bytes, a request or an error
// with a field's name, and what was read can be written.
#include <string>

#include "base/check.h"
#include "server/anthropic.h"
#include "server/json_fields.h"
#include "server/json_text.h"
#include "server/openai_request.h"

namespace {

void Check(const std::optional<winnow::server::ApiError>& error,
           const winnow::server::Completion& completion) {
  if (error) {
    WINNOW_CHECK(error->status == 400 && !error->message.empty(), "an error that says nothing");
    return;
  }
  WINNOW_CHECK(!completion.requests.empty(), "a request without a prompt");
  WINNOW_CHECK(completion.n >= 1 && completion.n <= winnow::server::kMaxChoices, "n out of range");
  for (const winnow::Request& request : completion.requests) {
    WINNOW_CHECK(request.sampling.logit_bias.size() <= 1024, "too many biases");
    if (!request.tools.empty()) {
      WINNOW_CHECK(winnow::ParseJson(request.tools, "tools").ok(), "tools that are not JSON");
    }
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  const std::string valid = winnow::server::ValidUtf8(input);
  WINNOW_CHECK(winnow::server::IsUtf8(valid), "repaired text is not valid");
  const auto body = winnow::server::ParseBody(input);
  if (!body.ok()) return 0;
  const winnow::json::object& object = body->as_object();
  WINNOW_CHECK(winnow::ParseJson(winnow::server::JsonText(object), "fuzz").ok(),
               "what was written cannot be read");
  winnow::server::Completion chat, text, messages, count;
  Check(winnow::server::ParseChatCompletion(object, &chat), chat);
  Check(winnow::server::ParseTextCompletion(object, &text), text);
  Check(winnow::server::ParseAnthropicMessages(object, false, &messages), messages);
  Check(winnow::server::ParseAnthropicMessages(object, true, &count), count);
  return 0;
}
