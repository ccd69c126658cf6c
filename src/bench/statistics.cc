#include "bench/statistics.h"

#include <algorithm>
#include <cmath>

#include "base/check.h"

namespace winnow::bench {

double Percentile(const std::vector<double>& sorted, double fraction) {
  WINNOW_CHECK(!sorted.empty() && fraction >= 0 && fraction <= 1, "a percentile of nothing");
  const double place = fraction * static_cast<double>(sorted.size() - 1);
  const size_t below = static_cast<size_t>(std::floor(place));
  const size_t above = std::min(below + 1, sorted.size() - 1);
  return sorted[below] + (place - std::floor(place)) * (sorted[above] - sorted[below]);
}

Summary Summarize(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return {Percentile(values, 0.5), Percentile(values, 0.1), Percentile(values, 0.9)};
}

}  // namespace winnow::bench
