// The inner loops of DSA, compiled once for each instruction set like those of cpu/kernels.h.
#pragma once

#include "cpu/cpu_backend.h"

namespace winnow::cpu {

struct DsaKernels;

// The table of an instruction set that this processor has.
const DsaKernels& DsaKernelsFor(InstructionSet set);

}  // namespace winnow::cpu
