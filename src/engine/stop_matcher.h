// Finds stop strings in streamed text.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace winnow {

// Text goes in as it is decoded and comes out as soon as it cannot be part of a stop string any
// more.
class StopMatcher {
 public:
  explicit StopMatcher(std::vector<std::string> stops);

  // Adds `text` and returns what may be shown. After a stop string was found, returns what stands
  // before it, and nothing from then on.
  std::string Append(std::string_view text);
  // What is still held back, at the end of the answer.
  std::string Flush();
  bool stopped() const { return !found_.empty(); }
  // The stop string that was found: the earliest in the text and, of those that begin together, the
  // first given. Empty if none was.
  const std::string& found() const { return found_; }

 private:
  std::vector<std::string> stops_;
  std::string held_;
  std::string found_;
};

}  // namespace winnow
