#include "server/usage_limits.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>

#include "base/check.h"
#include "base/text.h"

namespace winnow::server {
namespace {

Status Malformed(const std::string& text) {
  return InvalidArgument("limit: " + Quoted(text) +
                         ", expected KEY=AMOUNT UNIT/PERIOD, as in alice=1000000 tokens/day or "
                         "*=2.50 dollars/month; periods are hour, day and month");
}

Result<UsageLimit> ParseLimit(const std::string& text) {
  const size_t equals = text.rfind('=');
  const size_t slash = text.rfind('/');
  if (equals == 0 || equals == std::string::npos || slash == std::string::npos || slash < equals) {
    return Malformed(text);
  }
  UsageLimit limit;
  limit.key = text.substr(0, equals);
  const char* const end = text.data() + slash;
  const auto [rest, error] = std::from_chars(text.data() + equals + 1, end, limit.amount);
  if (error != std::errc() || !std::isfinite(limit.amount) || limit.amount < 0) {
    return Malformed(text);
  }
  const std::string unit(rest + (rest < end && *rest == ' ' ? 1 : 0), end);
  const std::string period = text.substr(slash + 1);
  if (unit != "tokens" && unit != "dollars") return Malformed(text);
  if (period != "hour" && period != "day" && period != "month") return Malformed(text);
  limit.unit = unit == "tokens" ? UsageLimit::Unit::kTokens : UsageLimit::Unit::kDollars;
  limit.period = period == "hour" ? Period::kHour : period == "day" ? Period::kDay : Period::kMonth;
  return limit;
}

const char* PeriodName(Period period) {
  switch (period) {
    case Period::kHour:
      return "hour";
    case Period::kDay:
      return "day";
    case Period::kMonth:
      return "month";
  }
  return "";
}

std::string AmountText(const UsageLimit& limit, double amount) {
  return limit.unit == UsageLimit::Unit::kTokens ? fmt::format("{:.0f} tokens", amount)
                                                 : fmt::format("{:.4f} dollars", amount);
}

// Whether `limit` rules `key`: by name, or for everyone that no limit names.
bool Rules(const std::vector<UsageLimit>& limits, const UsageLimit& limit, const std::string& key) {
  if (limit.key == key) return true;
  return limit.key == "*" && std::none_of(limits.begin(), limits.end(),
                                          [&](const UsageLimit& o) { return o.key == key; });
}

}  // namespace

Result<std::vector<UsageLimit>> UsageLimits::Parse(const std::vector<std::string>& texts) {
  std::vector<UsageLimit> limits;
  for (const std::string& text : texts) {
    WINNOW_ASSIGN(UsageLimit limit, ParseLimit(text));
    limits.push_back(std::move(limit));
  }
  return limits;
}

// The period's sum. A new period begins with nothing, and the first time that a key is seen with
// what the ledger has of it; a ledger that cannot be read counts as empty.
double& UsageLimits::Used(size_t index, const std::string& key, double now) {
  const UsageLimit& limit = limits_[index];
  Account& account = accounts_[{index, key}];
  const double start = PeriodStart(limit.period, now);
  if (account.since == start) return account.used;
  const bool first = account.since < 0;
  account = {start, 0};
  if (first && !ledger_path_.empty()) {
    const auto spent = Ledger::SpentSince(ledger_path_, key, start);
    if (spent.ok()) {
      account.used = limit.unit == UsageLimit::Unit::kTokens ? static_cast<double>(spent->tokens)
                                                             : spent->dollars;
    }
  }
  return account.used;
}

std::optional<ApiError> UsageLimits::Refuse(const std::string& key, double now) {
  std::lock_guard<std::mutex> lock(mutex_);
  for (size_t index = 0; index < limits_.size(); ++index) {
    const UsageLimit& limit = limits_[index];
    if (!Rules(limits_, limit, key)) continue;
    const double used = Used(index, key, now);
    if (used < limit.amount) continue;
    const double until = PeriodEnd(limit.period, now);
    return ApiError{
        .status = 429,
        .message = fmt::format("this key has used {} of the {} that it may use in a {}; the next "
                               "one begins at {}",
                               AmountText(limit, used), AmountText(limit, limit.amount),
                               PeriodName(limit.period), FormatUtc(until)),
        .code = "insufficient_quota",
        .retry_after = static_cast<int>(std::max(1.0, std::ceil(until - now)))};
  }
  return std::nullopt;
}

void UsageLimits::Charge(const std::string& key, const LedgerEntry& entry) {
  std::lock_guard<std::mutex> lock(mutex_);
  for (size_t index = 0; index < limits_.size(); ++index) {
    const UsageLimit& limit = limits_[index];
    if (!Rules(limits_, limit, key)) continue;
    Used(index, key, entry.time) += limit.unit == UsageLimit::Unit::kTokens
                                        ? static_cast<double>(entry.tokens())
                                        : entry.dollars;
  }
}

}  // namespace winnow::server
