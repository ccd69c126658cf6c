#include "server/ledger.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <fstream>

#include "server/usage_limits.h"
#include "winnow/ledger.h"

namespace winnow::server {
namespace {

namespace fs = std::filesystem;

constexpr double kNoon = 1793880000;  // 2026-11-05T12:00:00Z

LedgerEntry Entry(const std::string& key, double time, int64_t tokens = 100) {
  LedgerEntry entry;
  entry.time = time;
  entry.request_id = "req-1";
  entry.key = key;
  entry.model = "winnow-nano";
  entry.route = "/v1/chat/completions";
  entry.status = 200;
  entry.finish = "stop";
  entry.receipt.prompt_tokens = tokens - 10;
  entry.receipt.cached_tokens = 5;
  entry.receipt.completion_tokens = 10;
  entry.receipt.attention_rows_read = 1000;
  entry.receipt.attention_rows_dense = 9000;
  entry.receipt.prefill.seconds = 0.5;
  entry.receipt.decode.seconds = 0.25;
  entry.receipt.decode.dense_seconds = 2.0;
  entry.dollars = 0.125;
  entry.dense_dollars = 0.5;
  return entry;
}

class LedgerTest : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::path(testing::TempDir()) / ("winnow_ledger_" + std::to_string(getpid()));
    fs::create_directories(folder_);
    path_ = (folder_ / "usage.db").string();
  }
  void TearDown() override { fs::remove_all(folder_); }

  std::vector<UsageRow> Rows(const UsageQuery& query = {}) const {
    return ReadUsage(path_, query).value();
  }

  static bool Within10Seconds(const std::function<bool()>& condition) {
    for (int turn = 0; turn < 1000; ++turn) {
      if (condition()) return true;
      usleep(10000);
    }
    return false;
  }

  fs::path folder_;
  std::string path_;
};

TEST_F(LedgerTest, SumsWhatWasWrittenByKey) {
  {
    auto ledger = Ledger::Open(path_).value();
    ledger->Add(Entry("alice", kNoon));
    ledger->Add(Entry("alice", kNoon + 1));
    ledger->Add(Entry("bob", kNoon + 2, 50));
  }
  const std::vector<UsageRow> rows = Rows();
  ASSERT_EQ(rows.size(), 3u);
  EXPECT_EQ(rows[0].group, "alice");
  EXPECT_EQ(rows[0].requests, 2);
  EXPECT_EQ(rows[0].prompt_tokens, 180);
  EXPECT_EQ(rows[0].cached_tokens, 10);
  EXPECT_EQ(rows[0].completion_tokens, 20);
  EXPECT_EQ(rows[0].attention_rows_read, 2000);
  EXPECT_EQ(rows[0].attention_rows_dense, 18000);
  EXPECT_DOUBLE_EQ(rows[0].seconds, 1.5);
  EXPECT_DOUBLE_EQ(rows[0].dense_seconds_modelled, 4.0);
  EXPECT_DOUBLE_EQ(rows[0].dollars, 0.25);
  EXPECT_DOUBLE_EQ(rows[0].dense_dollars_modelled, 1.0);
  EXPECT_EQ(rows[1].group, "bob");
  EXPECT_EQ(rows[1].prompt_tokens, 40);
  EXPECT_EQ(rows[2].group, "total");
  EXPECT_EQ(rows[2].requests, 3);
}

TEST_F(LedgerTest, ChoosesByTimeAndKeyAndGroupsByDay) {
  {
    auto ledger = Ledger::Open(path_).value();
    for (int day = 0; day < 3; ++day) ledger->Add(Entry("alice", kNoon + 86400 * day));
    ledger->Add(Entry("bob", kNoon));
  }
  UsageQuery query;
  query.by = "day";
  query.key = "alice";
  query.since = "2026-11-06";
  const std::vector<UsageRow> rows = Rows(query);
  ASSERT_EQ(rows.size(), 3u);
  EXPECT_EQ(rows[0].group, "2026-11-06");
  EXPECT_EQ(rows[1].group, "2026-11-07");
  EXPECT_EQ(rows[2].requests, 2);
  query.until = "2026-11-06T12:00:00";
  EXPECT_EQ(Rows(query).back().requests, 0);
  query.by = "request";
  query.until = "";
  EXPECT_EQ(Rows(query).size(), 3u);  // two with the same id
}

