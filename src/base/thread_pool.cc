#include "base/thread_pool.h"

#include <sched.h>

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

#include "base/check.h"

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

// A loop ends when its pieces are done, not when the workers have come back from it: a worker whose
// core another process has taken would hold up every loop, though it has no piece in hand. So a
// worker may be late, and must not take what it finds for the loop it was woken for. A claim
// therefore names the loop it counts on (`epoch`), and only a successful one gives the right to
// read `body` and `num_pieces`, which stay as they are until that piece is done.
struct ThreadPool::State {
  static constexpr int kLeftBits = 40;
  static constexpr uint64_t kLeft = (uint64_t{1} << kLeftBits) - 1;

  const std::function<void(int64_t, int)>* body = nullptr;
  int64_t num_pieces = 0;
  std::atomic<uint64_t> claims{0};  // epoch << kLeftBits | pieces that nobody has claimed
  std::atomic<int64_t> done{0};     // pieces of the loop
  std::atomic<bool> stop{false};
  std::atomic<int> asleep{0};
  std::mutex mutex;
  std::condition_variable wake;
  std::vector<std::thread> workers;

  uint64_t epoch() const { return claims.load() >> kLeftBits; }

  // Pieces of whatever loop is running, until none is left to claim.
  void RunPieces(int thread) {
    uint64_t claim = claims.load(std::memory_order_acquire);
    while ((claim & kLeft) != 0) {
      if (!claims.compare_exchange_weak(claim, claim - 1, std::memory_order_acquire)) continue;
      (*body)(num_pieces - static_cast<int64_t>(claim & kLeft), thread);
      done.fetch_add(1, std::memory_order_release);
      claim = claims.load(std::memory_order_acquire);
    }
  }

  void WaitForEpoch(uint64_t seen) {
    constexpr int kSpins = 4000;  // some tens of microseconds: the gap between two loops of a step
    for (int spin = 0; spin < kSpins; ++spin) {
      if (epoch() != seen || stop.load()) return;
      Relax();
    }
    std::unique_lock<std::mutex> lock(mutex);
    ++asleep;
    wake.wait(lock, [&] { return epoch() != seen || stop.load(); });
    --asleep;
  }

  void Work(int thread) {
    FlushSubnormals flush;
    for (uint64_t seen = 0;;) {
      WaitForEpoch(seen);
      if (stop.load()) return;
      seen = epoch();
      RunPieces(thread);
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
  WINNOW_CHECK(static_cast<uint64_t>(num_pieces) <= State::kLeft, "ParallelFor: too many pieces");
  state.body = &body;
  state.num_pieces = num_pieces;
  state.done.store(0, std::memory_order_relaxed);
  state.claims.store((state.epoch() + 1) << State::kLeftBits | static_cast<uint64_t>(num_pieces));
  if (state.asleep.load() > 0) {
    std::lock_guard<std::mutex> lock(state.mutex);
    state.wake.notify_all();
  }
  state.RunPieces(0);
  for (int spin = 0; state.done.load(std::memory_order_acquire) < num_pieces; ++spin) {
    if (spin < 1000) {
      Relax();
    } else {
      std::this_thread::yield();
    }
  }
}

}  // namespace winnow
