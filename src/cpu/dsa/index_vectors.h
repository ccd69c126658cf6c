// Index vectors on their way to codes: transform and quantization, as dsa/lightning_indexer.h
// defines them, sixteen numbers at a time. Included by lightning_indexer_kernels.cc only.
#pragma once

#include "cpu/simd.h"
#include "winnow/types.h"

namespace winnow::cpu::WINNOW_LEVEL {
namespace {

// The butterflies of lanes kDistance apart.
template <int kDistance>
F32x16 Butterflies(F32x16 x) {
  // Bit l: lane l is the upper one of its two.
  constexpr Mask16 kUpper = kDistance == 1   ? 0xaaaa
                            : kDistance == 2 ? 0xcccc
                            : kDistance == 4 ? 0xf0f0
                                             : 0xff00;
  const F32x16 other = Exchange<kDistance>(x);
  return Select(kUpper, Sub(other, x), Add(x, other));
}

// (x - mean) / sqrt(variance + eps) * weight + bias
void LayerNorm(const float* x, const float* weight, const float* bias, float eps, int64_t size,
               float* out) {
  const float count = static_cast<float>(size);
  F32x16 sum = Zero();
  for (int64_t k = 0; k < size; k += kLanes) sum = Add(sum, LoadPartial(x + k, LanesAt(k, size)));
  const F32x16 mean = Broadcast(Sum(sum) / count);
  for (int64_t k = 0; k < size; k += kLanes) {
    const int64_t n = LanesAt(k, size);
    StorePartial(out + k, Sub(LoadPartial(x + k, n), mean), n);
  }
  F32x16 squares = Zero();
  for (int64_t k = 0; k < size; k += kLanes) {
    const F32x16 deviation = LoadPartial(out + k, LanesAt(k, size));
    squares = Add(squares, Mul(deviation, deviation));
  }
  const F32x16 scale = Broadcast(1.0f / __builtin_sqrtf(Sum(squares) / count + eps));
  for (int64_t k = 0; k < size; k += kLanes) {
    const int64_t n = LanesAt(k, size);
    const F32x16 scaled = Mul(LoadPartial(out + k, n), scale);
    const F32x16 weighted = Mul(scaled, LoadPartial(weight + k, n));
    StorePartial(out + k, Add(weighted, LoadPartial(bias + k, n)), n);
  }
}

// Of as many vectors, which stay in registers.
template <int kVectors>
void HadamardOf(float* x) {
  F32x16 v[kVectors];
  for (int i = 0; i < kVectors; ++i) {
    v[i] = Butterflies<8>(Butterflies<4>(Butterflies<2>(Butterflies<1>(Load(x + i * kLanes)))));
  }
  for (int distance = 1; distance < kVectors; distance *= 2) {
    for (int i = 0; i < kVectors; ++i) {
      if ((i & distance) != 0) continue;
      const F32x16 low = v[i];
      v[i] = Add(low, v[i + distance]);
      v[i + distance] = Sub(low, v[i + distance]);
    }
  }
  const F32x16 norm =
      Broadcast(static_cast<float>(1 / __builtin_sqrt(static_cast<double>(kVectors * kLanes))));
  for (int i = 0; i < kVectors; ++i) Store(x + i * kLanes, Mul(v[i], norm));
}

void Hadamard(float* x, int64_t size) {
  if (size == 128) return HadamardOf<128 / kLanes>(x);  // of all models known
  for (int64_t k = 0; k < size; k += kLanes) {
    F32x16 here = LoadPartial(x + k, LanesAt(k, size));
    if (size > 1) here = Butterflies<1>(here);
    if (size > 2) here = Butterflies<2>(here);
    if (size > 4) here = Butterflies<4>(here);
    if (size > 8) here = Butterflies<8>(here);
    StorePartial(x + k, here, LanesAt(k, size));
  }
  for (int64_t distance = kLanes; distance < size; distance *= 2) {
    for (int64_t block = 0; block < size; block += 2 * distance) {
      for (int64_t k = block; k < block + distance; k += kLanes) {
        const F32x16 low = Load(x + k);
        const F32x16 high = Load(x + k + distance);
        Store(x + k, Add(low, high));
        Store(x + k + distance, Sub(low, high));
      }
    }
  }
  const F32x16 norm = Broadcast(static_cast<float>(1 / __builtin_sqrt(static_cast<double>(size))));
  for (int64_t k = 0; k < size; k += kLanes) {
    const int64_t n = LanesAt(k, size);
    StorePartial(x + k, Mul(LoadPartial(x + k, n), norm), n);
  }
}

float FiniteMax(const float* x, int64_t size) {
  const F32x16 largest = Broadcast(3.402823466e38f);
  F32x16 max = Zero();
  Mask16 finite = 0xffff;
  for (int64_t k = 0; k < size; k += kLanes) {
    const F32x16 here = Abs(LoadPartial(x + k, LanesAt(k, size)));
    finite &= LessEqual(here, largest);
    max = Max(here, max);
  }
  return finite == 0xffff ? MaxLane(max) : __builtin_nanf("");
}

// To the nearest whole number of steps, as in the reference.
F32x16 RoundToSteps(F32x16 x, F32x16 step) {
  const F32x16 big = Mul(Broadcast(0x1.8p23f), step);
  return Sub(Add(x, big), big);
}

F32x16 RoundToE4m3(F32x16 x) {
  const F32x16 power = Max(Float(And(Bits(x), BroadcastInt(0x7f800000))), Broadcast(0x1p-6f));
  const I32x16 sign = And(Bits(x), BroadcastInt(static_cast<int32_t>(0x80000000u)));
  const F32x16 size = RoundToSteps(Abs(x), Mul(power, Broadcast(0.125f)));
  return Float(Or(Bits(size), sign));
}

void Quantize(IndexKeyType type, float scale, float* x, int64_t size) {
  const bool e4m3 = type == IndexKeyType::kE4m3;
  const F32x16 divisor = Broadcast(scale > 0 ? scale : __builtin_inff());
  const F32x16 most = Broadcast(e4m3 ? 448.0f : 127.0f);
  const F32x16 least = Negate(most);
  const F32x16 one = Broadcast(1.0f);
  for (int64_t k = 0; k < size; k += kLanes) {
    const int64_t n = LanesAt(k, size);
    const F32x16 scaled = Div(LoadPartial(x + k, n), divisor);
    const F32x16 clamped = Min(Max(scaled, least), most);
    StorePartial(x + k, e4m3 ? RoundToE4m3(clamped) : RoundToSteps(clamped, one), n);
  }
}

}  // namespace
}  // namespace winnow::cpu::WINNOW_LEVEL
