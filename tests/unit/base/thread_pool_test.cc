// Every piece once, on any number of threads.
#include "base/thread_pool.h"

#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <chrono>
#include <limits>
#include <memory>
#include <thread>
#include <vector>

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
