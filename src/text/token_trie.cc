// Sorted spellings, turned into a tree in one pass.
#include "text/token_trie.h"

#include <algorithm>

#include "text/byte_grammar.h"

namespace winnow {
namespace {

constexpr size_t kLongestToken = 256;  // bytes; longer ones are left out

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
    if (!bytes.empty() && bytes.size() < kLongestToken && MayBeUtf8(bytes)) {
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

  nodes_.push_back({0, 0, 0, 0});
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
      nodes_.push_back({static_cast<uint8_t>(spelling[depth]), static_cast<uint16_t>(depth + 1), 0,
                        static_cast<int32_t>(tokens_.size())});
    }
    tokens_.push_back(token);
    longest_ = std::max(longest_, static_cast<int32_t>(spelling.size()));
    previous = spelling;
  }
  for (int32_t node : path) nodes_[node].end = static_cast<int32_t>(nodes_.size());
}

std::span<const int32_t> TokenTrie::TokensAt(int32_t node) const {
  const size_t first = nodes_[node].first_token;
  const size_t last =
      static_cast<size_t>(node) + 1 < nodes_.size() ? nodes_[node + 1].first_token : tokens_.size();
  return std::span(tokens_).subspan(first, last - first);
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
