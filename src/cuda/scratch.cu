#include <algorithm>

#include "cuda/device.cuh"
#include "cuda/dsa/dsa_ops.h"
#include "cuda/dsa/select_tokens_sm90.h"
#include "cuda/dsa/sparse_attention_sm90.h"
#include "cuda/product_sm90.h"
#include "cuda/scratch.h"

namespace winnow::cuda {
namespace {

// What products on tensor cores pack, but for experts.
int64_t PackedNeed(const StepShape& s) {
  const int64_t T = s.num_tokens;
  const int64_t widest = std::max(
      {s.hidden_size, s.query_rank, s.num_heads * s.value_dim, s.ffn_width, s.shared_width});
  return std::max(PackedBytes(T, widest, 1), PackedBytes(T, s.latent_dim, s.num_heads));
}

// Of attention on tensor cores, which reads what is chosen, or everything.
int64_t SumsNeed(const StepShape& s) {
  if (!IsRowAttentionShape(s.latent_dim, s.rope_dim)) return 0;
  const bool sparse = s.attention == AttentionMode::kSparse;
  return RowAttentionBytes(s.num_tokens, static_cast<int>(s.num_heads),
                           sparse ? std::min(s.topk, s.max_context) : s.max_context);
}

}  // namespace

// Whether a checkpoint's weights go to tensor cores is not known before it is read: both ways are
// covered.
ScratchNeed ScratchOfSteps(const CudaContext& context, const StepShape& s) {
  const int64_t T = s.num_tokens;
  ScratchNeed need = {};
  if (s.attention == AttentionMode::kSparse) {
    need[Scratch::kScores] = kScoreBytes;
    need[Scratch::kLists] = SelectionScratchBytes(std::min(s.topk, s.max_context)) - kScoreBytes;
    need[Scratch::kPrepared] = std::max(
        T * s.index_heads * s.index_dim,
        s.index_heads > 0 && s.index_heads <= 64 ? PackedIndexQueryBytes(T, s.index_heads) : 0);
  }
  if (context.rounds()) {
    need[Scratch::kQueries] = T * s.num_heads * (s.latent_dim + s.rope_dim) * 2;
    need[Scratch::kSums] = SumsNeed(s);
    need[Scratch::kPacked] = PackedNeed(s);
  }
  if (s.num_experts == 0) return need;
  for (const bool on_tensor_cores : {false, context.rounds()}) {
    const MoeMemory moe = MoeMemoryOf(T, s.hidden_size, s.num_experts, s.experts_per_token,
                                      s.expert_width, s.shared_width, on_tensor_cores);
    const auto cover = [&](Scratch::Purpose purpose, int64_t bytes) {
      need[purpose] = std::max(need[purpose], bytes);
    };
    cover(Scratch::kRouting, moe.routing);
    cover(Scratch::kHidden, moe.hidden);
    cover(Scratch::kProducts, moe.products);
    cover(Scratch::kPacked, moe.packed);
  }
  return need;
}

}  // namespace winnow::cuda
