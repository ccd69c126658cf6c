// Merging against its definition, by brute force.
#include "text/bpe.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>
#include <string>

namespace winnow {
namespace {

using MergeMap = std::map<std::pair<int32_t, int32_t>, Merge>;

std::array<int32_t, 256> ByteTokens() {
  std::array<int32_t, 256> tokens;
  for (int byte = 0; byte < 256; ++byte) tokens[byte] = byte;
  return tokens;
}

// The definition: merge the leftmost pair of the lowest rank until there is none.
std::vector<int32_t> MergeByDefinition(std::string_view piece, const MergeMap& merges) {
  std::vector<int32_t> tokens;
  for (char byte : piece) tokens.push_back(static_cast<uint8_t>(byte));
  while (true) {
    const Merge* best = nullptr;
    size_t best_index = 0;
    for (size_t index = 0; index + 1 < tokens.size(); ++index) {
      const auto found = merges.find({tokens[index], tokens[index + 1]});
      if (found != merges.end() && (best == nullptr || found->second.rank < best->rank)) {
        best = &found->second;
        best_index = index;
      }
    }
    if (best == nullptr) return tokens;
    tokens[best_index] = best->token;
    tokens.erase(tokens.begin() + best_index + 1);
  }
}

// Merges of the tokens of `alphabet` and of one another. With `orderly`, as training makes them:
// each builds on earlier ones. Otherwise ranks are shuffled, and a merge may enable one of lower
// rank.
MergeMap RandomMerges(std::string_view alphabet, int num_merges, bool orderly, std::mt19937& rng) {
  std::vector<int32_t> tokens(alphabet.begin(), alphabet.end());
  std::vector<int32_t> ranks(num_merges);
  for (int index = 0; index < num_merges; ++index) ranks[index] = index;
  if (!orderly) std::shuffle(ranks.begin(), ranks.end(), rng);
  MergeMap merges;
  for (int index = 0; index < num_merges; ++index) {
    const auto pick = [&] { return tokens[rng() % tokens.size()]; };
    const int32_t token = 256 + index;
    merges.try_emplace({pick(), pick()}, Merge{ranks[index], token});
    tokens.push_back(token);
  }
  return merges;
}

std::vector<int32_t> Merge(std::string_view piece, const MergeMap& merges) {
  MergeTable table(merges.size());
  for (const auto& [pair, merge] : merges) table.Insert(pair.first, pair.second, merge);
  const std::array<int32_t, 256> byte_tokens = ByteTokens();
  std::vector<int32_t> tokens;
  BytePairMerger(byte_tokens, table).Encode(piece, tokens);
  return tokens;
}

std::string RandomPiece(std::string_view alphabet, size_t length, std::mt19937& rng) {
  std::string piece(length, ' ');
  for (char& byte : piece) byte = alphabet[rng() % alphabet.size()];
  return piece;
}

TEST(BytePairMerger, FollowsTheDefinitionOnShortPieces) {
  std::mt19937 rng(1);
  for (int round = 0; round < 400; ++round) {
    const MergeMap merges = RandomMerges("abc", 40, round % 2 == 0, rng);
    const std::string piece = RandomPiece("abc", rng() % 60, rng);
    ASSERT_EQ(Merge(piece, merges), MergeByDefinition(piece, merges)) << round << " " << piece;
  }
}

TEST(BytePairMerger, FollowsTheDefinitionOnLongPieces) {
  std::mt19937 rng(2);
  for (int round = 0; round < 4; ++round) {
    // Short parts between separators that do not merge: the definition is affordable for each.
    const MergeMap merges = RandomMerges("ab", 60, round % 2 == 0, rng);
    std::string piece;
    std::vector<int32_t> expected;
    while (piece.size() < 50000) {
      const std::string part = RandomPiece("ab", 1 + rng() % 200, rng);
      const std::vector<int32_t> tokens = MergeByDefinition(part, merges);
      expected.insert(expected.end(), tokens.begin(), tokens.end());
      expected.push_back('|');
      piece += part + "|";
    }
    ASSERT_EQ(Merge(piece, merges), expected) << round;
  }
}

TEST(BytePairMerger, PairsARunFromTheLeft) {
  const MergeMap merges = {{{'a', 'a'}, {0, 256}}, {{256, 256}, {1, 257}}};
  EXPECT_EQ(Merge("aaaaaaa", merges), (std::vector<int32_t>{257, 256, 'a'}));
}

TEST(BytePairMerger, GivesNothingForNothing) { EXPECT_TRUE(Merge("", {}).empty()); }

TEST(MergeTable, KeepsTheLastMergeOfAPair) {
  MergeTable table(2);
  table.Insert(1, 2, {0, 10});
  table.Insert(1, 2, {1, 11});
  ASSERT_NE(table.Find(1, 2), nullptr);
  EXPECT_EQ(table.Find(1, 2)->token, 11);
  EXPECT_EQ(table.Find(2, 1), nullptr);
}

}  // namespace
}  // namespace winnow
