// What every request cost, kept in a SQLite database: written by a thread of its own, so that a
// full or slow disk holds up nobody.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>

#include "server/database.h"
#include "server/request_record.h"
#include "winnow/status.h"

namespace winnow::server {

// One row.
struct LedgerEntry {
  double time = 0;  // seconds since 1970, when the request was over
  std::string request_id;
  std::string key;
  std::string model;
  std::string route;
  int status = 0;
  std::string finish;
  Receipt receipt;
  double dollars = 0;
  double dense_dollars = 0;  // modelled

  int64_t tokens() const { return receipt.prompt_tokens + receipt.completion_tokens; }
};

// Of a request that is over; `dollars_per_hour` may be empty.
LedgerEntry MakeLedgerEntry(const RequestRecord& record, std::optional<double> dollars_per_hour,
                            double now);

struct LedgerCounts {
  int64_t written = 0;
  int64_t waiting = 0;  // not written yet
  int64_t lost = 0;     // given up because too many waited
  std::string trouble;  // why the last attempt failed; empty: it did not
};

// Methods may be called from any thread.
class Ledger {
 public:
  // Entries that may wait while the disk takes none.
  static constexpr int64_t kMostWaiting = 100000;

  // Creates the database if it is not there. Errors name the file.
  static Result<std::unique_ptr<Ledger>> Open(const std::string& path);
  // Tries once more to write what waits.
  ~Ledger();
  Ledger(const Ledger&) = delete;
  Ledger& operator=(const Ledger&) = delete;

  void Add(LedgerEntry entry);
  LedgerCounts counts() const;

  struct Spent {
    int64_t tokens = 0;
    double dollars = 0;
  };
  // What `key` has used since `since`, as far as it is written.
  static Result<Spent> SpentSince(const std::string& path, const std::string& key, double since);

 private:
  explicit Ledger(Database database) : database_(std::move(database)) {}
  void Work();
  Status Write(const std::deque<LedgerEntry>& entries);

  Database database_;  // of the thread
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<LedgerEntry> waiting_;
  LedgerCounts counts_;
  bool stop_ = false;
  std::thread thread_;
};

}  // namespace winnow::server
