// The device that the tests of the CPU's operations are run for beside it, as the binary is linked:
// none, or a GPU (unit/cuda/staged_backend.cc).
#pragma once

#include <memory>

#include "backend/backend.h"

namespace winnow::cpu {

// A backend whose views are memory of the host and whose bits must be the CPU's, or null.
std::unique_ptr<Backend> MakeOtherBackend(Precision precision);

}  // namespace winnow::cpu
