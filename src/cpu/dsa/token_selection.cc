// The best candidates of one token.
#include "cpu/dsa/token_selection.h"

#include <bit>

namespace winnow::cpu {

float ScoreOf(Candidate candidate) {
  const uint32_t ordered = static_cast<uint32_t>(candidate >> 32);
  return std::bit_cast<float>(ordered & 0x80000000 ? ordered & 0x7fffffff : ~ordered);
}

namespace {

// A number that at least `fewest` and at most `most` of more candidates reach, which differ. The
// range of all is halved until it lies between two that are apart: rarely more than a dozen times,
// never more often than a candidate has bits.
Candidate Cut(const LightningIndexerKernels& kernels, const Candidate* candidates, int64_t count,
              int64_t fewest, int64_t most) {
  const CandidateRange range = kernels.find_range(candidates, count);
  Candidate low = range.worst;      // more than `most` reach it
  Candidate high = range.best + 1;  // fewer than `fewest` do
  while (high - low > 1) {
    const Candidate middle = low + (high - low) / 2;
    const int64_t reached = kernels.count_from(candidates, count, middle);
    if (reached > most) {
      low = middle;
    } else if (reached < fewest) {
      high = middle;
    } else {
      return middle;
    }
  }
  return low;
}

}  // namespace

int64_t PickBest(const LightningIndexerKernels& kernels, Candidate* candidates, int64_t count,
                 int64_t topk) {
  if (count <= topk) return count;
  return kernels.keep(candidates, count, Cut(kernels, candidates, count, topk, topk), candidates);
}

// What goes need not be all that could: where at least topk_ candidates are as good as the pivot,
// whatever is worse loses, now and later. A later one with the pivot's score has a higher position
// and is worse than those.
void BestCandidates::Pick() {
  const Candidate pivot = Cut(*kernels_, buffer_, count_, topk_, topk_ + (count_ - topk_) / 2);
  count_ = kernels_->keep(buffer_, count_, pivot, buffer_);
  threshold_ = ScoreOf(pivot);
  has_threshold_ = true;
}

}  // namespace winnow::cpu
