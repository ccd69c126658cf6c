// The operations of ops.h on the CPU, but for those of DSA (dsa/dsa_ops.h): what CpuBackend calls.
// Arguments have been checked by Backend.
#pragma once

#include "backend/ops.h"

namespace winnow::cpu {

struct CpuContext;

void Embed(CpuContext& context, const EmbedArgs& args);
void AddRmsNorm(CpuContext& context, const AddRmsNormArgs& args);
void RmsNorm(CpuContext& context, const RmsNormArgs& args);
void Linear(CpuContext& context, const LinearArgs& args);
void AbsorbQuery(CpuContext& context, const AbsorbQueryArgs& args);
void ExpandValue(CpuContext& context, const ExpandValueArgs& args);
void FeedForward(CpuContext& context, const FeedForwardArgs& args);
// Working memory: T * (2 E + num_experts_per_tok * (F + 6) + F of the shared experts) floats, as
// many as x in bf16 precision, and T * 48 a thread.
void Moe(CpuContext& context, const MoeArgs& args);
void DrawTokens(CpuContext& context, const DrawTokensArgs& args);

}  // namespace winnow::cpu
