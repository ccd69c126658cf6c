#include "engine/stop_matcher.h"

#include <gtest/gtest.h>

namespace winnow {
namespace {

// Feeds `text` byte by byte and returns all that comes out.
std::string Feed(StopMatcher& matcher, std::string_view text) {
  std::string shown;
  for (const char byte : text) shown += matcher.Append({&byte, 1});
  return shown + matcher.Flush();
}

TEST(StopMatcher, PassesTextThroughWithoutStops) {
  StopMatcher matcher({});
  EXPECT_EQ(matcher.Append("abc"), "abc");
  EXPECT_EQ(matcher.Flush(), "");
}

TEST(StopMatcher, EndsBeforeTheStop) {
  StopMatcher matcher({"END"});
  EXPECT_EQ(Feed(matcher, "one two END three"), "one two ");
  EXPECT_TRUE(matcher.stopped());
}

TEST(StopMatcher, HoldsBackWhatMayBecomeAStop) {
  StopMatcher matcher({"END"});
  EXPECT_EQ(matcher.Append("one EN"), "one ");
  EXPECT_EQ(matcher.Append("EMY"), "ENEMY");
  EXPECT_FALSE(matcher.stopped());
}

TEST(StopMatcher, FindsAStopThatBeginsInsideAFailedOne) {
  StopMatcher matcher({"aab"});
  EXPECT_EQ(Feed(matcher, "xaaab"), "xa");
  EXPECT_TRUE(matcher.stopped());
}

TEST(StopMatcher, TakesTheFirstOfSeveral) {
  StopMatcher matcher({"two", "one"});
  EXPECT_EQ(matcher.Append("zero one two"), "zero ");
}

TEST(StopMatcher, TellsWhichStopItFound) {
  StopMatcher matcher({"two", "one", "on"});
  EXPECT_EQ(matcher.found(), "");
  matcher.Append("zero one two");
  EXPECT_EQ(matcher.found(), "one");
}

TEST(StopMatcher, ReleasesWhatItHeldAtTheEnd) {
  StopMatcher matcher({"END"});
  EXPECT_EQ(matcher.Append("EN"), "");
  EXPECT_EQ(matcher.Flush(), "EN");
}

TEST(StopMatcher, SaysNothingAfterAStop) {
  StopMatcher matcher({"."});
  EXPECT_EQ(matcher.Append("a.b"), "a");
  EXPECT_EQ(matcher.Append("c"), "");
  EXPECT_EQ(matcher.Flush(), "");
}

TEST(StopMatcher, IgnoresEmptyStops) {
  StopMatcher matcher({""});
  EXPECT_EQ(matcher.Append("abc"), "abc");
  EXPECT_FALSE(matcher.stopped());
}

}  // namespace
}  // namespace winnow
