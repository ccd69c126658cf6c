// The lightning indexer on Hopper's tensor cores: scores of paged index keys, part 1 of DSA.
//
// Numerics  kInt8: products and sums over j are exact. A sum's bits are read as a float: as a
//           subnormal where it is positive, as NaN where it is negative, so one max with 0 is ReLU
//           and conversion at once; the power of two is in the weights. The rest follows
//           dsa/lightning_indexer.h operation by operation: scores are the definition's, bit for
//           bit, unless a weight is below 2^-100 of the token's largest. kE4m3: the tensor core
//           keeps about 14 bits of a sum; scores are close to the definition's.
// Order     over heads as in the definition: four chains, which are the columns that a thread
//           holds.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "cuda/dsa/index_layout.h"

namespace winnow::cuda {

enum class IndexForm { kInt8, kE4m3 };

// Heads as kernels see them: I rounded up to 8, 16, 32 or 64; the heads added have weight 0.
constexpr int PaddedIndexHeads(int heads) {
  return heads <= 8 ? 8 : heads <= 16 ? 16 : heads <= 32 ? 32 : 64;
}
// Tokens of the buffers q, weights and unscale: a kernel reads some past the last.
constexpr int64_t PaddedIndexTokens(int64_t tokens) { return (tokens + 31) / 32 * 32 + 32; }

// Queries as the kernels want them.
struct IndexQueries {
  IndexForm form = IndexForm::kInt8;
  int heads = 0;               // padded
  const uint8_t* q = nullptr;  // [T padded, heads, 128] codes, each token's as in index_layout.h
  const float* weights = nullptr;  // [T padded, heads]: by chains, scaled
  const float* unscale = nullptr;  // [T padded] what takes the scaling out again
};

// Codes held as floats (q [T, I, 128]) and weights [T, I] to what IndexQueries points at.
cudaError_t PackIndexQueries(const float* q, const float* weights, int64_t num_tokens, int heads,
                             IndexForm form, uint8_t* packed_q, float* packed_weights,
                             float* unscale, cudaStream_t stream);

// The step's tokens and the cache they look at.
struct IndexBatch {
  int64_t num_tokens = 0;               // T
  const int32_t* positions = nullptr;   // [T]
  const int32_t* sequences = nullptr;   // [T] rows of page_table
  const int32_t* page_table = nullptr;  // [B, page_table_stride]
  int64_t page_table_stride = 0;
  const uint8_t* pages = nullptr;  // [pages, kIndexPageBytes], aligned to 16 bytes
  int topk = 0;                    // K: tokens with at most K candidates are not scored
};

// scores[t * stride + s] for tokens [first_token, first_token + num_tokens) and s in 0 …
// positions[t]. stride is a multiple of 64 and at least the longest context rounded up to 64; what
// lies past a token's context is undefined. For decoding: each token reads its own keys.
//
// Grid      one block per multiprocessor; all pages of all tokens are shared out evenly.
// Cost      reads 132 bytes a key and token, writes 4: bound by memory (2IJ = 16,384 operations).
cudaError_t ScoreTokens(const IndexQueries& queries, const IndexBatch& batch, float* scores,
                        int64_t stride, int multiprocessors, cudaStream_t stream);

// The same for keys [first_key, first_key + num_keys) only, both multiples of 512:
// scores[t * stride + s - first_key]. For prompts: neighbouring tokens of one sequence share keys.
//
// Grid      one block per multiprocessor; units of 512 keys by 32 tokens. Keys stay in registers,
//           queries stream through shared memory.
// Cost      2IJ operations a key and token: bound by the tensor cores (2 clocks a key and token of
// a
//           multiprocessor for I = 64; adding up takes 1, shared memory 1.3); reads I * J / 512
//           bytes of cached queries.
cudaError_t ScoreKeyRange(const IndexQueries& queries, const IndexBatch& batch, int64_t first_key,
                          int64_t num_keys, float* scores, int64_t stride, int multiprocessors,
                          cudaStream_t stream);

}  // namespace winnow::cuda
