#include "base/file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstring>
#include <mutex>

#include "base/check.h"

namespace winnow {
namespace {

// Mapped ranges as the signal handler sees them: a fixed table, because a handler may not allocate
// or lock. A slot is free while `begin` is 0.
struct MappedRange {
  std::atomic<uintptr_t> begin{0};
  std::atomic<uintptr_t> end{0};
  std::atomic<bool> lost{false};
};
constexpr size_t kMaxMappings = 4096;
MappedRange g_ranges[kMaxMappings];
struct sigaction g_previous_handler;

void PassOn(int signal, siginfo_t* info, void* context) {
  if (g_previous_handler.sa_flags & SA_SIGINFO) {
    g_previous_handler.sa_sigaction(signal, info, context);
  } else if (g_previous_handler.sa_handler != SIG_DFL && g_previous_handler.sa_handler != SIG_IGN) {
    g_previous_handler.sa_handler(signal);
  } else {
    sigaction(signal, &g_previous_handler, nullptr);  // the fault repeats and ends the process
  }
}

// A page of a shrunk file: zeros take its place, and its mapping is marked.
void OnBusError(int signal, siginfo_t* info, void* context) {
  const uintptr_t address = reinterpret_cast<uintptr_t>(info->si_addr);
  const uintptr_t page_size = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  for (MappedRange& range : g_ranges) {
    const uintptr_t begin = range.begin.load(std::memory_order_acquire);
    if (begin == 0 || address < begin || address >= range.end.load()) continue;
    range.lost.store(true);
    void* page = reinterpret_cast<void*>(address & ~(page_size - 1));
    const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED;
    if (mmap(page, page_size, PROT_READ, flags, -1, 0) != MAP_FAILED) return;
  }
  PassOn(signal, info, context);
}

void InstallBusHandler() {
  static std::once_flag once;
  std::call_once(once, [] {
    struct sigaction action = {};
    action.sa_sigaction = OnBusError;
    action.sa_flags = SA_SIGINFO | SA_NODEFER;
    sigaction(SIGBUS, &action, &g_previous_handler);
  });
}

MappedRange* ClaimRange(const void* data, size_t size) {
  static std::mutex mutex;
  std::lock_guard<std::mutex> lock(mutex);
  for (MappedRange& range : g_ranges) {
    if (range.begin.load() != 0) continue;
    range.lost.store(false);
    range.end.store(reinterpret_cast<uintptr_t>(data) + size);
    range.begin.store(reinterpret_cast<uintptr_t>(data), std::memory_order_release);
    return &range;
  }
  return nullptr;
}

struct FileDescriptor {
  int fd;
  ~FileDescriptor() {
    if (fd >= 0) close(fd);
  }
};

Status OpenError(const std::string& path) {
  const int error = errno;
  return NotFound(fmt::format("{}: {}", path, std::strerror(error)));
}

// O_NONBLOCK: opening a pipe without a writer must fail, not wait.
Status OpenRegular(const std::string& path, FileDescriptor* file, int64_t* size) {
  file->fd = open(path.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC);
  if (file->fd < 0) return OpenError(path);
  struct stat info;
  if (fstat(file->fd, &info) != 0) return OpenError(path);
  if (!S_ISREG(info.st_mode)) return InvalidArgument(path + ": not a regular file");
  *size = info.st_size;
  return OkStatus();
}

}  // namespace

std::string FileName(std::string_view path) {
  const size_t slash = path.rfind('/');
  return std::string(slash == std::string_view::npos ? path : path.substr(slash + 1));
}

Result<std::string> ReadFile(const std::string& path, int64_t max_bytes) {
  FileDescriptor file{-1};
  int64_t size = 0;
  WINNOW_TRY(OpenRegular(path, &file, &size));
  if (size > max_bytes) {
    return InvalidArgument(fmt::format("{}: {} bytes, at most {} are read", path, size, max_bytes));
  }
  constexpr size_t kChunk = 4096;
  const bool says_size = size > 0;  // files of /proc say that they are empty, and are not
  std::string text(says_size ? static_cast<size_t>(size) : kChunk, '\0');
  size_t done = 0;
  while (done < text.size()) {
    const ssize_t count = read(file.fd, text.data() + done, text.size() - done);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return OpenError(path);
    if (count == 0) break;
    done += static_cast<size_t>(count);
    if (static_cast<int64_t>(done) > max_bytes) {
      return InvalidArgument(
          fmt::format("{}: more than {} bytes, at most that many are read", path, max_bytes));
    }
    if (!says_size && done == text.size()) text.resize(2 * done);
  }
  text.resize(done);
  return text;
}

struct MappedFile::Mapping {
  std::string path;
  const uint8_t* data = nullptr;
  int64_t size = 0;
  MappedRange* range = nullptr;

  ~Mapping() {
    if (range != nullptr) range->begin.store(0);
    if (data != nullptr) munmap(const_cast<uint8_t*>(data), static_cast<size_t>(size));
  }
};

MappedFile::MappedFile() = default;
MappedFile::MappedFile(std::unique_ptr<Mapping> mapping) : mapping_(std::move(mapping)) {}
MappedFile::MappedFile(MappedFile&&) noexcept = default;
MappedFile& MappedFile::operator=(MappedFile&&) noexcept = default;
MappedFile::~MappedFile() = default;

Result<MappedFile> MappedFile::Open(const std::string& path) {
  FileDescriptor file{-1};
  auto mapping = std::make_unique<Mapping>();
  mapping->path = path;
  WINNOW_TRY(OpenRegular(path, &file, &mapping->size));
  if (mapping->size == 0) return MappedFile(std::move(mapping));
  const size_t size = static_cast<size_t>(mapping->size);
  void* data = mmap(nullptr, size, PROT_READ, MAP_SHARED, file.fd, 0);
  if (data == MAP_FAILED) return OpenError(path);
  mapping->data = static_cast<const uint8_t*>(data);
  InstallBusHandler();
  mapping->range = ClaimRange(data, size);
  if (mapping->range == nullptr) {
    return ResourceExhausted(
        fmt::format("{}: more than {} files are mapped at once", path, kMaxMappings));
  }
  return MappedFile(std::move(mapping));
}

const std::string& MappedFile::path() const { return mapping_->path; }
const uint8_t* MappedFile::data() const { return mapping_->data; }
int64_t MappedFile::size() const { return mapping_->size; }
bool MappedFile::intact() const {
  return mapping_->range == nullptr || !mapping_->range->lost.load();
}

}  // namespace winnow
