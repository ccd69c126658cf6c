// SelectTokens for int8 keys of 128 codes on tensor cores. Sums of codes are exact, so selections
// are those of the definition.
#pragma once

#include <cstdint>

#include "backend/ops.h"

namespace winnow::cuda {

struct CudaContext;

// Whether there are kernels for the shape and form of the keys.
bool SelectsOnTensorCores(const SelectTokensArgs& args);
void SelectOnTensorCores(CudaContext& context, const SelectTokensArgs& args);

// The most bytes that it holds in scores and candidates at once.
int64_t TensorSelectionBytes(int64_t topk);
// Bytes of the packed queries of `tokens` tokens.
int64_t PackedIndexQueryBytes(int64_t tokens, int64_t heads);

}  // namespace winnow::cuda
