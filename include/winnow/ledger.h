// Reading the ledger that `winnow serve --ledger FILE` writes: one row for each request that ran
// the model, in a SQLite database.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "winnow/status.h"

namespace winnow {

struct UsageQuery {
  std::string key;         // name of the API key; empty: all
  std::string since;       // UTC, "2026-11-01" or "2026-11-01T12:00:00"; empty: from the beginning
  std::string until;       // likewise, not included; empty: to the end
  std::string by = "key";  // "key", "model", "day", "month" or "request"
};

// Sums over requests; dollars are those of the price when they were served.
struct UsageRow {
  std::string group;  // as UsageQuery::by
  int64_t requests = 0;
  int64_t prompt_tokens = 0;
  int64_t cached_tokens = 0;
  int64_t completion_tokens = 0;
  int64_t attention_rows_read = 0;
  int64_t attention_rows_dense = 0;
  double seconds = 0;
  double dense_seconds_modelled = 0;
  double dollars = 0;
  double dense_dollars_modelled = 0;
};

// Rows in the order of their groups, and last the sum of all, whose group is "total". kNotFound,
// kInvalidArgument or kCorrupt naming the file or the field.
Result<std::vector<UsageRow>> ReadUsage(const std::string& path, const UsageQuery& query);

}  // namespace winnow
