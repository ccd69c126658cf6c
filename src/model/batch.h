// The tokens of one step as the host knows them.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "backend/draw_token.h"

namespace winnow {

// Flat tokens of one or several sequences. For each token: its id, position, sequence (a row of
// page_tables) and the cache slot that its rows go to. The rows of earlier tokens are in the cache.
struct Batch {
  std::vector<int32_t> token_ids;
  std::vector<int32_t> positions;
  std::vector<int32_t> sequences;
  std::vector<int32_t> slots;
  std::vector<std::span<const int32_t>> page_tables;  // pages of whoever made the batch
  std::vector<int32_t> logit_rows;                    // tokens whose logits are wanted, ascending
  // For each of logit_rows: by which rule its token is drawn, which is all that is wanted of its
  // logits; or one that draws nothing, and the logits are wanted. Empty: none draws.
  std::vector<DrawRule> draws;

  // Takes the memory of so many tokens and sequences, so that filling it takes none.
  void Reserve(int64_t tokens, int64_t num_sequences) {
    for (auto* values : {&token_ids, &positions, &sequences, &slots, &logit_rows}) {
      values->reserve(static_cast<size_t>(tokens));
    }
    draws.reserve(static_cast<size_t>(tokens));
    page_tables.reserve(static_cast<size_t>(num_sequences));
  }
  // Empty again; memory stays for the next step.
  void Clear() {
    for (auto* values : {&token_ids, &positions, &sequences, &slots, &logit_rows}) values->clear();
    draws.clear();
    page_tables.clear();
  }
  int64_t num_tokens() const { return static_cast<int64_t>(token_ids.size()); }
};

// Where a step's results go, memory of the host: a place for each of logit_rows in both, of which
// one is written.
struct StepResults {
  float* logits = nullptr;    // [rows, vocab_size]
  int32_t* tokens = nullptr;  // [rows] -1: as DrawToken says
};

}  // namespace winnow
