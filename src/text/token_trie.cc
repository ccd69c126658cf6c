// Sorted spellings, turned into a tree in one pass.
#include "text/token_trie.h"

#include <algorithm>

#include "text/byte_grammar.h"

namespace winnow {
namespace {

constexpr size_t kLongestToken = 253;  // bytes; longer ones are left out

bool MayBeUtf8(std::string_view bytes) {
  return std::none_of(bytes.begin(), bytes.end(), [](char byte) {
    const uint8_t value = static_cast<uint8_t>(byte);
    return value == 0xC0 || value == 0xC1 || value >= 0xF5;
  });
}

}  // namespace

TokenTrie::TokenTrie(const Tokenizer& tokenizer) {
  std::vector<int32_t> order;
  offsets_.push_back(0);
  for (int32_t token = 0; token < tokenizer.vocab_size(); ++token) {
    const std::string& bytes = tokenizer.TokenBytes(token);
    const std::optional<int32_t> added = tokenizer.FindToken(bytes);
    const bool is_marker = added == token || tokenizer.IsSpecial(token);
    if (!bytes.empty() && bytes.size() <= kLongestToken && MayBeUtf8(bytes)) {
      if (is_marker) bytes_ += kMarkerByte;
      bytes_ += bytes;
      order.push_back(token);
    }
    offsets_.push_back(static_cast<int64_t>(bytes_.size()));
  }
  std::sort(order.begin(), order.end(), [this](int32_t left, int32_t right) {
    const int order = Spelling(left).compare(Spelling(right));
    return order != 0 ? order < 0 : left < right;
  });

  nodes_.push_back({0, 0, kNoText, 0, 0});
  std::vector<int32_t> path = {0};  // nodes from the root to the last one
  std::string_view previous;
  for (int32_t token : order) {
    const std::string_view spelling = Spelling(token);
    const size_t shared =
        std::mismatch(spelling.begin(), spelling.end(), previous.begin(), previous.end()).first -
        spelling.begin();
    while (path.size() > shared + 1) {
      nodes_[path.back()].end = static_cast<int32_t>(nodes_.size());
      path.pop_back();
    }
    for (size_t depth = shared; depth < spelling.size(); ++depth) {
      path.push_back(static_cast<int32_t>(nodes_.size()));
      nodes_.push_back({static_cast<uint8_t>(spelling[depth]), static_cast<uint8_t>(depth + 1),
                        kNoText, 0, static_cast<int32_t>(tokens_.size())});
    }
    tokens_.push_back(token);
    longest_ = std::max(longest_, static_cast<int32_t>(spelling.size()));
    previous = spelling;
  }
  for (int32_t node : path) nodes_[node].end = static_cast<int32_t>(nodes_.size());
  std::vector<uint8_t> heights(nodes_.size());
  for (size_t node = nodes_.size(); node-- > 0;) {
    Node& parent = nodes_[node];
    int height = 0;
    for (size_t child = node + 1; static_cast<int32_t>(child) < parent.end;
         child = nodes_[child].end) {
      height = std::max(height, heights[child] + 1);
    }
    heights[node] = static_cast<uint8_t>(height);
    if (IsText(static_cast<int32_t>(node), 0, 0, 0)) parent.text_height = heights[node];
  }
}

// Whether all below `node` is plain text where `tail` bytes of a character are still to come, the
// first of them in [lowest, highest]. Children that are whole characters were decided before.
bool TokenTrie::IsText(int32_t node, int tail, uint8_t lowest, uint8_t highest) const {
  for (int32_t child = node + 1; child < nodes_[node].end; child = nodes_[child].end) {
    const uint8_t byte = nodes_[child].byte;
    bool is_text = false;
    if (tail > 0) {
      is_text =
          byte >= lowest && byte <= highest &&
          (tail == 1 ? nodes_[child].text_height != kNoText : IsText(child, tail - 1, 0x80, 0xBF));
    } else if (byte < 0x80) {
      is_text = byte >= 0x20 && byte != '"' && byte != '\\' && byte != '<' && byte != '/' &&
                nodes_[child].text_height != kNoText;
    } else if (byte >= 0xC2 && byte <= 0xF4) {
      is_text = IsText(child,
                       byte < 0xE0   ? 1
                       : byte < 0xF0 ? 2
                                     : 3,
                       byte == 0xE0   ? 0xA0
                       : byte == 0xF0 ? 0x90
                                      : 0x80,
                       byte == 0xED   ? 0x9F
                       : byte == 0xF4 ? 0x8F
                                      : 0xBF);
    }
    if (!is_text) return false;
  }
  return true;
}

std::string_view TokenTrie::Spelling(int32_t token) const {
  if (token < 0 || token >= vocab_size()) return {};
  return std::string_view(bytes_).substr(offsets_[token], offsets_[token + 1] - offsets_[token]);
}

std::optional<int32_t> TokenTrie::FindMarker(std::string_view content) const {
  const std::string spelling = kMarkerByte + std::string(content);
  int32_t node = 0;
  for (char byte : spelling) {
    int32_t child = node + 1;
    while (child < nodes_[node].end && nodes_[child].byte != static_cast<uint8_t>(byte)) {
      child = nodes_[child].end;
    }
    if (child >= nodes_[node].end) return std::nullopt;
    node = child;
  }
  const std::span<const int32_t> tokens = TokensAt(node);
  if (tokens.empty()) return std::nullopt;
  return tokens.front();
}

}  // namespace winnow
