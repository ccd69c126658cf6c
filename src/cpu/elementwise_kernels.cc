// Row by row and element by element; elementwise_kernels.h says what.
#include "cpu/elementwise_kernels.h"

#include "cpu/simd.h"

namespace winnow::cpu::WINNOW_LEVEL {
namespace {

// 1 / RMS of hidden + branch.
float InverseRms(const float* hidden, const float* branch, float eps, int64_t size) {
  F32x16 squares = Zero();
  for (int64_t k = 0; k < size; k += kLanes) {
    const int64_t n = LanesAt(k, size);
    F32x16 x = LoadPartial(hidden + k, n);
    if (branch) x = Add(x, LoadPartial(branch + k, n));
    squares = Fma(x, x, squares);
  }
  return 1.0f / __builtin_sqrtf(Sum(squares) / static_cast<float>(size) + eps);
}

void AddRmsNorm(float* hidden, const float* branch, const float* weight, float eps, float* out,
                int64_t size) {
  const F32x16 scale = Broadcast(out ? InverseRms(hidden, branch, eps, size) : 0.0f);
  for (int64_t k = 0; k < size; k += kLanes) {
    const int64_t n = LanesAt(k, size);
    F32x16 x = LoadPartial(hidden + k, n);
    if (branch) {
      x = Add(x, LoadPartial(branch + k, n));
      StorePartial(hidden + k, x, n);
    }
    if (out) {
      const F32x16 normed = Mul(Mul(x, scale), LoadPartial(weight + k, n));
      StorePartial(out + k, normed, n);
    }
  }
}

void SwiGlu(const float* gate, const float* up, float* out, int64_t size) {
  const F32x16 one = Broadcast(1.0f);
  for (int64_t k = 0; k < size; k += kLanes) {
    const int64_t n = LanesAt(k, size);
    const F32x16 z = LoadPartial(gate + k, n);
    const F32x16 silu = Div(z, Add(one, Exp(Negate(z))));
    StorePartial(out + k, Mul(silu, LoadPartial(up + k, n)), n);
  }
}

void SigmoidOf(const float* x, float* out, int64_t size) {
  for (int64_t k = 0; k < size; k += kLanes) {
    const int64_t n = LanesAt(k, size);
    StorePartial(out + k, Sigmoid(LoadPartial(x + k, n)), n);
  }
}

void Accumulate(float factor, const float* x, float* out, int64_t size) {
  const F32x16 factors = Broadcast(factor);
  for (int64_t k = 0; k < size; k += kLanes) {
    const int64_t n = LanesAt(k, size);
    StorePartial(out + k, Fma(factors, LoadPartial(x + k, n), LoadPartial(out + k, n)), n);
  }
}

}  // namespace

extern const ElementwiseKernels kElementwiseKernels = {AddRmsNorm, SwiGlu, SigmoidOf, Accumulate};

}  // namespace winnow::cpu::WINNOW_LEVEL
