#include "engine/prefix_cache.h"

#include <gtest/gtest.h>

#include "model/kv_cache.h"

namespace winnow {
namespace {

std::vector<int32_t> Tokens(int64_t count, int32_t first = 0) {
  std::vector<int32_t> tokens;
  for (int64_t index = 0; index < count; ++index) {
    tokens.push_back(first + static_cast<int32_t>(index));
  }
  return tokens;
}

class PrefixCacheTest : public testing::Test {
 protected:
  // Puts whole pages of `tokens`, and the rest as a tail, and lets go of them.
  void Keep(const std::string& salt, std::span<const int32_t> tokens) {
    std::vector<PrefixCache::Node*> nodes;
    while (!tokens.empty()) {
      const size_t count = std::min<size_t>(tokens.size(), kPageSize);
      nodes.push_back(cache_.Insert(salt, nodes.empty() ? nullptr : nodes.back(),
                                    tokens.first(count), pool_.Take().value()));
      tokens = tokens.subspan(count);
    }
    for (auto node = nodes.rbegin(); node != nodes.rend(); ++node) cache_.Release(*node);
  }

  PagePool pool_{8};
  PrefixCache cache_{pool_, [](int64_t) { return 1.0; }};
};

TEST_F(PrefixCacheTest, FindsWholePagesAndTheBeginningOfTheNext) {
  Keep("a", Tokens(150));
  std::vector<int32_t> wanted = Tokens(140);
  wanted.resize(200, 7);
  EXPECT_EQ(cache_.Length("a", wanted), 140);
  const PrefixCache::Match match = cache_.Find("a", wanted);
  EXPECT_EQ(match.nodes.size(), 2u);
  ASSERT_NE(match.tail, nullptr);
  EXPECT_EQ(match.tail_tokens, 12);
}

TEST_F(PrefixCacheTest, FindsTheSiblingWithTheLongestCommonBeginning) {
  for (const int32_t different : {10, 40, 63}) {
    std::vector<int32_t> tokens = Tokens(64);
    for (size_t index = static_cast<size_t>(different); index < 64; ++index) tokens[index] = 999;
    Keep("a", tokens);
  }
  for (const int32_t different : {5, 20, 50}) {
    std::vector<int32_t> tokens = Tokens(64);
    for (size_t index = static_cast<size_t>(different); index < 64; ++index) tokens[index] = -1;
    Keep("a", tokens);
  }
  EXPECT_EQ(cache_.Length("a", Tokens(64)), 63);
  EXPECT_EQ(cache_.Length("a", Tokens(30)), 30);
}

TEST_F(PrefixCacheTest, OneSaltKnowsNothingOfAnother) {
  Keep("a", Tokens(128));
  EXPECT_EQ(cache_.Length("b", Tokens(128)), 0);
  EXPECT_TRUE(cache_.Find("b", Tokens(128)).nodes.empty());
  EXPECT_EQ(cache_.Length("", Tokens(128)), 0);
}

TEST_F(PrefixCacheTest, KeepsOnePageOfTwoThatAreEqual) {
  Keep("a", Tokens(64));
  const int64_t free = pool_.free();
  PrefixCache::Node* node = cache_.Insert("a", nullptr, Tokens(64), pool_.Take().value());
  EXPECT_EQ(pool_.free(), free);
  EXPECT_EQ(PrefixCache::Page(node), 0);
}

TEST_F(PrefixCacheTest, ALongerPageReplacesTheTailItBeginsWith) {
  Keep("a", Tokens(10));
  Keep("a", Tokens(20));
  EXPECT_EQ(cache_.num_unreferenced(), 1);
  Keep("a", Tokens(64));
  EXPECT_EQ(cache_.num_unreferenced(), 1);
  Keep("a", Tokens(30));
  EXPECT_EQ(cache_.num_unreferenced(), 1);
  EXPECT_EQ(pool_.free(), 7);
}

TEST_F(PrefixCacheTest, GivesUpWhatWasUnusedLongestAndLaterPagesFirst) {
  Keep("old", Tokens(128));
  Keep("new", Tokens(128));
  ASSERT_TRUE(cache_.Evict());
  EXPECT_EQ(cache_.Length("old", Tokens(128)), 64);
  ASSERT_TRUE(cache_.Evict());
  EXPECT_EQ(cache_.Length("old", Tokens(128)), 0);
  EXPECT_EQ(cache_.Length("new", Tokens(128)), 128);
  cache_.Clear();
  EXPECT_EQ(pool_.free(), 8);
  EXPECT_FALSE(cache_.Evict());
}

TEST_F(PrefixCacheTest, NeverGivesUpAPageThatIsReferenced) {
  Keep("a", Tokens(128));
  const PrefixCache::Match match = cache_.Find("a", Tokens(100));
  ASSERT_EQ(match.nodes.size(), 1u);
  ASSERT_NE(match.tail, nullptr);
  EXPECT_FALSE(cache_.Evict());
  cache_.Release(match.tail);
  EXPECT_TRUE(cache_.Evict());
  EXPECT_FALSE(cache_.Evict());
  EXPECT_EQ(cache_.Length("a", Tokens(100)), 64);
}

TEST(PrefixCache, KeepsWhatIsDearToComputeLonger) {
  PagePool pool(8);
  PrefixCache cache(pool, [](int64_t position) { return position == 0 ? 1.0 : 10.0; });
  const auto keep = [&](const std::string& salt) {
    PrefixCache::Node* first = cache.Insert(salt, nullptr, Tokens(64), pool.Take().value());
    PrefixCache::Node* second = cache.Insert(salt, first, Tokens(64, 64), pool.Take().value());
    cache.Release(second);
    cache.Release(first);
  };
  keep("dear");
  cache.Release(cache.Insert("cheap", nullptr, Tokens(64), pool.Take().value()));
  ASSERT_TRUE(cache.Evict());
  EXPECT_EQ(cache.Length("cheap", Tokens(64)), 0);
  EXPECT_EQ(cache.Length("dear", Tokens(128)), 128);
}

}  // namespace
}  // namespace winnow
