// Which table belongs to which instruction set, and which of them this processor has.
#include "cpu/kernels.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include "base/check.h"
#include "cpu/dsa/dsa_kernels.h"

namespace winnow::cpu {
namespace {

#if defined(__x86_64__)
// Tiles are 8 KiB of a thread's state, which Linux saves for those processes only that ask for it.
bool IsGrantedTiles() {
  constexpr long kRequestPermission = 0x1023;  // ARCH_REQ_XCOMP_PERM
  constexpr long kTileData = 18;               // XFEATURE_XTILEDATA
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

// Not every compiler's __builtin_cpu_supports knows the names.
bool HasTiles() {
  constexpr unsigned kBf16 = 1u << 22, kTile = 1u << 24, kInt8 = 1u << 25;
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
  return (d & kBf16) && (d & kTile) && (d & kInt8) && IsGrantedTiles();
}
#endif

}  // namespace

const char* InstructionSetName(InstructionSet set) {
  switch (set) {
    case InstructionSet::kPortable:
      return "portable";
    case InstructionSet::kAvx2:
      return "avx2";
    case InstructionSet::kAvx512:
      return "avx512";
    case InstructionSet::kAvx512Bf16:
      return "avx512_bf16";
    case InstructionSet::kAmx:
      return "amx";
  }
  return "unknown";
}

bool IsSupported(InstructionSet set) {
  if (set == InstructionSet::kPortable) return true;
#if defined(__x86_64__)
  // The kernels of a level may use all of x86-64-v3 or x86-64-v4. F16C and LZCNT came before AVX2
  // to every processor that has it; not every compiler can ask for them.
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                    __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2");
  if (set == InstructionSet::kAvx2) return avx2;
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") &&
                      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512cd") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  if (set == InstructionSet::kAvx512) return avx512;
  const bool avx512_bf16 =
      avx512 && __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512vnni") &&
      __builtin_cpu_supports("avx512vbmi") && __builtin_cpu_supports("avx512vbmi2");
  if (set == InstructionSet::kAvx512Bf16) return avx512_bf16;
  static const bool has_tiles = HasTiles();
  return avx512_bf16 && has_tiles;
#else
  return false;
#endif
}

InstructionSet BestInstructionSet() {
  InstructionSet best = InstructionSet::kPortable;
  for (const InstructionSet set : kInstructionSets) {
    if (IsSupported(set)) best = set;
  }
  return best;
}

Kernels KernelsFor(InstructionSet set) {
  WINNOW_CHECK(IsSupported(set), std::string("this processor has no ") + InstructionSetName(set));
  switch (set) {
#if defined(__x86_64__)
    case InstructionSet::kAmx:
      return {avx512_bf16::kLinearKernels, amx::kBf16LinearKernels,
              avx512_bf16::kElementwiseKernels, DsaKernelsFor(set)};
    case InstructionSet::kAvx512Bf16:
      return {avx512_bf16::kLinearKernels, avx512_bf16::kBf16LinearKernels,
              avx512_bf16::kElementwiseKernels, DsaKernelsFor(set)};
    case InstructionSet::kAvx512:
      return {avx512::kLinearKernels, avx512::kBf16LinearKernels, avx512::kElementwiseKernels,
              DsaKernelsFor(set)};
    case InstructionSet::kAvx2:
      return {avx2::kLinearKernels, avx2::kBf16LinearKernels, avx2::kElementwiseKernels,
              DsaKernelsFor(set)};
#endif
    default:
      return {portable::kLinearKernels, portable::kBf16LinearKernels, portable::kElementwiseKernels,
              DsaKernelsFor(set)};
  }
}

}  // namespace winnow::cpu
