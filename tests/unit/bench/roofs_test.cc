// What a machine says of its caches, and that its ceilings are measured at all.
#include "cpu/roofs.h"

#include <gtest/gtest.h>

#include <map>

#include "cpu/roof_kernels.h"

namespace winnow::cpu {
namespace {

class Machine {
 public:
  void AddCache(int processor, int index, const std::string& size, const std::string& shared) {
    const std::string folder =
        "cpu" + std::to_string(processor) + "/cache/index" + std::to_string(index) + "/";
    files_[folder + "size"] = size + "\n";
    files_[folder + "shared_cpu_list"] = shared + "\n";
  }
  int64_t Bytes() const {
    return LastLevelCacheBytes([this](const std::string& path) {
      const auto found = files_.find(path);
      return found == files_.end() ? std::string() : found->second;
    });
  }

 private:
  std::map<std::string, std::string> files_;
};

TEST(LastLevelCache, IsCountedOnceForThoseWhoShareIt) {
  Machine machine;
  for (int processor = 0; processor < 4; ++processor) {
    machine.AddCache(processor, 0, "32K", std::to_string(processor));
    machine.AddCache(processor, 1, "512K", std::to_string(processor));
    machine.AddCache(processor, 2, "32768K", processor < 2 ? "0-1" : "2-3");
  }
  EXPECT_EQ(machine.Bytes(), int64_t{64} << 20);
}

TEST(LastLevelCache, MayBeEachProcessorsOwn) {
  Machine machine;
  machine.AddCache(0, 0, "32K", "0");
  machine.AddCache(0, 1, "2M", "0");
  machine.AddCache(1, 0, "32K", "1");
  machine.AddCache(1, 1, "2M", "1");
  EXPECT_EQ(machine.Bytes(), int64_t{4} << 20);
}

TEST(LastLevelCache, IsAssumedWhereTheSystemDoesNotSay) {
  EXPECT_EQ(Machine().Bytes(), int64_t{64} << 20);
  Machine machine;
  machine.AddCache(0, 0, "much", "0");
  EXPECT_EQ(machine.Bytes(), int64_t{64} << 20);
}

TEST(Roofs, ArePositiveOnEveryInstructionSet) {
  for (const InstructionSet set : kInstructionSets) {
    if (!IsSupported(set)) continue;
    const Roofs roofs =
        CreateCpuBackend({.num_threads = 2, .instruction_set = set})->MeasureRoofs().value();
    EXPECT_GT(roofs.flops_f32, 0) << InstructionSetName(set);
    EXPECT_GT(roofs.ops_int8, 0) << InstructionSetName(set);
    EXPECT_GT(roofs.read_bytes_per_second, 0) << InstructionSetName(set);
    EXPECT_GT(roofs.cache_bytes, 0) << InstructionSetName(set);
    EXPECT_EQ(roofs.flops_bf16 > 0, set >= InstructionSet::kAvx512Bf16) << InstructionSetName(set);
  }
}

}  // namespace
}  // namespace winnow::cpu
