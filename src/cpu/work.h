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

// The pieces of a product of num_x rows with [rows, columns] weights: parts of the weight's rows
// times parts of x. Enough of them to keep every thread busy to the end, none too small to be worth
// handing out.
struct ProductSplit {
  Split rows;
  Split x;
  int64_t count() const { return rows.count * x.count; }
};
ProductSplit SplitProduct(int num_threads, int64_t num_x, int64_t rows, int64_t columns,
                          int64_t bytes_per_weight);

// `weight` as kernels read it.
WeightArgs ReadAs(const ScaledView& weight, bool round);

// A part of silu(gate(x)) * up(x): `panel` says which rows of both weights and of x, and where the
// result goes; its weight is ignored. Takes num_x * num_rows floats of `scratch` beyond panel's
// own.
void RunGateUp(const CpuContext& context, const FfnWeights& weights, PanelArgs panel);

}  // namespace winnow::cpu
