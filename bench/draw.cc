// What draws of tokens cost on one core: 32 rows of random logits, one after the other. Prints CSV:
// logits,draw,microseconds for all rows (median of 21 runs),fastest,slowest.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <limits>
#include <random>
#include <vector>

#include "backend/draw_token.h"

namespace winnow {
namespace {

constexpr int kRows = 32;
constexpr int kRuns = 21;

struct Draw {
  const char* name;
  DrawRule rule;
};

constexpr int32_t kAll = std::numeric_limits<int32_t>::max();
constexpr Draw kDraws[] = {
    {"likeliest", {.below = kAll}},
    {"temperature 0.7", {.below = kAll, .temperature = 0.7}},
    {"temperature 0.7 top_p 0.95", {.below = kAll, .temperature = 0.7, .top_p = 0.95}},
    {"temperature 1 top_p 0.95", {.below = kAll, .temperature = 1, .top_p = 0.95}},
    {"temperature 0.7 top_k 50", {.below = kAll, .top_k = 50, .temperature = 0.7}},
    {"temperature 0.7 min_p 0.05", {.below = kAll, .temperature = 0.7, .min_p = 0.05}},
};

void Time(const Draw& draw, size_t count, const std::vector<float>& logits) {
  std::mt19937_64 random(1);
  std::vector<double> times;
  int64_t sum = 0;
  for (int run = 0; run < kRuns; ++run) {
    const auto begin = std::chrono::steady_clock::now();
    for (size_t row = 0; row < kRows; ++row) {
      DrawRule rule = draw.rule;
      rule.random = random();
      sum += DrawToken({&logits[row * count], count}, rule);
    }
    times.push_back(
        std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - begin)
            .count());
  }
  std::sort(times.begin(), times.end());
  if (sum >= 0) {  // so that the work cannot be left out
    std::printf("%zu,%s,%.0f,%.0f,%.0f\n", count, draw.name, times[kRuns / 2], times.front(),
                times.back());
  }
}

}  // namespace
}  // namespace winnow

int main() {
  std::printf("logits,draw,median_us,fastest_us,slowest_us\n");
  for (const size_t count : {8192, 129280}) {
    std::mt19937 bits(1);
    std::normal_distribution<float> normal(0, 2.5f);
    std::vector<float> logits(winnow::kRows * count);
    for (float& logit : logits) logit = normal(bits);
    for (const winnow::Draw& draw : winnow::kDraws) winnow::Time(draw, count, logits);
  }
}
