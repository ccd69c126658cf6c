// A pool of threads that run the pieces of one loop at a time.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>

namespace winnow {

// Runs loops on `num_threads` threads, the caller's included. Pieces are handed out one by one, and
// a thread that loses its core to another process delays only the piece that it has in hand, gets
// no further ones for some time, and is then tried again. No result may depend on which thread runs
// a piece: no sum crosses pieces. Workers wait by spinning briefly, then sleep. One caller at a
// time.
class ThreadPool {
 public:
  // 0 means UsableCores() (base/cores.h). `pin` keeps each worker on a processor of its own where
  // there are as many threads as processors that this thread may use; with fewer threads the system
  // chooses, so that two processes do not meet on the same processors. The caller is never pinned.
  explicit ThreadPool(int num_threads, bool pin = false);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int num_threads() const;
  // How often a worker was found to have lost its core and left out for a while.
  int64_t num_rests() const;

  // Calls body(piece, thread) for every piece in [0, num_pieces), thread in [0, num_threads).
  // Returns when all are done. Floats flush subnormals to zero inside, on every thread. Not from
  // within a body. Allocates nothing.
  void ParallelFor(int64_t num_pieces, const std::function<void(int64_t piece, int thread)>& body);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// Subnormal floats are read and written as zero while this lives, as the vector units of every
// backend do.
class FlushSubnormals {
 public:
  FlushSubnormals();
  ~FlushSubnormals();

 private:
  unsigned saved_;
};

}  // namespace winnow