TEST_F(LedgerTest, SaysWhatIsWrongWithAQueryOrAFile) {
  EXPECT_EQ(ReadUsage(path_, {}).status().code(), StatusCode::kNotFound);
  std::ofstream(path_) << "this is no database, and is longer than a header of one hundred bytes, "
                          "which is what it takes to see that";
  EXPECT_EQ(ReadUsage(path_, {}).status().code(), StatusCode::kCorrupt);
  EXPECT_EQ(Ledger::Open(path_).status().code(), StatusCode::kCorrupt);
  fs::remove(path_);
  EXPECT_EQ(ReadUsage(folder_.string(), {}).status().code(), StatusCode::kInvalidArgument);
  std::ofstream(path_).flush();  // an empty database
  EXPECT_EQ(ReadUsage(path_, {}).status().code(), StatusCode::kInvalidArgument);
  fs::remove(path_);
  ASSERT_TRUE(Ledger::Open(path_).ok());
  for (const char* time : {"yesterday", "2026-02-30"}) {
    UsageQuery query;
    query.since = time;
    EXPECT_EQ(ReadUsage(path_, query).status().code(), StatusCode::kInvalidArgument);
  }
  UsageQuery query;
  query.by = "colour";
  EXPECT_EQ(ReadUsage(path_, query).status().code(), StatusCode::kInvalidArgument);
  EXPECT_FALSE(Ledger::Open(folder_.string() + "/no/such/folder.db").ok());
}

TEST_F(LedgerTest, TakesTextOfClientsAsText) {
  const std::string hostile = "x'); DROP TABLE requests; --";
  Ledger::Open(path_).value()->Add(Entry(hostile, kNoon));
  EXPECT_EQ(Rows()[0].group, hostile);
  UsageQuery query;
  query.key = hostile;
  EXPECT_EQ(Rows(query)[0].requests, 1);
}

TEST_F(LedgerTest, KeepsWhatAFullDiskDoesNotTakeAndWritesItLater) {
  auto ledger = Ledger::Open(path_).value();
  ledger->Add(Entry("alice", kNoon));
  ASSERT_TRUE(Within10Seconds([&] { return ledger->counts().written == 1; }));

  // No file of this process may grow, as on a full disk.
  rlimit before;
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
  const auto old_handler = std::signal(SIGXFSZ, SIG_IGN);
  rlimit none = before;
  none.rlim_cur = 1;
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &none), 0);
  for (int index = 0; index < 50; ++index) ledger->Add(Entry("alice", kNoon));
  const bool seen = Within10Seconds([&] { return !ledger->counts().trouble.empty(); });
  const int64_t waiting = ledger->counts().waiting;
  setrlimit(RLIMIT_FSIZE, &before);
  std::signal(SIGXFSZ, old_handler);

  EXPECT_TRUE(seen);
  EXPECT_EQ(waiting, 50);
  EXPECT_TRUE(Within10Seconds([&] { return ledger->counts().written == 51; }));
  EXPECT_EQ(ledger->counts().lost, 0);
  EXPECT_EQ(ledger->counts().trouble, "");
  ledger.reset();
  EXPECT_EQ(Rows()[0].requests, 51);
}

TEST_F(LedgerTest, DropsTheOldestWhenTooManyWait) {
  auto ledger = Ledger::Open(path_).value();
  const Database other = Database::Open(path_, true).value();
  ASSERT_TRUE(other.Execute("BEGIN EXCLUSIVE").ok());
  const int64_t added = Ledger::kMostWaiting + 2000;
  for (int64_t index = 0; index < added; ++index) ledger->Add(Entry("alice", kNoon));
  const LedgerCounts counts = ledger->counts();
  EXPECT_GE(counts.lost, 1);
  EXPECT_LE(counts.waiting, Ledger::kMostWaiting);
  ASSERT_TRUE(other.Execute("COMMIT").ok());
}

