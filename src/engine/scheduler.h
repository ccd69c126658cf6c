// Who runs in the next step, and on which cache pages.
//
// A step holds one token of every sequence that is answering and then, up to a limit, tokens of
// prompts. Keys take turns by the work done for them, sequences of a key in the order of arrival.
// A sequence is admitted when the pages of its prompt are free or can be freed; when answers grow
// beyond what there is, the youngest sequence gives up its pages and later computes again what the
// prefix cache could not keep. None of this changes a bit of any row or logit.
#pragma once

#include <functional>
#include <list>
#include <map>
#include <string>
#include <vector>

#include "engine/page_pool.h"
#include "engine/prefix_cache.h"
#include "engine/sequence.h"
#include "model/batch.h"

namespace winnow {

struct SchedulerOptions {
  int64_t num_pages = 0;
  int64_t max_tokens = 512;     // of a step
  int64_t max_sequences = 16;   // that run at the same time; at most max_tokens
  int64_t max_logit_rows = 64;  // of a step, for sequences with all_logits
  bool prefix_cache = true;
  // How dear it is to compute the page that begins at a position.
  std::function<double(int64_t position)> page_cost;
  // Copies all rows of a page to another.
  std::function<void(int32_t from, int32_t to)> copy_page;
};

// One step. `parts` follow each other in the batch.
struct Step {
  struct Part {
    Sequence* sequence = nullptr;
    int64_t first = 0;       // position of its first token in this step
    int64_t count = 0;       // tokens
    int64_t num_logits = 0;  // of its last tokens
  };
  Batch batch;
  std::vector<Part> parts;
};

// Not thread-safe: only the engine thread calls it. Sequences belong to the caller and stay where
// they are from Add to Remove.
class Scheduler {
 public:
  explicit Scheduler(const SchedulerOptions& options);

  void Add(Sequence* sequence);
  // The sequence is over, for whatever reason. What was computed for it stays in the prefix cache.
  void Remove(Sequence* sequence);

  // Makes `step` the next one; without parts if nobody is there. While some sequence is answering,
  // at most `prompt_tokens` tokens of prompts come along, so that answers keep flowing. It refers
  // to the pages of its sequences until Advance.
  void Next(int64_t prompt_tokens, Step* step);
  // The step has run: its rows are in the cache.
  void Advance(const Step& step);
  // Forgets what was computed for sequences that are over.
  void DropCache() { cache_.Clear(); }

  int64_t num_waiting() const { return num_waiting_; }
  int64_t num_running() const { return static_cast<int64_t>(running_.size()); }
  int64_t num_preempted() const { return num_preempted_; }
  int64_t pages_cached() const { return cache_.num_unreferenced(); }
  int64_t pages_used() const { return pool_.num_pages() - pool_.free() - pages_cached(); }

 private:
  struct Key {
    double served = 0;             // work done for it, in the unit of page_cost
    int64_t running = 0;           // sequences
    std::list<Sequence*> waiting;  // by arrival
  };

  Key& KeyOf(const Sequence& sequence) { return keys_.at(sequence.key); }
  void Wait(Sequence* sequence);
  void DropIdleKey(const std::string& name);

  void Rebalance();
  void AddAnswers(Step& step);
  void AddPrompts(Step& step, int64_t budget);
  Sequence* NextPrompt(bool admit) const;
  void AddPart(Step& step, Sequence& sequence, int64_t count);

  bool MustWait(Sequence& sequence) const;
  bool Admit(Sequence* sequence);
  int64_t PagesSpokenFor() const;
  bool TakeTail(Sequence& sequence, const PrefixCache::Match& match);

  bool GrowPages(const Step& step, Sequence& sequence, int64_t tokens);
  std::optional<int32_t> TakePage();
  void Preempt(Sequence* sequence);
  void StopRunning(Sequence& sequence);
  void SharePages(Sequence& sequence);
  void ReleasePages(Sequence& sequence);

  SchedulerOptions options_;
  PagePool pool_;
  PrefixCache cache_;
  std::map<std::string, Key> keys_;   // those with sequences
  std::vector<Sequence*> running_;    // by arrival
  std::vector<Sequence*> answering_;  // as running_ was when the step began
  int64_t arrivals_ = 0;
  int64_t rounds_ = 0;  // of looking for prompts
  int64_t num_waiting_ = 0;
  int64_t num_preempted_ = 0;
};

}  // namespace winnow
