// The operations of DSA on the CPU: what CpuBackend calls for them. Arguments are those of ops.h
// and have been checked by Backend.
#pragma once

#include "backend/backend.h"

namespace winnow::cpu {

struct CpuContext;
struct ScratchNeed;

void WriteLatent(CpuContext& context, const WriteLatentArgs& args);
void WriteIndexKeys(CpuContext& context, const WriteIndexKeysArgs& args);
void PrepareIndexQuery(CpuContext& context, const PrepareIndexQueryArgs& args);
void SelectTokens(CpuContext& context, const SelectTokensArgs& args);
void Attention(CpuContext& context, const AttentionArgs& args);

// The most bytes SelectTokens holds on `num_threads` threads for that K, whatever the context.
int64_t SelectionScratchBytes(int num_threads, int64_t topk);

// The scratch that SelectTokens and Attention take in steps up to this shape.
ScratchNeed SelectTokensScratch(const StepShape& shape, int num_threads);
ScratchNeed AttentionScratch(const CpuContext& context, const StepShape& shape);

}  // namespace winnow::cpu
