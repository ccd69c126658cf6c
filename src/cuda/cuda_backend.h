// An NVIDIA GPU as a backend: Hopper (H100, H200).
#pragma once

#include <memory>

#include "backend/backend.h"

namespace winnow::cuda {

struct CudaOptions {
  int device = 0;  // as CUDA numbers them
  Precision precision = Precision::kF32;
};

// Sums follow the orders that docs/dsa.md fixes, so results in f32 precision are those of the CPU
// bit for bit.
// kUnsupported or kUnavailable when there is no such device, or it is no Hopper.
Result<std::unique_ptr<Backend>> CreateCudaBackend(const CudaOptions& options);

}  // namespace winnow::cuda
