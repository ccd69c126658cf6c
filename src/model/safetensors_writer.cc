// Writing safetensors files: header first, then the data, then the final name.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <unordered_set>

#include "base/check.h"
#include "base/json.h"
#include "base/text.h"
#include "model/safetensors.h"

namespace winnow {

namespace {

// Where a file written under `path` ends up: through symbolic links, and never in the place of
// anything that is no regular file.
Status ResolveTarget(const std::string& path, std::string* target) {
  *target = path;
  struct stat info;
  if (path.empty()) return InvalidArgument("output: the path is empty, expected a file");
  if (stat(path.c_str(), &info) != 0) return OkStatus();
  if (!S_ISREG(info.st_mode)) {
    return InvalidArgument(path + ": it exists and is no regular file, expected a file to write");
  }
  if (char* resolved = realpath(path.c_str(), nullptr)) {
    *target = resolved;
    std::free(resolved);
  }
  return OkStatus();
}

}  // namespace

struct SafetensorsWriter::State {
  std::string path;
  std::string partial;
  int fd = -1;
  int64_t data_begin = 0;
  int64_t appended = 0;         // bytes of data that Append has written
  std::vector<int64_t> begins;  // of each tensor, and the end of the last
  bool finished = false;

  ~State() {
    if (fd >= 0) close(fd);
    if (!finished && !partial.empty()) std::remove(partial.c_str());
  }

  Status Error(const char* action) const {
    const int error = errno;
    std::string message = fmt::format("{}: {}: {}", partial, action, std::strerror(error));
    if (error == ENOSPC || error == EDQUOT || error == EFBIG)
      return ResourceExhausted(std::move(message));
    return Unavailable(std::move(message));
  }

  Status Write(int64_t offset, const void* data, int64_t bytes) {
    const char* from = static_cast<const char*>(data);
    while (bytes > 0) {
      const ssize_t count = pwrite(fd, from, static_cast<size_t>(bytes), offset);
      if (count < 0 && errno == EINTR) continue;
      if (count < 0) return Error("writing");
      from += count;
      offset += count;
      bytes -= count;
    }
    return OkStatus();
  }
};

namespace {

// The header as JSON, padded with spaces so that the data begins at a multiple of 64 bytes: kernels
// read as many at a time.
std::string HeaderText(const std::vector<SafetensorsWriter::Announced>& tensors,
                       const std::vector<int64_t>& begins,
                       const std::unordered_map<std::string, std::string>& metadata) {
  json::object root;
  if (!metadata.empty()) {
    json::object entries;
    for (const auto& [key, value] : metadata) entries[key] = value;
    root["__metadata__"] = std::move(entries);
  }
  for (size_t index = 0; index < tensors.size(); ++index) {
    json::object entry;
    entry["dtype"] = DTypeName(tensors[index].dtype);
    entry["shape"] = json::array(tensors[index].shape.begin(), tensors[index].shape.end());
    entry["data_offsets"] = {begins[index], begins[index + 1]};
    root[tensors[index].name] = std::move(entry);
  }
  std::string text = json::serialize(root);
  text.resize((8 + text.size() + 63) / 64 * 64 - 8, ' ');
  return text;
}

}  // namespace

SafetensorsWriter::SafetensorsWriter(std::unique_ptr<State> state) : state_(std::move(state)) {}
SafetensorsWriter::SafetensorsWriter(SafetensorsWriter&&) noexcept = default;
SafetensorsWriter& SafetensorsWriter::operator=(SafetensorsWriter&&) noexcept = default;
SafetensorsWriter::~SafetensorsWriter() = default;

Result<SafetensorsWriter> SafetensorsWriter::Create(
    const std::string& path, const std::vector<Announced>& tensors,
    const std::unordered_map<std::string, std::string>& metadata) {
  auto state = std::make_unique<State>();
  std::unordered_set<std::string_view> names;
  state->begins.push_back(0);
  for (const Announced& tensor : tensors) {
    WINNOW_CHECK(tensor.name != "__metadata__" && names.insert(tensor.name).second,
                 "tensor announced twice: " + tensor.name);
    int64_t bytes = SizeOf(tensor.dtype);
    bool fits = true;
    for (int64_t extent : tensor.shape) {
      fits = fits && extent >= 0 && !__builtin_mul_overflow(bytes, extent, &bytes);
    }
    fits = fits && !__builtin_add_overflow(state->begins.back(), bytes, &bytes);
    WINNOW_CHECK(fits, "size of a tensor to write overflows: " + tensor.name);
    state->begins.push_back(bytes);
  }
  const std::string header = HeaderText(tensors, state->begins, metadata);
  WINNOW_TRY(ResolveTarget(path, &state->path));
  const std::string partial = fmt::format("{}.{}.partial", state->path, getpid());
  state->fd = open(partial.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
  if (state->fd < 0) {
    return NotFound(fmt::format("{}: {}, expected a writable file", partial, std::strerror(errno)));
  }
  state->partial = partial;
  const uint64_t length = header.size();
  WINNOW_TRY(state->Write(0, &length, sizeof(length)));
  WINNOW_TRY(state->Write(8, header.data(), static_cast<int64_t>(header.size())));
  state->data_begin = 8 + static_cast<int64_t>(header.size());
  return SafetensorsWriter(std::move(state));
}

Status SafetensorsWriter::Append(const void* data, int64_t bytes) {
  WINNOW_CHECK(bytes >= 0 && bytes <= state_->begins.back() - state_->appended,
               "more bytes than announced are appended");
  WINNOW_TRY(state_->Write(state_->data_begin + state_->appended, data, bytes));
  state_->appended += bytes;
  return OkStatus();
}

Status SafetensorsWriter::WriteAt(int64_t index, int64_t offset, const void* data, int64_t bytes) {
  const std::vector<int64_t>& begins = state_->begins;
  WINNOW_CHECK(index >= 0 && index + 1 < static_cast<int64_t>(begins.size()),
               "no such tensor was announced");
  WINNOW_CHECK(offset >= 0 && bytes >= 0 && offset <= begins[index + 1] - begins[index] - bytes,
               "bytes outside their tensor are written");
  return state_->Write(state_->data_begin + begins[index] + offset, data, bytes);
}

Status SafetensorsWriter::Finish() {
  State& state = *state_;
  // What WriteAt left out reads as zeros.
  if (ftruncate(state.fd, state.data_begin + state.begins.back()) != 0) {
    return state.Error("setting its length");
  }
  const int fd = state.fd;
  state.fd = -1;
  if (close(fd) != 0) return state.Error("closing");
  if (std::rename(state.partial.c_str(), state.path.c_str()) != 0) {
    return state.Error("renaming");
  }
  state.finished = true;
  return OkStatus();
}

}  // namespace winnow
