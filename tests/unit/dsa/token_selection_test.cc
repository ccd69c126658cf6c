// The definition of the selection against hand-made rows and against counting who is better.
#include "dsa/token_selection.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <vector>

namespace winnow::dsa {
namespace {

struct Selected {
  std::vector<int32_t> positions;
  int32_t count = 0;
};

// The selection of one token that may choose from all its scores.
Selected Select(std::vector<float> scores, int64_t topk) {
  Selected selected;
  selected.positions.assign(topk, 77);
  const int64_t num_keys = static_cast<int64_t>(scores.size());
  int32_t candidates = static_cast<int32_t>(num_keys);
  TokenSelectionReference({.scores = {scores.data(), DType::kF32, {1, num_keys}},
                           .candidates = {&candidates, DType::kI32, {1}},
                           .positions = {selected.positions.data(), DType::kI32, {1, topk}},
                           .counts = {&selected.count, DType::kI32, {1}}});
  return selected;
}

using Positions = std::vector<int32_t>;

TEST(TokenSelection, KeepsTheBestInAscendingOrder) {
  EXPECT_EQ(Select({1, 9, 3, 7, 5}, 3).positions, (Positions{1, 3, 4}));
}

TEST(TokenSelection, BreaksTiesTowardTheLowerPosition) {
  EXPECT_EQ(Select({0, 0, 0, 0, 0}, 2).positions, (Positions{0, 1}));
  EXPECT_EQ(Select({0, 5, 5, 5, 9}, 3).positions, (Positions{1, 2, 4}));
}

TEST(TokenSelection, TakesBothZerosForEqual) {
  EXPECT_EQ(Select({-0.0f, 0.0f, 0.0f}, 2).positions, (Positions{0, 1}));
  EXPECT_EQ(Select({0.0f, -0.0f, 0.0f}, 2).positions, (Positions{0, 1}));
}

TEST(TokenSelection, DoesNotReadScoresOfTokensThatKeepEverything) {
  EXPECT_EQ(Select({NAN, 1, NAN}, 3).positions, (Positions{0, 1, 2}));
  EXPECT_EQ(Select({NAN, 1}, 4).positions, (Positions{0, 1, -1, -1}));
}

TEST(TokenSelection, NeverChoosesNan) {
  EXPECT_EQ(Select({NAN, 1, 2, NAN}, 2).positions, (Positions{1, 2}));
  EXPECT_EQ(Select({NAN, 1, NAN, NAN}, 3).positions, (Positions{1, -1, -1}));
  EXPECT_EQ(Select({NAN, NAN, NAN}, 2).count, 0);
}

TEST(TokenSelection, ChoosesMinusInfinityAfterEveryNumber) {
  EXPECT_EQ(Select({-INFINITY, -3e38f, INFINITY, -INFINITY}, 3).positions, (Positions{0, 1, 2}));
}

TEST(TokenSelection, ReadsOnlyTheCandidates) {
  std::vector<float> scores = {1, 2, 3, 100, 100, 9, 8, 7, 100, 100};
  std::vector<int32_t> candidates = {3, 0};
  std::vector<int32_t> positions(4, 77);
  std::vector<int32_t> counts(2, 77);
  TokenSelectionReference({.scores = {scores.data(), DType::kF32, {2, 5}},
                           .candidates = {candidates.data(), DType::kI32, {2}},
                           .positions = {positions.data(), DType::kI32, {2, 2}},
                           .counts = {counts.data(), DType::kI32, {2}}});
  EXPECT_EQ(positions, (Positions{1, 2, -1, -1}));
  EXPECT_EQ(counts, (std::vector<int32_t>{2, 0}));
}

TEST(TokenSelection, KeepsExactlyThoseWithFewerThanKBetterOnes) {
  std::mt19937 random(3);
  for (int round = 0; round < 200; ++round) {
    const int size = 2 + static_cast<int>(random() % 60);
    const int topk = 1 + static_cast<int>(random() % (size - 1));
    std::vector<float> scores(size);
    for (float& score : scores) {
      const int kind = static_cast<int>(random() % 12);  // few values, so many ties
      score = kind == 11 ? NAN : static_cast<float>(kind / 2 - 2);
    }
    Positions expected;
    for (int s = 0; s < size; ++s) {
      int better = 0;
      for (int other = 0; other < size; ++other) {
        better += scores[other] > scores[s] || (scores[other] == scores[s] && other < s);
      }
      if (!std::isnan(scores[s]) && better < topk) expected.push_back(s);
    }
    const Selected selected = Select(scores, topk);
    EXPECT_EQ(selected.count, static_cast<int32_t>(expected.size()));
    expected.resize(topk, -1);
    EXPECT_EQ(selected.positions, expected);
  }
}

}  // namespace
}  // namespace winnow::dsa
