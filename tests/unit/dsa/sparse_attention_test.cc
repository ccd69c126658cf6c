// The definition of sparse attention against means made by hand.
#include "dsa/sparse_attention.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

namespace winnow::dsa {
namespace {

// Three rows with a latent part of two values and a rotary part of one.
const std::vector<float> kRows = {1, 2, 5, 3, 4, 6, -7, 8, 9};

// What the heads `q` of one token make of the rows in `slots`.
std::vector<float> Attend(std::vector<float> q, std::vector<int32_t> slots, float scale) {
  const int64_t heads = static_cast<int64_t>(q.size()) / 3;
  std::vector<float> out(heads * 2, 77.0f);
  SparseAttentionReference(
      {.q = {q.data(), DType::kF32, {1, heads, 3}},
       .kv = {kRows.data(), DType::kF32, {3, 3}},
       .slots = {slots.data(), DType::kI32, {1, static_cast<int64_t>(slots.size())}},
       .out = {out.data(), DType::kF32, {1, heads, 2}},
       .softmax_scale = scale});
  return out;
}

TEST(SparseAttention, ReturnsTheLatentPartOfASingleRow) {
  EXPECT_EQ(Attend({3, 1, 4}, {2}, 0.5f), (std::vector<float>{-7, 8}));
}

TEST(SparseAttention, AveragesRowsThatScoreAlike) {
  EXPECT_EQ(Attend({0, 0, 0}, {0, 1}, 1), (std::vector<float>{2, 3}));
}

TEST(SparseAttention, WeighsByTheExponentialOfTheScaledScore) {
  // Scores by the rotary part alone: 5 and 6, times ln(3), so the weights are 1 to 3.
  const std::vector<float> out = Attend({0, 0, 1}, {0, 1}, std::log(3.0f));
  EXPECT_NEAR(out[0], 2.5f, 1e-6);
  EXPECT_NEAR(out[1], 3.5f, 1e-6);
}

TEST(SparseAttention, IgnoresRowsThatWereNotSelected) {
  EXPECT_EQ(Attend({0, 0, 1000}, {0, 1, -1, 2}, 1), (std::vector<float>{3, 4}));
}

TEST(SparseAttention, GivesZerosWhereNothingWasSelected) {
  EXPECT_EQ(Attend({1, 2, 3}, {-1, -1}, 1), (std::vector<float>{0, 0}));
}

TEST(SparseAttention, KeepsHeadsApart) {
  const std::vector<float> out = Attend({0, 0, 1000, 0, 0, -1000}, {0, 1}, 1);
  EXPECT_EQ(out, (std::vector<float>{3, 4, 1, 2}));
}

TEST(SparseAttention, SurvivesScoresBeyondTheRangeOfTheExponential) {
  EXPECT_EQ(Attend({0, 0, 1e6f}, {0, 1, 2}, 1), (std::vector<float>{-7, 8}));
}

}  // namespace
}  // namespace winnow::dsa
