// The tokens of one step as the host knows them.
#pragma once

#include <cstdint>
#include <vector>

namespace winnow {

// Flat tokens of one or several sequences. For each token: its id, position, sequence (a row of
// page_tables) and the cache slot that its rows go to. The rows of earlier tokens are in the cache.
struct Batch {
  std::vector<int32_t> token_ids;
  std::vector<int32_t> positions;
  std::vector<int32_t> sequences;
  std::vector<int32_t> slots;
  std::vector<std::vector<int32_t>> page_tables;
  std::vector<int32_t> logit_rows;  // tokens whose logits are wanted, ascending

  int64_t num_tokens() const { return static_cast<int64_t>(token_ids.size()); }
};

}  // namespace winnow
