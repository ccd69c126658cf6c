// Which recordings are kept.
#include "model/recorded_steps.h"

#include <gtest/gtest.h>

namespace winnow {
namespace {

RecordedSteps::Shape Tokens(int64_t count) { return {.num_tokens = count, .max_pages = 4}; }

TEST(RecordedSteps, KeepsARecordingForEachShape) {
  RecordedSteps steps;
  int cache = 0;
  const std::vector<RecordedSteps::Shape> shapes = {
      {nullptr, 1, 4, false}, {nullptr, 2, 4, false}, {nullptr, 1, 8, false},
      {nullptr, 1, 4, true},  {&cache, 1, 4, false},
  };
  for (size_t i = 0; i < shapes.size(); ++i) {
    EXPECT_EQ(steps.Find(shapes[i]), nullptr) << i;
    steps.Find(shapes[i]) = std::make_shared<size_t>(i);
  }
  for (size_t i = 0; i < shapes.size(); ++i) {
    EXPECT_EQ(*static_cast<size_t*>(steps.Find(shapes[i]).get()), i);
  }
}

TEST(RecordedSteps, GivesUpWhatWasNotUsedForLongest) {
  RecordedSteps steps;
  std::vector<std::weak_ptr<void>> made;
  for (int64_t count = 1; count <= 64; ++count) {
    steps.Find(Tokens(count)) = std::make_shared<int64_t>(count);
    made.emplace_back(steps.Find(Tokens(count)));
  }
  EXPECT_NE(steps.Find(Tokens(1)), nullptr);  // used again: the second is the oldest now
  EXPECT_EQ(steps.Find(Tokens(65)), nullptr);
  EXPECT_FALSE(made[0].expired());
  EXPECT_TRUE(made[1].expired());
  EXPECT_FALSE(made[2].expired());
  EXPECT_EQ(steps.Find(Tokens(2)), nullptr);
  EXPECT_TRUE(made[2].expired());
}

}  // namespace
}  // namespace winnow
