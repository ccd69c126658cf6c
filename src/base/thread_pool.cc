#include "base/thread_pool.h"

#include <fcntl.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <climits>
#include <cstdio>
#include <cstring>
#include <thread>
#include <utility>
#include <vector>

#include "base/check.h"
#include "base/cores.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace winnow {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::microseconds;
using std::chrono::milliseconds;

// Some tens of microseconds: more than lies between two loops of a step.
constexpr int kSpins = 4000;
// A worker that holds a piece is watched for so long before it is said to have lost its core.
constexpr microseconds kWatch(30);
constexpr milliseconds kLongestRest(320);

void Relax() {
#if defined(__x86_64__)
  _mm_pause();
#else
  std::this_thread::yield();
#endif
}

// Sleeps while `word` is `value`; may return early.
void SleepWhile(std::atomic<uint32_t>* word, uint32_t value) {
  syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, value, nullptr, nullptr, 0);
}

void Wake(std::atomic<uint32_t>* word, int64_t sleepers) {
  syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, std::min<int64_t>(sleepers, INT_MAX), nullptr,
          nullptr, 0);
}

void PinTo(int cpu) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(cpu, &set);
  // Refused where the processor was taken away in the meantime: then the system chooses.
  sched_setaffinity(0, sizeof(set), &set);
}

// Whether the thread wants a core, as opposed to waiting for a page of a file; false if unknown.
bool WantsCore(pid_t thread) {
  char path[64];
  std::snprintf(path, sizeof(path), "/proc/self/task/%d/stat", static_cast<int>(thread));
  const int file = open(path, O_RDONLY | O_CLOEXEC);
  if (file < 0) return false;
  char text[128] = {};  // "12 (name) R ..."
  const ssize_t length = read(file, text, sizeof(text) - 1);
  close(file);
  const char* name_end = length > 0 ? std::strrchr(text, ')') : nullptr;
  return name_end != nullptr && std::strncmp(name_end, ") R", 3) == 0;
}

// One thread of the pool other than the caller.
struct alignas(64) Worker {
  // Of the worker.
  std::atomic<bool> has_piece{false};
  std::atomic<pid_t> id{0};
  // Of the caller.
  std::atomic<uint32_t> resting{0};
  bool lost_core = false;  // in the loop that runs
  Clock::duration rest{};  // the last one's length and end
  Clock::time_point rest_until;
  int64_t cpu_time = 0;  // when the watch began; -1: it is not watched
  std::thread thread;

  // Nanoseconds of processor time that it has used.
  int64_t CpuTime() {
    clockid_t clock;
    timespec time{};
    if (pthread_getcpuclockid(thread.native_handle(), &clock) != 0) return -1;
    if (clock_gettime(clock, &time) != 0) return -1;
    return int64_t{time.tv_sec} * 1'000'000'000 + time.tv_nsec;
  }
};

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
//
// A worker that loses its core with a piece in hand does hold up its loop, until the system gives
// it another turn, and it would do so again every few milliseconds. The caller, who waits anyway,
// sees that the worker wants a core and gets none, and leaves it out for a while.
//
// Sleepers follow one pattern: say that you sleep, look once more whether there is something to do,
// sleep on a word; who makes something to do looks afterwards whether anybody sleeps. All in the
// single order of sequential consistency, so that one of the two sees the other.
struct ThreadPool::State {
  static constexpr int kLeftBits = 40;
  static constexpr uint64_t kLeft = (uint64_t{1} << kLeftBits) - 1;

  // Apart from each other, so that who spins on one is not disturbed by writes to another.
  alignas(64) std::atomic<uint64_t> claims{0};  // epoch << kLeftBits | pieces nobody has claimed
  const std::function<void(int64_t, int)>* body = nullptr;
  int64_t num_pieces = 0;
  alignas(64) std::atomic<int64_t> done{0};  // pieces of the loop
  alignas(64) std::atomic<uint32_t> bell{0};
  std::atomic<int> asleep{0};  // workers that the bell wakes
  std::atomic<bool> stop{false};
  alignas(64) std::atomic<uint32_t> caller_asleep{0};

