// The one thread that owns everything that changes: it steps the model through the requests that
// run, and between requests does other work with the model.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <future>
#include <map>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "engine/attention_rates.h"
#include "engine/generation.h"
#include "engine/model_runner.h"
#include "engine/scheduler.h"

namespace winnow {

// Methods may be called from any thread.
class EngineThread {
 public:
  // `runner` and `tokenizer` (may be null) outlive it, and only its thread uses `runner` from here
  // on.
  EngineThread(const EngineOptions& options, ModelRunner& runner, const Tokenizer* tokenizer,
               const AttentionRates& rates);
  // What runs ends at its next step, what waits never begins; their streams are told so.
  ~EngineThread();
  EngineThread(const EngineThread&) = delete;
  EngineThread& operator=(const EngineThread&) = delete;

  // kResourceExhausted if too many wait.
  Status Submit(GenerationTask task, std::shared_ptr<StreamState> stream);

  // Has `task` run when no request runs, before any that comes later, and waits for it.
  // kUnavailable if the engine shuts down before.
  Status RunAlone(const std::function<Status()>& task);

  EngineStats stats() const;

 private:
  using Clock = Generation::Clock;

  struct Task {
    std::function<Status()> run;
    std::promise<Status> done;
  };

  using Generations = std::map<const Sequence*, std::unique_ptr<Generation>>;

  void Work();
  bool TakeWork();
  void RunTasks();
  void DropCancelled();
  void RunStep();
  void Begin(Generation& generation, Clock::time_point now);
  void Share(const Step& step, double seconds, std::vector<StepShare>* shares) const;
  void AddToTotals(const Step& step, const std::vector<StepShare>& shares, double seconds);
  void Deliver(const Step& step, const std::vector<StepShare>& shares, Clock::time_point now);
  void FailRunning(const Status& status);
  void End();
  void Remove(Generations::iterator generation);
  int64_t PromptTokensBesideAnswers() const;
  void LearnSpeed(const Step& step, double seconds);
  void Publish();
  int64_t NumWaiting() const;  // under mutex_

  const EngineOptions options_;
  ModelRunner& runner_;
  const Tokenizer* tokenizer_;
  const AttentionRates rates_;
  const CostModel costs_;

  // Of the engine thread.
  Scheduler scheduler_;
  Generations generations_;
  std::shared_ptr<void> logits_memory_;
  float* logits_;                        // of a step's rows
  std::vector<int32_t> drawn_;           // likewise
  Step step_;                            // the last one; kept for its memory
  std::vector<StepShare> shares_;        // of its parts, likewise
  double seconds_per_prompt_token_ = 0;  // lately; 0: not known
  EngineStats totals_;

  mutable std::mutex mutex_;  // guards what follows
  std::condition_variable changed_;
  std::deque<std::unique_ptr<Generation>> submitted_;
  std::deque<Task> tasks_;
  EngineStats published_;
  bool stop_ = false;

  std::thread thread_;  // last: it uses all of the above
};

}  // namespace winnow
