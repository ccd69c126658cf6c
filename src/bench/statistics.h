// What is said of many timings of one thing.
#pragma once

#include <vector>

namespace winnow::bench {

// Of values sorted in ascending order, at least one: the value below which `fraction` (0 to 1) of
// the way from the first to the last lies, in a straight line between neighbours.
double Percentile(const std::vector<double>& sorted, double fraction);

struct Summary {
  double median = 0;
  double p10 = 0;
  double p90 = 0;
};
// Of at least one value, in any order.
Summary Summarize(std::vector<double> values);

}  // namespace winnow::bench
