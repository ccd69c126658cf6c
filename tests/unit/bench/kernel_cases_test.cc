// The list of what is measured: complete, named once, and able to run.
#include "bench/kernel_cases.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "cpu/cpu_backend.h"
#include "winnow/bench.h"

namespace winnow::bench {
namespace {

bool Has(const std::vector<KernelCase>& cases, const std::string& name) {
  return std::any_of(cases.begin(), cases.end(),
                     [&](const KernelCase& kernel) { return kernel.name == name; });
}

TEST(KernelCases, HaveNamesOfTheirOwn) {
  std::set<std::string> names;
  for (const KernelCase& kernel : KernelCases()) {
    EXPECT_TRUE(names.insert(kernel.name).second) << kernel.name;
    EXPECT_GT(kernel.cost.ops, 0) << kernel.name;
    EXPECT_GT(kernel.cost.bytes, 0) << kernel.name;
  }
}

TEST(KernelCases, CoverTheOperationsOfBothModels) {
  const std::vector<KernelCase> cases = KernelCases();
  for (const char* name :
       {"v32/select/128K/int8/t1", "v32/select/4K/bf16/t16", "v32/attend/sparse/128K/fp8/t16",
        "v32/attend/dense/32K/bf16/t1", "v32/linear/o_proj/2048x16384/fp8/t512",
        "v32/absorb/bf16/t1", "v32/expand/fp8/t16", "v32/moe/fp8/t8",
        "v32/linear/q_b_proj/8192x1536/int4/t1", "v32/moe/int4/t1",
        "nano/linear/lm_head/8192x384/int8/t8", "nano/select/1K/e4m3/t1",
        "nano/attend/dense/32K/bf16/t16", "nano/linear/lm_head/8192x384/bf16/t1",
        "nano/moe/fp8/t128"}) {
    EXPECT_TRUE(Has(cases, name)) << name;
  }
  EXPECT_FALSE(Has(cases, "v32/attend/dense/128K/bf16/t1"));
}

// Every operation checks its shapes before it runs: one of each kind is enough to know that the
// arguments fit together. Small ones, and few of their types.
TEST(KernelCases, Run) {
  const std::unique_ptr<Backend> backend = cpu::CreateCpuBackend({.num_threads = 2});
  Inputs inputs(*backend, 1 << 20);
  int ran = 0;
  for (const KernelCase& kernel : KernelCases()) {
    const std::string& name = kernel.name;
    if (name.find("nano/") != 0 || name.find("K/e4m3") != std::string::npos ||
        name.find("8K") != std::string::npos || name.find("32K") != std::string::npos) {
      continue;
    }
    const KernelRun run = kernel.prepare(inputs).value();
    for (const int64_t turn : {0, 1, 1000000}) run(turn);
    ++ran;
  }
  EXPECT_GE(ran, 25);
}

TEST(BenchKernels, RefusesWhatItCannotMeasure) {
  EXPECT_EQ(BenchKernels({.only = "no such kernel"}).status().code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(BenchKernels({.seconds = 0}).status().code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(BenchKernels({.instruction_set = "mmx"}).status().code(), StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace winnow::bench
