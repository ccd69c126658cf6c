#include "server/ledger.h"

#include <chrono>

#include "base/check.h"
#include "server/receipt_json.h"

namespace winnow::server {
namespace {

// Waits this long after a failure before it tries again.
constexpr std::chrono::seconds kRetry{2};

// A transaction of many rows costs as much as one of one row.
constexpr size_t kRowsAtOnce = 1000;

// A database that another version of Winnow laid out otherwise is not written to.
constexpr int64_t kLayout = 1;

constexpr char kCreate[] = R"sql(
CREATE TABLE IF NOT EXISTS requests (
  id INTEGER PRIMARY KEY,
  time REAL NOT NULL,
  request_id TEXT NOT NULL,
  key TEXT NOT NULL,
  model TEXT NOT NULL,
  route TEXT NOT NULL,
  status INTEGER NOT NULL,
  finish TEXT NOT NULL,
  prompt_tokens INTEGER NOT NULL,
  cached_tokens INTEGER NOT NULL,
  computed_tokens INTEGER NOT NULL,
  recomputed_tokens INTEGER NOT NULL,
  completion_tokens INTEGER NOT NULL,
  attention_rows_read INTEGER NOT NULL,
  attention_rows_dense INTEGER NOT NULL,
  index_keys_scored INTEGER NOT NULL,
  queue_seconds REAL NOT NULL,
  prefill_seconds REAL NOT NULL,
  prefill_flops REAL NOT NULL,
  prefill_bytes REAL NOT NULL,
  prefill_dense_seconds REAL NOT NULL,
  decode_seconds REAL NOT NULL,
  decode_flops REAL NOT NULL,
  decode_bytes REAL NOT NULL,
  decode_dense_seconds REAL NOT NULL,
  dollars REAL NOT NULL,
  dense_dollars REAL NOT NULL
);
CREATE INDEX IF NOT EXISTS requests_by_key ON requests (key, time);
)sql";

constexpr char kInsert[] =
    "INSERT INTO requests VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?,"
    " ?, ?, ?, ?, ?, ?)";

Result<int64_t> LayoutOf(const Database& database) {
  WINNOW_ASSIGN(Statement layout, database.Prepare("PRAGMA user_version"));
  WINNOW_TRY(layout.Step().status());
  return layout.Int(0);
}

Status Prepare(const Database& database, const std::string& path) {
  WINNOW_ASSIGN(const int64_t found, LayoutOf(database));
  if (found != 0 && found != kLayout) {
    return Unsupported(path + ": layout " + std::to_string(found) + ", expected " +
                       std::to_string(kLayout));
  }
  WINNOW_TRY(database.Execute("PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL"));
  WINNOW_TRY(database.Execute(kCreate));
  return database.Execute("PRAGMA user_version = " + std::to_string(kLayout));
}

void BindEntry(Statement& insert, const LedgerEntry& e) {
  const Receipt& r = e.receipt;
  insert.Bind(0, e.time).Bind(1, e.request_id).Bind(2, e.key).Bind(3, e.model).Bind(4, e.route);
  insert.Bind(5, static_cast<int64_t>(e.status)).Bind(6, e.finish);
  insert.Bind(7, r.prompt_tokens).Bind(8, r.cached_tokens).Bind(9, r.computed_tokens);
  insert.Bind(10, r.recomputed_tokens).Bind(11, r.completion_tokens);
  insert.Bind(12, r.attention_rows_read).Bind(13, r.attention_rows_dense);
  insert.Bind(14, r.index_keys_scored).Bind(15, r.queue_seconds);
  const auto bind_phase = [&](int first, const PhaseCost& phase) {
    insert.Bind(first, phase.seconds).Bind(first + 1, phase.flops);
    insert.Bind(first + 2, phase.bytes).Bind(first + 3, phase.dense_seconds);
  };
  bind_phase(16, r.prefill);
  bind_phase(20, r.decode);
  insert.Bind(24, e.dollars).Bind(25, e.dense_dollars);
}

}  // namespace

