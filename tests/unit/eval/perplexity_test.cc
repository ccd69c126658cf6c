#include "eval/perplexity.h"

#include <gtest/gtest.h>

#include <cmath>

namespace winnow::eval {
namespace {

TEST(PerplexityBuckets, AreWhollyWithinIndexTopkAndThenDouble) {
  for (const int64_t topk : {1, 7, 256}) {
    int64_t end = 0;
    for (int64_t index = 0; index < 6; ++index) {
      const Bucket bucket = BucketAt(index, topk);
      EXPECT_EQ(bucket.first, end);
      EXPECT_EQ(bucket.end, topk << index);
      EXPECT_EQ(BucketOf(bucket.first, topk), index);
      EXPECT_EQ(BucketOf(bucket.end - 1, topk), index);
      end = bucket.end;
    }
  }
}

TEST(PerplexityWindows, BeginWithTheBeginningOfASentenceAndHoldEveryToken) {
  const std::vector<int32_t> tokens = {10, 11, 12, 13, 14, 15, 16};
  using Windows = std::vector<std::vector<int32_t>>;
  EXPECT_EQ(CutWindows(tokens, 4, 0), (Windows{{0, 10, 11, 12}, {0, 13, 14, 15}, {0, 16}}));
  EXPECT_EQ(CutWindows(tokens, 3, -1), (Windows{{10, 11, 12}, {13, 14, 15}}));
  EXPECT_EQ(CutWindows(tokens, 100, 0), (Windows{{0, 10, 11, 12, 13, 14, 15, 16}}));
  EXPECT_EQ(CutWindows({}, 4, 0), Windows{});
}

TEST(Perplexity, IsTheExponentialOfTheMeanLoss) {
  // Two predictions of probability 1/2 and 1/8: the geometric mean is 1/4.
  EXPECT_NEAR(Perplexity(std::log(2.0) + std::log(8.0), 2), 4.0, 1e-12);
  EXPECT_TRUE(std::isnan(Perplexity(0, 0)));
  EXPECT_NEAR(SparseRatio({2, std::log(16.0), std::log(25.0)}), 25.0, 1e-9);
}

TEST(Perplexity, BeyondIndexTopkLeavesOutTheFirstBucket) {
  TextLosses losses{"", 0, 0, {{2, 1.0, 1.5}, {3, 2.0, 2.5}, {4, 3.0, 3.5}}};
  EXPECT_EQ(losses.Total().tokens, 9);
  EXPECT_EQ(losses.Beyond().tokens, 7);
  EXPECT_DOUBLE_EQ(losses.Beyond().dense, 5.0);
  EXPECT_DOUBLE_EQ(losses.Beyond().sparse, 6.0);
}

}  // namespace
}  // namespace winnow::eval
