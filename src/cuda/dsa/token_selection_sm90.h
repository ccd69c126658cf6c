// Token selection on a GPU, part 2 of DSA: exact, ties to the lower position, positions ascending.
//
// A radix selection over the 32 bits of a score, 11 + 11 + 10, stops as soon as a digit's bin is
// taken whole. NaN is never chosen. Integer counts only, so nothing depends on the order of
// threads.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace winnow::cuda {

struct SelectionBatch {
  int64_t num_tokens = 0;
  const int32_t* positions = nullptr;   // [T]
  const int32_t* sequences = nullptr;   // [T]
  const int32_t* page_table = nullptr;  // [B, page_table_stride], pages of 64
  int64_t page_table_stride = 0;
  int topk = 0;                      // K
  int32_t* out_positions = nullptr;  // [T, width]
  int32_t* out_slots = nullptr;      // [T, width]
  int32_t* out_counts = nullptr;     // [T]
  int64_t width = 0;                 // >= min(K, longest context)
};

// From whole rows of scores (as ScoreTokens leaves them).
//
// Grid      a cluster of one to eight blocks per token, as many as fill the machine; its scores
//           stay in shared memory, histograms are added up through distributed shared memory.
// Cost      reads 4 bytes a key once (five times beyond 384K keys); latency dominates.
cudaError_t SelectFromRows(const SelectionBatch& batch, const float* scores, int64_t stride,
                           int multiprocessors, cudaStream_t stream);

// The candidates so far of every token, ascending in position: its K best, and later ones above the
// worst of these, until there is no more room and K are chosen again.
constexpr int64_t RunningRoom(int64_t topk) { return topk + (topk < 2048 ? topk : 2048); }
struct RunningSelection {
  uint32_t* keys = nullptr;      // [T, RunningRoom(K)], that order like scores
  int32_t* positions = nullptr;  // the same
  uint32_t* counts = nullptr;    // [T]
  uint32_t* worst = nullptr;     // [T] a key that all candidates to come are above
};
// Joins the scores of keys [first_key, first_key + num_keys), num_keys <= kMaxRange, as
// ScoreKeyRange leaves them: by rising first_key from 0. `last`: writes the batch's outputs.
//
// Grid      one block per token.
// Cost      reads 4 bytes a key from the second-level cache; moves 8 a candidate, and some 40 when
//           it chooses again, which is seldom: a range has few keys above the K-th of many.
inline constexpr int64_t kMaxRange = 8192;
cudaError_t SelectFromRange(const SelectionBatch& batch, const RunningSelection& running,
                            const float* scores, int64_t stride, int64_t first_key,
                            int64_t num_keys, bool last, cudaStream_t stream);

}  // namespace winnow::cuda
