// What a person at a terminal sees besides the answer: progress, errors, and Ctrl-C that ends
// cleanly.
#pragma once

#include <chrono>
#include <string>

#include "winnow/winnow.h"

namespace winnow::apps {

// Prints the status to standard error and returns its exit code.
int Report(const Status& status);
int ExitCode(const Status& status);
constexpr int kInterrupted = 130;

// A bar on standard error, drawn only when that is a terminal; gone without a trace when it ends.
class ProgressBar {
 public:
  explicit ProgressBar(std::string label);
  ~ProgressBar() { Clear(); }
  void Show(double fraction, const std::string& note = {});
  void Clear();

 private:
  std::string label_;
  bool terminal_;
  bool drawn_ = false;
  std::chrono::steady_clock::time_point last_{};
};

// While this lives, the first Ctrl-C cancels `stream` and the second ends the process.
class CancelOnInterrupt {
 public:
  explicit CancelOnInterrupt(Stream& stream);
  ~CancelOnInterrupt();
};

// Loads with a progress bar.
Result<Engine> LoadEngine(EngineOptions options);

// 1234567 as "1,234,567".
std::string Grouped(int64_t number);
// 1.5e9 as "1.50 G".
std::string Scaled(double number);
// Bytes as "1.50 GiB".
std::string Bytes(double bytes);

}  // namespace winnow::apps
