#include "cpu/scratch.h"

#include "cpu/dsa/dsa_ops.h"
#include "cpu/work.h"

namespace winnow::cpu {
namespace {

// The largest part of a product of at most `num_x` rows with [rows, columns] weights, in floats.
int64_t LargestPart(int num_threads, int64_t num_x, int64_t rows, int64_t columns) {
  int64_t largest = 0;
  for (int64_t x = 1; x <= num_x; ++x) {
    const ProductSplit split = SplitProduct(num_threads, x, rows, columns, 1);
    largest = std::max(largest, split.x.size * split.rows.size);
  }
  return largest;
}

// Gate and up together, as RunGateUp wants it.
ScratchNeed GateUpScratch(const StepShape& shape, int num_threads, int64_t width) {
  const int64_t floats =
      kLinearScratch + LargestPart(num_threads, shape.num_tokens, width, shape.hidden_size);
  return {floats * int64_t{sizeof(float)}, 0};
}

// As Workspace::LayOut, Down and the routing in moe.cc take it.
ScratchNeed MoeScratch(const StepShape& shape, int num_threads) {
  const int64_t T = shape.num_tokens;
  const int64_t E = shape.num_experts;
  const int64_t rows = T * shape.experts_per_token;
  const int64_t down_floats =
      kLinearScratch +
      std::max(T * kPanelRows, kFewX * (shape.hidden_size / (8 * num_threads) + kPanelRows));
  const int64_t route = 3 * E + 64 + shape.n_group * int64_t{sizeof(float)};
  ScratchNeed need = {std::max(down_floats * int64_t{sizeof(float)}, route), 0};
  for (const int64_t width : {shape.expert_width, shape.shared_width}) {
    if (width > 0) need.Cover(GateUpScratch(shape, num_threads, width));
  }
  constexpr int64_t kArrays = 10;  // each begins at a multiple of 64
  need.shared = 2 * T * E * int64_t{sizeof(float)} + rows * (2 * int64_t{sizeof(int32_t)}) +
                rows * (2 * int64_t{sizeof(float)}) + 3 * (E + 2) * int64_t{sizeof(int64_t)} +
                (rows * shape.expert_width + T * shape.shared_width) * int64_t{sizeof(float)} +
                kArrays * 64;
  return need;
}

}  // namespace

ScratchNeed ScratchOfSteps(const StepShape& shape, int num_threads, bool bf16) {
  ScratchNeed need = SelectTokensScratch(shape, num_threads);
  need.Cover(AttentionScratch(shape, bf16));
  // Linear, AbsorbQuery, and what turns a row of the caches.
  need.Cover({std::max({kLinearScratch, shape.nope_dim * 16, shape.latent_dim + shape.rope_dim,
                        shape.index_dim}) *
                  int64_t{sizeof(float)},
              0});
  if (shape.ffn_width > 0) need.Cover(GateUpScratch(shape, num_threads, shape.ffn_width));
  if (shape.num_experts > 0) need.Cover(MoeScratch(shape, num_threads));
  return need;
}

}  // namespace winnow::cpu
