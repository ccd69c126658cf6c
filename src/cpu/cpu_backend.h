// The CPU as a backend. Kernels exist for several instruction sets and give equal bits on all of
// them; only kAmx has an order of its own for bf16 precision (docs/numerics.md).
#pragma once

#include <memory>

#include "backend/backend.h"

namespace winnow::cpu {

// From the plainest to the widest. kPortable runs anywhere; kAvx2 wants AVX2, FMA and F16C; kAvx512
// wants AVX-512 F, BW, DQ, VL; kAvx512Bf16 also BF16, VNNI, VBMI and VBMI2; kAmx also AMX with BF16
// and INT8, and a system that lets the process use it.
enum class InstructionSet { kPortable, kAvx2, kAvx512, kAvx512Bf16, kAmx };
inline constexpr InstructionSet kInstructionSets[] = {
    InstructionSet::kPortable, InstructionSet::kAvx2, InstructionSet::kAvx512,
    InstructionSet::kAvx512Bf16, InstructionSet::kAmx};
const char* InstructionSetName(InstructionSet set);
// Asks the system to grant what the set wants of it, for the whole process.
bool IsSupported(InstructionSet set);
InstructionSet BestInstructionSet();

struct CpuOptions {
  int num_threads = 0;      // 0: one for each core this process may use
  bool pin_threads = true;  // as ThreadPool does
  Precision precision = Precision::kF32;
  InstructionSet instruction_set = BestInstructionSet();
};

// Results do not depend on num_threads; nor on instruction_set, but for kAmx in bf16 precision.
std::unique_ptr<Backend> CreateCpuBackend(const CpuOptions& options);

}  // namespace winnow::cpu
