// The best of a stream of candidates against a sort, for streams made to be awkward.
#include "cpu/dsa/token_selection.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>
#include <random>
#include <string>

#include "cpu/cpu_backend.h"

namespace winnow::cpu {
namespace {

using Scores = std::vector<float>;

struct NamedScores {
  std::string name;
  Scores scores;
};

std::vector<NamedScores> AwkwardScores(int64_t count) {
  std::mt19937 random(static_cast<unsigned>(count));
  std::normal_distribution<float> normal;
  const auto make = [&](auto score) {
    Scores scores;
    for (int64_t i = 0; i < count; ++i) scores.push_back(score(i));
    return scores;
  };
  return {
      {"normal", make([&](int64_t) { return normal(random); })},
      {"rising", make([](int64_t i) { return static_cast<float>(i); })},
      {"falling", make([](int64_t i) { return static_cast<float>(-i); })},
      {"equal", make([](int64_t) { return 0.0f; })},
      {"two values", make([&](int64_t) { return static_cast<float>(random() % 2); })},
      {"concentrated",
       make([&](int64_t) { return 1 + static_cast<float>(random() % 64) * 0x1p-23f; })},
      {"a pipe", make([&](int64_t i) { return static_cast<float>(std::min(i, count - i)); })},
      {"every 64th", make([](int64_t i) { return i % 64 == 0 ? 1.0f : -1.0f; })},
      {"sparse infinities", make([&](int64_t i) {
         return i % 97 == 0 ? INFINITY : i % 89 == 0 ? -INFINITY : 0.5f;
       })},
      {"mostly NaN", make([&](int64_t i) { return i % 10 == 0 ? normal(random) : NAN; })},
      {"NaN", make([](int64_t) { return NAN; })},
  };
}

// The positions of the best, ascending, by the order of dsa/token_selection.h.
std::vector<int32_t> Sorted(const Scores& scores, int64_t topk) {
  std::vector<int32_t> positions;
  for (size_t i = 0; i < scores.size(); ++i) {
    if (!std::isnan(scores[i])) positions.push_back(static_cast<int32_t>(i));
  }
  std::stable_sort(positions.begin(), positions.end(),
                   [&](int32_t a, int32_t b) { return scores[a] > scores[b]; });
  if (static_cast<int64_t>(positions.size()) > topk) positions.resize(topk);
  std::sort(positions.begin(), positions.end());
  return positions;
}

std::vector<int32_t> Streamed(const LightningIndexerKernels& kernels, const Scores& scores,
                              int64_t topk) {
  std::vector<Candidate> buffer(BestCandidates::BufferSize(topk));
  BestCandidates best(kernels, buffer.data(), topk);
  const int64_t count = static_cast<int64_t>(scores.size());
  for (int64_t first = 0; first < count; first += kMaxRun) {
    best.Appended(kernels.filter(scores.data() + first, std::min(kMaxRun, count - first),
                                 static_cast<int32_t>(first), best.threshold(), best.end()));
  }
  std::vector<int32_t> positions(best.Finish());
  for (size_t i = 0; i < positions.size(); ++i) positions[i] = PositionOf(best.begin()[i]);
  return positions;
}

TEST(BestCandidates, AreThoseOfASortInTheirOrder) {
  for (const InstructionSet set : kInstructionSets) {
    if (!IsSupported(set)) continue;
    for (const int64_t count : {1, 15, 1000, 20000}) {
      for (const NamedScores& row : AwkwardScores(count)) {
        for (const int64_t topk : {1, 2, 100, 256, 2048}) {
          EXPECT_EQ(Streamed(DsaKernelsFor(set).indexer, row.scores, topk),
                    Sorted(row.scores, topk))
              << row.name << ", the best " << topk << " of " << count << ", "
              << InstructionSetName(set);
        }
      }
    }
  }
}

TEST(PickBest, KeepsTheOrderOfWhatItKeeps) {
  std::mt19937_64 random(1);
  for (const InstructionSet set : kInstructionSets) {
    if (!IsSupported(set)) continue;
    const LightningIndexerKernels& kernels = DsaKernelsFor(set).indexer;
    for (const int64_t count : {1, 2, 7, 8, 9, 127, 128, 129, 5000}) {
      std::vector<Candidate> candidates(count);
      for (Candidate& candidate : candidates) candidate = random();
      for (const int64_t topk : {int64_t{1}, count / 2 + 1, count - 1, count, count + 1}) {
        if (topk < 1) continue;
        std::vector<Candidate> sorted = candidates;
        std::sort(sorted.begin(), sorted.end(), std::greater<Candidate>());
        const Candidate last = sorted[std::min(topk, count) - 1];
        std::vector<Candidate> expected = candidates;
        std::erase_if(expected, [&](Candidate candidate) { return candidate < last; });
        std::vector<Candidate> kept = candidates;
        kept.resize(PickBest(kernels, kept.data(), count, topk));
        EXPECT_EQ(kept, expected) << topk << " of " << count << ", " << InstructionSetName(set);
      }
    }
  }
}

TEST(PickBest, TellsNeighboursAndEndsApart) {
  // Numbers next to each other, the least and the largest that candidates can be.
  const LightningIndexerKernels& kernels = DsaKernelsFor(BestInstructionSet()).indexer;
  for (const Candidate first : {Candidate{0}, Candidate{0xff800000fffffff0}}) {
    for (int64_t topk = 1; topk < 15; ++topk) {
      std::vector<Candidate> candidates(15);
      std::iota(candidates.begin(), candidates.end(), first);
      candidates.resize(PickBest(kernels, candidates.data(), 15, topk));
      ASSERT_EQ(candidates.size(), topk);
      EXPECT_EQ(candidates.front(), first + 15 - static_cast<Candidate>(topk));
    }
  }
}

}  // namespace
}  // namespace winnow::cpu
