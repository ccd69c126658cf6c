// Every piece once, on any number of threads.
#include "base/thread_pool.h"

#include <gtest/gtest.h>
#include <sched.h>

#include <array>
#include <atomic>
#include <chrono>
#include <limits>
#include <memory>
#include <set>
#include <thread>
#include <vector>

#include "base/cores.h"

namespace winnow {
namespace {

TEST(ThreadPool, RunsEveryPieceExactlyOnce) {
  for (const int threads : {1, 2, 3, 8}) {
    ThreadPool pool(threads);
    ASSERT_EQ(pool.num_threads(), threads);
    for (const int64_t pieces : {0, 1, 2, 7, 1000}) {
      std::vector<std::atomic<int>> runs(static_cast<size_t>(pieces));
      std::atomic<bool> thread_in_range = true;
      pool.ParallelFor(pieces, [&](int64_t piece, int thread) {
        ++runs[piece];
        if (thread < 0 || thread >= threads) thread_in_range = false;
      });
      for (const auto& count : runs) EXPECT_EQ(count, 1);
      EXPECT_TRUE(thread_in_range);
    }
  }
}

TEST(ThreadPool, IsDoneWhenParallelForReturns) {
  ThreadPool pool(4);
  for (int round = 0; round < 2000; ++round) {
    std::vector<int64_t> squares(5, -1);  // plain memory: a late piece would be seen missing
    pool.ParallelFor(5, [&](int64_t piece, int) { squares[piece] = piece * piece; });
    ASSERT_EQ(squares, (std::vector<int64_t>{0, 1, 4, 9, 16})) << "round " << round;
  }
}

TEST(ThreadPool, KeepsLoopsApartWhenWorkersAreLate) {
  // Far more threads than cores: most wake up when the loop that they were woken for is over.
  ThreadPool pool(8);
  for (int64_t loop = 0; loop < 300; ++loop) {
    const int64_t num_pieces = loop % 7 + 1;
    auto runs = std::make_unique<std::array<std::atomic<int>, 8>>();  // gone with its loop
    for (std::atomic<int>& count : *runs) count = 0;
    pool.ParallelFor(num_pieces, [&](int64_t piece, int) {
      if (piece % 3 == 1) std::this_thread::yield();  // lets the others in
      ++(*runs)[piece];
    });
    for (int64_t piece = 0; piece < 8; ++piece) {
      ASSERT_EQ((*runs)[piece], piece < num_pieces ? 1 : 0) << "loop " << loop;
    }
  }
}

TEST(ThreadPool, WakesWorkersThatFellAsleep) {
  ThreadPool pool(3);
  for (int round = 0; round < 3; ++round) {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    std::atomic<int> sum = 0;
    pool.ParallelFor(100, [&](int64_t piece, int) { sum += static_cast<int>(piece); });
    EXPECT_EQ(sum, 4950);
  }
}

// Which processors the threads of a pool may use, by thread.
std::vector<std::vector<int>> CpusOfThreads(ThreadPool& pool) {
  const int64_t threads = pool.num_threads();
  std::vector<std::vector<int>> cpus(static_cast<size_t>(threads));
  std::atomic<int64_t> arrived = 0;
  pool.ParallelFor(threads, [&](int64_t, int thread) {
    cpus[static_cast<size_t>(thread)] = AllowedCpus();
    ++arrived;
    while (arrived < threads) std::this_thread::yield();  // a piece for every thread
  });
  return cpus;
}

TEST(ThreadPool, PinsWorkersApartAndNeverTheCaller) {
  const std::vector<int> all = AllowedCpus();
  ThreadPool pool(static_cast<int>(all.size()), /*pin=*/true);
  const auto cpus = CpusOfThreads(pool);
  EXPECT_EQ(cpus[0], all);
  std::set<int> taken;
  for (size_t thread = 1; thread < cpus.size(); ++thread) {
    ASSERT_EQ(cpus[thread].size(), 1u);
    EXPECT_TRUE(taken.insert(cpus[thread][0]).second) << "two threads on one processor";
  }
}

TEST(ThreadPool, DoesNotPinUnlessThereIsAThreadForEveryProcessor) {
  const std::vector<int> all = AllowedCpus();
  const int count = static_cast<int>(all.size());
  for (const int threads : {count - 1, count + 1}) {
    if (threads < 1) continue;
    ThreadPool pool(threads, /*pin=*/true);
    for (const auto& cpus : CpusOfThreads(pool)) EXPECT_EQ(cpus, all);
  }
  ThreadPool pool(count, /*pin=*/false);
  for (const auto& cpus : CpusOfThreads(pool)) EXPECT_EQ(cpus, all);
}

// Keeps a processor busy from begin to end.
class BusyProcessor {
 public:
  explicit BusyProcessor(int cpu) {
    thread_ = std::thread([this, cpu] {
      cpu_set_t set;
      CPU_ZERO(&set);
      CPU_SET(cpu, &set);
      sched_setaffinity(0, sizeof(set), &set);
      while (!stop_.load(std::memory_order_relaxed)) {
      }
    });
  }
  ~BusyProcessor() {
    stop_ = true;
    thread_.join();
  }

 private:
  std::atomic<bool> stop_{false};
  std::thread thread_;
};

TEST(ThreadPool, LeavesOutAWorkerThatLostItsCore) {
  const int cpu = AllowedCpus().back();
  ThreadPool pool(3);
  auto busy = std::make_unique<BusyProcessor>(cpu);
  std::atomic<bool> starved = false;
  // One piece stays in the hands of a worker that gets next to nothing of its processor, until the
  // pool has noticed.
  for (int loop = 0; loop < 200 && pool.num_rests() == 0; ++loop) {
    std::atomic<int> begun = 0;
    pool.ParallelFor(2, [&](int64_t, int thread) {
      ++begun;
      if (thread == 0) {
        while (begun < 2) std::this_thread::yield();
        return;
      }
      cpu_set_t set;
      CPU_ZERO(&set);
      CPU_SET(cpu, &set);
      sched_setaffinity(0, sizeof(set), &set);
      const sched_param none{};
      starved = sched_setscheduler(0, SCHED_IDLE, &none) == 0;
      const auto end = std::chrono::steady_clock::now() + std::chrono::milliseconds(20);
      while (std::chrono::steady_clock::now() < end) {
      }
    });
    if (!starved) GTEST_SKIP() << "the system lets no thread give way to all others";
  }
  EXPECT_GE(pool.num_rests(), 1);
  busy.reset();
  for (int round = 0; round < 50; ++round) {  // while it rests, and when it is back
    std::vector<int> runs(9, 0);
    pool.ParallelFor(9, [&](int64_t piece, int) { ++runs[piece]; });
    ASSERT_EQ(runs, std::vector<int>(9, 1));
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
}

TEST(ThreadPool, UsesAtLeastOneThreadByDefault) {
  ThreadPool pool(0);
  EXPECT_GE(pool.num_threads(), 1);
}

TEST(ThreadPool, FlushesSubnormalsInsideAndNotOutside) {
#if !defined(__x86_64__)
  GTEST_SKIP() << "only x86 has the switch";
#endif
  ThreadPool pool(4);
  const volatile float tiny = std::numeric_limits<float>::min();
  std::vector<float> halves(64, -1.0f);
  pool.ParallelFor(64, [&](int64_t piece, int) { halves[piece] = tiny * 0.5f; });
  for (const float half : halves) EXPECT_EQ(half, 0.0f);
  EXPECT_GT(tiny * 0.5f, 0.0f);
}

}  // namespace
}  // namespace winnow
