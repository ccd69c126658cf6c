// Sparse attention, part 3 of DSA. Comes after token_selection.h.
//
// Each token attends only to the cache rows chosen for it. In the absorbed form of MLA all heads
// read the same row: its first C values act as key and value, its last R values as key only.
#pragma once

#include "tensor/tensor.h"

namespace winnow::dsa {

struct SparseAttentionArgs {
  TensorView q;      // [T, H, C+R] f32  query, latent part first, rotary part last
  TensorView kv;     // [N, C+R]    f32  one row for each cache slot
  TensorView slots;  // [T, K]      i32  chosen slots; -1 is empty, and empties come last
  TensorView out;  // [T, H, C]   f32  weighted mean of the latent parts; 0 where no slot is chosen
  float softmax_scale;  //                  multiplies q.k before the softmax
};

// The definition, in plain loops with double sums. The tests hold every kernel to it.
void SparseAttentionReference(const SparseAttentionArgs& args);

}  // namespace winnow::dsa
