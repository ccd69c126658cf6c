#include "engine/stop_matcher.h"

#include <algorithm>
#include <utility>

namespace winnow {
namespace {

// How many of the last bytes of `text` begin `stop` without completing it.
size_t PartialMatch(std::string_view text, std::string_view stop) {
  size_t length = std::min(text.size(), stop.size() - 1);
  for (; length > 0; --length) {
    if (text.substr(text.size() - length) == stop.substr(0, length)) return length;
  }
  return 0;
}

}  // namespace

StopMatcher::StopMatcher(std::vector<std::string> stops) : stops_(std::move(stops)) {
  std::erase_if(stops_, [](const std::string& stop) { return stop.empty(); });
}

std::string StopMatcher::Append(std::string_view text) {
  if (stopped()) return {};
  held_ += text;
  size_t first = std::string::npos;
  for (const std::string& stop : stops_) {
    const size_t at = held_.find(stop);
    if (at >= first) continue;
    first = at;
    found_ = stop;
  }
  if (stopped()) return std::exchange(held_, {}).substr(0, first);
  size_t keep = 0;
  for (const std::string& stop : stops_) keep = std::max(keep, PartialMatch(held_, stop));
  std::string shown = held_.substr(0, held_.size() - keep);
  held_.erase(0, shown.size());
  return shown;
}

std::string StopMatcher::Flush() { return stopped() ? std::string() : std::exchange(held_, {}); }

}  // namespace winnow
