// The rotary embedding of one vector.
#pragma once

#include <cstdint>

#include "backend/ops.h"

namespace winnow::cpu {

// Turns `x` [R] in place by the angles of `position`, in the pair layout of `rope`. Products and
// sums are rounded one by one. R is twice the last extent of rope.cos_sin.
void ApplyRope(const RopeTable& rope, int64_t position, float* x);

}  // namespace winnow::cpu
