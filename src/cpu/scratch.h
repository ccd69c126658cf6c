// How much scratch operations need, before any has run.
#pragma once

#include "backend/backend.h"
#include "cpu/context.h"

namespace winnow::cpu {

// Enough for every operation of steps up to this shape.
ScratchNeed ScratchOfSteps(const CpuContext& context, const StepShape& shape);

}  // namespace winnow::cpu
