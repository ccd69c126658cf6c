// Fuzzing what clients upload: forms, and the lines of batches in them.
#include <string>

#include "base/check.h"
#include "server/batch_line.h"
#include "server/multipart.h"

namespace {

// Parts lie one after another inside the body.
void CheckParts(std::string_view body, const std::vector<winnow::server::FormPart>& parts) {
  const char* place = body.data();
  for (const winnow::server::FormPart& part : parts) {
    const char* end = part.data.data() + part.data.size();
    WINNOW_CHECK(part.data.data() > place && end < body.data() + body.size(),
                 "a part lies outside the form");
    WINNOW_CHECK(!part.name.empty(), "a part has no name");
    place = end;
  }
}

void ReadLine(std::string_view text) {
  const winnow::server::BatchRules rules{.model_names = {"m"}};
  winnow::server::BatchLine line;
  if (winnow::server::ParseBatchLine(text, rules, &line)) return;
  const std::string result = winnow::server::ResultLine(line.custom_id, 200, "req_1", "{}");
  const auto again = winnow::server::ReadResultLine(result.substr(0, result.size() - 1));
  WINNOW_CHECK(again && again->custom_id == line.custom_id, "a result loses its request");
  WINNOW_CHECK(winnow::server::BeginsResultLine(result), "a result begins like none");
}

}  // namespace

// The first line is a Content-Type, what follows is a body of it; each line may be one of a batch.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  const size_t end = input.find('\n');
  if (end != std::string_view::npos) {
    const std::string_view body = input.substr(end + 1);
    const auto parts = winnow::server::ParseForm(input.substr(0, end), body);
    if (parts.ok()) CheckParts(body, *parts);
  }
  for (size_t at = 0; at < size;) {
    const size_t length = std::min(input.find('\n', at), size) - at;
    ReadLine(input.substr(at, length));
    (void)winnow::server::ReadResultLine(input.substr(at, length));
    at += length + 1;
  }
  return 0;
}
