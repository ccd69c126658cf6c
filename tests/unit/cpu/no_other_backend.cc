#include "unit/cpu/other_backend.h"

namespace winnow::cpu {

std::unique_ptr<Backend> MakeOtherBackend(Precision) { return nullptr; }

}  // namespace winnow::cpu
