// ReadUsage: the ledger, summed up.
#include <ctime>

#include "base/check.h"
#include "base/text.h"
#include "server/database.h"
#include "server/utc_time.h"
#include "winnow/ledger.h"

namespace winnow {
namespace {

using server::Database;
using server::Statement;

constexpr char kSums[] =
    "count(*), sum(prompt_tokens), sum(cached_tokens), sum(completion_tokens),"
    " sum(attention_rows_read), sum(attention_rows_dense), sum(prefill_seconds + decode_seconds),"
    " sum(prefill_dense_seconds + decode_dense_seconds), sum(dollars), sum(dense_dollars)";

Result<std::string> GroupExpression(const std::string& by) {
  if (by == "key") return std::string("CASE key WHEN '' THEN '(no key)' ELSE key END");
  if (by == "model") return by;
  if (by == "day") return std::string("strftime('%Y-%m-%d', time, 'unixepoch')");
  if (by == "month") return std::string("strftime('%Y-%m', time, 'unixepoch')");
  if (by == "request") return std::string("request_id");
  return InvalidArgument("by: " + Quoted(by) + ", expected key, model, day, month or request");
}

Result<double> Bound(const char* name, const std::string& text, double otherwise) {
  if (text.empty()) return otherwise;
  const std::optional<double> time = server::ParseUtc(text);
  if (time) return *time;
  return InvalidArgument(std::string(name) + ": " + Quoted(text) +
                         ", expected a time in UTC such as 2026-11-01 or 2026-11-01T12:00:00");
}

Status AddRows(const Database& database, const std::string& sql, const UsageQuery& query,
               double since, double until, std::vector<UsageRow>* rows) {
  WINNOW_ASSIGN(Statement sums, database.Prepare(sql));
  sums.Bind(0, since).Bind(1, until).Bind(2, query.key);
  for (;;) {
    WINNOW_ASSIGN(const bool more, sums.Step());
    if (!more) return OkStatus();
    rows->push_back({sums.Text(0), sums.Int(1), sums.Int(2), sums.Int(3), sums.Int(4), sums.Int(5),
                     sums.Int(6), sums.Double(7), sums.Double(8), sums.Double(9), sums.Double(10)});
  }
}

Status CheckIsLedger(const Database& database, const std::string& path) {
  WINNOW_ASSIGN(Statement table,
                database.Prepare("SELECT 1 FROM sqlite_master WHERE name = 'requests'"));
  WINNOW_ASSIGN(const bool is_there, table.Step());
  if (is_there) return OkStatus();
  return InvalidArgument(path + ": no table requests, expected a ledger of winnow serve");
}

}  // namespace

Result<std::vector<UsageRow>> ReadUsage(const std::string& path, const UsageQuery& query) {
  WINNOW_ASSIGN(const std::string group, GroupExpression(query.by));
  WINNOW_ASSIGN(const double since, Bound("since", query.since, 0));
  WINNOW_ASSIGN(const double until, Bound("until", query.until, 1e18));
  WINNOW_ASSIGN(const Database database, Database::Open(path, /*writable=*/false));
  WINNOW_TRY(CheckIsLedger(database, path));
  const std::string where =
      " FROM requests WHERE time >= ?1 AND time < ?2 AND (?3 = '' OR key = ?3)";
  // Requests that share an id, which clients choose, stay apart.
  const std::string by = query.by == "request" ? "id" : group;
  std::vector<UsageRow> rows;
  WINNOW_TRY(AddRows(
      database, "SELECT " + group + ", " + kSums + where + " GROUP BY " + by + " ORDER BY " + by,
      query, since, until, &rows));
  WINNOW_TRY(AddRows(database, std::string("SELECT 'total', ") + kSums + where, query, since, until,
                     &rows));
  return rows;
}

}  // namespace winnow