  int spins = kSpins;
  int num_resting = 0;
  std::atomic<int64_t> num_rests{0};
  std::vector<Worker> workers;

  explicit State(int num_workers) : workers(static_cast<size_t>(num_workers)) {}

  // Beside many neighbours that come and go all would rest, and one thread would do all the work.
  // A single worker never rests: nobody but the caller waits for it.
  int most_resting() const { return static_cast<int>(workers.size() / 2); }

  uint64_t epoch() const { return claims.load() >> kLeftBits; }

  // Pieces of whatever loop is running, until none is left to claim. `worker` is null for the
  // caller.
  void RunPieces(int thread, Worker* worker) {
    uint64_t claim = claims.load(std::memory_order_acquire);
    while ((claim & kLeft) != 0) {
      if (worker != nullptr) {
        if (worker->resting.load(std::memory_order_relaxed) != 0) return;
        worker->has_piece.store(true, std::memory_order_relaxed);
      }
      if (claims.compare_exchange_weak(claim, claim - 1, std::memory_order_acquire)) {
        const int64_t of_loop = num_pieces;
        (*body)(of_loop - static_cast<int64_t>(claim & kLeft), thread);
        if (worker != nullptr) worker->has_piece.store(false, std::memory_order_relaxed);
        if (done.fetch_add(1) + 1 == of_loop && caller_asleep.load() != 0) {
          caller_asleep.store(0);
          Wake(&caller_asleep, 1);
        }
        claim = claims.load(std::memory_order_acquire);
      }
    }
    if (worker != nullptr) worker->has_piece.store(false, std::memory_order_relaxed);
  }

  void WaitForEpoch(uint64_t seen, Worker* worker) {
    const auto called = [&] { return epoch() != seen || stop.load(); };
    while (worker->resting.load() != 0 && !stop.load()) SleepWhile(&worker->resting, 1);
    for (int spin = 0; spin < spins; ++spin) {
      if (called()) return;
      Relax();
    }
    ++asleep;
    for (;;) {
      const uint32_t rung = bell.load();
      if (called()) break;
      SleepWhile(&bell, rung);
    }
    --asleep;
  }

  void Work(int thread) {
    Worker* worker = &workers[static_cast<size_t>(thread) - 1];
    worker->id.store(static_cast<pid_t>(syscall(SYS_gettid)));
    FlushSubnormals flush;
    for (uint64_t seen = 0;;) {
      WaitForEpoch(seen, worker);
      if (stop.load()) return;
      seen = epoch();
      RunPieces(thread, worker);
    }
  }

  void RingBell(int64_t wanted) {
    if (asleep.load() == 0) return;
    ++bell;
    Wake(&bell, wanted);
  }

  void EndRests() {
    const Clock::time_point now = Clock::now();
    for (Worker& worker : workers) {
      if (worker.resting.load() == 0 || now < worker.rest_until) continue;
      worker.resting.store(0);
      Wake(&worker.resting, 1);
      --num_resting;
    }
  }

  // Leaves out whoever lost his core in the loop that is over. It was held up for `held`, and all
  // others with it: as much work is lost by leaving one worker out for so long times the others.
  // Who loses his core again soon after is left out twice as long.
  void BeginRests(Clock::duration held) {
    const Clock::time_point now = Clock::now();
    for (Worker& worker : workers) {
      const bool rests = std::exchange(worker.lost_core, false) && num_resting < most_resting();
      if (!rests) continue;
      const bool again = now < worker.rest_until + 2 * worker.rest;
      worker.rest = std::max(held * static_cast<int64_t>(workers.size()),
                             again ? 2 * worker.rest : Clock::duration());
      worker.rest = std::min<Clock::duration>(worker.rest, kLongestRest);
      worker.rest_until = now + worker.rest;
      worker.resting.store(1);
      ++num_resting;
      ++num_rests;
    }
  }

