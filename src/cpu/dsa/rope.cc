// The rotary embedding of one vector. Plain code, so that it is the same on every instruction set.
#include "cpu/dsa/rope.h"

namespace winnow::cpu {

void ApplyRope(const RopeTable& rope, int64_t position, float* x) {
  const int64_t pairs = rope.cos_sin.dims[2];
  const float* cosines = rope.cos_sin.As<float>() + position * 2 * pairs;
  const float* sines = cosines + pairs;
  const int64_t step = rope.half_split ? 1 : 2;
  const int64_t distance = rope.half_split ? pairs : 1;
  for (int64_t pair = 0; pair < pairs; ++pair) {
    float& first = x[pair * step];
    float& second = x[pair * step + distance];
    const float turned = first * cosines[pair] - second * sines[pair];
    second = first * sines[pair] + second * cosines[pair];
    first = turned;
  }
}

}  // namespace winnow::cpu
