#include "engine/scheduler.h"

#include <algorithm>

#include "base/check.h"
#include "model/kv_cache.h"

namespace winnow {
namespace {

bool EarlierArrival(const Sequence* a, const Sequence* b) { return a->arrival < b->arrival; }

bool InStep(const Step& step, const Sequence* sequence) {
  return std::any_of(step.parts.begin(), step.parts.end(),
                     [&](const Step::Part& part) { return part.sequence == sequence; });
}

int64_t CommonLength(const Sequence& a, const Sequence& b) {
  const int64_t limit = std::min(a.num_tokens(), b.num_tokens());
  return std::mismatch(a.tokens.begin(), a.tokens.begin() + limit, b.tokens.begin()).first -
         a.tokens.begin();
}

}  // namespace

Scheduler::Scheduler(const SchedulerOptions& options)
    : options_(options), pool_(options.num_pages), cache_(pool_, options.page_cost) {
  WINNOW_CHECK(options.max_sequences >= 1 && options.max_sequences <= options.max_tokens,
               "Scheduler: a step has no room for a token of every sequence");
}

void Scheduler::Add(Sequence* sequence) {
  sequence->arrival = arrivals_++;
  Wait(sequence);
}

// A key that comes anew begins level with the one that was served least: it has no credit from the
// time when it asked for nothing.
void Scheduler::Wait(Sequence* sequence) {
  if (!keys_.contains(sequence->key)) {
    double least = 0;
    for (auto other = keys_.begin(); other != keys_.end(); ++other) {
      least = other == keys_.begin() ? other->second.served : std::min(least, other->second.served);
    }
    keys_[sequence->key].served = least;
  }
  std::list<Sequence*>& waiting = KeyOf(*sequence).waiting;
  waiting.insert(std::upper_bound(waiting.begin(), waiting.end(), sequence, EarlierArrival),
                 sequence);
  ++num_waiting_;
}

void Scheduler::DropIdleKey(const std::string& name) {
  const auto key = keys_.find(name);
  if (key->second.running == 0 && key->second.waiting.empty()) keys_.erase(key);
}

void Scheduler::Remove(Sequence* sequence) {
  if (sequence->running) {
    StopRunning(*sequence);
  } else {
    KeyOf(*sequence).waiting.remove(sequence);
    --num_waiting_;
  }
  DropIdleKey(sequence->key);
}

void Scheduler::StopRunning(Sequence& sequence) {
  ReleasePages(sequence);
  running_.erase(std::find(running_.begin(), running_.end(), &sequence));
  sequence.running = false;
  --KeyOf(sequence).running;
}

void Scheduler::Preempt(Sequence* sequence) {
  StopRunning(*sequence);
  Wait(sequence);
  ++num_preempted_;
}

// One token, step 4 of 9. From prepare.cc; next: Forward() in transformer.cc.
void Scheduler::Next(int64_t prompt_tokens, Step* step) {
  Rebalance();
  step->batch.Clear();
  step->parts.clear();
  AddAnswers(*step);
  const int64_t left = options_.max_tokens - step->batch.num_tokens();
  AddPrompts(*step, step->parts.empty() ? left : std::min(left, prompt_tokens));
}

// When every place is taken and a key that waits has at least two places fewer than another, the
// other's youngest sequence makes room. What it computed mostly stays in the prefix cache.
void Scheduler::Rebalance() {
  if (num_running() < options_.max_sequences) return;
  const Key* poorest = nullptr;
  const Key* richest = nullptr;
  for (const auto& [name, key] : keys_) {
    if (!key.waiting.empty() && (!poorest || key.running < poorest->running)) poorest = &key;
    if (!richest || key.running > richest->running) richest = &key;
  }
  if (poorest == nullptr || richest->running < poorest->running + 2) return;
  const auto youngest = std::find_if(running_.rbegin(), running_.rend(),
                                     [&](const Sequence* s) { return &KeyOf(*s) == richest; });
  Preempt(*youngest);
}

// The oldest first: those that lose their pages to it are not in the step yet.
void Scheduler::AddAnswers(Step& step) {
  answering_ = running_;
  for (Sequence* sequence : answering_) {
    if (!sequence->running || sequence->pending() != 1) continue;
    if (GrowPages(step, *sequence, 1)) AddPart(step, *sequence, 1);
  }
}

void Scheduler::AddPrompts(Step& step, int64_t budget) {
  ++rounds_;
  int64_t logit_rows = options_.max_logit_rows;
  bool admit = true;
  while (budget > 0) {
    Sequence* sequence = NextPrompt(admit);
    if (sequence == nullptr) return;
    sequence->considered = rounds_;
    if (!sequence->running) {
      if (MustWait(*sequence)) continue;
      admit = Admit(sequence);  // if there is no room for it, nobody overtakes it
      if (!admit) continue;
    }
    int64_t count = std::min(budget, sequence->pending());
    if (sequence->all_logits) count = std::min(count, logit_rows);
    if (count == 0 || !GrowPages(step, *sequence, count)) continue;
    if (sequence->all_logits) logit_rows -= count;
    budget -= count;
    AddPart(step, *sequence, count);
  }
}

// Among the sequences that still compute their prompts and the first that waits of each key (if
// `admit`): the
// one of the key that was served least, and of these the one that came first.
Sequence* Scheduler::NextPrompt(bool admit) const {
  Sequence* best = nullptr;
  const auto consider = [&](Sequence* sequence) {
    if (sequence->considered == rounds_) return false;
    const double served = keys_.at(sequence->key).served;
    const double least = best ? keys_.at(best->key).served : 0;
    if (!best || served < least || (served == least && EarlierArrival(sequence, best))) {
      best = sequence;
    }
    return true;
  };
  for (Sequence* sequence : running_) {
    if (sequence->pending() > 1) consider(sequence);
  }
  if (!admit || num_running() == options_.max_sequences) return best;
  for (const auto& [name, key] : keys_) {
    for (Sequence* sequence : key.waiting) {
      if (consider(sequence)) break;
    }
  }
  return best;
}

void Scheduler::AddPart(Step& step, Sequence& sequence, int64_t count) {
  Step::Part part{&sequence, sequence.computed, count, 0};
  const int64_t end = part.first + count;
  if (sequence.all_logits) {
    part.num_logits = count;
  } else if (end == sequence.num_tokens()) {
    part.num_logits = 1;
  }
  Batch& batch = step.batch;
  for (int64_t position = part.first; position < end; ++position) {
    const int64_t page = sequence.pages[static_cast<size_t>(position / kPageSize)];
    if (position >= end - part.num_logits) {
      batch.logit_rows.push_back(static_cast<int32_t>(batch.num_tokens()));
      batch.draws.push_back(sequence.draw);
    }
    batch.token_ids.push_back(sequence.tokens[static_cast<size_t>(position)]);
    batch.positions.push_back(static_cast<int32_t>(position));
    batch.sequences.push_back(static_cast<int32_t>(step.parts.size()));
    batch.slots.push_back(static_cast<int32_t>(page * kPageSize + position % kPageSize));
  }
  batch.page_tables.emplace_back(sequence.pages.data(), static_cast<size_t>(PagesFor(end)));
  KeyOf(sequence).served += static_cast<double>(count) * options_.page_cost(part.first);
  step.parts.push_back(part);
}

// Whether a running sequence is about to compute pages that this one needs too: then it pays to
// wait for them, as when many questions about one document come at once.
bool Scheduler::MustWait(Sequence& sequence) const {
  if (!options_.prefix_cache || sequence.all_logits) return false;
  for (const Sequence* other : running_) {
    if (other->arrival == sequence.waits_for) return other->computed < sequence.waits_until;
  }
  sequence.waits_for = -1;
  const std::span<const int32_t> tokens(sequence.tokens.data(), sequence.tokens.size() - 1);
  int64_t most = cache_.Length(sequence.salt, tokens);
  for (const Sequence* other : running_) {
    if (other->salt != sequence.salt || other->pending() <= 1) continue;
    const int64_t common = std::min(CommonLength(sequence, *other), sequence.num_tokens() - 1);
    const int64_t whole = common / kPageSize * kPageSize;
    if (whole <= most || other->computed >= whole) continue;
    most = whole;
    sequence.waits_for = other->arrival;
    sequence.waits_until = whole;
  }
  return sequence.waits_for >= 0;
}

// Pages that running sequences will take for the rest of their prompts, and one for each answer.
int64_t Scheduler::PagesSpokenFor() const {
  int64_t pages = 0;
  for (const Sequence* sequence : running_) {
    pages += std::max<int64_t>(
        1, PagesFor(sequence->num_tokens() + 1) - static_cast<int64_t>(sequence->pages.size()));
  }
  return pages;
}

bool Scheduler::Admit(Sequence* sequence) {
  PrefixCache::Match match;
  if (options_.prefix_cache && !sequence->all_logits) {
    match = cache_.Find(sequence->salt, {sequence->tokens.data(), sequence->tokens.size() - 1});
  }
  const int64_t found = static_cast<int64_t>(match.nodes.size());
  const int64_t room = pool_.free() + cache_.num_unreferenced() - PagesSpokenFor();
  if (!running_.empty() && PagesFor(sequence->num_tokens() + 1) - found > room) {
    if (match.tail != nullptr) cache_.Release(match.tail);
    for (auto node = match.nodes.rbegin(); node != match.nodes.rend(); ++node) {
      cache_.Release(*node);
    }
    return false;
  }
  Key& key = KeyOf(*sequence);
  key.waiting.remove(sequence);
  --num_waiting_;
  ++key.running;
  sequence->running = true;
  running_.insert(std::upper_bound(running_.begin(), running_.end(), sequence, EarlierArrival),
                  sequence);
  for (PrefixCache::Node* node : match.nodes) sequence->pages.push_back(PrefixCache::Page(node));
  sequence->nodes = std::move(match.nodes);
  sequence->computed = found * kPageSize;
  if (match.tail != nullptr && TakeTail(*sequence, match)) {
    sequence->computed += match.tail_tokens;
  }
  sequence->cached = sequence->computed;
  sequence->most_computed = std::max(sequence->most_computed, sequence->computed);
  return true;
}

// The last page found holds some of the next tokens, and others after them: a copy of it can be
// written on.
bool Scheduler::TakeTail(Sequence& sequence, const PrefixCache::Match& match) {
  const std::optional<int32_t> page = TakePage();
  if (page) {
    options_.copy_page(PrefixCache::Page(match.tail), *page);
    sequence.pages.push_back(*page);
  }
  cache_.Release(match.tail);
  return page.has_value();
}

std::optional<int32_t> Scheduler::TakePage() {
  std::optional<int32_t> page = pool_.Take();
  if (!page && cache_.Evict()) page = pool_.Take();
  return page;
}

// Pages for `tokens` more. When there are none, the youngest sequence that is not in the step gives
// up its own, be it this one. False if that does not suffice.
bool Scheduler::GrowPages(const Step& step, Sequence& sequence, int64_t tokens) {
  const int64_t wanted = PagesFor(sequence.computed + tokens);
  while (static_cast<int64_t>(sequence.pages.size()) < wanted) {
    if (const std::optional<int32_t> page = TakePage()) {
      sequence.pages.push_back(*page);
      continue;
    }
    const auto victim = std::find_if(running_.rbegin(), running_.rend(),
                                     [&](const Sequence* s) { return !InStep(step, s); });
    Preempt(*victim);
    if (!sequence.running) return false;
  }
  return true;
}

void Scheduler::Advance(const Step& step) {
  for (const Step::Part& part : step.parts) {
    Sequence& sequence = *part.sequence;
    sequence.computed += part.count;
    sequence.most_computed = std::max(sequence.most_computed, sequence.computed);
    SharePages(sequence);
  }
}

// Pages that are full are never written again, so others may read them. When two sequences have
// computed the same page, one copy goes.
void Scheduler::SharePages(Sequence& sequence) {
  if (!options_.prefix_cache) return;
  const std::span<const int32_t> tokens = sequence.tokens;
  for (size_t index = sequence.nodes.size();
       static_cast<int64_t>(index + 1) * kPageSize <= sequence.computed; ++index) {
    PrefixCache::Node* parent = index == 0 ? nullptr : sequence.nodes.back();
    PrefixCache::Node* node = cache_.Insert(
        sequence.salt, parent, tokens.subspan(index * static_cast<size_t>(kPageSize), kPageSize),
        sequence.pages[index]);
    sequence.nodes.push_back(node);
    sequence.pages[index] = PrefixCache::Page(node);
  }
}

void Scheduler::ReleasePages(Sequence& sequence) {
  const size_t whole = sequence.nodes.size();
  const std::span<const int32_t> tokens(sequence.tokens.data(),
                                        static_cast<size_t>(sequence.computed));
  const auto rest = tokens.subspan(whole * static_cast<size_t>(kPageSize));
  size_t kept = whole;
  if (options_.prefix_cache && !rest.empty()) {
    PrefixCache::Node* parent = whole == 0 ? nullptr : sequence.nodes.back();
    cache_.Release(cache_.Insert(sequence.salt, parent, rest, sequence.pages[whole]));
    ++kept;
  }
  for (size_t index = kept; index < sequence.pages.size(); ++index) {
    pool_.Give(sequence.pages[index]);
  }
  for (auto node = sequence.nodes.rbegin(); node != sequence.nodes.rend(); ++node) {
    cache_.Release(*node);
  }
  sequence.pages.clear();
  sequence.nodes.clear();
  sequence.computed = 0;
}

}  // namespace winnow
