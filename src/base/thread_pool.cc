#include "base/thread_pool.h"

#include <sched.h>

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace winnow {
namespace {

int AvailableCores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof(set), &set) == 0) return std::max(1, CPU_COUNT(&set));
  return std::max(1u, std::thread::hardware_concurrency());
}

void Relax() {
#if defined(__x86_64__)
  _mm_pause();
#else
  std::this_thread::yield();
#endif
}

}  // namespace

FlushSubnormals::FlushSubnormals() {
#if defined(__x86_64__)
  saved_ = _mm_getcsr();
  _mm_setcsr(saved_ | 0x8040);  // flush to zero, and read subnormals as zero
#else
  saved_ = 0;
#endif
}

FlushSubnormals::~FlushSubnormals() {
#if defined(__x86_64__)
  _mm_setcsr(saved_);
#endif
}

struct ThreadPool::State {
  // One loop: pieces are claimed from `next`; `working` counts the workers still inside.
  struct Loop {
    const std::function<void(int64_t, int)>* body = nullptr;
    int64_t num_pieces = 0;
    std::atomic<int64_t> next{0};
  } loop;
  std::atomic<uint64_t> epoch{0};  // odd or even does not matter: a change means a new loop
  std::atomic<int> working{0};
  std::atomic<bool> stop{false};
  std::atomic<int> asleep{0};
  std::mutex mutex;
  std::condition_variable wake;
  std::vector<std::thread> workers;

  void RunPieces(int thread) {
    for (;;) {
      const int64_t piece = loop.next.fetch_add(1);
      if (piece >= loop.num_pieces) return;
      (*loop.body)(piece, thread);
    }
  }

  void WaitForEpoch(uint64_t seen) {
    constexpr int kSpins = 4000;  // some tens of microseconds: the gap between two loops of a step
    for (int spin = 0; spin < kSpins; ++spin) {
      if (epoch.load(std::memory_order_acquire) != seen || stop.load()) return;
      Relax();
    }
    std::unique_lock<std::mutex> lock(mutex);
    ++asleep;
    wake.wait(lock, [&] { return epoch.load() != seen || stop.load(); });
    --asleep;
  }

  void Work(int thread) {
    FlushSubnormals flush;
    uint64_t seen = 0;
    for (;;) {
      WaitForEpoch(seen);
      if (stop.load()) return;
      seen = epoch.load(std::memory_order_acquire);
      RunPieces(thread);
      working.fetch_sub(1, std::memory_order_release);
    }
  }
};

ThreadPool::ThreadPool(int num_threads) : state_(std::make_unique<State>()) {
  const int count = num_threads > 0 ? num_threads : AvailableCores();
  for (int thread = 1; thread < count; ++thread) {
    state_->workers.emplace_back([state = state_.get(), thread] { state->Work(thread); });
  }
}

ThreadPool::~ThreadPool() {
  {
    std::lock_guard<std::mutex> lock(state_->mutex);
    state_->stop.store(true);
  }
  state_->wake.notify_all();
  for (std::thread& worker : state_->workers) worker.join();
}

int ThreadPool::num_threads() const { return static_cast<int>(state_->workers.size()) + 1; }

void ThreadPool::ParallelFor(int64_t num_pieces, const std::function<void(int64_t, int)>& body) {
  if (num_pieces <= 0) return;
  FlushSubnormals flush;
  if (num_pieces == 1 || state_->workers.empty()) {
    for (int64_t piece = 0; piece < num_pieces; ++piece) body(piece, 0);
    return;
  }
  State& state = *state_;
  state.loop.body = &body;
  state.loop.num_pieces = num_pieces;
  state.loop.next.store(0);
  state.working.store(static_cast<int>(state.workers.size()));
  state.epoch.fetch_add(1);
  if (state.asleep.load() > 0) {
    std::lock_guard<std::mutex> lock(state.mutex);
    state.wake.notify_all();
  }
  state.RunPieces(0);
  for (int spin = 0; state.working.load(std::memory_order_acquire) > 0; ++spin) {
    if (spin < 1000) {
      Relax();
    } else {
      std::this_thread::yield();
    }
  }
}

}  // namespace winnow
