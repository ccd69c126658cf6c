// What an evaluation reads and writes: texts, and outputs that replace nothing of what is read.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>

#include "base/check.h"
#include "base/file.h"
#include "base/text.h"
#include "eval/evaluation.h"
#include "text/unicode.h"

namespace winnow::eval {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kMaxTextBytes = int64_t{1} << 30;

// That `bytes` are UTF-8 and hold a word.
Status CheckText(const std::string& path, const std::string& bytes) {
  if (bytes.empty()) return InvalidArgument(path + ": it is empty, expected text");
  bool words = false;
  for (size_t place = 0; place < bytes.size();) {
    const Character character = CharacterAt(bytes, place);
    if (character.code_point == kInvalidCodePoint) {
      return InvalidArgument(fmt::format("{}: byte {} is {:#04x}, expected UTF-8", path, place,
                                         static_cast<uint8_t>(bytes[place])));
    }
    words |= character.char_class != CharClass::kSpace;
    place += static_cast<size_t>(character.length);
  }
  if (!words) return InvalidArgument(path + ": it holds no words, expected text");
  return OkStatus();
}

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

Status CheckWritable(const std::string& path) {
  WINNOW_ASSIGN(const Target target, OpenTarget(path));
  close(target.fd);
  std::remove(target.partial.c_str());
  return OkStatus();
}

// Whether two paths lead to one file, or would once it is written.
bool SameFile(const fs::path& a, const fs::path& b) {
  std::error_code error;
  if (fs::equivalent(a, b, error)) return true;
  const fs::path target = fs::weakly_canonical(fs::absolute(a, error), error);
  return !target.empty() && target == fs::weakly_canonical(fs::absolute(b, error), error);
}

// The files of a model's folder, and what is given by name.
std::vector<fs::path> Inputs(const EvalOptions& options, const std::string& needles) {
  std::vector<fs::path> inputs(options.texts.begin(), options.texts.end());
  if (!needles.empty()) inputs.emplace_back(needles);
  std::error_code error;
  for (fs::directory_iterator entry(options.engine.model_dir, error), end; !error && entry != end;
       entry.increment(error)) {
    inputs.push_back(entry->path());
  }
  return inputs;
}

Status WriteError(const Target& target, const char* action) {
  const int error = errno;
  std::remove(target.partial.c_str());
  return ResourceExhausted(fmt::format("{}: {}: {}", target.path, action, std::strerror(error)));
}

Status WriteOutput(const std::string& path, std::string_view bytes) {
  if (path.empty()) return OkStatus();
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

}  // namespace

Result<std::vector<Text>> ReadTexts(const std::vector<std::string>& paths) {
  if (paths.empty()) return InvalidArgument("text: none is given, expected at least one file");
  std::vector<Text> texts;
  for (const std::string& path : paths) {
    if (path.empty()) return InvalidArgument("text: an empty name, expected a file");
    WINNOW_ASSIGN(std::string bytes, ReadFile(path, kMaxTextBytes));
    WINNOW_TRY(CheckText(path, bytes));
    texts.push_back({path, Printable(FileName(path)), std::move(bytes)});
  }
  return texts;
}

Status CheckOutputs(const EvalOptions& options, const std::string& needles) {
  if (!options.json.empty() && !options.svg.empty() && SameFile(options.json, options.svg)) {
    return InvalidArgument(options.svg + ": json and svg name the same file, expected two");
  }
  const std::vector<fs::path> inputs = Inputs(options, needles);
  for (const std::string& path : {options.json, options.svg}) {
    if (path.empty()) continue;
    for (const fs::path& input : inputs) {
      if (SameFile(path, input)) {
        return InvalidArgument(
            fmt::format("{}: it would replace {}, expected no text, needles or file of the model",
                        path, input.string()));
      }
    }
    WINNOW_TRY(CheckWritable(path));
  }
  return OkStatus();
}

Result<EvalReport> Finish(const EvalOptions& options, EvalReport report) {
  WINNOW_TRY(WriteOutput(options.json, report.json + "\n"));
  WINNOW_TRY(WriteOutput(options.svg, report.svg));
  return report;
}

}  // namespace winnow::eval
