// What the policies choose, against their definitions spelled out position by position.
#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <random>
#include <set>

#include "eval/selection_policies.h"

namespace winnow::eval {
namespace {

using Positions = std::vector<int32_t>;

// Budgets at which something might be off by one, and positions around each of them.
std::vector<std::pair<int64_t, int64_t>> AwkwardSizes() {
  std::vector<std::pair<int64_t, int64_t>> sizes;
  for (const int64_t budget : {1, 2, 3, 4, 5, 6, 7, 8, 13, 16, 31}) {
    for (int64_t position = 0; position < 6 * budget + 20; ++position) {
      sizes.emplace_back(budget, position);
    }
    sizes.emplace_back(budget, 1000);
    sizes.emplace_back(budget, 1023);
    sizes.emplace_back(budget, 1024);
  }
  for (const int64_t position : {254, 255, 256, 257, 511, 512, 513, 2048, 9999}) {
    sizes.emplace_back(256, position);
  }
  return sizes;
}

Positions Everything(int64_t position) {
  Positions all;
  for (int64_t s = 0; s <= position; ++s) all.push_back(static_cast<int32_t>(s));
  return all;
}

// `chosen` and then the most recent that are not in it, up to the budget.
Positions WithRecent(std::set<int32_t> chosen, int64_t position, int64_t budget) {
  for (int64_t s = position; s >= 0 && static_cast<int64_t>(chosen.size()) < budget; --s) {
    chosen.insert(static_cast<int32_t>(s));
  }
  return {chosen.begin(), chosen.end()};
}

Positions Window(int64_t position, int64_t budget) {
  if (position < budget) return Everything(position);
  std::set<int32_t> sinks;
  for (int32_t s = 0; s < 4 && s < budget - 1; ++s) sinks.insert(s);
  return WithRecent(sinks, position, budget);
}

Positions Strided(int64_t position, int64_t budget) {
  if (position < budget) return Everything(position);
  for (int64_t stride = 1;; ++stride) {
    std::set<int32_t> chosen;
    for (int64_t s = 0; s <= position; ++s) {
      const int64_t distance = position - s;
      if (distance < (budget + 1) / 2 || distance % stride == 0) {
        chosen.insert(static_cast<int32_t>(s));
      }
    }
    if (static_cast<int64_t>(chosen.size()) <= budget) return WithRecent(chosen, position, budget);
  }
}

Positions Fixed(int64_t position, int64_t budget) {
  if (position < budget) return Everything(position);
  const double far = std::floor(static_cast<double>(budget) / 2);
  std::set<int32_t> chosen;
  if (far > 0) {
    const double n = static_cast<double>(position + 1);
    const double l = std::max(std::ceil(static_cast<double>(budget) / 2), std::ceil(n / far));
    const double blocks = std::floor(static_cast<double>(position) / l);
    const double columns = blocks > 0 ? std::min(l, std::floor(far / blocks)) : 0;
    for (int64_t s = 0; s <= position; ++s) {
      const double block = std::floor(static_cast<double>(s) / l);
      const double place = static_cast<double>(s) - block * l;
      if (block < blocks && place >= l - columns) chosen.insert(static_cast<int32_t>(s));
    }
  }
  return WithRecent(chosen, position, budget);
}

TEST(Patterns, KeepSinksAndAWindow) {
  for (const auto& [budget, position] : AwkwardSizes()) {
    ASSERT_EQ(WindowPattern(position, budget), Window(position, budget))
        << "budget " << budget << ", position " << position;
  }
  EXPECT_EQ(WindowPattern(9, 6), (Positions{0, 1, 2, 3, 8, 9}));
  EXPECT_EQ(WindowPattern(9, 1), (Positions{9}));
}

TEST(Patterns, KeepEveryStrideAndAWindow) {
  for (const auto& [budget, position] : AwkwardSizes()) {
    ASSERT_EQ(StridedPattern(position, budget), Strided(position, budget))
        << "budget " << budget << ", position " << position;
  }
  // Two of the last, and of the others every fourth back from 9: 5 and 1.
  EXPECT_EQ(StridedPattern(9, 4), (Positions{1, 5, 8, 9}));
}

TEST(Patterns, KeepTheLastColumnsOfEarlierBlocks) {
  for (const auto& [budget, position] : AwkwardSizes()) {
    ASSERT_EQ(FixedPattern(position, budget), Fixed(position, budget))
        << "budget " << budget << ", position " << position;
  }
  // Blocks of five: the last two of the first block, then what is recent.
  EXPECT_EQ(FixedPattern(9, 4), (Positions{3, 4, 8, 9}));
}

TEST(Patterns, ReadExactlyTheBudgetAndThemselves) {
  for (const auto& [budget, position] : AwkwardSizes()) {
    const std::vector<uint16_t> no_matches(static_cast<size_t>(position) + 1);
    const std::vector<float> no_mass(static_cast<size_t>(position) + 1);
    for (const Positions& chosen :
         {WindowPattern(position, budget), StridedPattern(position, budget),
          FixedPattern(position, budget), RandomPattern(position, budget, 7),
          MostMatches(no_matches, budget), MostMass(no_mass, budget)}) {
      ASSERT_EQ(static_cast<int64_t>(chosen.size()), std::min(budget, position + 1));
      ASSERT_EQ(chosen.back(), position);
      ASSERT_GE(chosen.front(), 0);
      for (size_t place = 1; place < chosen.size(); ++place) {
        ASSERT_LT(chosen[place - 1], chosen[place]);
      }
    }
  }
}

TEST(Patterns, DrawEveryPositionEquallyOften) {
  constexpr int64_t kDraws = 20000;
  std::map<int32_t, int64_t> often;
  for (uint64_t seed = 0; seed < kDraws; ++seed) {
    for (const int32_t position : RandomPattern(10, 4, seed)) ++often[position];
  }
  EXPECT_EQ(often[10], kDraws);
  // Three of ten others: expected 6000, standard deviation 65.
  for (int32_t position = 0; position < 10; ++position) EXPECT_NEAR(often[position], 6000, 400);
  EXPECT_EQ(RandomPattern(500, 16, 3), RandomPattern(500, 16, 3));
  EXPECT_NE(RandomPattern(500, 16, 3), RandomPattern(500, 16, 4));
}

TEST(Patterns, PreferMoreMatchesAndThenTheRecent) {
  std::mt19937 random(1);
  for (const auto& [budget, position] : AwkwardSizes()) {
    if (position > 200) continue;
    std::vector<uint16_t> matches(static_cast<size_t>(position) + 1);
    for (uint16_t& count : matches) count = static_cast<uint16_t>(random() % 5);
    std::vector<int32_t> order;
    for (int64_t s = 0; s < position; ++s) order.push_back(static_cast<int32_t>(s));
    std::sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
      const int left = matches[static_cast<size_t>(a)];
      const int right = matches[static_cast<size_t>(b)];
      return left != right ? left > right : a > b;
    });
    order.resize(static_cast<size_t>(std::min(budget - 1, position)));
    order.push_back(static_cast<int32_t>(position));
    std::sort(order.begin(), order.end());
    ASSERT_EQ(MostMatches(matches, budget), order) << budget << " of " << position;
  }
}

TEST(Patterns, PreferMoreMassAndThenTheLowerPosition) {
  std::mt19937 random(2);
  for (const auto& [budget, position] : AwkwardSizes()) {
    if (position > 200) continue;
    std::vector<float> mass(static_cast<size_t>(position) + 1);
    for (float& value : mass) value = static_cast<float>(random() % 8) / 8;
    std::vector<int32_t> order;
    for (int64_t s = 0; s < position; ++s) order.push_back(static_cast<int32_t>(s));
    std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
      return mass[static_cast<size_t>(a)] > mass[static_cast<size_t>(b)];
    });
    order.resize(static_cast<size_t>(std::min(budget - 1, position)));
    order.push_back(static_cast<int32_t>(position));
    std::sort(order.begin(), order.end());
    ASSERT_EQ(MostMass(mass, budget), order) << budget << " of " << position;
  }
}

}  // namespace
}  // namespace winnow::eval
