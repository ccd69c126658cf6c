// The query's way through W_UK on Hopper's tensor cores: what AbsorbQuery runs in bf16 precision.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "cuda/product.h"

namespace winnow::cuda {

// out[t, h, c] = sum over p < num_rows of x[t, h, p] * weight[h * head_rows + p, c].
struct AbsorbProduct {
  const float* x = nullptr;  // [T, heads, x_dim]
  int32_t num_x = 0;
  int32_t heads = 0;
  int32_t x_dim = 0;
  int32_t num_rows = 0;
  int32_t head_rows = 0;
  Weight weight;
  float* out = nullptr;  // [T, heads, out_dim]
  int32_t out_dim = 0;
};

// Whether there is a kernel for it: depends on the shapes of a head and the form of the weight.
bool HasAbsorbProduct(const AbsorbProduct& product);

// Numerics  x and weights rounded to bfloat16, products exact, sums f32 as tensor cores make them.
// Order     p ascending, sixteen at a time, in one accumulator: a token's result is its own.
// Cost      reads the weights once for each 512 tokens; 2 * num_rows * C operations a head and
//           token.
cudaError_t RunAbsorbProduct(const AbsorbProduct& product, cudaStream_t stream);

}  // namespace winnow::cuda
