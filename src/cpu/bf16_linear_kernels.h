// The inner loops of matrix products whose factors are bfloat16 numbers, for one thread.
//
// Order, the same on every instruction set and for any number of rows:
//   run_panel       16 chains of fused multiply-adds. Elements 2p and 2p + 1 go to chain p mod 16,
//   p
//                   ascending from 0, and of the two the odd one first; zeros after the last. The
//                   chains are added 8, 4, 2, 1 apart; then the bias
//   run_transposed  one chain for each output, p ascending, and of 2p and 2p + 1 the odd one first
// A weight is worth bf16(float(code) * scale). Results are floats.
//
// x is given packed: pack() rounds it, and lays it out as the instruction set wants it.
#pragma once

#include <cstdint>

#include "cpu/linear_kernels.h"

namespace winnow::cpu {

// Numbers are packed in runs of this many, the last filled up with zeros.
inline constexpr int64_t kPackedRun = 64;

// Rows of x, and of the weight, whose sums wait in scratch between two blocks of columns.
inline constexpr int64_t kWaitingX = 128;
inline constexpr int64_t kWaitingRows = 48;
inline constexpr int64_t kBf16PanelScratch = int64_t{24} * 768;  // floats of a decoded panel

// Floats of scratch, aligned to 64 bytes, for a weight of so many columns: a panel, sums that wait,
// and tables of decoded numbers.
inline int64_t Bf16LinearScratch(int64_t columns) {
  return kBf16PanelScratch + kWaitingX * kWaitingRows * 16 + (columns + 127) / 128 * 64;
}
// The same for run_transposed.
inline int64_t Bf16TransposedScratch(int64_t num_rows, int64_t columns) {
  return (num_rows + 1) / 2 * 128 + (columns + 127) / 128 * 64;
}

struct Bf16LinearKernels {
  // Floats that a packed row of so many numbers takes: those of the whole runs before any number
  // that begins one.
  int64_t (*packed_floats)(int64_t columns);
  void (*pack)(const float* x, int64_t columns, float* packed);
  // As LinearKernels has them, but x is packed: rows of x_stride floats.
  void (*run_panel)(const PanelArgs& args);
  void (*run_transposed)(const TransposedArgs& args);
};

namespace portable {
extern const Bf16LinearKernels kBf16LinearKernels;
}
namespace avx2 {
extern const Bf16LinearKernels kBf16LinearKernels;
}
namespace avx512 {
extern const Bf16LinearKernels kBf16LinearKernels;
}
namespace avx512_bf16 {
extern const Bf16LinearKernels kBf16LinearKernels;
}

}  // namespace winnow::cpu
