// The operations of DSA on the GPU, for any dimensions. In bf16 precision those of the big models
// run on tensor cores: select_tokens_sm90.h, sparse_attention_sm90.h.
#pragma once

#include <cstdint>

#include "backend/ops.h"

namespace winnow::cuda {

struct CudaContext;

void WriteLatent(CudaContext& context, const WriteLatentArgs& args);
void WriteIndexKeys(CudaContext& context, const WriteIndexKeysArgs& args);
void PrepareIndexQuery(CudaContext& context, const PrepareIndexQueryArgs& args);
void SelectTokens(CudaContext& context, const SelectTokensArgs& args);
void Attention(CudaContext& context, const AttentionArgs& args);

inline constexpr int64_t kScoreBytes = int64_t{64} << 20;  // of scores at once
// The bound of SelectTokens on scores and candidates, whatever the context.
int64_t SelectionScratchBytes(int64_t topk);

}  // namespace winnow::cuda
