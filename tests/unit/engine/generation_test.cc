// What a generation counts of its steps, without a model.
#include "engine/generation.h"

#include <gtest/gtest.h>

namespace winnow {
namespace {

class GenerationTest : public testing::Test {
 protected:
  static constexpr int64_t kPrompt = 36;

  GenerationTest() : generation_(Task(), nullptr, costs_, state_, {}) {}

  static GenerationTask Task() {
    GenerationTask task;
    task.prompt.assign(kPrompt, 1);
    task.prompt_logprobs = true;  // so that it ends without drawing
    return task;
  }

  // A step over `tokens` tokens, of which the first `computed` were there before.
  void Step(int64_t computed, int64_t tokens) {
    generation_.sequence().computed = computed;
    cached_ += generation_.CountCached();
    generation_.Begin({});
    StepShare share;
    share.counts.tokens = tokens;
    generation_.Continue(computed, share, {}, {});
    generation_.sequence().computed = computed + tokens;
  }

  const ModelConfig config_;
  const CostModel costs_{config_, KvCacheOptions()};
  std::shared_ptr<StreamState> state_ = std::make_shared<StreamState>();
  Generation generation_;
  int64_t cached_ = 0;
};

TEST_F(GenerationTest, CountsEachTokenOfThePromptOnceAsComputedOrCached) {
  Step(8, 6);   // 8 were cached
  Step(14, 2);  // to 16
  Step(0, 10);  // gave up its pages: 10 run again
  Step(10, 8);  // 6 again, and 2 more
  Step(27, 9);  // gave them up once more; another had computed 27 by then
  const Receipt& receipt = generation_.receipt();
  EXPECT_EQ(receipt.cached_tokens, 8 + 9);
  EXPECT_EQ(receipt.computed_tokens, 6 + 2 + 2 + 9);
  EXPECT_EQ(receipt.recomputed_tokens, 10 + 6);
  EXPECT_EQ(receipt.cached_tokens + receipt.computed_tokens, kPrompt);
  EXPECT_EQ(cached_, receipt.cached_tokens);
}

TEST_F(GenerationTest, FindsNothingWhereItGoesOn) {
  Step(0, 20);
  Step(20, 16);
  EXPECT_EQ(generation_.receipt().cached_tokens, 0);
  EXPECT_EQ(generation_.receipt().computed_tokens, kPrompt);
  EXPECT_EQ(generation_.receipt().recomputed_tokens, 0);
}

}  // namespace
}  // namespace winnow
