// How fast each operation runs on this machine, held against what the machine can do at most:
// docs/benchmarks.md says what the numbers mean.
#pragma once

#include <functional>
#include <string>

#include "winnow/status.h"

namespace winnow {

struct KernelBenchOptions {
  std::string backend = "cpu";  // as in EngineOptions
  int device = 0;
  int num_threads = 0;          // 0: one for each core this process may use
  std::string instruction_set;  // as in EngineOptions
  std::string only;             // measure the kernels whose name contains this; empty: all
  double seconds = 0.3;         // time for each kernel; slow ones take what seven runs take
  // Called with the fraction done and the name of the kernel; may be empty.
  std::function<void(double, const std::string&)> progress;
};

struct KernelBenchReport {
  std::string table;  // lines of text
  std::string json;   // one object a line
};

// Measures every kernel in turn and in several rounds, and the machine's ceilings before, between
// and after them. Takes up to 3 GiB of memory. kInvalidArgument, kUnsupported or kResourceExhausted
// naming the option or the memory.
Result<KernelBenchReport> BenchKernels(const KernelBenchOptions& options);

}  // namespace winnow
