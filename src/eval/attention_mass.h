// True attention: how much of its attention a token gives to each token of its context.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "backend/ops.h"

namespace winnow::eval {

// One row of the latent cache as `out` [C + R] floats.
void DecodeLatentRow(const LatentCacheView& cache, int64_t slot, float* out);

// The slot of `position` in the only sequence of a batch.
int64_t SlotOf(const BatchView& batch, int64_t position);

// Sixteen chains of sums, so that a vector unit may make it.
float Dot(const float* a, const float* b, int64_t size);

// Queries that are worked on together share each row of the context that is read.
struct MassArgs {
  std::span<const float* const> queries;  // each [H, dim]
  std::span<const int64_t> contexts;      // rows each query sees, at least 1
  int64_t num_heads = 0;                  // H
  int64_t dim = 0;                        // C + R
  const float* rows = nullptr;            // [longest context, dim]
  float softmax_scale = 0;
  std::vector<std::vector<float>>* scores;  // scratch
  std::vector<std::vector<float>>* mass;    // out: mass[i] is [contexts[i]]
};
// mass[i][s] = mean over heads h of softmax over s of (softmax_scale · q[i, h] · row[s]). Sums
// to 1.
void AttentionMass(const MassArgs& args);

// The `count` positions of the largest mass, ascending; of equal ones the lower position.
std::vector<int32_t> LargestMass(std::span<const float> mass, int64_t count);

}  // namespace winnow::eval
