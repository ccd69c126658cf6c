// Shapes, views and buffers.
#include "tensor/tensor.h"

#include <gtest/gtest.h>

#include <vector>

namespace winnow {
namespace {

TEST(DType, NamesAreThoseOfSafetensorsAndReadBack) {
  const struct {
    DType dtype;
    const char* name;
    int64_t size;
  } rows[] = {{DType::kF32, "F32", 4}, {DType::kBF16, "BF16", 2}, {DType::kF16, "F16", 2},
              {DType::kI8, "I8", 1},   {DType::kU8, "U8", 1},     {DType::kF8E4M3, "F8_E4M3", 1},
              {DType::kI32, "I32", 4}, {DType::kI64, "I64", 8}};
  for (const auto& row : rows) {
    DType dtype = row.dtype == DType::kF32 ? DType::kI64 : DType::kF32;
    EXPECT_STREQ(DTypeName(row.dtype), row.name);
    EXPECT_EQ(SizeOf(row.dtype), row.size);
    ASSERT_TRUE(DTypeFromName(row.name, &dtype));
    EXPECT_EQ(dtype, row.dtype);
  }
  DType unused;
  EXPECT_FALSE(DTypeFromName("F64", &unused));
  EXPECT_FALSE(DTypeFromName("", &unused));
}

TEST(Dims, CountTheirElements) {
  EXPECT_EQ(Dims{}.count(), 1);
  EXPECT_EQ((Dims{3, 4, 5}).count(), 60);
  EXPECT_EQ((Dims{3, 0}).count(), 0);
  EXPECT_EQ((Dims{3, 4}).ToString(), "[3, 4]");
  EXPECT_EQ((Dims{3, 4}), (Dims{3, 4}));
  EXPECT_FALSE((Dims{3, 4}) == (Dims{3}));
}

TEST(TensorView, PartsBeginAtTheirFirstRow) {
  std::vector<float> values(24);
  const TensorView view(values.data(), DType::kF32, {4, 3, 2});
  const TensorView part = view.Rows(1, 2);
  EXPECT_EQ(part.data, values.data() + 6);
  EXPECT_EQ(part.dims, (Dims{2, 3, 2}));
  EXPECT_EQ(view.Head(3).dims, (Dims{3, 3, 2}));
  EXPECT_EQ(view.bytes(), 96);
  EXPECT_FALSE(static_cast<bool>(TensorView()));
}

TEST(ScaledView, CountsValuesAndScales) {
  std::vector<uint8_t> values(200 * 130);
  std::vector<float> scales(4);
  const ScaledView view{{values.data(), DType::kF8E4M3, {200, 130}},
                        {scales.data(), DType::kF32, {2, 2}}};
  EXPECT_EQ(view.rows(), 200);
  EXPECT_EQ(view.columns(), 130);
  EXPECT_EQ(view.bytes(), 200 * 130 + 16);
}

TEST(HostBuffer, IsAlignedAndZeroed) {
  for (const int64_t bytes : {int64_t{1}, int64_t{100}, int64_t{3} << 20}) {
    const HostBuffer buffer(bytes);
    ASSERT_EQ(buffer.size(), bytes);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(buffer.data()) % 64, 0u);
    for (int64_t index = 0; index < bytes; ++index) ASSERT_EQ(buffer.data()[index], 0);
  }
  EXPECT_EQ(HostBuffer().data(), nullptr);
  EXPECT_EQ(HostBuffer(0).data(), nullptr);
}

}  // namespace
}  // namespace winnow
