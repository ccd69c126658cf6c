// The tables of inner loops, one for each instruction set.
//
// A file named *_kernels.cc (and the files of dsa/) is compiled once for each set and exports one
// table of functions; nothing else of it is visible (tests/unit/cpu/objects_test.cc). Drivers
// divide the work of an operation into pieces and call these. What a set has over another shows in
// the compiler's own macros: __AVX512BF16__ is defined at avx512_bf16 and amx only, where BF16,
// VNNI, VBMI and VBMI2 may all be used, and __AMX_TILE__ at amx only, with BF16 and INT8.
#pragma once

#include "cpu/bf16_linear_kernels.h"
#include "cpu/cpu_backend.h"
#include "cpu/elementwise_kernels.h"
#include "cpu/linear_kernels.h"

namespace winnow::cpu {

struct DsaKernels;  // dsa/dsa_kernels.h

struct Kernels {
  const LinearKernels& linear;
  const Bf16LinearKernels& bf16_linear;
  const ElementwiseKernels& elementwise;
  const DsaKernels& dsa;
};

// Those of a set that this processor has.
Kernels KernelsFor(InstructionSet set);

}  // namespace winnow::cpu
