// True attention: how much of its attention a token gives to each token of its context.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "base/thread_pool.h"
#include "model/transformer.h"

namespace winnow::eval {

// One row of the latent cache as `out` [C + R] floats.
void DecodeLatentRow(const LatentCacheView& cache, int64_t slot, float* out);

// The slot of `position` in the only sequence of a batch.
int64_t SlotOf(const BatchView& batch, int64_t position);

// Sixteen chains of sums, so that a vector unit may make it.
float Dot(const float* a, const float* b, int64_t size);

// Weighs the contexts of a step's tokens, layer by layer.
class AttentionMass {
 public:
  explicit AttentionMass(ThreadPool& pool) : pool_(pool) {}

  // Calls body(i, mass) once for each of `tokens`, ascending rows of the step's batch of one
  // sequence, on any thread: mass[s] = mean over heads h of softmax over s of
  // (softmax_scale · q[tokens[i], h] · row[s]), for the s of the token's context. Sums to 1.
  void ForEach(const Pass& pass, const AttentionState& state, std::span<const int32_t> tokens,
               const std::function<void(size_t, std::span<const float>)>& body);

 private:
  ThreadPool& pool_;
  std::vector<float> rows_;  // [longest context, C + R], of the layer at work
};

// The `count` positions of the largest mass, ascending; of equal ones the lower position.
std::vector<int32_t> LargestMass(std::span<const float> mass, int64_t count);

}  // namespace winnow::eval
