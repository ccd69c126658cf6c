// Status and Result, and the macros that pass them on.
#include "winnow/status.h"

#include <gtest/gtest.h>

#include <memory>

#include "base/check.h"

namespace winnow {
namespace {

TEST(Status, IsOkByDefault) {
  const Status status;
  EXPECT_TRUE(status.ok());
  EXPECT_EQ(status.code(), StatusCode::kOk);
  EXPECT_EQ(status.ToString(), "ok");
}

TEST(Status, PutsItsHintOnALineOfItsOwn) {
  EXPECT_EQ(Corrupt("a: is 1, expected 2").ToString(), "a: is 1, expected 2");
  EXPECT_EQ(Corrupt("a: is 1, expected 2", "look at b").ToString(),
            "a: is 1, expected 2\n  hint: look at b");
}

TEST(Status, CodesHaveDistinctNames) {
  EXPECT_STREQ(StatusCodeName(NotFound("x").code()), "not_found");
  EXPECT_STREQ(StatusCodeName(Unsupported("x").code()), "unsupported");
  EXPECT_STREQ(StatusCodeName(ResourceExhausted("x").code()), "resource_exhausted");
  EXPECT_STREQ(StatusCodeName(Unavailable("x").code()), "unavailable");
  EXPECT_STREQ(StatusCodeName(Internal("x").code()), "internal");
  EXPECT_STREQ(StatusCodeName(InvalidArgument("x").code()), "invalid_argument");
}

TEST(Result, HoldsAValueOrAStatus) {
  const Result<int> good = 3;
  const Result<int> bad = NotFound("nothing");
  EXPECT_EQ(*good, 3);
  EXPECT_TRUE(good.status().ok());
  EXPECT_FALSE(bad.ok());
  EXPECT_EQ(bad.error().message(), "nothing");
}

TEST(Result, ThrowsItsStatusWhenAskedForAMissingValue) {
  Result<int> bad = NotFound("nothing");
  try {
    bad.value();
    FAIL() << "no exception";
  } catch (const Error& error) {
    EXPECT_EQ(error.status().code(), StatusCode::kNotFound);
    EXPECT_STREQ(error.what(), "nothing");
  }
}

TEST(Result, MovesValuesThatCannotBeCopied) {
  Result<std::unique_ptr<int>> result = std::make_unique<int>(7);
  const std::unique_ptr<int> value = std::move(result).value();
  EXPECT_EQ(*value, 7);
}

Result<int> Half(int number) {
  if (number % 2 != 0) return InvalidArgument("odd");
  return number / 2;
}

Status QuarterInto(int number, int* quarter) {
  WINNOW_ASSIGN(const int half, Half(number));
  WINNOW_ASSIGN(*quarter, Half(half));
  WINNOW_TRY(OkStatus());
  return OkStatus();
}

TEST(StatusMacros, ReturnTheFirstMistake) {
  int quarter = -1;
  EXPECT_TRUE(QuarterInto(12, &quarter).ok());
  EXPECT_EQ(quarter, 3);
  EXPECT_EQ(QuarterInto(6, &quarter).message(), "odd");
  EXPECT_EQ(quarter, 3);
}

TEST(Check, AbortsWithPlaceAndMessage) {
  EXPECT_DEATH(WINNOW_CHECK(1 == 2, "one is not two"), "status_test.cc:[0-9]+: one is not two");
}

}  // namespace
}  // namespace winnow
