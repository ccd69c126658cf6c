#include "server/log_writer.h"

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <string_view>

#include "base/text.h"

namespace winnow::server {
namespace {

constexpr size_t kMaxLogLines = 10'000;

}  // namespace

Result<std::unique_ptr<LogWriter>> LogWriter::Open(const std::string& path) {
  int descriptor = STDERR_FILENO;
  if (!path.empty()) {
    descriptor = open(path.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0640);
    if (descriptor < 0) {
      return InvalidArgument(fmt::format("--log-file {}: {}", Quoted(path), std::strerror(errno)));
    }
  }
  return std::unique_ptr<LogWriter>(new LogWriter(descriptor, !path.empty()));
}

LogWriter::LogWriter(int descriptor, bool owned)
    : descriptor_(descriptor), owned_(owned), thread_([this] { Work(); }) {}

LogWriter::~LogWriter() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stop_ = true;
  }
  changed_.notify_all();
  thread_.join();
  if (owned_) close(descriptor_);
}

void LogWriter::Write(std::string line) {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    if (lines_.size() >= kMaxLogLines) {
      ++dropped_;
      return;
    }
    lines_.push_back(std::move(line));
  }
  changed_.notify_one();
}

int64_t LogWriter::dropped() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return dropped_;
}

void LogWriter::Work() {
  for (;;) {
    std::string text;
    bool stop;
    {
      std::unique_lock<std::mutex> lock(mutex_);
      changed_.wait(lock, [this] { return stop_ || !lines_.empty(); });
      if (lines_.empty()) return;
      while (!lines_.empty() && text.size() < (size_t{64} << 10)) {
        text += lines_.front() + "\n";
        lines_.pop_front();
      }
      stop = stop_;
    }
    for (std::string_view rest = text; !rest.empty();) {
      // At the end of the process a reader that is stuck is waited for no longer than a second.
      pollfd ready{descriptor_, POLLOUT, 0};
      const int found = poll(&ready, 1, 1000);
      if (found == 0) {
        std::lock_guard<std::mutex> lock(mutex_);
        if (stop || stop_) return;
        continue;
      }
      const ssize_t count = write(descriptor_, rest.data(), std::min<size_t>(rest.size(), 4096));
      if (count < 0 && errno == EINTR) continue;
      if (count <= 0) break;  // a full disk: what cannot be written is lost
      rest.remove_prefix(static_cast<size_t>(count));
    }
  }
}

}  // namespace winnow::server
