// The second half of tokenizing: merging the bytes of one piece, pair by pair, into tokens.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>
#include <vector>

namespace winnow {

// What the pair of two tokens becomes.
struct Merge {
  int32_t rank;   // lower merges first
  int32_t token;  // the token of the joined bytes
};

// From pairs of tokens to merges: a hash table with open addressing.
class MergeTable {
 public:
  // Room for `num_merges` insertions.
  explicit MergeTable(int64_t num_merges = 0);

  // A pair that is there already takes the new merge.
  void Insert(int32_t left, int32_t right, Merge merge);

  // Null if the two do not merge.
  const Merge* Find(int32_t left, int32_t right) const {
    const uint64_t key = Key(left, right);
    for (uint64_t slot = Hash(key) & mask_;; slot = (slot + 1) & mask_) {
      if (slots_[slot].key == key) return &slots_[slot].merge;
      if (slots_[slot].key == kEmpty) return nullptr;
    }
  }

 private:
  struct Slot {
    uint64_t key;
    Merge merge;
  };
  static constexpr uint64_t kEmpty = ~uint64_t{0};  // token ids are not negative

  static uint64_t Key(int32_t left, int32_t right) {
    return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
  }
  static uint64_t Hash(uint64_t key) {
    key ^= key >> 32;
    key *= 0x9E3779B97F4A7C15;
    return key ^ key >> 29;
  }

  std::vector<Slot> slots_;
  uint64_t mask_;
};

// Merges the pieces of a text. Keeps its working memory between pieces; one thread at a time.
class BytePairMerger {
 public:
  // `byte_tokens` holds the token of each single byte. Both outlive the merger.
  BytePairMerger(const std::array<int32_t, 256>& byte_tokens, const MergeTable& merges)
      : byte_tokens_(byte_tokens), merges_(merges) {}

  // Appends the tokens of `piece`, shorter than 2^31 bytes: again and again the pair with the
  // lowest rank, the leftmost of equals, is merged, until none is left. Time grows with the length,
  // not with its square.
  void Encode(std::string_view piece, std::vector<int32_t>& tokens);

 private:
  // A token within the piece, in a list linked by index. The pair it is the left half of has
  // `rank`.
  struct Symbol {
    int32_t token;
    int32_t rank;  // kNoMerge if the pair does not merge or the symbol was merged away
    int32_t previous;
    int32_t next;
  };

  template <typename Queue>
  void MergeAll(Queue& queue);
  void UpdateRank(int32_t position);

  const std::array<int32_t, 256>& byte_tokens_;
  const MergeTable& merges_;
  std::vector<Symbol> symbols_;
};

}  // namespace winnow
