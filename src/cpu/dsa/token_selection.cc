// The best candidates of one token. Picking them is ordinary code of the standard library, compiled
// once for all instruction sets.
#include "cpu/dsa/token_selection.h"

#include <algorithm>
#include <bit>
#include <functional>

namespace winnow::cpu {

int64_t PickBest(Candidate* candidates, int64_t count, int64_t topk) {
  if (count <= topk) return count;
  std::nth_element(candidates, candidates + topk - 1, candidates + count,
                   std::greater<Candidate>());
  return topk;
}

float ScoreOf(Candidate candidate) {
  const uint32_t ordered = static_cast<uint32_t>(candidate >> 32);
  return std::bit_cast<float>(ordered & 0x80000000 ? ordered & 0x7fffffff : ~ordered);
}

void BestCandidates::Pick() {
  count_ = PickBest(buffer_, count_, topk_);
  threshold_ = ScoreOf(buffer_[topk_ - 1]);
  has_threshold_ = true;
}

}  // namespace winnow::cpu