  // Watches the workers that hold the last pieces of the loop, and marks those that get no
  // processor time though they want it. True if there are any.
  bool FindLostCores() {
    const Clock::time_point start = Clock::now();
    for (Worker& worker : workers) {
      worker.cpu_time = worker.has_piece.load() ? worker.CpuTime() : -1;
    }
    while (Clock::now() - start < kWatch) {
      if (done.load() == num_pieces) return false;
      Relax();
    }
    bool any = false;
    for (Worker& worker : workers) {
      if (worker.cpu_time < 0 || !worker.has_piece.load()) continue;
      const std::chrono::nanoseconds used(worker.CpuTime() - worker.cpu_time);
      worker.lost_core = used < kWatch / 4 && WantsCore(worker.id.load());
      any |= worker.lost_core;
    }
    return any;
  }

  // Whether the loop is over before `spin` looks at it have been made.
  bool IsOverSoon(int spin) {
    for (; spin > 0; --spin) {
      if (done.load(std::memory_order_acquire) == num_pieces) return true;
      Relax();
    }
    return false;
  }

  // The pieces that are left are in the hands of workers, and mostly done in a moment. Who waits
  // longer sleeps, since his core may be what a worker needs: not too soon, because waking up takes
  // as long as a short piece.
  void WaitForWorkers() {
    if (IsOverSoon(spins / 4)) return;
    const Clock::time_point start = Clock::now();
    const bool lost_cores = num_resting < most_resting() && FindLostCores();
    if (!lost_cores && IsOverSoon(8 * spins)) return;
    for (;;) {
      caller_asleep.store(1);
      if (done.load() == num_pieces) break;
      SleepWhile(&caller_asleep, 1);
    }
    caller_asleep.store(0);
    if (lost_cores) BeginRests(Clock::now() - start);
  }
};

ThreadPool::ThreadPool(int num_threads, bool pin) {
  const int count = num_threads > 0 ? num_threads : UsableCores();
  state_ = std::make_unique<State>(count - 1);
  const std::vector<int> cpus = AllowedCpus();
  const bool pinned = pin && cpus.size() == static_cast<size_t>(count);
  // More threads than processors: who spins keeps another from running.
  if (static_cast<size_t>(count) > cpus.size()) state_->spins = 0;
  for (int thread = 1; thread < count; ++thread) {
    const int cpu = pinned ? cpus[static_cast<size_t>(thread)] : -1;
    state_->workers[static_cast<size_t>(thread) - 1].thread =
        std::thread([state = state_.get(), thread, cpu] {
          if (cpu >= 0) PinTo(cpu);
          state->Work(thread);
        });
  }
}

ThreadPool::~ThreadPool() {
  state_->stop.store(true);
  ++state_->bell;
  Wake(&state_->bell, INT_MAX);
  for (Worker& worker : state_->workers) {
    worker.resting.store(0);
    Wake(&worker.resting, 1);
    worker.thread.join();
  }
}

int ThreadPool::num_threads() const { return static_cast<int>(state_->workers.size()) + 1; }

int64_t ThreadPool::num_rests() const { return state_->num_rests.load(); }

void ThreadPool::ParallelFor(int64_t num_pieces, const std::function<void(int64_t, int)>& body) {
  if (num_pieces <= 0) return;
  FlushSubnormals flush;
  State& state = *state_;
  if (state.num_resting > 0) state.EndRests();
  const int64_t helpers = static_cast<int64_t>(state.workers.size()) - state.num_resting;
  if (num_pieces == 1 || helpers == 0) {
    for (int64_t piece = 0; piece < num_pieces; ++piece) body(piece, 0);
    return;
  }
  WINNOW_CHECK(static_cast<uint64_t>(num_pieces) <= State::kLeft, "ParallelFor: too many pieces");
  state.body = &body;
  state.num_pieces = num_pieces;
  state.done.store(0, std::memory_order_relaxed);
  state.claims.store((state.epoch() + 1) << State::kLeftBits | static_cast<uint64_t>(num_pieces));
  state.RingBell(num_pieces - 1);
  state.RunPieces(0, nullptr);
  state.WaitForWorkers();
}

}  // namespace winnow
