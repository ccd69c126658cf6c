// The best candidates of one token. Picking them is ordinary code of the standard library, compiled
// once for all instruction sets.
#include "cpu/dsa/token_selection.h"

#include <algorithm>
#include <bit>
#include <functional>

namespace winnow::cpu {

float ScoreOf(Candidate candidate) {
  const uint32_t ordered = static_cast<uint32_t>(candidate >> 32);
  return std::bit_cast<float>(ordered & 0x80000000 ? ordered & 0x7fffffff : ~ordered);
}

namespace {

constexpr int64_t kSamples = 64;
constexpr int64_t kMargin = 5;  // of the samples: few enough to cut much, rarely on the wrong side

// Moves the candidates from `pivot` up to the front, the others behind them; returns how many there
// are in front. Without a branch on what is compared.
int64_t Partition(Candidate* candidates, int64_t count, Candidate pivot) {
  int64_t front = 0;
  for (int64_t i = 0; i < count; ++i) {
    const Candidate candidate = candidates[i];
    candidates[i] = candidates[front];
    candidates[front] = candidate;
    front += candidate >= pivot;
  }
  return front;
}

// A candidate of which a sample says that `margin` in kSamples more than `topk` of all are at least
// as good.
Candidate SampledPivot(const Candidate* candidates, int64_t count, int64_t topk, int64_t margin) {
  Candidate samples[kSamples];
  for (int64_t i = 0; i < kSamples; ++i) samples[i] = candidates[i * count / kSamples];
  const int64_t rank = std::clamp<int64_t>(topk * kSamples / count + margin, 0, kSamples - 1);
  std::nth_element(samples, samples + rank, samples + kSamples, std::greater<Candidate>());
  return samples[rank];
}

// The `topk`th best of more candidates, whose order is lost. Pivots now below it, now above it, cut
// off most of what is left; if they do not, the library's own search ends in bounded time.
Candidate FindLast(Candidate* candidates, int64_t count, int64_t topk) {
  constexpr int kMaxCuts = 6;
  for (int cut = 0; cut < kMaxCuts && count > 2 * kSamples; ++cut) {
    const int64_t margin = cut % 2 == 0 ? kMargin : -kMargin;
    const int64_t front =
        Partition(candidates, count, SampledPivot(candidates, count, topk, margin));
    if (front >= topk) {
      count = front;
    } else {
      candidates += front;
      count -= front;
      topk -= front;
    }
  }
  std::nth_element(candidates, candidates + topk - 1, candidates + count,
                   std::greater<Candidate>());
  return candidates[topk - 1];
}

}  // namespace

int64_t PickBest(const LightningIndexerKernels& kernels, Candidate* candidates, int64_t count,
                 int64_t topk, Candidate* scratch) {
  if (count <= topk) return count;
  std::copy_n(candidates, count, scratch);
  return kernels.keep(candidates, count, FindLast(scratch, count, topk), candidates);
}

// What goes need not be all that could: where at least topk_ candidates are as good as the pivot,
// whatever is worse loses, now and later. A later one with the pivot's score has a higher position
// and is worse.
void BestCandidates::Pick() {
  Candidate worst = SampledPivot(buffer_, count_, topk_, kMargin);
  const int64_t kept = kernels_->keep(buffer_, count_, worst, scratch_);
  if (kept >= topk_ && kept <= topk_ + (count_ - topk_) / 2) {
    std::copy_n(scratch_, kept, buffer_);
    count_ = kept;
  } else {
    std::copy_n(buffer_, count_, scratch_);
    worst = FindLast(scratch_, count_, topk_);
    count_ = kernels_->keep(buffer_, count_, worst, buffer_);
  }
  threshold_ = ScoreOf(worst);
  has_threshold_ = true;
}

}  // namespace winnow::cpu
