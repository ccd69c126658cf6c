// The best candidates of one token, kept while scores stream by.
#pragma once

#include <cstdint>

#include "cpu/dsa/dsa_kernels.h"

namespace winnow::cpu {

// Scores come in runs of at most this many.
inline constexpr int64_t kMaxRun = 64;

// The `topk` best of `count` candidates, which differ, to the front, in the order in which they
// were; returns how many they are.
int64_t PickBest(const LightningIndexerKernels& kernels, Candidate* candidates, int64_t count,
                 int64_t topk);

// Keeps the `topk` best of all candidates appended, in the order of dsa/token_selection.h, in a
// buffer of BufferSize(topk). When the buffer is full, many that cannot be among them go, and from
// then on threshold() is the score that a later candidate must exceed: one that equals it has a
// higher position and loses. Positions must ascend.
class BestCandidates {
 public:
  // Room for the best, for as many others, so that picking is rare, and for a run of scores.
  static int64_t BufferSize(int64_t topk) {
    return topk + (topk > 512 ? topk : 512) + kMaxRun + kFilterSlack;
  }

  BestCandidates() = default;
  BestCandidates(const LightningIndexerKernels& kernels, Candidate* buffer, int64_t topk)
      : kernels_(&kernels), buffer_(buffer), topk_(topk) {}

  // What a score must exceed, or null while all but NaN may come.
  const float* threshold() const { return has_threshold_ ? &threshold_ : nullptr; }
  // Where the next run's candidates go, at most kMaxRun of them and kFilterSlack; tell
  // Appended how many.
  Candidate* end() { return buffer_ + count_; }
  void Appended(int64_t count) {
    count_ += count;
    if (count_ > BufferSize(topk_) - kMaxRun - kFilterSlack) Pick();
  }
  const Candidate* begin() const { return buffer_; }
  // Leaves the best in the buffer, positions ascending, and returns how many they are.
  int64_t Finish() { return PickBest(*kernels_, buffer_, count_, topk_); }

 private:
  void Pick();

  const LightningIndexerKernels* kernels_ = nullptr;
  Candidate* buffer_ = nullptr;
  int64_t topk_ = 0;
  int64_t count_ = 0;
  bool has_threshold_ = false;
  float threshold_ = 0;
};

inline int32_t PositionOf(Candidate candidate) {
  return static_cast<int32_t>(~static_cast<uint32_t>(candidate));
}
float ScoreOf(Candidate candidate);

}  // namespace winnow::cpu
