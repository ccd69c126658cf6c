#include "server/request_log.h"

#include <chrono>
#include <ctime>

#include "base/text.h"
#include "server/json_text.h"

namespace winnow::server {
namespace {

constexpr size_t kMaxPath = 200;
constexpr size_t kMaxPrompt = 64 << 10;

std::string TimeOfLine() {
  const auto now = std::chrono::system_clock::now();
  const std::time_t seconds = std::chrono::system_clock::to_time_t(now);
  const auto milliseconds =
      std::chrono::duration_cast<std::chrono::milliseconds>(now.time_since_epoch()).count() % 1000;
  std::tm parts{};
  gmtime_r(&seconds, &parts);
  char text[32];
  const size_t length = std::strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%S", &parts);
  return fmt::format("{}.{:03d}Z", std::string_view(text, length), milliseconds);
}

}  // namespace

std::string RequestLogLine(const RequestRecord& record) {
  json::object line = {{"time", TimeOfLine()},
                       {"id", record.id},
                       {"peer", record.peer},
                       {"method", record.method},
                       {"path", record.path.substr(0, kMaxPath)},
                       {"status", record.status},
                       {"bytes", record.bytes},
                       {"complete", record.complete},
                       {"seconds", record.seconds}};
  if (!record.key.empty()) line["key"] = record.key;
  if (record.num_choices > 0) {
    line["model"] = record.model;
    line["stream"] = record.stream;
    line["choices"] = record.num_choices;
    line["finish"] = record.finish;
    line["prompt_tokens"] = record.receipt.prompt_tokens;
    line["cached_tokens"] = record.receipt.cached_tokens;
    line["completion_tokens"] = record.receipt.completion_tokens;
    line["queue_seconds"] = record.receipt.queue_seconds;
    if (record.first_token_seconds >= 0.0) line["first_token_seconds"] = record.first_token_seconds;
  }
  if (!record.prompt.empty()) line["request"] = record.prompt.substr(0, kMaxPrompt);
  return JsonText(line);
}

}  // namespace winnow::server
