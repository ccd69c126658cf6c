// How operations cut their work into pieces for the threads.
#pragma once

#include <algorithm>
#include <cstdint>

#include "backend/ops.h"
#include "cpu/context.h"

namespace winnow::cpu {

// `extent` as `count` parts of `size`, the last one shorter.
struct Split {
  int64_t size = 0;
  int64_t count = 0;

  int64_t begin(int64_t part) const { return part * size; }
  int64_t length(int64_t part, int64_t extent) const {
    return std::min(size, extent - part * size);
  }
};

// At most `at_most` parts, of a multiple of `unit`.
inline Split SplitInto(int64_t extent, int64_t at_most, int64_t unit) {
  if (extent <= 0) return {};
  const int64_t wanted =
      (extent + std::max<int64_t>(at_most, 1) - 1) / std::max<int64_t>(at_most, 1);
  const int64_t size = (wanted + unit - 1) / unit * unit;
  return {size, (extent + size - 1) / size};
}

// The pieces of a product of num_x rows with [rows, columns] weights: parts of the weight's rows,
// each a multiple of `unit`, times parts of x. Enough of them to keep every thread busy to the end,
// none too small to be worth handing out.
struct ProductSplit {
  Split rows;
  Split x;
  int64_t count() const { return rows.count * x.count; }
};

// Rows as products read them: floats, or packed for products of bfloat16 numbers.
struct ProductRows {
  const float* data = nullptr;
  int64_t stride = 0;       // floats from one row to the next
  int64_t head_stride = 0;  // and from one head's first to the next one's
};

// How an operation multiplies, by its precision.
class Products {
 public:
  Products(const CpuContext& context, bool bf16) : context_(context), bf16_(bf16) {}

  // Floats that a row of so many numbers takes as it is read.
  int64_t RowFloats(int64_t columns) const {
    return bf16_ ? context_.kernels.bf16_linear.packed_floats(columns) : columns;
  }
  // Floats that Read wants for so many rows.
  int64_t ReadFloats(int64_t num_rows, int64_t columns) const {
    return bf16_ ? num_rows * RowFloats(columns) : 0;
  }
  // Rows that lie together, so that products read either all or none: parts of x begin at
  // multiples of it.
  int64_t RowsTogether() const { return bf16_ ? context_.kernels.bf16_linear.rows_together : 1; }
  int64_t PieceRows() const { return bf16_ ? context_.kernels.bf16_linear.piece_rows : kPieceRows; }
  // The pieces of num_x rows by [rows, columns] weights.
  ProductSplit SplitProduct(int64_t num_x, int64_t rows, int64_t columns, int64_t bytes_per_weight,
                            int64_t unit = 1) const;
  // The pieces of the width of what experts give to num_x tokens.
  Split SplitDown(int64_t num_x, int64_t width) const;

  // x [num_rows, heads, columns], packed into `memory` if it has to be. Not from within a piece.
  ProductRows Read(const float* x, int64_t num_rows, int64_t heads, int64_t columns,
                   float* memory) const;
  // The same for RunTransposed, of rows that are `stride` floats apart.
  ProductRows ReadTransposed(const float* x, int64_t num_rows, int64_t columns, int64_t stride,
                             float* memory) const;
  // Some columns of rows that are read later.
  void Write(const PackArgs& args) const;

  int64_t PanelScratch(int64_t columns) const {
    return bf16_ ? context_.kernels.bf16_linear.panel_scratch(columns) : kLinearScratch;
  }
  int64_t TransposedScratch(int64_t num_rows, int64_t columns) const {
    return bf16_ ? Bf16TransposedScratch(num_rows, columns) : num_rows * 16;
  }
  void RunPanel(const PanelArgs& args) const {
    bf16_ ? context_.kernels.bf16_linear.run_panel(args) : context_.kernels.linear.run_panel(args);
  }
  void RunTransposed(const TransposedArgs& args) const {
    bf16_ ? context_.kernels.bf16_linear.run_transposed(args)
          : context_.kernels.linear.run_transposed(args);
  }

 private:
  const CpuContext& context_;
  bool bf16_;
};

// `weight` as kernels read it.
WeightArgs ReadAs(const ScaledView& weight);

// Where silu(gate) * up goes: rows that a product reads next.
struct HiddenRows {
  float* data = nullptr;
  int64_t stride = 0;
};
// A part of silu(gate(x)) * up(x): `panel` says which rows of both weights and of x; its weight and
// out are ignored. Takes 2 * num_x * num_rows floats of scratch beyond those of a panel.
void RunGateUp(const CpuContext& context, const Products& products, const FfnWeights& weights,
               PanelArgs panel, const HiddenRows& hidden);

}  // namespace winnow::cpu
