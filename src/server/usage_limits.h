// What a key may use in an hour, a day or a month.
#pragma once

#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "server/api_error.h"
#include "server/ledger.h"
#include "server/utc_time.h"
#include "winnow/status.h"

namespace winnow::server {

// Of one key. A request that begins below a limit runs to its end.
struct UsageLimit {
  enum class Unit { kTokens, kDollars };
  std::string key;  // "*": each key that has no limit of its own
  double amount = 0;
  Unit unit = Unit::kTokens;
  Period period = Period::kDay;
};

// Methods may be called from any thread. Times are seconds since 1970.
class UsageLimits {
 public:
  // Each text has the form "KEY=AMOUNT tokens/day": tokens or dollars, an hour, day or month.
  static Result<std::vector<UsageLimit>> Parse(const std::vector<std::string>& texts);

  explicit UsageLimits(std::vector<UsageLimit> limits) : limits_(std::move(limits)) {}

  // Counts from here on also what the ledger at `path` has, so that a restart forgives nothing.
  void CountLedger(const std::string& path) { ledger_path_ = path; }

  // A 429 that says what was used and when the period ends, if a limit of the key is reached.
  std::optional<ApiError> Refuse(const std::string& key, double now);
  void Charge(const std::string& key, const LedgerEntry& entry);

 private:
  struct Account {
    double since = -1;  // beginning of the period that is counted
    double used = 0;
  };

  double& Used(size_t limit, const std::string& key, double now);

  std::vector<UsageLimit> limits_;
  std::string ledger_path_;
  std::mutex mutex_;
  std::map<std::pair<size_t, std::string>, Account> accounts_;  // by limit and key
};

}  // namespace winnow::server
