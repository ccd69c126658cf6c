#include "engine/engine_thread.h"

#include <algorithm>

#include "base/check.h"
#include "base/text.h"

namespace winnow {
namespace {

// A step with prompts in it holds up the answers in it by about so much.
constexpr double kPromptSeconds = 0.1;
constexpr int64_t kLeastPromptTokens = 16;

Status ShutDown() { return Unavailable("engine: it was shut down"); }

SchedulerOptions MakeSchedulerOptions(const EngineOptions& options, ModelRunner& runner,
                                      const CostModel& costs) {
  SchedulerOptions scheduler;
  scheduler.num_pages = runner.num_pages();
  scheduler.max_tokens = runner.max_step_tokens();
  scheduler.max_sequences = options.max_sequences;
  scheduler.max_logit_rows = std::min(kLogitRows, runner.max_step_tokens());
  scheduler.prefix_cache = options.prefix_cache;
  scheduler.page_cost = [&runner, &costs](int64_t position) {
    return costs.Flops(CountRun(runner.config(), runner.attention(), position, kPageSize, 0));
  };
  scheduler.copy_page = [&runner](int32_t from, int32_t to) { runner.CopyPage(from, to); };
  return scheduler;
}

}  // namespace

EngineThread::EngineThread(const EngineOptions& options, ModelRunner& runner,
                           const Tokenizer* tokenizer, const AttentionRates& rates)
    : options_(options),
      runner_(runner),
      tokenizer_(tokenizer),
      rates_(rates),
      costs_(runner.config(), runner.cache_options()),
      scheduler_(MakeSchedulerOptions(options, runner, costs_)),
      logits_memory_(runner.backend().AllocateOnHost(
          (options.max_sequences + std::min(kLogitRows, runner.max_step_tokens())) *
          runner.config().vocab_size * int64_t{sizeof(float)})),
      logits_(static_cast<float*>(logits_memory_.get())),
      drawn_(static_cast<size_t>(options.max_sequences +
                                 std::min(kLogitRows, runner.max_step_tokens()))) {
  step_.batch.Reserve(runner.max_step_tokens(), options.max_sequences);
  Publish();
  thread_ = std::thread([this] { Work(); });
}

EngineThread::~EngineThread() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stop_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

Status EngineThread::Submit(GenerationTask task, std::shared_ptr<StreamState> stream) {
  auto generation = std::make_unique<Generation>(std::move(task), tokenizer_, costs_,
                                                 std::move(stream), Clock::now());
  {
    std::lock_guard<std::mutex> lock(mutex_);
    if (NumWaiting() >= options_.max_queue) {
      return ResourceExhausted(
          fmt::format("queue: {} requests wait, which is as many as may", options_.max_queue));
    }
    submitted_.push_back(std::move(generation));
  }
  changed_.notify_all();
  return OkStatus();
}

Status EngineThread::RunAlone(const std::function<Status()>& task) {
  std::future<Status> status;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    if (stop_) return ShutDown();
    tasks_.push_back({task, {}});
    status = tasks_.back().done.get_future();
  }
  changed_.notify_all();
  return status.get();
}

EngineStats EngineThread::stats() const {
  std::lock_guard<std::mutex> lock(mutex_);
  EngineStats stats = published_;
  stats.waiting = NumWaiting();
  return stats;
}

int64_t EngineThread::NumWaiting() const {
  return published_.waiting + static_cast<int64_t>(submitted_.size());
}

void EngineThread::Work() {
  while (TakeWork()) {
    DropCancelled();
    if (!generations_.empty()) RunStep();
    Publish();
  }
  End();
}

// Waits for something to do. A task waits until no request runs, and requests that come after it
// wait for the task. False when the engine shuts down.
bool EngineThread::TakeWork() {
  std::unique_lock<std::mutex> lock(mutex_);
  for (;;) {
    if (generations_.empty()) {
      changed_.wait(lock, [this] { return stop_ || !submitted_.empty() || !tasks_.empty(); });
    }
    if (stop_) return false;
    if (tasks_.empty()) break;
    if (!generations_.empty()) return true;
    lock.unlock();
    RunTasks();
    lock.lock();
  }
  for (std::unique_ptr<Generation>& generation : submitted_) {
    Sequence* sequence = &generation->sequence();
    generations_[sequence] = std::move(generation);
    scheduler_.Add(sequence);
    ++totals_.requests;
  }
  submitted_.clear();
  published_.waiting = scheduler_.num_waiting();
  return true;
}

// Tasks use the cache's pages as they please.
void EngineThread::RunTasks() {
  scheduler_.DropCache();
  std::deque<Task> tasks;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    tasks.swap(tasks_);
  }
  for (Task& task : tasks) task.done.set_value(task.run());
  runner_.Clear();
}

void EngineThread::DropCancelled() {
  for (auto generation = generations_.begin(); generation != generations_.end();) {
    const auto next = std::next(generation);
    if (generation->second->cancelled()) {
      generation->second->Cancel();
      ++totals_.cancelled;
      Remove(generation);
    }
    generation = next;
  }
}

void EngineThread::Remove(Generations::iterator generation) {
  scheduler_.Remove(&generation->second->sequence());
  generations_.erase(generation);
}

