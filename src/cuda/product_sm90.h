// Products of activations and stored weights on Hopper's tensor cores: what bf16 precision runs.
//
// Numerics  x and weights rounded to bfloat16 (a weight is bf16(float(code) * scale)), products
//           exact, sums f32 as tensor cores make them.
// Order     the columns are cut into slices, as many as the shape of the weight asks for; a slice's
//           sum is made sixteen columns at a time in one accumulator, the slices are added up in
//           ascending order, the bias last. Nothing depends on how many rows x has.
// Cost      few rows of x: reads every weight once, bound by memory. Many: 2 operations a weight
//           and row.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "cuda/product.h"

namespace winnow::cuda {

// Whether weights of this form have these products: bfloat16 or E4M3, rows aligned to 16 bytes.
bool HasTensorProduct(const Weight& weight);

// Activations as the products read them: rounded to bfloat16, in blocks of 64 columns
// [blocks, rows, 64], with columns and 16-byte chunks where the tensor cores want them.
struct PackedRows {
  uint8_t* data = nullptr;  // aligned to 128
  int64_t rows = 0;         // of a block: a multiple of 8
  int64_t step = 0;         // bytes between the matrices of a batch
};
// Bytes of the blocks of `rows` rows, with what a product reads past the last of them.
int64_t PackedBytes(int64_t rows, int64_t columns, int64_t batch);
inline int64_t PackedRowCount(int64_t rows) { return (rows + 7) / 8 * 8; }

struct PackArgs {
  const float* x = nullptr;   // [rows, stride]
  const float* up = nullptr;  // [rows, stride]: then what is packed is silu(x) * up
  int64_t x_stride = 0;
  const int32_t* x_rows = nullptr;  // row m is x[x_rows[m]]; negative: left as it is. None: m
  int64_t rows = 0;
  int64_t columns = 0;
  int64_t batch = 1;
  int64_t x_step = 0;  // floats
  DType weight = DType::kBF16;
  PackedRows out = {};
};
cudaError_t PackRows(const PackArgs& args, cudaStream_t stream);

// Rows [first, first + count) of x meet expert `expert`; `first` is a multiple of 8.
struct ExpertTile {
  int32_t expert;
  int32_t first;
  int32_t count;
};

// out[m, n] = x[m] · weight[first_row + n] + bias[n], for each product of a batch.
struct TensorProduct {
  PackedRows x = {};
  PackArgs plain = {};  // in place of x, where ReadsPlainRows
  int32_t num_x = 0;
  int32_t num_rows = 0;
  Weight weight;  // with a table: of which only the form counts
  int64_t first_row = 0;
  const float* bias = nullptr;
  float* out = nullptr;
  int64_t out_stride = 0;
  int32_t batch = 1;
  int64_t row_step = 0;  // rows of the weight between the products of a batch
  int64_t out_step = 0;  // floats
  // A product of every expert with its rows: tiles of at most `tile_rows`, 8, 16, 32, 64 or 128.
  // Product z of the batch takes table[expert * table_stride + z].
  const Weight* table = nullptr;
  int32_t table_stride = 0;
  const ExpertTile* tiles = nullptr;
  const int32_t* num_tiles = nullptr;
  int32_t max_tiles = 0;
  int32_t tile_rows = 0;
};
// Whether a product reads x as it is, without packing: few rows of few columns, of which every
// block packs its own part. The bits are the same.
bool ReadsPlainRows(const TensorProduct& product);
cudaError_t RunTensorProduct(const TensorProduct& product, cudaStream_t stream);

}  // namespace winnow::cuda
