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

namespace {

// Moves the candidates from `pivot` up to the front, the others behind them; returns how many there
// are in front. Without a branch on what is compared, which would be guessed wrong half of the
// time.
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

// A candidate of which a sample says that somewhat more than `topk` of all are at least as good.
Candidate SampledPivot(const Candidate* candidates, int64_t count, int64_t topk) {
  constexpr int64_t kSamples = 64;
  Candidate samples[kSamples];
  for (int64_t i = 0; i < kSamples; ++i) samples[i] = candidates[i * count / kSamples];
  const int64_t rank = std::min(topk * kSamples / count + 5, kSamples - 1);
  std::nth_element(samples, samples + rank, samples + kSamples, std::greater<Candidate>());
  return samples[rank];
}

}  // namespace

// What goes need not be all that could: at least topk_ candidates are as good as the pivot, so
// whatever is worse loses, now and later. A later one with the pivot's score has a higher position
// and is worse.
void BestCandidates::Pick() {
  Candidate worst = SampledPivot(buffer_, count_, topk_);
  const int64_t kept = Partition(buffer_, count_, worst);
  if (kept >= topk_ && kept <= topk_ + (count_ - topk_) / 2) {
    count_ = kept;
  } else {
    count_ = PickBest(buffer_, count_, topk_);
    worst = buffer_[topk_ - 1];
  }
  threshold_ = ScoreOf(worst);
  has_threshold_ = true;
}

}  // namespace winnow::cpu
