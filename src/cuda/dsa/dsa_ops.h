// The operations of DSA on the GPU, for any dimensions. dsa_sm90.h has faster ones for some.
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

// The bound of SelectTokens on scores and candidates, whatever the context.
int64_t SelectionScratchBytes(int64_t topk);

}  // namespace winnow::cuda
