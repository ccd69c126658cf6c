// The scheduler without a model: a cache whose rows are what a row depends on, a digest of the
// tokens up to it.
#include "engine/scheduler.h"

#include <gtest/gtest.h>

#include <memory>
#include <random>

#include "model/kv_cache.h"

namespace winnow {
namespace {

class World {
 public:
  explicit World(SchedulerOptions options) {
    rows_.resize(static_cast<size_t>(options.num_pages * kPageSize));
    options.page_cost = [](int64_t position) { return 1.0 + static_cast<double>(position) / 1e4; };
    options.copy_page = [this](int32_t from, int32_t to) {
      std::copy_n(rows_.begin() + from * kPageSize, kPageSize, rows_.begin() + to * kPageSize);
    };
    scheduler_ = std::make_unique<Scheduler>(options);
    options_ = options;
  }

  Sequence* Add(std::vector<int32_t> tokens, const std::string& key = "",
                const std::string& salt = "") {
    auto sequence = std::make_unique<Sequence>();
    sequence->tokens = std::move(tokens);
    sequence->key = key;
    sequence->salt = salt;
    Sequence* added = sequence.get();
    sequences_.push_back(std::move(sequence));
    scheduler_->Add(added);
    return added;
  }

  // Runs a step: writes the rows of its tokens, and holds every row that they read to what it must
  // be.
  Step RunStep(int64_t prompt_tokens) {
    Step step;
    scheduler_->Next(prompt_tokens, &step);
    const Batch& batch = step.batch;
    EXPECT_LE(batch.num_tokens(), options_.max_tokens);
    int64_t token = 0;
    for (size_t row = 0; row < step.parts.size(); ++row) {
      const Step::Part& part = step.parts[row];
      EXPECT_EQ(part.first, part.sequence->computed);
      for (int64_t index = 0; index < part.count; ++index, ++token) {
        const size_t at = static_cast<size_t>(token);
        const int64_t position = part.first + index;
        EXPECT_EQ(batch.sequences[at], static_cast<int32_t>(row));
        EXPECT_EQ(batch.positions[at], position);
        EXPECT_EQ(batch.token_ids[at], part.sequence->tokens[static_cast<size_t>(position)]);
        EXPECT_EQ(batch.slots[at], SlotOf(batch, row, position));
        rows_[static_cast<size_t>(batch.slots[at])] = Digest(*part.sequence, position);
      }
      for (int64_t position = 0; position < part.first + part.count; ++position) {
        EXPECT_EQ(rows_[static_cast<size_t>(SlotOf(batch, row, position))],
                  Digest(*part.sequence, position))
            << "a row of other tokens at " << position;
      }
    }
    EXPECT_EQ(token, batch.num_tokens());
    scheduler_->Advance(step);
    return step;
  }

  // Steps until nothing runs. Every sequence gets `answer` tokens. Returns the number of steps.
  int RunToEnd(int64_t prompt_tokens, size_t answer) {
    int steps = 0;
    std::map<const Sequence*, size_t> answered;
    while (scheduler_->num_waiting() + scheduler_->num_running() > 0 && steps < 100000) {
      const Step step = RunStep(prompt_tokens);
      ++steps;
      for (const Step::Part& part : step.parts) {
        if (part.num_logits == 0) continue;
        if (++answered[part.sequence] > answer) {
          scheduler_->Remove(part.sequence);
        } else {
          part.sequence->tokens.push_back(static_cast<int32_t>(answered[part.sequence]));
        }
      }
    }
    return steps;
  }

  Scheduler& operator*() { return *scheduler_; }
  Scheduler* operator->() { return scheduler_.get(); }

 private:
  static int32_t SlotOf(const Batch& batch, size_t row, int64_t position) {
    const int32_t page = batch.page_tables[row][static_cast<size_t>(position / kPageSize)];
    return static_cast<int32_t>(page * kPageSize + position % kPageSize);
  }

  static uint64_t Digest(const Sequence& sequence, int64_t position) {
    uint64_t digest = std::hash<std::string>()(sequence.salt);
    for (int64_t index = 0; index <= position; ++index) {
      digest = (digest ^ static_cast<uint64_t>(sequence.tokens[static_cast<size_t>(index)])) *
               0x9E3779B97F4A7C15u;
      digest ^= digest >> 29;
    }
    return digest;
  }

