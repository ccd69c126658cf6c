#include "cpu/scratch.h"

#include <algorithm>

#include "cpu/dsa/dsa_ops.h"
#include "cpu/work.h"

namespace winnow::cpu {
namespace {

// The largest part of silu(gate) * up, in floats.
int64_t LargestPart(const Products& products, int64_t num_x, int64_t rows, int64_t columns) {
  int64_t largest = 0;
  for (int64_t x = 1; x <= num_x; ++x) {
    const ProductSplit split = products.SplitProduct(x, rows, columns, 1, kPackedRun);
    largest = std::max(largest, split.x.size * split.rows.size);
  }
  return largest;
}

// The same of what experts give.
int64_t LargestDown(const Products& products, int64_t num_x, int64_t width) {
  int64_t largest = 0;
  for (int64_t x = 1; x <= num_x; ++x) {
    largest = std::max(largest, x * products.SplitDown(x, width).size);
  }
  return largest;
}

constexpr int64_t kFloat = sizeof(float);

// Linear, AbsorbQuery, ExpandValue, and what turns a row of the caches.
ScratchNeed ProductScratch(const Products& products, const StepShape& shape) {
  const int64_t T = shape.num_tokens;
  const int64_t H = shape.num_heads;
  const int64_t widest = std::max({shape.hidden_size, shape.query_rank, H * shape.value_dim});
  const int64_t of_thread = std::max({kLinearScratch, products.PanelScratch(widest),
                                      products.PanelScratch(shape.latent_dim),
                                      products.TransposedScratch(shape.nope_dim, shape.latent_dim),
                                      shape.latent_dim + shape.rope_dim, shape.index_dim});
  const int64_t shared =
      std::max(products.ReadFloats(T, widest),
               products.ReadFloats(T * H, std::max(shape.latent_dim, shape.nope_dim)));
  return {of_thread * kFloat, shared * kFloat};
}

// Gate and up together, as RunGateUp wants it, and the product after them.
int64_t GateUpFloats(const Products& products, const StepShape& shape, int64_t width) {
  return std::max(products.PanelScratch(shape.hidden_size) +
                      2 * LargestPart(products, shape.num_tokens, width, shape.hidden_size),
                  products.PanelScratch(width));
}

ScratchNeed FeedForwardScratch(const Products& products, const StepShape& shape) {
  const int64_t read = (products.ReadFloats(shape.num_tokens, shape.hidden_size) + 15) / 16 * 16;
  return {GateUpFloats(products, shape, shape.ffn_width) * kFloat,
          (read + shape.num_tokens * products.RowFloats(shape.ffn_width)) * kFloat};
}

// As Workspace::LayOut, Down and the routing in moe.cc take it.
ScratchNeed MoeScratch(const Products& products, const StepShape& shape) {
  const int64_t T = shape.num_tokens;
  const int64_t E = shape.num_experts;
  const int64_t rows = T * shape.experts_per_token;
  const int64_t panel = std::max(products.PanelScratch(shape.expert_width),
                                 products.PanelScratch(shape.shared_width));
  const int64_t down_floats = panel + LargestDown(products, T, shape.hidden_size);
  const int64_t route = 3 * E + 64 + shape.n_group * kFloat;
  ScratchNeed need = {std::max(down_floats * kFloat, route), 0};
  for (const int64_t width : {shape.expert_width, shape.shared_width}) {
    if (width == 0) continue;
    need.Cover({GateUpFloats(products, shape, width) * kFloat, 0});
  }
  constexpr int64_t kArrays = 11;  // each begins at a multiple of 64
  const int64_t hidden =
      rows * products.RowFloats(shape.expert_width) + T * products.RowFloats(shape.shared_width);
  const int64_t read = products.RowsTogether() == 1 ? T : rows + (shape.shared_width > 0 ? T : 0);
  need.shared = 2 * T * E * kFloat + rows * (2 * int64_t{sizeof(int32_t)}) + rows * (2 * kFloat) +
                3 * (E + 2) * int64_t{sizeof(int64_t)} +
                (hidden + products.ReadFloats(read, shape.hidden_size)) * kFloat + kArrays * 64;
  return need;
}

}  // namespace

ScratchNeed ScratchOfSteps(const CpuContext& context, const StepShape& shape) {
  const int num_threads = context.pool.num_threads();
  const Products products(context, context.rounds());
  ScratchNeed need = SelectTokensScratch(shape, num_threads);
  need.Cover(AttentionScratch(context, shape));
  need.Cover(ProductScratch(products, shape));
  if (shape.ffn_width > 0) need.Cover(FeedForwardScratch(products, shape));
  if (shape.num_experts > 0) need.Cover(MoeScratch(products, shape));
  return need;
}

}  // namespace winnow::cpu
