// The measurement: ceilings, every kernel in several rounds, ceilings before and after each. Rounds
// take all kernels in turn, so that a machine that slows down or is shared for a while does it to
// all.
#include <algorithm>
#include <chrono>
#include <cmath>

#include "base/check.h"
#include "base/file.h"
#include "base/text.h"
#include "bench/kernel_cases.h"
#include "bench/report.h"
#include "engine/backends.h"
#include "winnow/bench.h"

namespace winnow::bench {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int kRounds = 3;
constexpr int kMinRuns = 7;  // in all rounds together
constexpr double kMaxSeconds = 3600;

// Twice the caches, so that what is read in turn has left them when its turn comes again; bounded,
// because there are nine pools.
int64_t PoolBytes(const Roofs& roofs) {
  return std::clamp(2 * roofs.cache_bytes, int64_t{64} << 20, int64_t{320} << 20);
}

Result<std::vector<KernelCase>> ChosenCases(const std::string& only, const Backend& backend) {
  std::vector<KernelCase> chosen;
  for (KernelCase& candidate : KernelCases()) {
    if (candidate.group_codes && !backend.reads_group_codes()) continue;
    if (candidate.name.find(only) != std::string::npos) chosen.push_back(std::move(candidate));
  }
  if (chosen.empty()) {
    return InvalidArgument(fmt::format(
        "only: {} is in no kernel's name, expected a part of one such as v32/select/32K/int8/t1",
        Quoted(only)));
  }
  return chosen;
}

// Until the device has done it: on a GPU that includes a launch and a wait.
double TimeOnce(const KernelRun& run, int64_t turn, Backend& backend, Status* status) {
  const Clock::time_point start = Clock::now();
  run(turn);
  Status finished = backend.Finish();
  if (!finished.ok()) *status = std::move(finished);
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// The part of the runs that falls to one round.
Status RunRound(const KernelRun& run, int round, double seconds, Backend& backend, Timed* timed) {
  // The first run grows working memory and wakes threads.
  if (round == 0) run(0);
  Status status = backend.Finish();
  const size_t at_least = static_cast<size_t>((kMinRuns * (round + 1) + kRounds - 1) / kRounds);
  double spent = 0;
  while (status.ok() && (timed->seconds.size() < at_least || spent < seconds / kRounds)) {
    const int64_t turn = static_cast<int64_t>(timed->seconds.size()) + 1;
    timed->seconds.push_back(TimeOnce(run, turn, backend, &status));
    spent += timed->seconds.back();
  }
  return status;
}

Status RunAll(const std::vector<KernelCase>& cases, const KernelBenchOptions& options,
              Backend& backend, Session* session) {
  Inputs inputs(backend, PoolBytes(session->before));
  const auto tell = [&](double fraction, const std::string& note) {
    if (options.progress) options.progress(fraction, note);
  };
  std::vector<KernelRun> runs;
  for (const KernelCase& kernel : cases) {
    tell(0, "making the inputs of " + kernel.name);
    WINNOW_ASSIGN(KernelRun run, kernel.prepare(inputs));
    runs.push_back(std::move(run));
    session->kernels.push_back({kernel.name, kernel.cost, {}});
  }
  for (int round = 0; round < kRounds; ++round) {
    for (size_t kernel = 0; kernel < cases.size(); ++kernel) {
      tell((round + static_cast<double>(kernel) / static_cast<double>(cases.size())) / kRounds,
           cases[kernel].name);
      WINNOW_TRY(
          RunRound(runs[kernel], round, options.seconds, backend, &session->kernels[kernel]));
    }
    WINNOW_ASSIGN(session->after, backend.MeasureRoofs());
    session->highest = Higher(session->highest, session->after);
  }
  return OkStatus();
}

}  // namespace
}  // namespace winnow::bench

namespace winnow {

Result<KernelBenchReport> BenchKernels(const KernelBenchOptions& options) {
  if (!(options.seconds > 0 && options.seconds <= bench::kMaxSeconds)) {
    return InvalidArgument(fmt::format("seconds: {}, expected more than 0 and at most {}",
                                       options.seconds, bench::kMaxSeconds));
  }
  EngineOptions engine;
  engine.backend = options.backend;
  engine.device = options.device;
  engine.num_threads = options.num_threads;
  engine.instruction_set = options.instruction_set;
  WINNOW_ASSIGN(const std::unique_ptr<Backend> backend, CreateBackend(engine));
  WINNOW_ASSIGN(const std::vector<bench::KernelCase> cases,
                bench::ChosenCases(options.only, *backend));

  bench::Session session;
  const Result<std::string> cpuinfo = ReadFile("/proc/cpuinfo", int64_t{16} << 20);
  session.machine = bench::ProcessorModel(cpuinfo.ok() ? *cpuinfo : std::string());
  session.backend = backend->Describe();
  WINNOW_ASSIGN(session.before, backend->MeasureRoofs());
  session.highest = session.before;
  WINNOW_TRY(bench::RunAll(cases, options, *backend, &session));
  return bench::MakeReport(session);
}

}  // namespace winnow
