// Parts of sparse attention on the CPU that its results do not show by themselves.
#include <gtest/gtest.h>

#include <random>
#include <vector>

#include "cpu/dsa/dsa_kernels.h"

namespace winnow::cpu {
namespace {

TEST(AttentionKernels, MarkThePositionsOfATile) {
  std::mt19937 random(9);
  for (const InstructionSet set : kInstructionSets) {
    if (!IsSupported(set)) continue;
    for (int round = 0; round < 200; ++round) {
      const int32_t first = static_cast<int32_t>(random() % 5) * 64;
      const unsigned one_in = 1 + static_cast<unsigned>(round) % 6;
      std::vector<int32_t> positions;
      uint64_t marks = 0;
      for (int32_t i = 0; i < 150; ++i) {
        if (random() % one_in != 0) continue;
        positions.push_back(first + i);
        if (i < 64) marks |= uint64_t{1} << i;
      }
      const auto mark = DsaKernelsFor(set).attention.mark;
      EXPECT_EQ(mark(positions.data(), static_cast<int64_t>(positions.size()), first), marks);
    }
  }
}

}  // namespace
}  // namespace winnow::cpu
