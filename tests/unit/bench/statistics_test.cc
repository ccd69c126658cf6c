#include "bench/statistics.h"

#include <gtest/gtest.h>

namespace winnow::bench {
namespace {

TEST(Percentile, LiesOnAStraightLineBetweenNeighbours) {
  const std::vector<double> values = {10, 20, 40, 80, 160};
  EXPECT_DOUBLE_EQ(Percentile(values, 0), 10);
  EXPECT_DOUBLE_EQ(Percentile(values, 0.5), 40);
  EXPECT_DOUBLE_EQ(Percentile(values, 1), 160);
  // Place 0.1 * 4 = 0.4 and 0.9 * 4 = 3.6.
  EXPECT_DOUBLE_EQ(Percentile(values, 0.1), 14);
  EXPECT_DOUBLE_EQ(Percentile(values, 0.9), 128);
}

TEST(Percentile, OfOneValueIsThatValue) {
  for (const double fraction : {0.0, 0.1, 0.5, 1.0}) EXPECT_EQ(Percentile({7}, fraction), 7);
}

TEST(Summary, DoesNotDependOnTheOrder) {
  const Summary summary = Summarize({160, 10, 80, 40, 20});
  EXPECT_DOUBLE_EQ(summary.median, 40);
  EXPECT_DOUBLE_EQ(summary.p10, 14);
  EXPECT_DOUBLE_EQ(summary.p90, 128);
}

TEST(Summary, OfAnEvenCountTakesTheMiddleOfTwo) {
  EXPECT_DOUBLE_EQ(Summarize({4, 1, 2, 3}).median, 2.5);
}

}  // namespace
}  // namespace winnow::bench
