// Token selection as it is defined: part 2 of DSA in plain loops. Backends are held to it exactly.
#include "dsa/token_selection.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

namespace winnow::dsa {
namespace {

// The `topk` best positions of `scores`, ascending; all of them, unread, when there are no more.
std::vector<int32_t> SelectPositions(const float* scores, int64_t candidates, int64_t topk) {
  std::vector<int32_t> chosen(candidates);
  std::iota(chosen.begin(), chosen.end(), 0);
  if (candidates <= topk) return chosen;
  std::erase_if(chosen, [&](int32_t position) { return std::isnan(scores[position]); });
  // Stable, so that of equal scores the lower position stays in front.
  std::stable_sort(chosen.begin(), chosen.end(),
                   [&](int32_t left, int32_t right) { return scores[left] > scores[right]; });
  if (static_cast<int64_t>(chosen.size()) > topk) chosen.resize(topk);
  std::sort(chosen.begin(), chosen.end());
  return chosen;
}

}  // namespace

void TokenSelectionReference(const TokenSelectionArgs& args) {
  const int64_t num_keys = args.scores.dims[1];
  const int64_t topk = args.positions.dims[1];
  for (int64_t token = 0; token < args.scores.dims[0]; ++token) {
    const std::vector<int32_t> chosen = SelectPositions(args.scores.As<float>() + token * num_keys,
                                                        args.candidates.As<int32_t>()[token], topk);
    int32_t* positions = args.positions.As<int32_t>() + token * topk;
    std::fill_n(positions, topk, -1);
    std::copy(chosen.begin(), chosen.end(), positions);
    args.counts.As<int32_t>()[token] = static_cast<int32_t>(chosen.size());
  }
}

}  // namespace winnow::dsa
