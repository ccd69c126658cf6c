// What the selection of one token costs on one core when its scores are there already, in memory
// order: the best K of a row, exactly. In the engine this runs fused with scoring, 64 scores at a
// time, as here. Prints CSV: scores,values,topk,microseconds (median),fastest,slowest.
//
//   topk [K]    by default 2048
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "cpu/cpu_backend.h"
#include "cpu/dsa/token_selection.h"

namespace winnow::cpu {
namespace {

constexpr int kRuns = 201;

struct Distribution {
  const char* name;
  std::function<float(int64_t)> score;
};

std::vector<Distribution> Distributions(std::mt19937& random) {
  const auto normal = [&random](int64_t) { return std::normal_distribution<float>()(random); };
  return {
      {"normal", normal},
      {"half zeros", [=](int64_t s) { return std::max(0.0f, normal(s)); }},
      {"concentrated",
       [&random](int64_t) { return 1 + static_cast<float>(random() % 64) * 0x1p-23f; }},
      {"equal", [](int64_t) { return 0.0f; }},
      {"rising", [](int64_t s) { return static_cast<float>(s); }},
  };
}

// Returns the sum of the chosen positions, so that the work cannot be left out.
int64_t SelectBest(const LightningIndexerKernels& kernels, const std::vector<float>& scores,
                   int64_t topk, Candidate* buffer) {
  BestCandidates best(kernels, buffer, topk);
  const int64_t count = static_cast<int64_t>(scores.size());
  for (int64_t first = 0; first < count; first += kMaxRun) {
    best.Appended(kernels.filter(scores.data() + first, std::min(kMaxRun, count - first),
                                 static_cast<int32_t>(first), best.threshold(), best.end()));
  }
  int64_t sum = 0;
  const int64_t chosen = best.Finish();
  for (int64_t k = 0; k < chosen; ++k) sum += PositionOf(best.begin()[k]);
  return sum;
}

void Time(const Distribution& distribution, int64_t count, int64_t topk) {
  const LightningIndexerKernels& kernels = DsaKernelsFor(BestInstructionSet()).indexer;
  std::vector<float> scores(static_cast<size_t>(count));
  for (int64_t s = 0; s < count; ++s) scores[static_cast<size_t>(s)] = distribution.score(s);
  std::vector<Candidate> buffer(static_cast<size_t>(BestCandidates::BufferSize(topk)));
  std::vector<double> times;
  int64_t sum = 0;
  for (int run = 0; run < kRuns; ++run) {
    const auto begin = std::chrono::steady_clock::now();
    sum += SelectBest(kernels, scores, topk, buffer.data());
    times.push_back(
        std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - begin)
            .count());
  }
  std::sort(times.begin(), times.end());
  if (sum >= 0) {
    std::printf("%lld,%s,%lld,%.1f,%.1f,%.1f\n", static_cast<long long>(count), distribution.name,
                static_cast<long long>(topk), times[kRuns / 2], times.front(), times.back());
  }
}

}  // namespace
}  // namespace winnow::cpu

int main(int argc, char** argv) {
  char* end = nullptr;
  const int64_t topk = argc > 1 ? std::strtoll(argv[1], &end, 10) : 2048;
  if (argc > 2 || topk < 1 || topk > 1 << 20 || (argc > 1 && *end != '\0')) {
    std::fprintf(stderr, "topk: %s, expected one K, from 1 to 1048576\n", argv[argc - 1]);
    return 2;
  }
  std::mt19937 random(1);
  std::printf("scores,values,topk,median_us,fastest_us,slowest_us\n");
  for (const auto& distribution : winnow::cpu::Distributions(random)) {
    for (const int64_t count : {4096, 32768, 131072}) {
      winnow::cpu::Time(distribution, count, topk);
    }
  }
}
