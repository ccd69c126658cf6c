// How much scratch operations need, before any has run.
#pragma once

#include "backend/backend.h"
#include "cpu/context.h"

namespace winnow::cpu {

// Enough for every operation of steps up to this shape, in bf16 precision or f32.
ScratchNeed ScratchOfSteps(const StepShape& shape, int num_threads, bool bf16);

}  // namespace winnow::cpu
