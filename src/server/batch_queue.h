// The batches of the server: which of them run, and what becomes of them.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "server/batch_runner.h"
#include "server/batch_store.h"
#include "server/service.h"
#include "winnow/status.h"

namespace winnow::server {

// Runs batches beside what clients wait for: a few at a time, one of each key, all together with at
// most ServerOptions::batch_concurrency generations, as requests of a key of their own ("NAME
// (batch)"). What the machine or the server interrupts goes on later, or after a restart. Methods
// may be called from any thread.
class BatchQueue {
 public:
  BatchQueue(Service& service, std::unique_ptr<BatchStore> store);
  ~BatchQueue() { Stop(); }
  BatchQueue(const BatchQueue&) = delete;
  BatchQueue& operator=(const BatchQueue&) = delete;

  BatchStore& store() { return *store_; }

  // Takes up what was left, once the engine is loaded.
  Status Start();
  // Interrupts what runs and waits for it. Nothing runs after this.
  void Stop();

  // Of a batch that is in the store.
  void Add(const StoredBatch& batch);
  // Has a batch end soon, if it has not. kNotFound if `owner` has none of this id; kInvalidArgument
  // if it has ended otherwise.
  Result<StoredBatch> Cancel(const std::string& owner, const std::string& id);
  // Puts the counts of the moment into a batch that runs.
  void FillCounts(StoredBatch* batch) const;

 private:
  using Clock = std::chrono::steady_clock;
  struct Entry {
    std::string id;
    std::string owner;
    Clock::time_point not_before{};
    bool running = false;
    std::atomic<bool> stop{false};       // looked at by whoever runs it
    std::atomic<bool> cancelled{false};  // by its owner
    bool counted = false;                // of whoever runs it: the counts are those of the files
    std::atomic<int64_t> total{0};
    std::atomic<int64_t> completed{0};
    std::atomic<int64_t> failed{0};
  };
  using EntryPtr = std::shared_ptr<Entry>;

  void Work();
  EntryPtr Next();
  // Runs a batch to its end: true, or false if it is to be taken up again.
  bool Process(Entry& entry);
  Status Validate(Entry& entry, StoredBatch* batch, std::optional<BatchInput>* input);
  Status Run(Entry& entry, const StoredBatch& batch, const BatchInput& input);
  Status CountResults(Entry& entry, const StoredBatch& batch) const;
  Status End(Entry& entry, StoredBatch* batch, const std::string& status,
             const std::vector<BatchProblem>& problems = {});
  // Reads, changes and saves: nobody else does at the same time.
  Status Change(StoredBatch* batch, const std::function<void(json::object&)>& change);
  int64_t Concurrency() const;
  bool MayBegin(const std::string& owner) const;

  Service& service_;
  const std::unique_ptr<BatchStore> store_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<EntryPtr> entries_;  // those that have not ended, in the order in which they came
  int64_t num_running_ = 0;
  bool stop_ = false;
  std::mutex changing_;  // held while a batch is read, changed and saved; taken before mutex_
  std::vector<std::thread> threads_;
};

}  // namespace winnow::server
