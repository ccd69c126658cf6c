#include "terminal.h"

#include <fmt/format.h>
#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <cmath>
#include <cstdio>

namespace winnow::apps {
namespace {

std::atomic<Stream*> g_stream{nullptr};

void OnInterrupt(int) {
  if (Stream* stream = g_stream.load()) stream->Cancel();
}

}  // namespace

int ExitCode(const Status& status) {
  switch (status.code()) {
    case StatusCode::kOk:
      return 0;
    case StatusCode::kInvalidArgument:
    case StatusCode::kOutOfRange:
    case StatusCode::kNotFound:
      return 2;
    case StatusCode::kUnsupported:
    case StatusCode::kCorrupt:
      return 3;
    case StatusCode::kResourceExhausted:
      return 4;
    case StatusCode::kUnavailable:
      return 5;
    case StatusCode::kCancelled:
      return kInterrupted;
    case StatusCode::kInternal:
      return 1;
  }
  return 1;
}

int Report(const Status& status) {
  fmt::print(stderr, "winnow: {}\n", status.ToString());
  return ExitCode(status);
}

ProgressBar::ProgressBar(std::string label)
    : label_(std::move(label)), terminal_(isatty(STDERR_FILENO) != 0) {}

void ProgressBar::Show(double fraction, const std::string& note) {
  if (!terminal_) return;
  const auto now = std::chrono::steady_clock::now();
  if (drawn_ && fraction < 1.0 && now - last_ < std::chrono::milliseconds(50)) return;
  last_ = now;
  drawn_ = true;
  constexpr int kWidth = 30;
  const int filled = static_cast<int>(std::lround(fraction * kWidth));
  std::string bar;
  for (int cell = 0; cell < kWidth; ++cell) bar += cell < filled ? "━" : "─";
  fmt::print(stderr, "\r\033[K{} {} {:3.0f} %  {}", label_, bar, fraction * 100.0, note);
  std::fflush(stderr);
}

void ProgressBar::Clear() {
  if (!drawn_) return;
  drawn_ = false;
  fmt::print(stderr, "\r\033[K");
  std::fflush(stderr);
}

CancelOnInterrupt::CancelOnInterrupt(Stream& stream) {
  g_stream.store(&stream);
  struct sigaction action = {};
  action.sa_handler = OnInterrupt;
  action.sa_flags = static_cast<int>(SA_RESETHAND | SA_RESTART);
  sigaction(SIGINT, &action, nullptr);
}

CancelOnInterrupt::~CancelOnInterrupt() {
  signal(SIGINT, SIG_DFL);
  g_stream.store(nullptr);
}

Result<Engine> LoadEngine(EngineOptions options) {
  ProgressBar bar("loading");
  options.progress = [&bar](double fraction) { bar.Show(fraction); };
  return Engine::Load(options);
}

std::string Grouped(int64_t number) {
  std::string digits = std::to_string(number);
  const size_t first = digits[0] == '-' ? 1 : 0;
  for (size_t place = digits.size(); place > first + 3;) {
    place -= 3;
    digits.insert(place, ",");
  }
  return digits;
}

std::string Scaled(double number) {
  const char* units[] = {"", "k", "M", "G", "T", "P"};
  int unit = 0;
  while (std::fabs(number) >= 1000.0 && unit < 5) {
    number /= 1000.0;
    ++unit;
  }
  return unit == 0 ? fmt::format("{:.0f}", number) : fmt::format("{:.2f} {}", number, units[unit]);
}

std::string Bytes(double bytes) {
  const char* units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
  int unit = 0;
  while (bytes >= 1024.0 && unit < 4) {
    bytes /= 1024.0;
    ++unit;
  }
  return fmt::format("{:.{}f} {}", bytes, unit == 0 ? 0 : 2, units[unit]);
}

}  // namespace winnow::apps
