// winnow bench threads: what it costs to hand work to threads, and what a neighbour takes of it.
#include <fmt/format.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>

#include "base/thread_pool.h"
#include "bench_commands.h"
#include "terminal.h"

namespace winnow::apps {
namespace {

using Clock = std::chrono::steady_clock;

double MicrosSince(Clock::time_point start) {
  return std::chrono::duration<double, std::micro>(Clock::now() - start).count();
}

struct ThreadBench {
  int num_threads = 0;
  bool pin = true;
  int neighbours = 1;
  double seconds = 0.5;  // for each number of the second table
};

// Additions that nobody can shorten, each waiting for the one before.
void Work(int64_t steps) {
  static thread_local volatile uint64_t sink = 1;
  uint64_t value = sink;
  for (int64_t step = 0; step < steps; ++step) value = value * 6364136223846793005u + 1;
  sink = value;
}

// Steps of Work in a microsecond, on a core of one's own: the best of many.
double StepsPerMicro() {
  constexpr int64_t kSteps = 100'000;
  double best = 0;
  for (int round = 0; round < 100; ++round) {
    const Clock::time_point start = Clock::now();
    Work(kSteps);
    best = std::max(best, kSteps / MicrosSince(start));
  }
  return best;
}

// Processes that do nothing but use a core each, until destruction.
class Neighbours {
 public:
  explicit Neighbours(int count) {
    for (int index = 0; index < count; ++index) {
      const pid_t child = fork();
      if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        for (;;) Work(1000);
      }
      if (child > 0) children_.push_back(child);
    }
  }
  ~Neighbours() {
    for (const pid_t child : children_) {
      kill(child, SIGKILL);
      waitpid(child, nullptr, 0);
    }
  }
  Neighbours(const Neighbours&) = delete;
  Neighbours& operator=(const Neighbours&) = delete;

 private:
  std::vector<pid_t> children_;
};

// Times of a loop with a piece for each thread, which is over when all threads have one in hand; it
// begins `gap` microseconds after the one before.
void PrintHandOff(ThreadPool& pool, double gap) {
  std::vector<double> times;
  const Clock::time_point begin = Clock::now();
  while (times.size() < 5000 && (times.size() < 50 || MicrosSince(begin) < 1e6)) {
    const Clock::time_point last = Clock::now();
    if (gap > 1000) {
      usleep(static_cast<useconds_t>(gap));
    } else {
      while (MicrosSince(last) < gap) {
      }
    }
    const Clock::time_point start = Clock::now();
    std::atomic<int> arrived = 0;
    pool.ParallelFor(pool.num_threads(), [&](int64_t, int) {
      ++arrived;
      while (arrived.load() < pool.num_threads()) {
      }
    });
    times.push_back(MicrosSince(start));
  }
  std::sort(times.begin(), times.end());
  const auto at = [&](size_t percent) { return times[times.size() * percent / 100]; };
  fmt::print("{:>14} {:>12.2f} {:>8.2f} {:>8.2f}\n", Grouped(static_cast<int64_t>(gap)), at(50),
             at(10), at(90));
}

// Cores' worth of work done in loops of four pieces a thread.
double CoresUsed(ThreadPool& pool, double piece, double steps_per_micro, double seconds) {
  const int64_t steps = static_cast<int64_t>(piece * steps_per_micro);
  const int64_t pieces = 4 * pool.num_threads();
  double done = 0;
  const Clock::time_point start = Clock::now();
  while (MicrosSince(start) < seconds * 1e6) {
    pool.ParallelFor(pieces, [steps](int64_t, int) { Work(steps); });
    done += static_cast<double>(pieces) * piece;
  }
  return done / MicrosSince(start);
}

void RunThreadBench(const ThreadBench& options) {
  ThreadPool pool(options.num_threads, options.pin);
  fmt::print("{} threads{}\n\n{:>14} {:>12} {:>8} {:>8}\n", pool.num_threads(),
             options.pin ? "" : ", not pinned", "us between", "median, us", "p10", "p90");
  for (const double gap : {0.0, 5.0, 20.0, 200.0, 2000.0}) PrintHandOff(pool, gap);
  fmt::print("\n{:>14} {:>12} {:>14} {:>8}\n", "us of a piece", "cores alone",
             fmt::format("beside {} busy", options.neighbours), "left out");
  const double steps_per_micro = StepsPerMicro();
  for (const double piece : {5.0, 50.0, 500.0}) {
    const double alone = CoresUsed(pool, piece, steps_per_micro, options.seconds);
    const int64_t rests = pool.num_rests();
    const Neighbours neighbours(options.neighbours);
    const double beside = CoresUsed(pool, piece, steps_per_micro, options.seconds);
    fmt::print("{:>14} {:>12.2f} {:>14.2f} {:>8}\n", piece, alone, beside,
               pool.num_rests() - rests);
    std::fflush(stdout);
  }
}

}  // namespace

void AddBenchThreads(CLI::App& bench, int* exit_code) {
  auto options = std::make_shared<ThreadBench>();
  CLI::App* command =
      bench.add_subcommand("threads",
                           "What it costs to hand work to the threads, by the time since the last, "
                           "and how much gets done "
                           "alone\nand beside processes that keep a core busy. Needs no model.");
  command->add_option("--threads", options->num_threads, "Threads; 0: one for each core")
      ->type_name("N")
      ->check(CLI::Range(0, 1024).description(""))
      ->capture_default_str();
  command->add_flag_callback(
      "--no-pin", [options] { options->pin = false; }, "Let the system move threads between cores");
  command->add_option("--neighbours", options->neighbours, "Busy processes beside")
      ->type_name("N")
      ->check(CLI::Range(0, 1024).description(""))
      ->capture_default_str();
  command->add_option("--seconds", options->seconds, "Time for each number of the second table")
      ->type_name("S")
      ->check(CLI::Range(0.01, 100.0).description(""))
      ->capture_default_str();
  command->callback([options, exit_code] {
    RunThreadBench(*options);
    *exit_code = 0;
  });
}

}  // namespace winnow::apps
