// The inner loops of everything that goes element by element or row by row, for one row.
// Sums over a row are 16 chains, element k in chain k mod 16,
// added 8, 4, 2, 1 apart.
#pragma once

#include <cstdint>

namespace winnow::cpu {

struct ElementwiseKernels {
  // hidden += branch, unless branch is null; out = RMSNorm(hidden) * weight, unless out is null.
  // hidden is written only if there is a branch.
  void (*add_rms_norm)(float* hidden, const float* branch, const float* weight, float eps,
                       float* out, int64_t size);
  // out = silu(gate) * up; out may be gate or up.
  void (*swiglu)(const float* gate, const float* up, float* out, int64_t size);
  // out = 1 / (1 + e^-x); out may be x.
  void (*sigmoid)(const float* x, float* out, int64_t size);
  // out += factor * x, fused.
  void (*accumulate)(float factor, const float* x, float* out, int64_t size);
};

namespace portable {
extern const ElementwiseKernels kElementwiseKernels;
}
namespace avx2 {
extern const ElementwiseKernels kElementwiseKernels;
}
namespace avx512 {
extern const ElementwiseKernels kElementwiseKernels;
}
namespace avx512_bf16 {
extern const ElementwiseKernels kElementwiseKernels;
}

}  // namespace winnow::cpu
