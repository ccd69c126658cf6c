// In which order a backend makes its sums: within one, bits are equal.
#pragma once

#include <vector>

#include "cpu/cpu_backend.h"

namespace winnow::cpu {

// That of f32 precision, and the two of bf16 precision: by pairs of numbers and, on AMX, by tiles.
enum class Sums { kF32, kPairs, kTiles };
inline constexpr Sums kAllSums[] = {Sums::kF32, Sums::kPairs, Sums::kTiles};
inline Precision PrecisionOf(Sums sums) {
  return sums == Sums::kF32 ? Precision::kF32 : Precision::kBf16;
}
inline bool Makes(InstructionSet set, Sums sums) {
  return sums == Sums::kF32 || (set == InstructionSet::kAmx) == (sums == Sums::kTiles);
}

// The instruction sets of this machine with this order.
inline std::vector<InstructionSet> SetsWith(Sums sums) {
  std::vector<InstructionSet> sets;
  for (const InstructionSet set : kInstructionSets) {
    if (IsSupported(set) && Makes(set, sums)) sets.push_back(set);
  }
  return sets;
}

}  // namespace winnow::cpu
