#include "model/rope.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "tensor/half.h"

namespace winnow {
namespace {

// The pair whose wavelength makes `turns` turns in the original context.
double CorrectionPair(const RopeConfig& rope, int64_t rope_dim, double turns) {
  const double context = static_cast<double>(rope.original_max_position_embeddings);
  return static_cast<double>(rope_dim) * std::log(context / (turns * 2.0 * std::numbers::pi)) /
         (2.0 * std::log(rope.rope_theta));
}

// From 0, where a pair turns so fast that it keeps its frequency, to 1, where it is stretched by
// factor.
std::vector<float> YarnRamp(const RopeConfig& rope, int64_t rope_dim) {
  double low = CorrectionPair(rope, rope_dim, rope.beta_fast);
  double high = CorrectionPair(rope, rope_dim, rope.beta_slow);
  if (rope.truncate) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, static_cast<double>(rope_dim - 1));
  if (low == high) high += 0.001;
  const float first = static_cast<float>(low);
  const float width = static_cast<float>(high - low);
  std::vector<float> ramp(static_cast<size_t>(rope_dim / 2));
  for (size_t pair = 0; pair < ramp.size(); ++pair) {
    ramp[pair] = std::clamp((static_cast<float>(pair) - first) / width, 0.0f, 1.0f);
  }
  return ramp;
}

}  // namespace

double YarnMscale(double factor, double mscale) {
  return factor <= 1.0 ? 1.0 : 0.1 * mscale * std::log(factor) + 1.0;
}

float RopeAttentionFactor(const RopeConfig& rope) {
  if (!rope.yarn) return 1.0f;
  if (rope.attention_factor != 0.0) return static_cast<float>(rope.attention_factor);
  if (rope.mscale != 0.0 && rope.mscale_all_dim != 0.0) {
    return static_cast<float>(YarnMscale(rope.factor, rope.mscale) /
                              YarnMscale(rope.factor, rope.mscale_all_dim));
  }
  return static_cast<float>(YarnMscale(rope.factor, 1.0));
}

std::vector<float> RopeFrequencies(const RopeConfig& rope, int64_t rope_dim) {
  const std::vector<float> ramp = rope.yarn ? YarnRamp(rope, rope_dim) : std::vector<float>();
  const double theta = static_cast<double>(static_cast<float>(rope.rope_theta));
  std::vector<float> frequencies(static_cast<size_t>(rope_dim / 2));
  for (size_t pair = 0; pair < frequencies.size(); ++pair) {
    const float exponent = static_cast<float>(2 * pair) / static_cast<float>(rope_dim);
    const float period = static_cast<float>(std::pow(theta, static_cast<double>(exponent)));
    float frequency = 1.0f / period;
    if (rope.yarn) {
      const float stretched = 1.0f / (static_cast<float>(rope.factor) * period);
      const float keep = 1.0f - ramp[pair];
      const float stretched_part = stretched * (1.0f - keep);
      const float kept_part = frequency * keep;
      frequency = stretched_part + kept_part;
    }
    if (rope.frequency_type == DType::kBF16) frequency = RoundToBf16(frequency);
    if (rope.frequency_type == DType::kF16) frequency = RoundToF16(frequency);
    frequencies[pair] = frequency;
  }
  return frequencies;
}

void RopeRowMaker::Make(int64_t first, int64_t count, float* rows) const {
  const size_t pairs = frequencies_.size();
  for (int64_t row = 0; row < count; ++row) {
    float* cosines = rows + static_cast<size_t>(row) * 2 * pairs;
    for (size_t pair = 0; pair < pairs; ++pair) {
      const float angle = frequencies_[pair] * static_cast<float>(first + row);
      cosines[pair] = static_cast<float>(std::cos(static_cast<double>(angle))) * factor_;
      cosines[pairs + pair] = static_cast<float>(std::sin(static_cast<double>(angle))) * factor_;
    }
  }
}

std::vector<float> RopeRows(const RopeConfig& rope, int64_t rope_dim, int64_t first,
                            int64_t count) {
  const RopeRowMaker maker(rope, rope_dim);
  std::vector<float> rows(static_cast<size_t>(count) * maker.rope_dim());
  maker.Make(first, count, rows.data());
  return rows;
}

}  // namespace winnow
