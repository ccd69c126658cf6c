// Attention over chosen cache rows on Hopper's tensor cores, part 3 of DSA, for C = 512 and R = 64.
//
// Two kernels. The first scores tiles of 64 rows, counted along a token's list, and leaves for each
// tile and head a power of two at or above the largest weight, the sum of the weights beside it,
// and the weights as bfloat16 in the order in which the second one's tensor cores want them. The
// second multiplies them with the rows' latent parts, tile after tile, for some heads and columns.
// Whatever the batch, each number is made by the same operations in the same order, so both can be
// cut up to fill the machine without changing a bit.
//
// Numerics  bf16 products, f32 sums on tensor cores; weights 2^(score * log2 e * scale - m),
// rounded to
//           bf16 for the second product, f32 in the sum; joining tiles multiplies by powers of two.
// Empty     a token without rows gets zeros.
// Cost      per token reads K rows once for each 128 heads, their latent parts a second time, and
// moves
//           2 * H * K * 2 bytes of weights through the cache; 2 * H * (2C + R) operations a row.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace winnow::cuda {

enum class RowForm { kBf16, kFp8 };  // 1,152 and 656 bytes

struct RowAttentionArgs {
  RowForm form = RowForm::kBf16;
  const void* q = nullptr;  // [T, H, 576] bf16, aligned to 16 bytes
  int64_t num_tokens = 0;
  int num_heads = 0;              // H
  const uint8_t* rows = nullptr;  // [N, row bytes], aligned to 16 bytes
  // The rows of a token: slots [T, width] and counts [T], or where slots is null every row of its
  // sequence up to its position.
  const int32_t* slots = nullptr;
  const int32_t* counts = nullptr;
  int64_t width = 0;                    // an upper bound of counts, or of positions + 1
  const int32_t* positions = nullptr;   // [T]
  const int32_t* sequences = nullptr;   // [T]
  const int32_t* page_table = nullptr;  // [B, page_table_stride], pages of 64
  int64_t page_table_stride = 0;
  float softmax_scale = 0;
  void* out = nullptr;  // [T, H, 512] f32, or bf16
  bool out_bf16 = false;
  bool round_out = false;  // f32 out, rounded to bfloat16
};

// Working memory for `tokens` tokens at a time; any number from 1 on will do, and gives the same
// bits.
int64_t RowAttentionScratchBytes(int64_t tokens, int num_heads, int64_t width);
cudaError_t RowAttention(const RowAttentionArgs& args, void* scratch, int64_t scratch_bytes,
                         int multiprocessors, cudaStream_t stream);

}  // namespace winnow::cuda
