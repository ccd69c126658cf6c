// The operations of ops.h on the GPU: what CudaBackend calls. Arguments have been checked by
// Backend; views are device memory; everything is asynchronous on the context's stream.
#pragma once

#include "backend/ops.h"

namespace winnow::cuda {

struct CudaContext;

void Embed(CudaContext& context, const EmbedArgs& args);
void AddRmsNorm(CudaContext& context, const AddRmsNormArgs& args);
void RmsNorm(CudaContext& context, const RmsNormArgs& args);
void Linear(CudaContext& context, const LinearArgs& args);
void AbsorbQuery(CudaContext& context, const AbsorbQueryArgs& args);
void ExpandValue(CudaContext& context, const ExpandValueArgs& args);
void FeedForward(CudaContext& context, const FeedForwardArgs& args);
// Working memory: T * (num_experts_per_tok * (F + D + 5) + F of the shared experts + D) floats.
void Moe(CudaContext& context, const MoeArgs& args);

void DrawTokens(CudaContext& context, const DrawTokensArgs& args);

// out [T, F] = silu(gate) * up, where both are [T, F]; out may be gate.
void SwiGlu(CudaContext& context, const float* gate, const float* up, float* out, int64_t count);

}  // namespace winnow::cuda