  SchedulerOptions options_;
  std::vector<uint64_t> rows_;
  std::unique_ptr<Scheduler> scheduler_;
  std::vector<std::unique_ptr<Sequence>> sequences_;
};

SchedulerOptions Small(int64_t pages, int64_t tokens = 100, int64_t sequences = 4) {
  SchedulerOptions options;
  options.num_pages = pages;
  options.max_tokens = tokens;
  options.max_sequences = sequences;
  return options;
}

std::vector<int32_t> Prompt(int64_t count, int32_t seed) {
  std::vector<int32_t> tokens;
  for (int64_t index = 0; index < count; ++index) {
    tokens.push_back(static_cast<int32_t>(seed * 1000 + index));
  }
  return tokens;
}

TEST(Scheduler, RunsAPromptInChunksAndThenOneTokenAStep) {
  World world(Small(8));
  const Sequence* sequence = world.Add(Prompt(150, 1));
  EXPECT_EQ(world.RunStep(10).parts[0].count, 100);
  const Step second = world.RunStep(10);
  EXPECT_EQ(second.parts[0].count, 50);
  EXPECT_EQ(second.parts[0].num_logits, 1);
  EXPECT_EQ(second.batch.logit_rows, std::vector<int32_t>{49});
  EXPECT_EQ(sequence->pending(), 0);
}

TEST(Scheduler, LetsAnswersFlowWhileAPromptIsRead) {
  World world(Small(32));
  Sequence* answering = world.Add(Prompt(10, 1));
  world.RunStep(20);
  answering->tokens.push_back(5);
  world.Add(Prompt(400, 2));
  for (int turn = 0; turn < 20; ++turn) {
    const Step step = world.RunStep(20);
    ASSERT_EQ(step.parts.size(), 2u);
    EXPECT_EQ(step.parts[0].sequence, answering);
    EXPECT_EQ(step.parts[1].count, 20);
    answering->tokens.push_back(5);
  }
}

TEST(Scheduler, ATurnOfAConversationPaysForItsNewTokensOnly) {
  World world(Small(16));
  Sequence* first = world.Add(Prompt(150, 1));
  world.RunStep(100);
  world.RunStep(100);
  first->tokens.push_back(7);
  world.RunStep(100);
  world->Remove(first);
  std::vector<int32_t> longer = first->tokens;
  longer.push_back(8);
  longer.push_back(9);
  const Sequence* second = world.Add(longer);
  const Step step = world.RunStep(100);
  EXPECT_EQ(second->cached, 151);
  EXPECT_EQ(step.parts[0].count, 2);
}

TEST(Scheduler, QuestionsAboutOneDocumentComputeItOnce) {
  World world(Small(64, 100, 16));
  const std::vector<int32_t> document = Prompt(1000, 1);
  std::vector<Sequence*> questions;
  for (int32_t question = 0; question < 10; ++question) {
    std::vector<int32_t> tokens = document;
    tokens.insert(tokens.end(), 5, -question);
    questions.push_back(world.Add(tokens));
  }
  int64_t computed = 0;
  for (int step = 0; step < 40; ++step) computed += world.RunStep(100).batch.num_tokens();
  for (const Sequence* question : questions) EXPECT_EQ(question->pending(), 0);
  EXPECT_LE(computed, 1005 + 9 * (1000 % kPageSize + 5));
}

TEST(Scheduler, PreemptsTheYoungestAndResumesIt) {
  World world(Small(6, 100, 4));
  Sequence* old = world.Add(Prompt(120, 1));
  Sequence* young = world.Add(Prompt(120, 2));
  EXPECT_GT(world.RunToEnd(100, 200), 200);
  EXPECT_GT(world->num_preempted(), 0);
  EXPECT_EQ(old->num_tokens(), 320);
  EXPECT_EQ(young->num_tokens(), 320);
  EXPECT_EQ(world->pages_used(), 0);
}

TEST(Scheduler, AdmitsOnlyWhatFits) {
  World world(Small(4, 100, 4));
  world.Add(Prompt(150, 1));
  world.Add(Prompt(150, 2));
  for (int step = 0; step < 2; ++step) world.RunStep(100);
  EXPECT_EQ(world->num_running(), 1);
  EXPECT_EQ(world->num_waiting(), 1);
}

TEST(Scheduler, KeysTakeTurns) {
  World world(Small(64, 64, 4));
  for (int32_t index = 0; index < 20; ++index) world.Add(Prompt(64, 1 + index), "many");
  Sequence* lone = world.Add(Prompt(64, 99), "one");
  for (int step = 0; step < 3 && lone->computed == 0; ++step) world.RunStep(64);
  EXPECT_EQ(lone->computed, 64);
}

TEST(Scheduler, AKeyThatHoldsEveryPlaceMakesRoom) {
  World world(Small(64, 64, 4));
  std::vector<Sequence*> answering;
  for (int32_t index = 0; index < 4; ++index) {
    answering.push_back(world.Add(Prompt(10, 1 + index), "many"));
  }
  const auto step = [&] {
    for (const Step::Part& part : world.RunStep(64).parts) {
      if (part.num_logits > 0) part.sequence->tokens.push_back(1);
    }
  };
  for (int turn = 0; turn < 3; ++turn) step();
  const Sequence* lone = world.Add(Prompt(10, 99), "one");
  for (int turn = 0; turn < 3; ++turn) step();
  EXPECT_GE(lone->most_computed, 10);
}

TEST(Scheduler, GivesAllLogitsAskedForAndTakesNothingFromTheCache) {
  World world(Small(8));
  world.Add(Prompt(90, 1));
  world.RunToEnd(100, 1);
  Sequence* sequence = world.Add(Prompt(90, 1));
  sequence->all_logits = true;
  const Step first = world.RunStep(100);
  EXPECT_EQ(first.parts[0].num_logits, 64);
  EXPECT_EQ(first.parts[0].count, 64);
  const Step second = world.RunStep(100);
  EXPECT_EQ(second.parts[0].num_logits, 26);
  EXPECT_EQ(second.batch.logit_rows.size(), 26u);
}

// Few pages, shared beginnings, several salts and keys, cancellation at any time: every row that is
// read is the row of the reader's own tokens, everyone gets to its end, and no page is lost.
TEST(Scheduler, RandomSchedulesNeverReadARowOfOtherTokens) {
  for (uint32_t seed = 0; seed < 30; ++seed) {
    std::mt19937 random(seed);
    const auto draw = [&](int64_t least, int64_t most) {
      return std::uniform_int_distribution<int64_t>(least, most)(random);
    };
    SchedulerOptions options = Small(draw(6, 20), draw(8, 150), draw(1, 8));
    options.prefix_cache = seed % 5 != 0;
    options.max_tokens = std::max(options.max_tokens, options.max_sequences);
    World world(options);
    std::map<Sequence*, int64_t> left;  // tokens to answer
    for (int turn = 0; turn < 400; ++turn) {
      if (turn < 200 && draw(0, 3) == 0) {
        std::vector<int32_t> tokens = Prompt(draw(1, 150), static_cast<int32_t>(draw(0, 2)));
        const int64_t own = draw(0, 40);
        for (int64_t index = 0; index < own; ++index) {
          tokens.push_back(static_cast<int32_t>(draw(0, 2)));
        }
        Sequence* sequence = world.Add(tokens, std::to_string(draw(0, 2)), draw(0, 3) ? "" : "s");
        sequence->all_logits = draw(0, 9) == 0;
        left[sequence] = draw(1, 120);
      }
      if (!left.empty() && draw(0, 30) == 0) {
        const auto victim = std::next(left.begin(), draw(0, static_cast<int64_t>(left.size()) - 1));
        world->Remove(victim->first);
        left.erase(victim);
      }
      for (const Step::Part& part : world.RunStep(draw(1, options.max_tokens)).parts) {
        if (part.first + part.count < part.sequence->num_tokens()) continue;
        if (--left.at(part.sequence) == 0) {
          world->Remove(part.sequence);
          left.erase(part.sequence);
        } else {
          part.sequence->tokens.push_back(static_cast<int32_t>(draw(0, 1)));
        }
      }
      if (testing::Test::HasFailure()) return;
    }
    for (int turn = 0; turn < 20000 && !left.empty(); ++turn) {
      for (const Step::Part& part : world.RunStep(options.max_tokens).parts) {
        if (part.first + part.count < part.sequence->num_tokens()) continue;
        if (--left.at(part.sequence) == 0) {
          world->Remove(part.sequence);
          left.erase(part.sequence);
        } else {
          part.sequence->tokens.push_back(0);
        }
      }
    }
    EXPECT_TRUE(left.empty()) << "seed " << seed;
    EXPECT_EQ(world->pages_used(), 0) << "seed " << seed;
    if (testing::Test::HasFailure()) return;
  }
}

}  // namespace
}  // namespace winnow
