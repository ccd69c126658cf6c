// Counts worked out by hand for a small model, and some known ones of the large.
#include "bench/kernel_cost.h"

#include <gtest/gtest.h>

#include <string>

namespace winnow::bench {
namespace {

constexpr ModelShape kSmall = {
    .name = "small",
    .D = 10,
    .H = 2,
    .Q = 6,
    .C = 128,
    .R = 4,
    .P = 8,
    .V = 16,
    .I = 3,
    .J = 32,
    .K = 5,
    .moe = {.E = 4, .num_experts_per_tok = 2, .F = 20, .n_shared_experts = 1}};

TEST(CausalPairs, CountEachTokenUpToItself) {
  EXPECT_EQ(CausalPairs(1, 100), 100);
  EXPECT_EQ(CausalPairs(3, 100), 98 + 99 + 100);
  EXPECT_EQ(CausalPairs(4, 4), 1 + 2 + 3 + 4);
}

TEST(WeightBytes, CountTheScalesOfBlocks) {
  EXPECT_EQ(WeightBytes(10, 20, DType::kBF16), 400);
  EXPECT_EQ(WeightBytes(128, 256, DType::kF8E4M3), 128 * 256 + 2 * 4);
  EXPECT_EQ(WeightBytes(129, 256, DType::kF8E4M3), 129 * 256 + 4 * 4);
  EXPECT_EQ(WeightBytes(5, 256, DType::kI8), 5 * (256 + 8 * 2));
  EXPECT_EQ(WeightBytes(5, 256, DType::kU8), 5 * (128 + 8 * 2));
}

TEST(KernelCost, OfSelectionReadsEachKeyOnceForAllTokens) {
  // Tokens at 62 and 63 see 63 and 64 keys; a product of 32 for each of 3 heads.
  const KernelCost cost = SelectCost(kSmall, 2, 64, IndexKeyType::kInt8);
  EXPECT_EQ(cost.ops, 127.0 * 3 * 32 * 2);
  // 64 keys of 32 bytes and a scale; 2 tokens' queries and weights; positions, slots, counts.
  EXPECT_EQ(cost.bytes, 64 * 36 + 2 * (3 * 32 + 3) * 4 + 2 * (5 + 5 + 1) * 4);
  EXPECT_TRUE(cost.int8);
}

TEST(KernelCost, OfSelectionKnowsTheFormOfTheKeys) {
  const double queries_and_selection = 99 * 4 + 11 * 4;
  EXPECT_EQ(SelectCost(kSmall, 1, 64, IndexKeyType::kBf16).bytes, 64 * 64 + queries_and_selection);
  EXPECT_EQ(SelectCost(kSmall, 1, 64, IndexKeyType::kE4m3).bytes, 64 * 36 + queries_and_selection);
  EXPECT_FALSE(SelectCost(kSmall, 1, 64, IndexKeyType::kBf16).int8);
  EXPECT_FALSE(SelectCost(kSmall, 1, 64, IndexKeyType::kE4m3).int8);
}

TEST(KernelCost, OfSparseAttentionCountsTheChosenRows) {
  // 3 tokens, 5 rows each, 2 heads: 132 products for the score and 128 for the sum.
  const KernelCost cost = SparseAttentionCost(kSmall, 3, 1000, LatentType::kBf16);
  EXPECT_EQ(cost.ops, 3.0 * 5 * 2 * (132 + 128) * 2);
  // 15 rows of 264 bytes, their slots, q and out.
  EXPECT_EQ(cost.bytes, 15 * 264 + 15 * 4 + 3 * 2 * (132 + 128) * 4);
}

TEST(KernelCost, OfSparseAttentionReadsNoRowTwice) {
  const KernelCost cost = SparseAttentionCost(kSmall, 3, 7, LatentType::kBf16);
  EXPECT_EQ(cost.bytes, 7 * 264 + 15 * 4 + 3 * 2 * (132 + 128) * 4);
}

TEST(KernelCost, OfDenseAttentionCountsEveryRowUpToTheToken) {
  const KernelCost cost = DenseAttentionCost(kSmall, 2, 10, LatentType::kBf16);
  EXPECT_EQ(cost.ops, 19.0 * 2 * (132 + 128) * 2);
  EXPECT_EQ(cost.bytes, 10 * 264 + 2 * 2 * (132 + 128) * 4);
}

TEST(KernelCost, OfAProductReadsWeightsOnce) {
  const KernelCost cost = LinearCost(3, 100, 50, DType::kBF16);
  EXPECT_EQ(cost.ops, 30000);
  EXPECT_EQ(cost.bytes, 100 * 50 * 2 + 3 * 150 * 4);
}

TEST(KernelCost, OfTheHeadsOwnProductsReadsTheirPartOfTheMatrix) {
  const KernelCost absorb = AbsorbCost(kSmall, 3, DType::kBF16);
  EXPECT_EQ(absorb.ops, 3.0 * 2 * 8 * 128 * 2);
  EXPECT_EQ(absorb.bytes, 2 * 8 * 128 * 2 + 3 * 2 * (12 + 132) * 4);
  const KernelCost expand = ExpandCost(kSmall, 3, DType::kBF16);
  EXPECT_EQ(expand.ops, 3.0 * 2 * 16 * 128 * 2);
  EXPECT_EQ(expand.bytes, 2 * 16 * 128 * 2 + 3 * 2 * (128 + 16) * 4);
}

TEST(KernelCost, OfExpertsCountsThoseThatAreChosen) {
  // One token: router 4 x 10, two routed experts and the shared one of three 20 x 10 matrices.
  const KernelCost one = MoeCost(kSmall, 1, DType::kBF16);
  EXPECT_EQ(one.ops, 2.0 * 40 + 3 * 3 * 200 * 2);
  EXPECT_DOUBLE_EQ(one.bytes, 40 * 4 + 2 * 10 * 4 + 3 * 1200);
  // Two tokens take half of four experts each: three quarters are chosen at least once.
  const KernelCost two = MoeCost(kSmall, 2, DType::kBF16);
  EXPECT_EQ(two.ops, 2 * one.ops);
  EXPECT_DOUBLE_EQ(two.bytes, 40 * 4 + 4 * 10 * 4 + (3 + 1) * 1200);
}

TEST(KernelCost, OfDeepSeekV32IsThatOfItsPaper) {
  // 64 heads of 128 over 131,072 keys, 132 bytes each.
  const KernelCost select = SelectCost(kV32, 1, 131072, IndexKeyType::kInt8);
  EXPECT_EQ(select.ops, 2147483648.0);
  EXPECT_NEAR(select.bytes, 17301504, 50000);
  // 128 heads over 2,048 rows of 656 bytes: 242 operations a byte of bf16 row, 425 of fp8.
  const KernelCost attend = SparseAttentionCost(kV32, 1, 131072, LatentType::kFp8);
  EXPECT_EQ(attend.ops, 570425344.0);
  EXPECT_NEAR(attend.bytes, 2048 * 656 + 8192 + 557056, 1);
}

constexpr Roofs kRoofs = {.flops_f32 = 100, .ops_int8 = 400, .read_bytes_per_second = 10};

TEST(Bound, IsTheCeilingThatIsNearer) {
  // 200 operations take 2 s at least, 5 bytes half a second.
  const Bound arithmetic = HoldAgainst({.ops = 200, .bytes = 5}, kRoofs, 4);
  EXPECT_EQ(std::string(arithmetic.name), "f32");
  EXPECT_DOUBLE_EQ(arithmetic.share, 0.5);
  const Bound memory = HoldAgainst({.ops = 200, .bytes = 30}, kRoofs, 4);
  EXPECT_EQ(std::string(memory.name), "memory");
  EXPECT_DOUBLE_EQ(memory.share, 0.75);
}

TEST(Bound, HoldsProductsOfBytesAgainstTheirOwnCeiling) {
  const Bound bound = HoldAgainst({.ops = 200, .bytes = 1, .int8 = true}, kRoofs, 4);
  EXPECT_EQ(std::string(bound.name), "int8");
  EXPECT_DOUBLE_EQ(bound.share, 0.125);
}

TEST(Bound, HoldsFloatsAgainstBfloat16WhereThatExists) {
  Roofs roofs = kRoofs;
  roofs.flops_bf16 = 200;
  const Bound bound = HoldAgainst({.ops = 200, .bytes = 1}, roofs, 4);
  EXPECT_EQ(std::string(bound.name), "bf16");
  EXPECT_DOUBLE_EQ(bound.share, 0.25);
  EXPECT_EQ(std::string(HoldAgainst({.ops = 9, .int8 = true}, roofs, 1).name), "int8");
}

}  // namespace
}  // namespace winnow::bench
