// The lightning indexer, part 1 of DSA: how much each cached token matters to each new one.
//
// A few small heads compare the token's index query with the index key of every earlier token. ReLU
// leaves only agreement, and learned weights add the heads up:
//
//   score[t, s] = key_scale[s] * sum over h of weights[t, h] * max(0, sum over j of q[t, h, j] *
//   keys[s, j])
//
// The next part, token_selection.h, keeps the best. Shape letters: docs/dsa.md.
#pragma once

#include "tensor/tensor.h"
#include "winnow/types.h"

namespace winnow::dsa {

struct LightningIndexerArgs {
  TensorView q;          // [T, I, J] f32  index queries: values, or codes as floats
  TensorView weights;    // [T, I]    f32  weight of each head; every constant factor folded in
  TensorView keys;       // [S, J]    f32  index keys of one sequence: values, or codes as floats
  TensorView key_scale;  // [S]       f32  1 where keys are values
  TensorView scores;     // [T, S]    f32  out
};

// One token, step 7 of 9. From SelfAttention() in attention.cc; next: Draw() in sampler.cc.
//
// The definition. Sums are in f32 and in one order that every backend follows, so that equal inputs
// give equal bits everywhere:
//   over j   one chain of fused multiply-adds, starting at 0, two dimensions at a time from j = 0
//            up, of each two the second first
//   over h   four chains of fused multiply-adds; head h belongs to chain (h / 2) mod 4, lower heads
//            first; then (chain 0 + chain 1) + (chain 2 + chain 3)
//   last     times key_scale, plus 0, which turns -0 into 0: equal scores compare equal
// The chain over j is that of the instruction for products of bfloat16, VDPBF16PS, and like there
// subnormals count as zero. The chains over h are those of a tensor-core accumulator, whose lanes
// hold columns 2i, 2i+1 of eight. ReLU lets NaN through, so a NaN key gives a NaN score.
void LightningIndexerReference(const LightningIndexerArgs& args);

// The score of one token and one key: q [I, J], weights [I], key [J].
float IndexScore(const float* q, const float* weights, const float* key, float key_scale,
                 int64_t index_heads, int64_t index_dim);

// In place, the normalised Walsh-Hadamard transform of `x` [size], size a power of two: butterflies
// of distance 1, 2, 4, …, then a product with size^-0.5. It spreads outliers before quantization,
// and being orthogonal leaves dot products as they are.
void HadamardTransform(float* x, int64_t size);

// Brings `x` [size] to the form of `type` in place (codes as floats for kE4m3 and kInt8) and
// returns its scale. kE4m3: the power of two at or above max(|x|, 1e-4) / 448. kInt8: max|x| / 127,
// codes rounded to nearest even. A vector with a NaN or an infinity gets scale NaN and codes 0 in
// those two forms.
float QuantizeIndexVector(IndexKeyType type, float* x, int64_t size);

// Its parts, for kE4m3 and kInt8.
// The largest magnitude in `x` [size], or NaN when one of its values is NaN or infinite.
float FiniteMax(const float* x, int64_t size);
// The scale of a vector whose largest magnitude is `max`, a number.
float IndexVectorScale(IndexKeyType type, float max);
// Codes of `x` [size] in place; all zeros by a scale of 0.
void QuantizeByScale(IndexKeyType type, float scale, float* x, int64_t size);

}  // namespace winnow::dsa
