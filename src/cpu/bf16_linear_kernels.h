// The inner loops of matrix products whose factors are bfloat16 numbers, for one thread.
//
// Order, the same for any number of rows, and on every instruction set but amx:
//   run_panel       16 chains of fused multiply-adds. Elements 2p and 2p + 1 go to chain p mod 16,
//   p
//                   ascending from 0, and of the two the odd one first; zeros after the last. The
//                   chains are added 8, 4, 2, 1 apart; then the bias
//   run_transposed  one chain for each output, p ascending, and of 2p and 2p + 1 the odd one first
// On amx both add up blocks of 32 elements, ascending from 0 and filled up with zeros: the sum of
// each is a chain of its even elements plus a chain of its odd ones (tiles.h).
// A weight is worth bf16(float(code) * scale). Results are floats.
//
// x is given packed: rounded, and laid out as the instruction set wants it.
#pragma once

#include <cstdint>

#include "cpu/linear_kernels.h"

namespace winnow::cpu {

// Numbers are packed in runs of this many, the last filled up with zeros.
inline constexpr int64_t kPackedRun = 64;

// Floats of scratch that run_transposed takes, aligned to 64 bytes.
inline int64_t Bf16TransposedScratch(int64_t num_rows, int64_t columns) {
  return (num_rows + 31) / 32 * 16 * 128 + (columns + 127) / 128 * 64;
}

// Some columns of rows of x, to where run_panel reads them.
struct PackArgs {
  const float* x = nullptr;  // of the first column
  int64_t x_stride = 0;
  const int32_t* x_rows = nullptr;  // as in PanelArgs
  int64_t num_x = 0;
  int64_t first_column = 0;  // a multiple of kPackedRun
  int64_t num_columns = 0;
  float* packed = nullptr;    // of row 0 and column 0
  int64_t packed_stride = 0;  // floats of a packed row
};

struct Bf16LinearKernels {
  // Rows of x that are packed together: parts of x begin at multiples of it, and where it is not 1
  // run_panel takes no x_rows.
  int64_t rows_together;
  // What parts of the weight's rows should be a multiple of.
  int64_t piece_rows;
  // Floats that a packed row of so many numbers takes, a multiple of 16: those of the whole runs
  // before any number that begins one.
  int64_t (*packed_floats)(int64_t columns);
  void (*pack)(const PackArgs& args);
  // Floats of scratch that run_panel takes for a weight of so many columns, aligned to 64 bytes.
  int64_t (*panel_scratch)(int64_t columns);
  // As LinearKernels has it, but x is packed: rows of x_stride floats.
  void (*run_panel)(const PanelArgs& args);
  // Likewise, of rows that pack_row packed one by one.
  void (*run_transposed)(const TransposedArgs& args);
  void (*pack_row)(const float* x, int64_t columns, float* packed);
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
namespace amx {
extern const Bf16LinearKernels kBf16LinearKernels;
}

}  // namespace winnow::cpu
