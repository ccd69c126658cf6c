// What the GPU can do at most with the instructions that the kernels use.
#pragma once

#include "backend/backend.h"

namespace winnow::cuda {

struct CudaContext;

Result<Roofs> MeasureRoofs(CudaContext& context);

}  // namespace winnow::cuda
