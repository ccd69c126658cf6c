// What the scheduler knows of a request: its tokens, and where their rows are.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "backend/draw_token.h"
#include "engine/prefix_cache.h"

namespace winnow {

struct Sequence {
  // Set by the owner before it is added.
  std::vector<int32_t> tokens;  // the prompt; the owner appends the answer's, one a step
  std::string key;              // sequences of one key share its turn
  std::string salt;             // of the prefix cache
  bool all_logits = false;      // logits of every token are wanted: nothing is taken from the cache
  DrawRule draw;                // of the next token, as in Batch; the owner's for every step

  // Kept by the scheduler.
  int64_t arrival = 0;
  bool running = false;
  int64_t computed = 0;  // tokens whose rows are in `pages`
  std::vector<int32_t> pages;
  std::vector<PrefixCache::Node*> nodes;  // of the first pages: those that others may read
  int64_t most_computed = 0;              // so far; more than `computed` after a preemption
  int64_t cached = 0;                     // tokens that the last admission found in the cache
  int64_t considered = 0;                 // the last round in which it was looked at
  int64_t waits_for = -1;                 // arrival of the one that computes what this one needs,
  int64_t waits_until = 0;                // its first so many tokens

  int64_t num_tokens() const { return static_cast<int64_t>(tokens.size()); }
  int64_t pending() const { return num_tokens() - computed; }
};

}  // namespace winnow
