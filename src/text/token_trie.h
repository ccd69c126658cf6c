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
    uint8_t byte;   // that leads here
    uint8_t depth;  // bytes
    // How many bytes the longest spelling below has from here on, if all that is below, read from
    // the beginning of a character, is plain text: valid UTF-8, perhaps cut off, with no control
    // characters and none of " \\ < /. Otherwise kNoText.
    uint8_t text_height;
    int32_t end;          // the first node behind the subtree
    int32_t first_token;  // of those that end here or below, in their order
  };
  static constexpr uint8_t kNoText = 255;
  std::span<const Node> nodes() const { return nodes_; }
  // The tokens that are spelled as `node`; those and the tokens below.
  std::span<const int32_t> TokensAt(int32_t node) const { return Tokens(node, node + 1); }
  std::span<const int32_t> TokensFrom(int32_t node) const { return Tokens(node, nodes_[node].end); }

  // How a token is spelled; empty for those left out.
  std::string_view Spelling(int32_t token) const;

  // The id of the marker with this content.
  std::optional<int32_t> FindMarker(std::string_view content) const;

  int32_t vocab_size() const { return static_cast<int32_t>(offsets_.size()) - 1; }
  int32_t longest() const { return longest_; }  // bytes of a spelling

 private:
  std::span<const int32_t> Tokens(int32_t first_node, int32_t last_node) const {
    const auto place = [this](int32_t node) {
      return static_cast<size_t>(node) < nodes_.size() ? nodes_[node].first_token : tokens_.size();
    };
    return std::span(tokens_).subspan(place(first_node), place(last_node) - place(first_node));
  }
  bool IsText(int32_t node, int tail, uint8_t lowest, uint8_t highest) const;

  std::vector<Node> nodes_;
  std::vector<int32_t> tokens_;   // in the order of their nodes
  std::string bytes_;             // of all spellings
  std::vector<int64_t> offsets_;  // [vocab_size + 1] into bytes_
  int32_t longest_ = 0;
};

}  // namespace winnow
