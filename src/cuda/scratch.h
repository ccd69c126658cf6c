// How much working memory operations need, before any has run.
#pragma once

#include <array>
#include <cstdint>

#include "backend/backend.h"
#include "cuda/context.h"

namespace winnow::cuda {

// Bytes of each piece, enough for every operation of steps up to this shape. The tables of experts
// are not in it, some 30 KiB for a layer of 256.
using ScratchNeed = std::array<int64_t, Scratch::kNumPurposes>;
ScratchNeed ScratchOfSteps(const CudaContext& context, const StepShape& shape);

// Of a mixture of experts, as moe.cu takes it.
struct MoeMemory {
  int64_t routing = 0;
  int64_t hidden = 0;
  int64_t products = 0;
  int64_t packed = 0;
};
MoeMemory MoeMemoryOf(int64_t tokens, int64_t size, int64_t experts, int64_t chosen, int64_t width,
                      int64_t shared_width, bool on_tensor_cores);

}  // namespace winnow::cuda
