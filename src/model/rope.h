// The angles of the rotary position embedding, plain or YaRN.
#pragma once

#include <vector>

#include "model/config.h"

namespace winnow {

// The frequency of each of the `rope_dim` / 2 pairs. Every step is rounded to f32 in the order that
// the reference rounds it: at position 100,000 one unit in the last place of a frequency is a
// visible angle.
std::vector<float> RopeFrequencies(const RopeConfig& rope, int64_t rope_dim);

// What cosines and sines are multiplied by: 1, except under YaRN with unequal or absent mscale
// values.
float RopeAttentionFactor(const RopeConfig& rope);

// YaRN's m(factor, mscale) = 0.1 * mscale * ln(factor) + 1, and 1 where factor ≤ 1.
double YarnMscale(double factor, double mscale);

// Cosines and sines of positions [first, first + count): rows of rope_dim / 2 cosines, then as many
// sines.
std::vector<float> RopeRows(const RopeConfig& rope, int64_t rope_dim, int64_t first, int64_t count);

// The same, with what does not depend on the position made once.
class RopeRowMaker {
 public:
  RopeRowMaker() = default;
  RopeRowMaker(const RopeConfig& rope, int64_t rope_dim)
      : frequencies_(RopeFrequencies(rope, rope_dim)), factor_(RopeAttentionFactor(rope)) {}

  // Into `rows` [count, rope_dim].
  void Make(int64_t first, int64_t count, float* rows) const;
  size_t rope_dim() const { return 2 * frequencies_.size(); }

 private:
  std::vector<float> frequencies_;
  float factor_ = 1;
};

}  // namespace winnow
