#include "base/output_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>

#include "base/check.h"

namespace winnow {
namespace {

namespace fs = std::filesystem;

// A new file beside the target, which must be a regular file or not exist. Links are followed.
struct Target {
  std::string path;
  std::string partial;
  int fd = -1;
};

Result<Target> OpenTarget(const std::string& path) {
  Target target;
  target.path = path;
  struct stat info;
  if (stat(path.c_str(), &info) == 0) {
    if (!S_ISREG(info.st_mode)) {
      return InvalidArgument(path + ": it exists and is no regular file, expected a file to write");
    }
    if (char* resolved = realpath(path.c_str(), nullptr)) {
      target.path = resolved;
      std::free(resolved);
    }
  } else if (lstat(path.c_str(), &info) == 0) {
    return InvalidArgument(path + ": a link to what does not exist, expected a file to write");
  }
  target.partial = fmt::format("{}.{}.partial", target.path, getpid());
  target.fd = open(target.partial.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
  if (target.fd < 0) {
    return NotFound(fmt::format("{}: {}, expected a writable file", path, std::strerror(errno)));
  }
  return target;
}

Status WriteError(const Target& target, const char* action) {
  const int error = errno;
  std::remove(target.partial.c_str());
  return ResourceExhausted(fmt::format("{}: {}: {}", target.path, action, std::strerror(error)));
}

}  // namespace

Status CheckWritable(const std::string& path) {
  WINNOW_ASSIGN(const Target target, OpenTarget(path));
  close(target.fd);
  std::remove(target.partial.c_str());
  return OkStatus();
}

Status WriteFile(const std::string& path, std::string_view bytes) {
  WINNOW_ASSIGN(const Target target, OpenTarget(path));
  while (!bytes.empty()) {
    const ssize_t count = write(target.fd, bytes.data(), bytes.size());
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) {
      const Status status = WriteError(target, "writing");
      close(target.fd);
      return status;
    }
    bytes.remove_prefix(static_cast<size_t>(count));
  }
  if (close(target.fd) != 0) return WriteError(target, "closing");
  if (std::rename(target.partial.c_str(), target.path.c_str()) != 0) {
    return WriteError(target, "renaming");
  }
  return OkStatus();
}

bool SameFile(const std::string& a, const std::string& b) {
  std::error_code error;
  if (fs::equivalent(a, b, error)) return true;
  const fs::path target = fs::weakly_canonical(fs::absolute(a, error), error);
  return !target.empty() && target == fs::weakly_canonical(fs::absolute(b, error), error);
}

std::vector<std::string> FilesIn(const std::string& folder) {
  std::vector<std::string> files;
  std::error_code error;
  for (fs::directory_iterator entry(folder, error), end; !error && entry != end;
       entry.increment(error)) {
    files.push_back(entry->path().string());
  }
  return files;
}

}  // namespace winnow
