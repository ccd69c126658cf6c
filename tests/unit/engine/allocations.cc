// Stands in front of the C library's allocator and of mmap: counts what goes through.
#include "unit/engine/allocations.h"

#include <errno.h>
#include <malloc.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>

extern "C" {
void* __libc_malloc(size_t size);
void* __libc_calloc(size_t count, size_t size);
void* __libc_realloc(void* data, size_t size);
void* __libc_memalign(size_t alignment, size_t size);
void __libc_free(void* data);
}

namespace winnow {
namespace counted {

std::atomic<int64_t> calls{0};
std::atomic<int64_t> live{0};
std::atomic<int64_t> peak{0};

// Where files are mapped. Allocates nothing.
struct MappedFiles {
  std::atomic<uintptr_t> begins[256] = {};

  // Puts `next` where `expected` is; false if it is nowhere.
  bool Exchange(uintptr_t expected, uintptr_t next) {
    for (auto& begin : begins) {
      uintptr_t value = expected;
      if (begin.compare_exchange_strong(value, next)) return true;
    }
    return false;
  }
} mapped_files;

void Add(int64_t bytes) {
  ++calls;
  const int64_t now = live += bytes;
  int64_t before = peak;
  while (now > before && !peak.compare_exchange_weak(before, now)) {
  }
}

void* Counted(void* data) {
  if (data != nullptr) Add(static_cast<int64_t>(malloc_usable_size(data)));
  return data;
}

void Uncount(void* data) {
  if (data != nullptr) live -= static_cast<int64_t>(malloc_usable_size(data));
}

}  // namespace counted

int64_t Allocations() { return counted::calls; }
int64_t LiveBytes() { return counted::live; }
int64_t TakePeakBytes() { return counted::peak.exchange(counted::live); }

}  // namespace winnow

extern "C" {

void* malloc(size_t size) { return winnow::counted::Counted(__libc_malloc(size)); }
void* calloc(size_t count, size_t size) {
  return winnow::counted::Counted(__libc_calloc(count, size));
}
void* realloc(void* data, size_t size) {
  winnow::counted::Uncount(data);
  return winnow::counted::Counted(__libc_realloc(data, size));
}
void* memalign(size_t alignment, size_t size) {
  return winnow::counted::Counted(__libc_memalign(alignment, size));
}
void* aligned_alloc(size_t alignment, size_t size) { return memalign(alignment, size); }
int posix_memalign(void** data, size_t alignment, size_t size) {
  *data = memalign(alignment, size);
  return *data == nullptr ? ENOMEM : 0;
}
void free(void* data) {
  winnow::counted::Uncount(data);
  __libc_free(data);
}

// Memory without a file behind it counts; files are only mapped.
void* mmap(void* address, size_t length, int protection, int flags, int file, off_t offset) {
  const long data = syscall(SYS_mmap, address, length, protection, flags, file, offset);
  if (data == -1) return MAP_FAILED;
  if ((flags & MAP_ANONYMOUS) != 0) {
    winnow::counted::Add(static_cast<int64_t>(length));
  } else {
    winnow::counted::mapped_files.Exchange(0, static_cast<uintptr_t>(data));
  }
  return reinterpret_cast<void*>(data);
}
int munmap(void* address, size_t length) {
  const int result = static_cast<int>(syscall(SYS_munmap, address, length));
  const auto begin = reinterpret_cast<uintptr_t>(address);
  if (result == 0 && !winnow::counted::mapped_files.Exchange(begin, 0)) {
    winnow::counted::live -= static_cast<int64_t>(length);
  }
  return result;
}
}
