// Attention of few tokens in two steps, each spread over the whole machine: one makes the weights
// of all tiles, the other sums columns of the result over them. Every number is made as
// sparse_attention_sm90.cu makes it, by the same operations in the same order.
//
// Cost    reads each row twice for each 64 heads, and writes and reads its weights.
// Memory  280 KiB for each 64 heads of a token.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "cuda/dsa/attention_rows_sm90.cuh"

namespace winnow::cuda {

constexpr int kMostTwoStepItems = 32;

// Bytes of working memory for so many items.
int64_t TwoStepAttentionBytes(int64_t items);

// For 1 to kMostTwoStepItems items of up to `most_rows` rows each, at most a chunk.
cudaError_t TwoStepAttention(const Items& items, int64_t most_rows, cudaStream_t stream);

}  // namespace winnow::cuda