LedgerEntry MakeLedgerEntry(const RequestRecord& record, std::optional<double> dollars_per_hour,
                            double now) {
  LedgerEntry entry;
  entry.time = now;
  entry.request_id = record.id;
  entry.key = record.key;
  entry.model = record.model;
  entry.route = record.route;
  entry.status = record.status;
  entry.finish = record.finish;
  entry.receipt = record.receipt;
  if (dollars_per_hour) {
    entry.dollars = Dollars(record.receipt, *dollars_per_hour);
    entry.dense_dollars = DenseDollarsModelled(record.receipt, *dollars_per_hour);
  }
  return entry;
}

Result<std::unique_ptr<Ledger>> Ledger::Open(const std::string& path) {
  WINNOW_ASSIGN(Database database, Database::Open(path, /*writable=*/true));
  WINNOW_TRY(Prepare(database, path));
  std::unique_ptr<Ledger> ledger(new Ledger(std::move(database)));
  ledger->thread_ = std::thread([raw = ledger.get()] { raw->Work(); });
  return ledger;
}

Ledger::~Ledger() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stop_ = true;
  }
  changed_.notify_all();
  if (thread_.joinable()) thread_.join();
}

void Ledger::Add(LedgerEntry entry) {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    if (static_cast<int64_t>(waiting_.size()) >= kMostWaiting) {
      waiting_.pop_front();
      ++counts_.lost;
    }
    waiting_.push_back(std::move(entry));
  }
  changed_.notify_all();
}

LedgerCounts Ledger::counts() const {
  std::lock_guard<std::mutex> lock(mutex_);
  LedgerCounts counts = counts_;
  counts.waiting = static_cast<int64_t>(waiting_.size());
  return counts;
}

void Ledger::Work() {
  std::unique_lock<std::mutex> lock(mutex_);
  for (;;) {
    changed_.wait(lock, [this] { return stop_ || !waiting_.empty(); });
    if (waiting_.empty()) return;
    std::deque<LedgerEntry> entries;
    while (!waiting_.empty() && entries.size() < kRowsAtOnce) {
      entries.push_back(std::move(waiting_.front()));
      waiting_.pop_front();
    }
    lock.unlock();
    const Status status = Write(entries);
    lock.lock();
    counts_.trouble = status.message();
    if (status.ok()) {
      counts_.written += static_cast<int64_t>(entries.size());
      continue;
    }
    waiting_.insert(waiting_.begin(), std::make_move_iterator(entries.begin()),
                    std::make_move_iterator(entries.end()));
    if (stop_) return;
    changed_.wait_for(lock, kRetry, [this] { return stop_; });
  }
}

// All rows or none.
Status Ledger::Write(const std::deque<LedgerEntry>& entries) {
  WINNOW_TRY(database_.Execute("BEGIN"));
  const auto insert_all = [&]() -> Status {
    WINNOW_ASSIGN(Statement insert, database_.Prepare(kInsert));
    for (const LedgerEntry& entry : entries) {
      BindEntry(insert, entry);
      WINNOW_TRY(insert.Step().status());
    }
    return database_.Execute("COMMIT");
  };
  const Status status = insert_all();
  // A full disk may have ended the transaction already; then there is nothing to undo.
  if (!status.ok()) static_cast<void>(database_.Execute("ROLLBACK"));
  return status;
}

Result<Ledger::Spent> Ledger::SpentSince(const std::string& path, const std::string& key,
                                         double since) {
  WINNOW_ASSIGN(const Database database, Database::Open(path, /*writable=*/false));
  WINNOW_ASSIGN(Statement sums,
                database.Prepare("SELECT sum(prompt_tokens + completion_tokens), sum(dollars) "
                                 "FROM requests WHERE key = ? AND time >= ?"));
  sums.Bind(0, key).Bind(1, since);
  WINNOW_TRY(sums.Step().status());
  return Spent{sums.Int(0), sums.Double(1)};
}

}  // namespace winnow::server
