// The lightning indexer as it is defined: part 1 of DSA in plain loops. Backends are held to it bit
// for bit.
#include "dsa/lightning_indexer.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "tensor/half.h"

namespace winnow::dsa {
namespace {

// Agreement only; NaN compares false and so passes through.
float Relu(float x) { return x < 0 ? 0 : x; }

float Dot(const float* q, const float* key, int64_t size) {
  float sum = 0;
  for (int64_t j = 0; j < size; j += 2) {
    if (j + 1 < size) sum = std::fma(q[j + 1], key[j + 1], sum);
    sum = std::fma(q[j], key[j], sum);
  }
  return sum;
}

// To the nearest whole number of steps, ties to even, for a power of two `step` and fewer than 2^22
// of them: the sum's last place is the step.
float RoundToSteps(float x, float step) {
  const float big = 0x1.8p23f * step;
  return (x + big) - big;
}

// The nearest E4M3 number to x, |x| <= 448: steps of 2^-9 below 2^-6, an eighth of the power of two
// above.
float RoundToE4m3(float x) {
  const int32_t exponent = std::bit_cast<int32_t>(x) & 0x7f800000;
  const float power = std::bit_cast<float>(std::max(exponent, 121 << 23));
  return std::copysign(RoundToSteps(std::fabs(x), power / 8), x);
}

}  // namespace

void LightningIndexerReference(const LightningIndexerArgs& args) {
  const int64_t num_tokens = args.q.dims[0];
  const int64_t index_heads = args.q.dims[1];
  const int64_t index_dim = args.q.dims[2];
  const int64_t num_keys = args.keys.dims[0];
  for (int64_t token = 0; token < num_tokens; ++token) {
    const float* q = args.q.As<float>() + token * index_heads * index_dim;
    const float* weights = args.weights.As<float>() + token * index_heads;
    float* scores = args.scores.As<float>() + token * num_keys;
    for (int64_t s = 0; s < num_keys; ++s) {
      scores[s] = IndexScore(q, weights, args.keys.As<float>() + s * index_dim,
                             args.key_scale.As<float>()[s], index_heads, index_dim);
    }
  }
}

float IndexScore(const float* q, const float* weights, const float* key, float key_scale,
                 int64_t index_heads, int64_t index_dim) {
  float chain[4] = {0, 0, 0, 0};
  for (int64_t head = 0; head < index_heads; ++head) {
    const float agreement = Relu(Dot(q + head * index_dim, key, index_dim));
    float& sum = chain[head / 2 % 4];
    sum = std::fma(weights[head], agreement, sum);
  }
  const float sum = (chain[0] + chain[1]) + (chain[2] + chain[3]);
  return sum * key_scale + 0.0f;
}

void HadamardTransform(float* x, int64_t size) {
  for (int64_t distance = 1; distance < size; distance *= 2) {
    for (int64_t block = 0; block < size; block += 2 * distance) {
      for (int64_t j = block; j < block + distance; ++j) {
        const float low = x[j];
        const float high = x[j + distance];
        x[j] = low + high;
        x[j + distance] = low - high;
      }
    }
  }
  const float norm = static_cast<float>(1 / std::sqrt(static_cast<double>(size)));
  for (int64_t j = 0; j < size; ++j) x[j] *= norm;
}

// Bits of magnitudes are ordered as the magnitudes are.
float FiniteMax(const float* x, int64_t size) {
  int32_t max = 0;
  for (int64_t j = 0; j < size; ++j) {
    max = std::max(max, std::bit_cast<int32_t>(x[j]) & 0x7fffffff);
  }
  return max < 0x7f800000 ? std::bit_cast<float>(max) : NAN;
}

float IndexVectorScale(IndexKeyType type, float max) {
  if (type == IndexKeyType::kInt8) return max / 127;
  return RoundUpToPowerOfTwo(std::max(max, 1e-4f) * (1.0f / 448));
}

void QuantizeByScale(IndexKeyType type, float scale, float* x, int64_t size) {
  // No codes without a scale: a vector of zeros, or one so small that its scale is flushed to 0.
  const float divisor = scale > 0 ? scale : INFINITY;
  for (int64_t j = 0; j < size; ++j) {
    const float scaled = x[j] / divisor;
    x[j] = type == IndexKeyType::kInt8
               ? RoundToSteps(std::min(std::max(scaled, -127.0f), 127.0f), 1)
               : RoundToE4m3(std::min(std::max(scaled, -448.0f), 448.0f));
  }
}

float QuantizeIndexVector(IndexKeyType type, float* x, int64_t size) {
  switch (type) {
    case IndexKeyType::kF32:
      return 1;
    case IndexKeyType::kBf16:
      for (int64_t j = 0; j < size; ++j) x[j] = RoundToBf16(x[j]);
      return 1;
    case IndexKeyType::kE4m3:
    case IndexKeyType::kInt8:
      break;
  }
  const float max = FiniteMax(x, size);
  if (std::isnan(max)) {
    for (int64_t j = 0; j < size; ++j) x[j] = 0;
    return NAN;
  }
  const float scale = IndexVectorScale(type, max);
  QuantizeByScale(type, scale, x, size);
  return scale;
}

}  // namespace winnow::dsa
