// The CPU as a backend. Kernels exist for several instruction sets and give equal bits on all of
// them.
#pragma once

#include <memory>

#include "backend/backend.h"

namespace winnow::cpu {

// From the plainest to the widest. kPortable runs anywhere; kAvx2 wants AVX2, FMA and F16C; kAvx512
// wants AVX-512 F, BW, DQ, VL; kAvx512Bf16 also BF16, VNNI, VBMI and VBMI2.
enum class InstructionSet { kPortable, kAvx2, kAvx512, kAvx512Bf16 };
inline constexpr InstructionSet kInstructionSets[] = {
    InstructionSet::kPortable, InstructionSet::kAvx2, InstructionSet::kAvx512,
    InstructionSet::kAvx512Bf16};
const char* InstructionSetName(InstructionSet set);
bool IsSupported(InstructionSet set);
InstructionSet BestInstructionSet();

struct CpuOptions {
  int num_threads = 0;      // 0: one for each core this process may use
  bool pin_threads = true;  // as ThreadPool does
  Precision precision = Precision::kF32;
  InstructionSet instruction_set = BestInstructionSet();
};

// Results do not depend on num_threads or instruction_set.
std::unique_ptr<Backend> CreateCpuBackend(const CpuOptions& options);

}  // namespace winnow::cpu
