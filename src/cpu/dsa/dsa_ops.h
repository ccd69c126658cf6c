// The operations of DSA on the CPU: what CpuBackend calls for them. Arguments are those of ops.h
// and have been checked by Backend.
#pragma once

#include "backend/ops.h"

namespace winnow::cpu {

struct CpuContext;

void WriteLatent(CpuContext& context, const WriteLatentArgs& args);
void WriteIndexKeys(CpuContext& context, const WriteIndexKeysArgs& args);
void PrepareIndexQuery(CpuContext& context, const PrepareIndexQueryArgs& args);
void SelectTokens(CpuContext& context, const SelectTokensArgs& args);
void Attention(CpuContext& context, const AttentionArgs& args);

// The most bytes SelectTokens holds on `num_threads` threads for that K, whatever the context.
int64_t SelectionScratchBytes(int num_threads, int64_t topk);

}  // namespace winnow::cpu
