// The one place that knows which devices exist.
#pragma once

#include <memory>

#include "backend/backend.h"
#include "winnow/winnow.h"

namespace winnow {

// The backend that `options` ask for. kInvalidArgument or kUnsupported naming the option.
Result<std::unique_ptr<Backend>> CreateBackend(const EngineOptions& options);

// kInvalidArgument for a number of threads that nobody has.
Status CheckThreads(int num_threads);

}  // namespace winnow
