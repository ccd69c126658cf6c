// Which processors, and how much memory, this process may use: not always those of the machine.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace winnow {

// The processors in the affinity mask of the calling thread, which cpusets and taskset narrow;
// ascending. Empty where the system does not say.
std::vector<int> AllowedCpus();

// What the control groups of a process leave it, as in containers; absent: no limit.
struct GroupLimits {
  std::optional<double> cpus;     // seconds of processor time a second
  std::optional<int64_t> memory;  // bytes
};

// The tightest of the process's groups and those around them. `groups` is the text of
// /proc/self/cgroup, `root` the folder where the groups are mounted, versions 1 and 2.
GroupLimits ReadGroupLimits(const std::string& groups, const std::string& root);
// Of this process.
GroupLimits ReadGroupLimits();

// Threads that can run at the same time: a processor each, and no more than the groups' share of
// processor time feeds. At least 1.
int UsableCores();

}  // namespace winnow
