// Part 2 of DSA on the GPU, for scores that come in segments of the context.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace winnow::cuda {

// The best so far of each token, ascending in position: keys that order like scores, positions, and
// how many they are.
struct Kept {
  uint32_t* keys = nullptr;      // [tokens, K]
  int32_t* positions = nullptr;  // [tokens, K]
  int32_t* counts = nullptr;     // [tokens]
};

struct SelectArgs {
  const float* scores = nullptr;  // [tokens, stride]: of keys from first_key on
  int64_t stride = 0;
  int32_t first_key = 0;  // of the segment
  int32_t num_keys = 0;
  bool last = false;  // writes the selection; otherwise `kept_out`
  Kept kept_in;       // of the segments before; absent for the first
  Kept kept_out;
  int64_t kept_stride = 0;
  const int32_t* positions = nullptr;   // [tokens]
  const int32_t* sequences = nullptr;   // [tokens]
  const int32_t* page_table = nullptr;  // [B, max_pages]
  int32_t max_pages = 0;
  int32_t page_size = 0;
  int32_t topk = 0;
  int32_t* out_positions = nullptr;  // [tokens, width]
  int32_t* out_slots = nullptr;
  int32_t* out_counts = nullptr;
  int32_t width = 0;
};

// Joins a segment's scores with what is kept, for `tokens` tokens; the definition's order.
void LaunchSelect(const SelectArgs& args, int64_t tokens, cudaStream_t stream);

}  // namespace winnow::cuda
