// Products of plain f32 sums for more than one row of x: router, index weights and logits, and
// all products of f32 precision.
//
// Order  the CPU's: 16 chains of fused multiply-adds, column k in chain k mod 16, added 8, 4, 2, 1
//        apart. An output element's bits are its own, whatever tile it is made in.
// Cost   up to 8 rows of x: reads every weight once, bound by memory. More: 2 operations a weight
// and
//        row, bound by plain multiply-adds and shared memory.
#pragma once

#include <cuda_runtime_api.h>

#include "cuda/product.h"

namespace winnow::cuda {

cudaError_t RunTiledProduct(const Product& product, int multiprocessors, cudaStream_t stream);

}  // namespace winnow::cuda
