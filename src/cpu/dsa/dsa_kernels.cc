// The tables of DSA's inner loops by instruction set.
#include "cpu/dsa/dsa_kernels.h"

#include "cpu/cpu_backend.h"

namespace winnow::cpu {

const DsaKernels& DsaKernelsFor(InstructionSet set) {
  static constexpr DsaKernels kPortable = {portable::kLightningIndexerKernels,
                                           portable::kSparseAttentionKernels};
#if defined(__x86_64__)
  static constexpr DsaKernels kAvx2 = {avx2::kLightningIndexerKernels,
                                       avx2::kSparseAttentionKernels};
  static constexpr DsaKernels kAvx512 = {avx512::kLightningIndexerKernels,
                                         avx512::kSparseAttentionKernels};
  static constexpr DsaKernels kAvx512Bf16 = {avx512_bf16::kLightningIndexerKernels,
                                             avx512_bf16::kSparseAttentionKernels};
  static constexpr DsaKernels kAmx = {amx::kLightningIndexerKernels, amx::kSparseAttentionKernels};
  if (set == InstructionSet::kAmx) return kAmx;
  if (set == InstructionSet::kAvx512Bf16) return kAvx512Bf16;
  if (set == InstructionSet::kAvx512) return kAvx512;
  if (set == InstructionSet::kAvx2) return kAvx2;
#endif
  return kPortable;
}

}  // namespace winnow::cpu
