// Other ways to choose what a token reads, each within a budget of tokens. docs/eval.md has the
// sources.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/thread_pool.h"
#include "eval/attention_mass.h"
#include "model/transformer.h"

namespace winnow::eval {

// Patterns: what the token at `position` reads when it may read `budget` ≥ 1 tokens. Ascending, the
// position itself among them; everything while position < budget, exactly `budget` after that.

// The first min(4, budget - 1) positions and the most recent ones.
std::vector<int32_t> WindowPattern(int64_t position, int64_t budget);

// The last ⌈budget/2⌉ positions, and every l-th position counted back from this one, for the
// smallest stride l that keeps within the budget; what is left goes to the most recent others.
std::vector<int32_t> StridedPattern(int64_t position, int64_t budget);

// Blocks of l = max(⌈budget/2⌉, ⌈n / ⌊budget/2⌋⌉) positions, n = position + 1: the last
// c = min(l, ⌊⌊budget/2⌋ / m⌋) of each of the m = ⌊position / l⌋ whole blocks before this one's;
// what is left goes to the most recent others. With budget 1, only the position itself.
std::vector<int32_t> FixedPattern(int64_t position, int64_t budget);

// The position and budget - 1 others, every set of them equally likely; equal seeds, equal sets.
std::vector<int32_t> RandomPattern(int64_t position, int64_t budget, uint64_t seed);

// The `budget` positions with the most `matches` (of equal ones the more recent), the last in any
// case.
std::vector<int32_t> MostMatches(std::span<const uint16_t> matches, int64_t budget);

// The same for attention mass, of equal ones the lower position.
std::vector<int32_t> MostMass(std::span<const float> mass, int64_t budget);

// A policy for one sequence, from an empty cache on.
using MakePolicy = std::function<std::unique_ptr<SelectionPolicy>(ThreadPool& pool)>;
struct NamedPolicy {
  std::string name;  // "sliding window"
  MakePolicy make;
};
// Sliding window, strided, fixed, LSH, random, oracle. `seed` is of those that draw.
std::vector<NamedPolicy> OtherPolicies(uint64_t seed);

// Reformer's hash: argmax over [xR, -xR] for a rotation R [dim, kLshBuckets / 2] of each round.
inline constexpr int64_t kLshRounds = 8;
inline constexpr int64_t kLshBuckets = 32;
class LshHash {
 public:
  LshHash(int64_t dim, uint64_t seed);
  // The bucket of x [dim] in each round.
  void Hash(const float* x, uint8_t* buckets) const;

 private:
  int64_t dim_;
  std::vector<float> rotations_;  // [rounds, buckets / 2, dim]
};

}  // namespace winnow::eval
