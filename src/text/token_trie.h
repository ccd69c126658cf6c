// The tokens of a tokenizer as a tree over their bytes, in which a constraint finds all tokens that
// may come next without spelling each of them.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "text/tokenizer.h"

namespace winnow {

// Immutable; any number of threads may use it. Added tokens are markers: they are spelled
// kMarkerByte (byte_grammar.h) and their content. Left out are unknown ids and tokens with bytes
// that no UTF-8 has.
class TokenTrie {
 public:
  explicit TokenTrie(const Tokenizer& tokenizer);

  // A place in the tree. Node 0 is the empty text; nodes lie in depth-first order, children by
  // byte.
  struct Node {
    uint8_t byte;         // that leads here
    uint16_t depth;       // bytes
    int32_t end;          // the first node behind the subtree
    int32_t first_token;  // tokens that end here are tokens()[first_token, next node's)
  };
  std::span<const Node> nodes() const { return nodes_; }
  // The tokens that are spelled as `node`, a few at most.
  std::span<const int32_t> TokensAt(int32_t node) const;

  // How a token is spelled; empty for those left out.
  std::string_view Spelling(int32_t token) const;

  // The id of the marker with this content.
  std::optional<int32_t> FindMarker(std::string_view content) const;

  int32_t vocab_size() const { return static_cast<int32_t>(offsets_.size()) - 1; }
  int32_t longest() const { return longest_; }  // bytes of a spelling

 private:
  std::vector<Node> nodes_;
  std::vector<int32_t> tokens_;   // in the order of their nodes
  std::string bytes_;             // of all spellings
  std::vector<int64_t> offsets_;  // [vocab_size + 1] into bytes_
  int32_t longest_ = 0;
};

}  // namespace winnow
