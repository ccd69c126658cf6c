// Memory that the program asks the system for: malloc and its kin, operator new, anonymous mmap.
#pragma once

#include <cstdint>

namespace winnow {

int64_t Allocations();  // requests so far, by all threads
int64_t LiveBytes();    // given and not yet given back
// The most that LiveBytes has been since the last call.
int64_t TakePeakBytes();

}  // namespace winnow
