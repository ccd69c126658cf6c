// What control groups leave a process, read from folders like those of the system.
#include "base/cores.h"

#include <gtest/gtest.h>
#include <sched.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <thread>

namespace winnow {
namespace {

class Groups : public testing::Test {
 protected:
  Groups() {
    std::string pattern = testing::TempDir() + "winnow_groups_XXXXXX";
    root_ = mkdtemp(pattern.data());
  }
  ~Groups() override { std::filesystem::remove_all(root_); }

  void Write(const std::string& name, const std::string& text) {
    const std::filesystem::path path = root_ + "/" + name;
    std::filesystem::create_directories(path.parent_path());
    std::ofstream(path) << text;
  }
  GroupLimits Read(const std::string& groups) { return ReadGroupLimits(groups, root_); }

  std::string root_;
};

TEST_F(Groups, NoneLeavesEverything) {
  const GroupLimits limits = Read("0::/\n");
  EXPECT_FALSE(limits.cpus);
  EXPECT_FALSE(limits.memory);
}

TEST_F(Groups, VersionTwoOfAContainer) {
  Write("cpu.max", "250000 100000\n");
  Write("memory.max", "1073741824\n");
  const GroupLimits limits = Read("0::/\n");
  EXPECT_EQ(limits.cpus, 2.5);
  EXPECT_EQ(limits.memory, 1073741824);
}

TEST_F(Groups, TheTightestOfThoseAroundCounts) {
  Write("a/cpu.max", "400000 100000\n");
  Write("a/b/cpu.max", "max 100000\n");
  Write("a/b/c/cpu.max", "600000 100000\n");
  Write("a/memory.max", "max\n");
  Write("a/b/c/memory.max", "4096\n");
  const GroupLimits limits = Read("0::/a/b/c\n");
  EXPECT_EQ(limits.cpus, 4.0);
  EXPECT_EQ(limits.memory, 4096);
}

TEST_F(Groups, VersionOneWithItsWaysToSayNone) {
  Write("cpu/x/cpu.cfs_quota_us", "150000\n");
  Write("cpu/x/cpu.cfs_period_us", "100000\n");
  Write("cpu/cpu.cfs_quota_us", "-1\n");
  Write("cpu/cpu.cfs_period_us", "100000\n");
  Write("memory/memory.limit_in_bytes", "9223372036854771712\n");
  Write("memory/y/memory.limit_in_bytes", "8192\n");
  const GroupLimits limits = Read("4:memory:/y\n3:cpuset:/\n2:cpuacct,cpu:/x\n");
  EXPECT_EQ(limits.cpus, 1.5);
  EXPECT_EQ(limits.memory, 8192);
}

TEST_F(Groups, WhatIsNoNumberIsNoLimit) {
  Write("cpu.max", "many 100000\n");
  Write("memory.max", "");
  const GroupLimits limits = Read("0::/\nnonsense\n:\n::\n");
  EXPECT_FALSE(limits.cpus);
  EXPECT_FALSE(limits.memory);
}

TEST(Cores, FollowTheAffinityMask) {
  std::vector<int> seen;
  int cores = 0;
  const int cpu = AllowedCpus().front();
  std::thread([&] {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    ASSERT_EQ(sched_setaffinity(0, sizeof(set), &set), 0);
    seen = AllowedCpus();
    cores = UsableCores();
  }).join();
  EXPECT_EQ(seen, std::vector<int>{cpu});
  EXPECT_EQ(cores, 1);
}

}  // namespace
}  // namespace winnow
