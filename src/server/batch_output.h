// The results of a batch: a file that only grows, by whole lines, and that outlives a kill at any
// moment.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

#include "server/batch_line.h"
#include "winnow/status.h"

namespace winnow::server {

// Not thread-safe.
class BatchOutput {
 public:
  // Says why a result that the file already has does not belong there, or OK.
  using Known = std::function<Status(const BatchResult&)>;

  // Opens the file, or makes it, and keeps other processes from it while it is open. `known` is
  // called for each result that the file has; what a kill left of one more is cut off. A file with
  // anything else in it is left as it is: kInvalidArgument naming file and line. kUnavailable if
  // another process has it open.
  static Result<BatchOutput> Open(const std::string& path, const Known& known);

  BatchOutput(BatchOutput&& other) noexcept;
  BatchOutput& operator=(BatchOutput&& other) noexcept;
  ~BatchOutput();

  // Appends a line, which ends with '\n', or nothing: kResourceExhausted if it does not go in.
  Status Append(std::string_view line);
  // Has the disk hold all that was appended.
  Status Sync();
  bool synced() const { return synced_; }
  const std::string& path() const { return path_; }
  int64_t size() const { return size_; }  // bytes

 private:
  BatchOutput(std::string path, int descriptor) : path_(std::move(path)), descriptor_(descriptor) {}
  Status Recover(const Known& known);

  std::string path_;
  int descriptor_ = -1;
  int64_t size_ = 0;
  bool synced_ = true;
};

}  // namespace winnow::server
