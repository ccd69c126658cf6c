// The backend itself: what it says of itself, and its memory.
#include "unit/cpu/cpu_test_support.h"

namespace winnow::cpu {
namespace {

TEST(CpuBackend, DescribesItself) {
  EXPECT_EQ(CreateCpuBackend({.num_threads = 1, .instruction_set = InstructionSet::kPortable})
                ->Describe(),
            "cpu portable, 1 thread");
  const auto backend = CreateCpuBackend({.num_threads = 3, .precision = Precision::kBf16});
  EXPECT_EQ(backend->Describe(),
            std::string("cpu ") + InstructionSetName(BestInstructionSet()) + ", 3 threads");
  EXPECT_EQ(backend->precision(), Precision::kBf16);
}

TEST(CpuBackend, GivesZeroedAlignedMemory) {
  const auto backend = CreateCpuBackend({.num_threads = 1});
  for (int64_t bytes : {1, 63, 4096, 5 << 20}) {
    const Result<DeviceMemory> memory = backend->Allocate(bytes);
    ASSERT_TRUE(memory.ok());
    EXPECT_EQ(reinterpret_cast<uintptr_t>(memory->get()) % 64, 0u);
    std::vector<uint8_t> back(bytes, 1);
    backend->CopyToHost(back.data(), memory->get(), bytes);
    EXPECT_EQ(back, std::vector<uint8_t>(bytes, 0));
  }
}

TEST(CpuBackend, CopiesThereAcrossAndBack) {
  const auto backend = CreateCpuBackend({.num_threads = 1});
  const std::vector<float> values = RandomFloats(100, 1);
  const Result<DeviceMemory> first = backend->Allocate(400);
  const Result<DeviceMemory> second = backend->Allocate(400);
  ASSERT_TRUE(first.ok() && second.ok());
  backend->CopyToDevice(first->get(), values.data(), 400);
  backend->Copy(second->get(), first->get(), 400);
  std::vector<float> back(100);
  backend->CopyToHost(back.data(), second->get(), 400);
  EXPECT_EQ(back, values);
}

TEST(CpuBackend, RefusesMoreMemoryThanThereIs) {
  const auto backend = CreateCpuBackend({.num_threads = 1});
  const Result<DeviceMemory> memory = backend->Allocate(int64_t{1} << 60);
  ASSERT_FALSE(memory.ok());
  EXPECT_EQ(memory.error().code(), StatusCode::kResourceExhausted);
  EXPECT_TRUE(backend->Allocate(1024).ok());
}

TEST(CpuBackend, MemoryOutlivesIt) {
  DeviceMemory memory;
  {
    const auto backend = CreateCpuBackend({.num_threads = 1});
    Result<DeviceMemory> result = backend->Allocate(4 << 20);
    ASSERT_TRUE(result.ok());
    memory = *result;
  }
  static_cast<uint8_t*>(memory.get())[(4 << 20) - 1] = 7;
  EXPECT_EQ(static_cast<uint8_t*>(memory.get())[(4 << 20) - 1], 7);
}

TEST(InstructionSets, HaveNamesAndAPlainestOne) {
  EXPECT_TRUE(IsSupported(InstructionSet::kPortable));
  EXPECT_TRUE(IsSupported(BestInstructionSet()));
  EXPECT_STREQ(InstructionSetName(InstructionSet::kAvx2), "avx2");
}

}  // namespace
}  // namespace winnow::cpu
