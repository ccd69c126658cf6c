// What an operation on the CPU works with: threads, inner loops, precision, working memory.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <vector>

#include "backend/backend.h"
#include "base/thread_pool.h"
#include "cpu/kernels.h"
#include "tensor/tensor.h"

namespace winnow::cpu {

// Bytes of scratch that an operation needs.
struct ScratchNeed {
  int64_t of_thread = 0;  // each
  int64_t shared = 0;

  // Enough for either.
  void Cover(const ScratchNeed& other) {
    of_thread = std::max(of_thread, other.of_thread);
    shared = std::max(shared, other.shared);
  }
};

// Memory that operations reuse; it grows to the largest need seen and stays. Contents are undefined
// at each call. One operation runs at a time, so none can meet another's.
class Scratch {
 public:
  explicit Scratch(int num_threads) : threads_(num_threads) {}

  // `count` elements for one thread, aligned to 64 bytes; each thread asks for its own.
  template <typename T>
  T* OfThread(int thread, int64_t count) {
    return reinterpret_cast<T*>(Grow(&threads_[thread].buffer, count * sizeof(T)));
  }
  // The same for the operation as a whole; not from within a piece.
  template <typename T>
  T* Shared(int64_t count) {
    return reinterpret_cast<T*>(Grow(&shared_, count * sizeof(T)));
  }

  // Takes what is needed now rather than when it is asked for.
  void Reserve(const ScratchNeed& need) {
    for (PerThread& thread : threads_) Grow(&thread.buffer, need.of_thread);
    Grow(&shared_, need.shared);
  }
  int64_t bytes() const {
    int64_t bytes = HostBuffer::Footprint(shared_.size());
    for (const PerThread& thread : threads_) bytes += HostBuffer::Footprint(thread.buffer.size());
    return bytes;
  }

 private:
  struct alignas(64) PerThread {
    HostBuffer buffer;
  };
  static uint8_t* Grow(HostBuffer* buffer, int64_t bytes) {
    if (buffer->size() < bytes) {
      *buffer = HostBuffer();  // first give back, then take
      *buffer = HostBuffer(bytes);
    }
    return buffer->data();
  }

  std::vector<PerThread> threads_;
  HostBuffer shared_;
};

struct CpuContext {
  ThreadPool& pool;
  Kernels kernels;
  Precision precision;
  Scratch& scratch;

  // Calls body(piece, thread) as ThreadPool does, without copying `body`.
  template <typename Body>
  void ForEach(int64_t num_pieces, const Body& body) const {
    pool.ParallelFor(num_pieces, std::cref(body));
  }
  bool rounds() const { return precision == Precision::kBf16; }
};

}  // namespace winnow::cpu
