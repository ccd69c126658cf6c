// The GPU for tests that keep their tensors in memory of the host.
#pragma once

#include <memory>

#include "backend/backend.h"

namespace winnow::cuda {

std::unique_ptr<Backend> MakeStagedBackend(Precision precision);

}  // namespace winnow::cuda
