#include "server/batch_runner.h"

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <map>
#include <memory>
#include <mutex>
#include <set>

#include "base/check.h"
#include "base/text.h"

namespace winnow::server {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

constexpr milliseconds kLook = milliseconds(100);       // between looks at `stop`
constexpr milliseconds kSyncEvery = milliseconds(800);  // results that the disk may not have
constexpr milliseconds kFirstPause = milliseconds(20);  // after a refusal; doubled each time
constexpr milliseconds kLongestPause = milliseconds(1000);

// Rung by the engine's thread for requests whose generations have something to tell. Outlives the
// run, as the engine may ring late.
class Bell {
 public:
  void Ring(int64_t request) {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      rung_.insert(request);
    }
    changed_.notify_one();
  }
  // The requests it was rung for; waits for one until `time` at most.
  std::set<int64_t> Wait(Clock::time_point time) {
    std::unique_lock<std::mutex> lock(mutex_);
    changed_.wait_until(lock, time, [this] { return !rung_.empty(); });
    return std::exchange(rung_, {});
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::set<int64_t> rung_;
};

class Runner {
 public:
  explicit Runner(const BatchRun& run) : run_(run) {}
  Status Run();

 private:
  Status RunToTheEnd();
  Status Begin();
  Status BeginOne(bool* begun);
  Status SubmitMore(bool* submitted);
  Status TakeFrom(int64_t request);
  Status Finish(int64_t request);
  Status Sync();
  int64_t OpenStreams() const;
  bool Stopped() const { return run_.stop != nullptr && run_.stop->load(); }

  const BatchRun& run_;
  const std::shared_ptr<Bell> bell_ = std::make_shared<Bell>();
  std::map<int64_t, std::unique_ptr<BatchTask>> tasks_;  // by request
  int64_t next_ = 0;                                     // request
  int64_t submitting_ = -1;                              // one that is not wholly submitted
  Clock::time_point pause_until_{};
  milliseconds pause_ = kFirstPause;
  Clock::time_point sync_at_ = Clock::now() + kSyncEvery;
};

Status Runner::Run() {
  Status status = RunToTheEnd();
  for (auto& [request, task] : tasks_) {
    task->Cancel();
    if (run_.observe) run_.observe(task->record());
  }
  tasks_.clear();
  const Status synced = Sync();
  return status.ok() ? synced : status;
}

Status Runner::RunToTheEnd() {
  while (true) {
    if (Stopped()) return {StatusCode::kCancelled, "batch: it was stopped"};
    WINNOW_TRY(Begin());
    if (tasks_.empty() && next_ == run_.input->size()) return OkStatus();
    for (const int64_t request : bell_->Wait(Clock::now() + kLook)) {
      if (tasks_.count(request) != 0) WINNOW_TRY(TakeFrom(request));
    }
    if (Clock::now() >= sync_at_) WINNOW_TRY(Sync());
  }
}

int64_t Runner::OpenStreams() const {
  int64_t count = 0;
  for (const auto& [request, task] : tasks_) count += task->open_streams();
  return count;
}

// Submits generations until there are as many as may be.
Status Runner::Begin() {
  if (Clock::now() < pause_until_) return OkStatus();
  const int64_t most = std::max<int64_t>(run_.concurrency(), 1);
  bool more = true;
  while (more && !Stopped() && OpenStreams() < most) {
    if (submitting_ >= 0) {
      WINNOW_TRY(SubmitMore(&more));
    } else {
      WINNOW_TRY(BeginOne(&more));
    }
  }
  return OkStatus();
}

Status Runner::BeginOne(bool* begun) {
  *begun = false;
  while (next_ < run_.input->size() && run_.done[static_cast<size_t>(next_)]) ++next_;
  if (next_ == run_.input->size()) return OkStatus();
  if (run_.may_begin && !run_.may_begin()) {
    pause_until_ = Clock::now() + kLongestPause;
    return OkStatus();
  }
  BatchLine line;
  WINNOW_TRY(run_.input->Read(next_, &line));
  tasks_[next_] = std::make_unique<BatchTask>(run_.context, std::move(line));
  submitting_ = next_++;
  *begun = true;
  return OkStatus();
}

Status Runner::SubmitMore(bool* submitted) {
  const int64_t request = submitting_;
  BatchTask& task = *tasks_[request];
  if (task.waiting()) {
    const Status status = task.Submit([bell = bell_, request] { bell->Ring(request); });
    if (status.code() == StatusCode::kResourceExhausted) {
      // Others fill the queue; it empties.
      *submitted = false;
      pause_until_ = Clock::now() + pause_;
      pause_ = std::min(2 * pause_, kLongestPause);
      return OkStatus();
    }
    WINNOW_TRY(status);
    pause_ = kFirstPause;
  }
  if (task.waiting()) return OkStatus();
  submitting_ = -1;
  return TakeFrom(request);
}

Status Runner::TakeFrom(int64_t request) {
  BatchTask& task = *tasks_[request];
  task.Take();
  WINNOW_TRY(task.interrupted());
  return task.ended() ? Finish(request) : OkStatus();
}

Status Runner::Finish(int64_t request) {
  if (request == submitting_) submitting_ = -1;
  pause_until_ = {};  // there is room in the queue, perhaps
  const std::unique_ptr<BatchTask> task = std::move(tasks_[request]);
  tasks_.erase(request);
  const RequestRecord& record = task->record();
  BatchOutput& output = record.status == 200 ? *run_.results : *run_.errors;
  const Status written = output.Append(task->ResultText());
  if (run_.observe) run_.observe(record);
  return written;
}

Status Runner::Sync() {
  sync_at_ = Clock::now() + kSyncEvery;
  const Status results = run_.results->Sync();
  const Status errors = run_.errors->Sync();
  return results.ok() ? errors : results;
}

}  // namespace

Status RunBatch(const BatchRun& run) { return Runner(run).Run(); }

}  // namespace winnow::server
