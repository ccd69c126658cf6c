// A product of activations and stored weights, as the host describes it to kernels.
#pragma once

#include <cstdint>

#include "backend/ops.h"
#include "cuda/device.cuh"
#include "tensor/tensor.h"

namespace winnow::cuda {

// out[m, n - first_row] = x[m] · weight[n] + bias[n], for num_x rows of x and num_rows rows of the
// weight. Batches of products, one for each head, lie at the steps from each other.
struct Product {
  const float* x = nullptr;
  int64_t x_stride = 0;
  const int32_t* x_rows = nullptr;  // row m of x is x_rows[m]; none: m
  int32_t num_x = 0;
  int32_t num_rows = 0;
  Weight weight;
  int64_t first_row = 0;
  const float* bias = nullptr;  // indexed by the weight's row, or none
  float* out = nullptr;
  int64_t out_stride = 0;
  bool round = false;  // x and weights to bfloat16
  int32_t batch = 1;
  int64_t x_step = 0;    // floats
  int64_t row_step = 0;  // rows of the weight
  int64_t out_step = 0;  // floats
};

inline Weight ReadAs(const ScaledView& view) {
  return {.data = view.value.data,
          .type = view.value.dtype,
          .scale_columns = static_cast<int32_t>(DivideUp<int64_t>(view.columns(), 128)),
          .columns = view.columns(),
          .scale = view.scale ? view.scale.As<float>() : nullptr};
}

struct CudaContext;
void RunProduct(CudaContext& context, const Product& product, const char* what);

// Whether all three matrices have products on tensor cores, and the first two read x alike.
bool HasTensorProducts(const FfnWeights& weights);
// down(silu(gate(x)) * up(x)) for x [T, D]; `hidden` has room for [2, T, F] floats.
void RunFeedForward(CudaContext& context, const FfnWeights& weights, const float* x, int64_t tokens,
                    float* hidden, float* out, const char* what);

}  // namespace winnow::cuda
