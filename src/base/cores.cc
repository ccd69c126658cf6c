#include "base/cores.h"

#include <sched.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <functional>
#include <string_view>
#include <thread>

#include "base/file.h"

namespace winnow {
namespace {

constexpr int64_t kMaxFile = 1 << 16;

// The numbers at the beginning of a file, at most two; none where it says "max" or is not there.
std::vector<double> Numbers(const std::string& path) {
  const Result<std::string> text = ReadFile(path, kMaxFile);
  std::vector<double> numbers;
  if (!text.ok()) return numbers;
  const char* next = text->data();
  const char* end = next + text->size();
  while (numbers.size() < 2 && next < end) {
    double number = 0;
    const auto [stop, error] = std::from_chars(next, end, number);
    if (error != std::errc()) break;
    numbers.push_back(number);
    next = std::find_if(stop, end, [](char c) { return c != ' ' && c != '\n'; });
  }
  return numbers;
}

void Tighten(std::optional<double>* limit, double other) {
  if (other > 0) *limit = std::min(limit->value_or(other), other);
}

// Above any machine's memory stands for none: version 1 writes nearly 2^63.
void Tighten(std::optional<int64_t>* limit, const std::vector<double>& numbers) {
  if (numbers.empty() || numbers[0] <= 0 || numbers[0] > 0x1p60) return;
  const int64_t other = static_cast<int64_t>(numbers[0]);
  *limit = std::min(limit->value_or(other), other);
}

// Calls visit(folder) for a group and all that it lies in. In a container the path may be one of
// the host, which is not there: then only the root counts, where the container's own is mounted.
void ForEachGroup(const std::string& mount, std::string_view path,
                  const std::function<void(const std::string&)>& visit) {
  while (path.size() > 1) {
    visit(mount + std::string(path));
    path = path.substr(0, path.rfind('/'));
  }
  visit(mount);
}

bool Lists(std::string_view controllers, std::string_view name) {
  while (!controllers.empty()) {
    const size_t comma = std::min(controllers.find(','), controllers.size());
    if (controllers.substr(0, comma) == name) return true;
    controllers.remove_prefix(std::min(comma + 1, controllers.size()));
  }
  return false;
}

}  // namespace

std::vector<int> AllowedCpus() {
  std::vector<int> cpus;
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof(set), &set) != 0) return cpus;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (CPU_ISSET(cpu, &set)) cpus.push_back(cpu);
  }
  return cpus;
}

GroupLimits ReadGroupLimits(const std::string& groups, const std::string& root) {
  GroupLimits limits;
  for (std::string_view rest = groups; !rest.empty();) {
    std::string_view line = rest.substr(0, rest.find('\n'));
    rest.remove_prefix(std::min(line.size() + 1, rest.size()));
    const size_t controllers_at = line.find(':') + 1;
    const size_t path_at = line.find(':', controllers_at) + 1;
    if (controllers_at == 0 || path_at == 0) continue;
    const std::string_view controllers = line.substr(controllers_at, path_at - controllers_at - 1);
    const std::string_view path = line.substr(path_at);
    if (controllers.empty()) {  // version 2
      ForEachGroup(root, path, [&](const std::string& folder) {
        const std::vector<double> cpu = Numbers(folder + "/cpu.max");
        if (cpu.size() == 2 && cpu[1] > 0) Tighten(&limits.cpus, cpu[0] / cpu[1]);
        Tighten(&limits.memory, Numbers(folder + "/memory.max"));
      });
    }
    if (Lists(controllers, "cpu")) {
      ForEachGroup(root + "/cpu", path, [&](const std::string& folder) {
        const std::vector<double> quota = Numbers(folder + "/cpu.cfs_quota_us");
        const std::vector<double> period = Numbers(folder + "/cpu.cfs_period_us");
        if (!quota.empty() && !period.empty() && period[0] > 0) {
          Tighten(&limits.cpus, quota[0] / period[0]);
        }
      });
    }
    if (Lists(controllers, "memory")) {
      ForEachGroup(root + "/memory", path, [&](const std::string& folder) {
        Tighten(&limits.memory, Numbers(folder + "/memory.limit_in_bytes"));
      });
    }
  }
  return limits;
}

GroupLimits ReadGroupLimits() {
  const Result<std::string> groups = ReadFile("/proc/self/cgroup", kMaxFile);
  return groups.ok() ? ReadGroupLimits(*groups, "/sys/fs/cgroup") : GroupLimits();
}

int UsableCores() {
  int cores = static_cast<int>(AllowedCpus().size());
  if (cores == 0) cores = static_cast<int>(std::thread::hardware_concurrency());
  const std::optional<double> share = ReadGroupLimits().cpus;
  if (share) cores = static_cast<int>(std::min<double>(cores, std::ceil(*share)));
  return std::max(1, cores);
}

}  // namespace winnow
