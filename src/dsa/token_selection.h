// Token selection, part 2 of DSA: the positions each token will read. Comes after
// lightning_indexer.h; sparse_attention.h reads what is chosen here.
#pragma once

#include "tensor/tensor.h"

namespace winnow::dsa {

struct TokenSelectionArgs {
  TensorView scores;  // [T, S] f32  of the lightning indexer
  TensorView
      candidates;  // [T]    i32  how many positions token t may choose from: 0 … candidates[t]-1
  TensorView positions;  // [T, K] i32  out: chosen positions, ascending; -1 in the places left over
  TensorView counts;     // [T]    i32  out: how many were chosen
};

// The definition, and a total order: the higher score first, and of equal scores the lower
// position.
//   - A token with at most K candidates keeps them all; its scores are not read.
//   - Otherwise NaN is never chosen, and -infinity only after every other number. With fewer than K
//     scores that are numbers, fewer than K positions are chosen.
//   - A token without candidates chooses nothing: its count is 0.
void TokenSelectionReference(const TokenSelectionArgs& args);

}  // namespace winnow::dsa
