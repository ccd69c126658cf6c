// Lines for a log, written by a thread of their own: a log that cannot be written to holds up
// nobody.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "winnow/status.h"

namespace winnow::server {

// Methods may be called from any thread.
class LogWriter {
 public:
  // Appends to the file at `path`; empty: standard error. kInvalidArgument naming the file.
  static Result<std::unique_ptr<LogWriter>> Open(const std::string& path);
  // Writes what is left, for a second at most.
  ~LogWriter();
  LogWriter(const LogWriter&) = delete;
  LogWriter& operator=(const LogWriter&) = delete;

  // Queues a line (without its end). When 10,000 wait, lines are dropped and counted.
  void Write(std::string line);
  int64_t dropped() const;

 private:
  LogWriter(int descriptor, bool owned);
  void Work();

  const int descriptor_;
  const bool owned_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::string> lines_;
  int64_t dropped_ = 0;
  bool stop_ = false;
  std::thread thread_;
};

}  // namespace winnow::server
