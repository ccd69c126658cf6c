// Inputs are what they say: random, different from turn to turn, and whole.
#include "bench/inputs.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <set>

#include "cpu/cpu_backend.h"
#include "tensor/half.h"

namespace winnow::bench {
namespace {

TEST(Random, StaysInItsRange) {
  Random random(3);
  float lowest = 0;
  float highest = 0;
  for (int i = 0; i < 10000; ++i) {
    const float value = random.Float();
    ASSERT_GE(value, -1.0f);
    ASSERT_LT(value, 1.0f);
    lowest = std::min(lowest, value);
    highest = std::max(highest, value);
    const int64_t number = random.Below(7);
    ASSERT_GE(number, 0);
    ASSERT_LT(number, 7);
  }
  EXPECT_LT(lowest, -0.99f);
  EXPECT_GT(highest, 0.99f);
}

TEST(DrawAscending, GivesDifferentNumbersInOrder) {
  Random random(5);
  const std::vector<int32_t> drawn = DrawAscending(100, 1000, random);
  ASSERT_EQ(drawn.size(), 100u);
  for (size_t i = 1; i < drawn.size(); ++i) EXPECT_LT(drawn[i - 1], drawn[i]);
  EXPECT_GE(drawn.front(), 0);
  EXPECT_LT(drawn.back(), 1000);
  EXPECT_NE(drawn, DrawAscending(100, 1000, random));
  EXPECT_EQ(DrawAscending(3, 3, random), (std::vector<int32_t>{0, 1, 2}));
}

TEST(Rotation, ComesBackAfterThePoolIsUsedUp) {
  const Rotation rotation(1000, 300);
  EXPECT_EQ(rotation.Offset(0), 0);
  EXPECT_EQ(rotation.Offset(2), 600);
  EXPECT_EQ(rotation.Offset(3), 0);
}

class InputsTest : public testing::Test {
 protected:
  std::unique_ptr<Backend> backend_ = cpu::CreateCpuBackend({.num_threads = 2});
  Inputs inputs_{*backend_, 1 << 20};
};

TEST_F(InputsTest, HaveNoNumberThatIsNone) {
  const WeightPool pool = inputs_.Weights(DType::kF8E4M3).value();
  const ScaledView weight = pool.At(pool.bytes() - pool.Extent(256, 512), 256, 512);
  int64_t zeros = 0;
  for (int64_t i = 0; i < 256 * 512; ++i) {
    const float value = E4m3ToFloat(weight.value.As<uint8_t>()[i]);
    ASSERT_FALSE(std::isnan(value));
    zeros += value == 0 ? 1 : 0;
  }
  EXPECT_LT(zeros, 256);
  ASSERT_EQ(weight.scale.dims, Dims({2, 4}));
  for (int64_t i = 0; i < 8; ++i) EXPECT_GT(weight.scale.As<float>()[i], 0);
}

TEST_F(InputsTest, FillTheirPoolsToTheEnd) {
  const LatentCacheView cache = inputs_.Latents(LatentType::kBf16, 512, 64).value();
  EXPECT_GE(cache.rows.dims[0], 131072);
  const uint8_t* last = cache.rows.As<uint8_t>() + cache.rows.bytes() - cache.row_bytes;
  EXPECT_TRUE(std::any_of(last, last + cache.row_bytes, [](uint8_t byte) { return byte != 0; }));
  EXPECT_EQ(inputs_.Latents(LatentType::kBf16, 512, 64).value().rows.data, cache.rows.data);
}

TEST_F(InputsTest, KeepIndexKeysApart) {
  const IndexCacheView cache = inputs_.IndexKeys(IndexKeyType::kInt8, 32).value();
  std::set<std::string> codes;
  for (int64_t page = 0; page < 2048; ++page) {
    const uint8_t* data = cache.pages.As<uint8_t>() + page * cache.page_bytes;
    codes.insert(std::string(reinterpret_cast<const char*>(data), 32));
  }
  EXPECT_EQ(codes.size(), 2048u);
}

}  // namespace
}  // namespace winnow::bench
