// What every form of run_panel ends with.
#pragma once

#include "cpu/linear_kernels.h"
#include "cpu/simd.h"

namespace winnow::cpu::WINNOW_LEVEL {

// out [num_x, num_rows] += bias of the rows, if there is one.
static inline void AddBias(const PanelArgs& args) {
  if (!args.bias) return;
  for (int64_t m = 0; m < args.num_x; ++m) {
    float* out = args.out + m * args.out_stride;
    for (int64_t r = 0; r < args.num_rows; r += kLanes) {
      const int64_t n = args.num_rows - r < kLanes ? args.num_rows - r : kLanes;
      StorePartial(out + r,
                   Add(LoadPartial(out + r, n), LoadPartial(args.bias + args.first_row + r, n)), n);
    }
  }
}

}  // namespace winnow::cpu::WINNOW_LEVEL