TEST(UtcTime, ReadsAndWritesTheCalendar) {
  EXPECT_EQ(ParseUtc("2026-11-05T12:00:00"), kNoon);
  EXPECT_EQ(ParseUtc("1970-01-01"), 0.0);
  EXPECT_EQ(FormatUtc(kNoon), "2026-11-05T12:00:00Z");
  EXPECT_EQ(ParseUtc(FormatUtc(kNoon)), kNoon);
  for (const char* wrong : {"", "2026", "2026-13-01", "2026-02-30", "2026-11-05T25:00:00",
                            "2026-11-05 12:00:00", "26-11-05", "2026-11-05T12:00:00+01"}) {
    EXPECT_EQ(ParseUtc(wrong), std::nullopt) << wrong;
  }
}

TEST(UtcTime, PeriodsBeginAndEndOnTheCalendar) {
  const double time = *ParseUtc("2026-12-31T23:30:15");
  EXPECT_EQ(FormatUtc(PeriodStart(Period::kHour, time)), "2026-12-31T23:00:00Z");
  EXPECT_EQ(FormatUtc(PeriodStart(Period::kMonth, time)), "2026-12-01T00:00:00Z");
  for (const Period period : {Period::kHour, Period::kDay, Period::kMonth}) {
    EXPECT_EQ(FormatUtc(PeriodEnd(period, time)), "2027-01-01T00:00:00Z");
  }
}

TEST(UsageLimits, ReadsItsFormsAndRefusesOthers) {
  const auto limits =
      UsageLimits::Parse({"alice=1000000 tokens/day", "*=2.5dollars/month", "a=b=3 tokens/hour"})
          .value();
  EXPECT_EQ(limits[0].amount, 1e6);
  EXPECT_EQ(limits[1].unit, UsageLimit::Unit::kDollars);
  EXPECT_EQ(limits[1].period, Period::kMonth);
  EXPECT_EQ(limits[2].key, "a=b");
  for (const char* wrong :
       {"", "alice", "=5 tokens/day", "alice=x tokens/day", "alice=-1 tokens/day",
        "alice=5 apples/day", "alice=5 tokens/year", "alice=nan tokens/day",
        "alice=1e999 tokens/day", "alice=5 tokens", "a/b=5"}) {
    EXPECT_EQ(UsageLimits::Parse({wrong}).status().code(), StatusCode::kInvalidArgument) << wrong;
  }
}

TEST(UsageLimits, RefusesBeyondTheLimitUntilTheNextPeriod) {
  UsageLimits limits(UsageLimits::Parse({"alice=150 tokens/day", "*=1 dollars/hour"}).value());
  limits.Charge("alice", Entry("alice", kNoon));
  EXPECT_FALSE(limits.Refuse("alice", kNoon).has_value());
  limits.Charge("alice", Entry("alice", kNoon));
  const auto refusal = limits.Refuse("alice", kNoon);
  ASSERT_TRUE(refusal.has_value());
  EXPECT_NE(refusal->message.find("200 tokens of the 150 tokens"), std::string::npos);
  EXPECT_EQ(refusal->status, 429);
  EXPECT_EQ(refusal->retry_after, 12 * 3600);
  EXPECT_NE(refusal->message.find("2026-11-06T00:00:00Z"), std::string::npos);
  EXPECT_FALSE(limits.Refuse("alice", kNoon + 12 * 3600).has_value());

  for (int index = 0; index < 8; ++index) limits.Charge("bob", Entry("bob", kNoon));
  EXPECT_TRUE(limits.Refuse("bob", kNoon).has_value());
  EXPECT_FALSE(limits.Refuse("carol", kNoon).has_value());
}

TEST_F(LedgerTest, LimitsRememberWhatTheLedgerHas) {
  {
    auto ledger = Ledger::Open(path_).value();
    ledger->Add(Entry("alice", kNoon - 86400, 1000));
    ledger->Add(Entry("alice", kNoon, 80));
  }
  UsageLimits limits(UsageLimits::Parse({"alice=100 tokens/day"}).value());
  limits.CountLedger(path_);
  EXPECT_FALSE(limits.Refuse("alice", kNoon + 1).has_value());
  limits.Charge("alice", Entry("alice", kNoon + 1, 20));
  EXPECT_TRUE(limits.Refuse("alice", kNoon + 1).has_value());
}

}  // namespace
}  // namespace winnow::server
