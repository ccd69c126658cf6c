// The inner loops of matrix products, for one thread.
//
// Order, the same on every instruction set and for any number of rows:
//   RunPanel       16 chains of fused multiply-adds, element k in chain k mod 16, ascending from 0,
//                  zeros after the last; the chains are added 8, 4, 2, 1 apart; then the bias
//   RunTransposed  one chain for each output, p ascending from 0
// A weight is worth float(code) * scale, a float; codes of groups are tensor/group_codes.h's.
#pragma once

#include <cstdint>

#include "tensor/dtype.h"

namespace winnow::cpu {

// A stored matrix and how it is read.
struct WeightArgs {
  const void* data = nullptr;  // [any, columns]; [any, Int4RowBytes(columns)] of U8
  DType type = DType::kF32;    // F32, BF16, F16, F8_E4M3, I8 or U8
  int64_t columns = 0;
  const float* scale = nullptr;           // [⌈rows/128⌉, ⌈columns/128⌉] of F8_E4M3, or none
  const uint16_t* group_scale = nullptr;  // [rows, ⌈columns/32⌉] bfloat16 of I8 and U8
};

// out[m, n - first_row] = x[m] · weight[n] + bias[n], for m < num_x and num_rows rows n of weight.
struct PanelArgs {
  const float* x = nullptr;
  int64_t x_stride = 0;
  const int32_t* x_rows =
      nullptr;  // row m of x lies at x + x_rows[m] * x_stride; none: x_rows[m] = m
  int64_t num_x = 0;
  WeightArgs weight;
  int64_t first_row = 0;
  int64_t num_rows = 0;
  const float* bias = nullptr;  // indexed by n, or none
  float* out = nullptr;
  int64_t out_stride = 0;
  float* scratch = nullptr;  // kLinearScratch floats, or as a table says; aligned to 64 bytes
};

// out[m, c] = sum over p of x[m, p] * weight[first_row + p, c], for columns c in
// [first_column, last_column); first_column is a multiple of 64. No out lies on an x.
struct TransposedArgs {
  const float* x = nullptr;
  int64_t x_stride = 0;
  int64_t num_x = 0;
  WeightArgs weight;
  int64_t first_row = 0;
  int64_t num_rows = 0;
  int64_t first_column = 0;
  int64_t last_column = 0;
  float* out = nullptr;  // column 0
  int64_t out_stride = 0;
  float* scratch = nullptr;  // num_rows * 16 floats, aligned to 64 bytes
};

// The panel is this many weight rows, decoded over this many columns at a time, and meets this many
// rows of x before the next; accumulators wait in scratch between blocks of columns.
inline constexpr int64_t kPanelRows = 24;
inline constexpr int64_t kPanelColumns = 768;
inline constexpr int64_t kPanelX = 128;
inline constexpr int64_t kLinearScratch = kPanelRows * kPanelColumns + kPanelX * kPanelRows * 16;
// What parts of the weight's rows are a multiple of: whole panels, and whole blocks of 16 rows.
inline constexpr int64_t kPieceRows = 48;
// Up to this many rows of x, reading the weights is what a product costs, not the arithmetic.
inline constexpr int64_t kFewX = 8;

struct LinearKernels {
  void (*run_panel)(const PanelArgs& args);
  void (*run_transposed)(const TransposedArgs& args);
  // out[c] = row `row` of the weight.
  void (*decode_row)(const WeightArgs& weight, int64_t row, float* out);
};

namespace portable {
extern const LinearKernels kLinearKernels;
}
namespace avx2 {
extern const LinearKernels kLinearKernels;
}
namespace avx512 {
extern const LinearKernels kLinearKernels;
}
namespace avx512_bf16 {
extern const LinearKernels kLinearKernels;
}

}  // namespace winnow::cpu
