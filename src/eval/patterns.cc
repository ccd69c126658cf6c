// The sets of positions that policies choose, from numbers alone.
#include <algorithm>
#include <numeric>
#include <random>
#include <unordered_set>

#include "base/check.h"
#include "eval/selection_policies.h"

namespace winnow::eval {
namespace {

std::vector<int32_t> Everything(int64_t position) {
  std::vector<int32_t> all(static_cast<size_t>(position) + 1);
  std::iota(all.begin(), all.end(), 0);
  return all;
}

// `chosen`, with the most recent others up to `budget`, ascending.
std::vector<int32_t> FillWithRecent(std::vector<int32_t> chosen, int64_t position, int64_t budget) {
  std::sort(chosen.begin(), chosen.end());
  std::vector<int32_t> result = chosen;
  size_t left = chosen.size();  // of `chosen`, still below the place looked at
  for (int64_t recent = position; static_cast<int64_t>(result.size()) < budget; --recent) {
    if (left > 0 && chosen[left - 1] == recent) {
      --left;
    } else {
      result.push_back(static_cast<int32_t>(recent));
    }
  }
  std::sort(result.begin(), result.end());
  return result;
}

}  // namespace

std::vector<int32_t> WindowPattern(int64_t position, int64_t budget) {
  if (position < budget) return Everything(position);
  std::vector<int32_t> sinks(static_cast<size_t>(std::min<int64_t>(4, budget - 1)));
  std::iota(sinks.begin(), sinks.end(), 0);
  return FillWithRecent(std::move(sinks), position, budget);
}

std::vector<int32_t> StridedPattern(int64_t position, int64_t budget) {
  if (position < budget) return Everything(position);
  const int64_t window = (budget + 1) / 2;
  // Multiples of l in [window, position], as distances.
  const auto far = [&](int64_t l) { return position / l - (window - 1) / l; };
  int64_t stride = 1;
  while (far(stride) > budget - window) ++stride;
  std::vector<int32_t> chosen;
  for (int64_t distance = 0; distance < window; ++distance) {
    chosen.push_back(static_cast<int32_t>(position - distance));
  }
  for (int64_t distance = stride; distance <= position; distance += stride) {
    if (distance >= window) chosen.push_back(static_cast<int32_t>(position - distance));
  }
  return FillWithRecent(std::move(chosen), position, budget);
}

std::vector<int32_t> FixedPattern(int64_t position, int64_t budget) {
  if (position < budget) return Everything(position);
  const int64_t far = budget / 2;  // for the blocks before
  if (far == 0) return FillWithRecent({}, position, budget);
  const int64_t block = std::max((budget + 1) / 2, (position + far) / far);
  const int64_t before = position / block;
  const int64_t columns = before > 0 ? std::min(block, far / before) : 0;
  std::vector<int32_t> chosen;
  for (int64_t index = 0; index < before; ++index) {
    for (int64_t column = block - columns; column < block; ++column) {
      chosen.push_back(static_cast<int32_t>(index * block + column));
    }
  }
  return FillWithRecent(std::move(chosen), position, budget);
}

// Floyd's sampling: each step adds one of the first j + 1, or j itself if that is taken.
std::vector<int32_t> RandomPattern(int64_t position, int64_t budget, uint64_t seed) {
  if (position < budget) return Everything(position);
  std::mt19937_64 random(seed);
  std::unordered_set<int32_t> taken;
  for (int64_t j = position - (budget - 1); j < position; ++j) {
    const int32_t drawn = static_cast<int32_t>(random() % static_cast<uint64_t>(j + 1));
    if (!taken.insert(drawn).second) taken.insert(static_cast<int32_t>(j));
  }
  std::vector<int32_t> chosen(taken.begin(), taken.end());
  chosen.push_back(static_cast<int32_t>(position));
  std::sort(chosen.begin(), chosen.end());
  return chosen;
}

std::vector<int32_t> MostMatches(std::span<const uint16_t> matches, int64_t budget) {
  const int64_t position = static_cast<int64_t>(matches.size()) - 1;
  if (position < budget) return Everything(position);
  std::vector<int64_t> histogram(1 + *std::max_element(matches.begin(), matches.end()));
  for (int64_t s = 0; s < position; ++s) ++histogram[matches[static_cast<size_t>(s)]];
  // All with more than `cut` matches are taken, and the most recent of those with as many.
  int64_t left = budget - 1;
  int64_t cut = static_cast<int64_t>(histogram.size()) - 1;
  while (cut > 0 && histogram[static_cast<size_t>(cut)] <= left) {
    left -= histogram[static_cast<size_t>(cut)];
    --cut;
  }
  std::vector<int32_t> chosen = {static_cast<int32_t>(position)};
  for (int64_t s = position - 1; s >= 0; --s) {
    const int64_t found = matches[static_cast<size_t>(s)];
    if (found > cut || (found == cut && left > 0)) {
      if (found == cut) --left;
      chosen.push_back(static_cast<int32_t>(s));
    }
  }
  std::reverse(chosen.begin(), chosen.end());
  return chosen;
}

std::vector<int32_t> MostMass(std::span<const float> mass, int64_t budget) {
  const size_t position = mass.size() - 1;
  std::vector<int32_t> chosen = LargestMass(mass, budget);
  if (chosen.back() == static_cast<int32_t>(position)) return chosen;
  chosen = LargestMass(mass.first(position), budget - 1);
  chosen.push_back(static_cast<int32_t>(position));
  return chosen;
}

}  // namespace winnow::eval
