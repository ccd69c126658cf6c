#include "server/batch_output.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "base/check.h"
#include "base/file.h"
#include "base/text.h"

namespace winnow::server {
namespace {

// A new file is there after a loss of power only when its folder is on the disk.
void SyncFolder(const std::string& path) {
  const size_t slash = path.rfind('/');
  const std::string folder = slash == std::string::npos ? "." : path.substr(0, slash + 1);
  const int descriptor = open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (descriptor < 0) return;
  fsync(descriptor);
  close(descriptor);
}

Status WriteError(const std::string& path, int error) {
  return ResourceExhausted(fmt::format("{}: writing: {}", path, std::strerror(error)),
                           "what it has so far is whole: make room, and the rest can follow");
}

}  // namespace

BatchOutput::BatchOutput(BatchOutput&& other) noexcept
    : path_(std::move(other.path_)),
      descriptor_(std::exchange(other.descriptor_, -1)),
      size_(other.size_),
      synced_(other.synced_) {}

BatchOutput& BatchOutput::operator=(BatchOutput&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(descriptor_, other.descriptor_);
  std::swap(size_, other.size_);
  std::swap(synced_, other.synced_);
  return *this;
}

BatchOutput::~BatchOutput() {
  if (descriptor_ >= 0) close(descriptor_);
}

Result<BatchOutput> BatchOutput::Open(const std::string& path, const Known& known) {
  struct stat info;
  const bool there = stat(path.c_str(), &info) == 0;
  if (there && !S_ISREG(info.st_mode)) {
    return InvalidArgument(path + ": it is no regular file, expected one or none");
  }
  const int descriptor = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
  if (descriptor < 0) {
    return NotFound(fmt::format("{}: {}, expected a file to write", path, std::strerror(errno)));
  }
  BatchOutput output(path, descriptor);
  if (flock(descriptor, LOCK_EX | LOCK_NB) != 0) {
    return Unavailable(path + ": another process writes to it");
  }
  if (!there) SyncFolder(path);
  WINNOW_TRY(output.Recover(known));
  return output;
}

Status BatchOutput::Recover(const Known& known) {
  std::string_view text;
  WINNOW_ASSIGN(const MappedFile file, MappedFile::Open(path_));
  if (file.size() > 0) {
    text = {reinterpret_cast<const char*>(file.data()), static_cast<size_t>(file.size())};
  }
  int64_t number = 0;
  while (true) {
    const size_t end = text.find('\n', static_cast<size_t>(size_));
    if (end == std::string_view::npos) break;
    ++number;
    const auto result =
        ReadResultLine(text.substr(static_cast<size_t>(size_), end - static_cast<size_t>(size_)));
    if (!result) {
      return InvalidArgument(
          fmt::format("{}: line {}: no result of a batch, expected a file of them", path_, number));
    }
    if (const Status status = known(*result); !status.ok()) {
      return {status.code(), fmt::format("{}: line {}: {}", path_, number, status.message()),
              status.hint()};
    }
    size_ = static_cast<int64_t>(end) + 1;
  }
  const std::string_view rest = text.substr(static_cast<size_t>(size_));
  if (rest.empty()) return OkStatus();
  // Nothing but what a kill leaves is cut off; the disk of a machine that lost power may have a
  // file's length before its bytes.
  if (number == 0 && !BeginsResultLine(rest) && rest.find_first_not_of('\0') != rest.npos) {
    return InvalidArgument(path_ + ": line 1: no result of a batch, expected a file of them");
  }
  if (ftruncate(descriptor_, size_) != 0) return WriteError(path_, errno);
  synced_ = false;
  return OkStatus();
}

Status BatchOutput::Append(std::string_view line) {
  WINNOW_CHECK(line.ends_with('\n'), "BatchOutput: a line without its end");
  int64_t written = 0;
  while (written < static_cast<int64_t>(line.size())) {
    const ssize_t count = pwrite(descriptor_, line.data() + written,
                                 line.size() - static_cast<size_t>(written), size_ + written);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) {
      const int error = errno;
      // If this fails as well, the next Open does it.
      [[maybe_unused]] const int ignored = ftruncate(descriptor_, size_);
      return WriteError(path_, error);
    }
    written += count;
  }
  size_ += written;
  synced_ = false;
  return OkStatus();
}

Status BatchOutput::Sync() {
  if (synced_) return OkStatus();
  if (fdatasync(descriptor_) != 0) return WriteError(path_, errno);
  synced_ = true;
  return OkStatus();
}

}  // namespace winnow::server