void EngineThread::RunStep() {
  scheduler_.Next(PromptTokensBesideAnswers(), &step_);
  const Step& step = step_;
  if (step.parts.empty()) return;
  const Clock::time_point start = Clock::now();
  for (const Step::Part& part : step.parts) Begin(*generations_.at(part.sequence), start);
  Publish();
  const auto counts = runner_.Run(step.batch, {logits_, drawn_.data()});
  const Clock::time_point end = Clock::now();
  if (!counts.ok()) return FailRunning(counts.error());
  const double seconds = std::chrono::duration<double>(end - start).count();
  scheduler_.Advance(step);
  LearnSpeed(step, seconds);
  Share(step, seconds, &shares_);
  const std::vector<StepShare>& shares = shares_;
  AddToTotals(step, shares, seconds);
  Publish();  // before the streams: who has an answer finds it counted
  Deliver(step, shares, end);
}

void EngineThread::AddToTotals(const Step& step, const std::vector<StepShare>& shares,
                               double seconds) {
  ++totals_.steps;
  totals_.busy_seconds += seconds;
  for (size_t index = 0; index < step.parts.size(); ++index) {
    const Step::Part& part = step.parts[index];
    const RunCounts& counts = shares[index].counts;
    totals_.computed_tokens += counts.tokens;
    totals_.attention_rows_read += counts.attention_rows_read;
    totals_.attention_rows_dense += counts.attention_rows_dense;
    totals_.index_keys_scored += counts.index_keys_scored;
    if (generations_.at(part.sequence)->DrawsAfter(part.first + part.count)) {
      ++totals_.completion_tokens;
    }
  }
}

void EngineThread::Begin(Generation& generation, Clock::time_point now) {
  totals_.cached_tokens += generation.CountCached();
  if (generation.Begin(now)) totals_.prompt_tokens += generation.receipt().prompt_tokens;
}

// How the step's time falls to its sequences: by the operations done for each.
void EngineThread::Share(const Step& step, double seconds, std::vector<StepShare>* into) const {
  std::vector<StepShare>& shares = *into;
  shares.clear();
  double all_flops = 0;
  for (const Step::Part& part : step.parts) {
    StepShare share;
    share.counts =
        CountRun(runner_.config(), runner_.attention(), part.first, part.count, part.num_logits);
    const int64_t context = part.first + part.count;
    share.last_rows_read = runner_.attention() == AttentionMode::kSparse
                               ? std::min(context, runner_.config().index_topk)
                               : context;
    all_flops += costs_.Flops(share.counts);
    shares.push_back(share);
  }
  for (StepShare& share : shares) {
    share.seconds = seconds * costs_.Flops(share.counts) / all_flops;
    if (rates_.measured()) {
      share.dense_seconds = rates_.DenseSeconds(share.counts, share.seconds);
    }
  }
}

void EngineThread::Deliver(const Step& step, const std::vector<StepShare>& shares,
                           Clock::time_point now) {
  const size_t vocab = static_cast<size_t>(runner_.config().vocab_size);
  float* logits = logits_;
  const int32_t* drawn = drawn_.data();
  for (size_t index = 0; index < step.parts.size(); ++index) {
    const Step::Part& part = step.parts[index];
    const size_t rows = static_cast<size_t>(part.num_logits);
    const auto generation = generations_.find(part.sequence);
    const bool over = generation->second->Continue(part.first, shares[index],
                                                   {{logits, rows * vocab}, {drawn, rows}}, now);
    logits += rows * vocab;
    drawn += rows;
    if (over) Remove(generation);
  }
}

// What is in the cache is not to be trusted any more.
void EngineThread::FailRunning(const Status& status) {
  for (auto generation = generations_.begin(); generation != generations_.end();) {
    const auto next = std::next(generation);
    if (generation->second->sequence().running) {
      generation->second->Fail(status);
      Remove(generation);
    }
    generation = next;
  }
  scheduler_.DropCache();
}

void EngineThread::End() {
  for (auto& [sequence, generation] : generations_) {
    if (sequence->running) {
      generation->Cancel();
    } else {
      generation->Fail(ShutDown());
    }
  }
  std::lock_guard<std::mutex> lock(mutex_);
  for (auto& generation : submitted_) generation->Fail(ShutDown());
  for (Task& task : tasks_) task.done.set_value(ShutDown());
}

int64_t EngineThread::PromptTokensBesideAnswers() const {
  const int64_t most = runner_.chunk();
  if (seconds_per_prompt_token_ == 0) return std::min(most, kLeastPromptTokens);
  const double tokens = kPromptSeconds / seconds_per_prompt_token_;
  if (tokens >= static_cast<double>(most)) return most;
  return std::min(most, std::max(kLeastPromptTokens, static_cast<int64_t>(tokens)));
}

void EngineThread::LearnSpeed(const Step& step, double seconds) {
  const int64_t tokens = step.batch.num_tokens();
  if (tokens < 2 * static_cast<int64_t>(step.parts.size())) return;  // mostly answers
  const double measured = seconds / static_cast<double>(tokens);
  seconds_per_prompt_token_ = seconds_per_prompt_token_ == 0
                                  ? measured
                                  : 0.75 * seconds_per_prompt_token_ + 0.25 * measured;
}

void EngineThread::Publish() {
  totals_.waiting = scheduler_.num_waiting();
  totals_.running = scheduler_.num_running();
  totals_.preempted = scheduler_.num_preempted();
  totals_.pages = runner_.num_pages();
  totals_.pages_used = scheduler_.pages_used();
  totals_.pages_cached = scheduler_.pages_cached();
  std::lock_guard<std::mutex> lock(mutex_);
  published_ = totals_;
}

}  // namespace winnow
