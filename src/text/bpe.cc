// Byte-pair merging over a linked list of symbols, with a queue that says which pair is next.
//
// Two queues give the same order, by rank and then by position. A binary heap is quick for the
// pieces that text is made of. For pieces of many kilobytes (one character a million times over)
// its depth and its cache misses cost more than the merging, so there the pairs wait in one list
// for each rank: a table whose merges build on earlier ones fills a list in rising positions before
// it is read.
#include "text/bpe.h"

#include <algorithm>
#include <bit>
#include <functional>
#include <queue>
#include <unordered_map>

namespace winnow {
namespace {

constexpr int32_t kNoMerge = -1;
constexpr int32_t kNone = -1;
constexpr size_t kLongPiece = 1 << 14;  // bytes; where the lists of ranks begin to win

struct Pair {
  int32_t rank;
  int32_t position;
};

template <typename T>
using MinHeap = std::priority_queue<T, std::vector<T>, std::greater<T>>;

class HeapQueue {
 public:
  void Push(Pair pair) {
    heap_.push(static_cast<uint64_t>(pair.rank) << 32 | static_cast<uint32_t>(pair.position));
  }
  bool Pop(Pair& pair) {
    if (heap_.empty()) return false;
    pair = {static_cast<int32_t>(heap_.top() >> 32), static_cast<int32_t>(heap_.top())};
    heap_.pop();
    return true;
  }

 private:
  MinHeap<uint64_t> heap_;
};

class RankQueue {
 public:
  void Push(Pair pair) {
    // Runs of one character push the same rank again and again.
    if (pair.rank != last_rank_) {
      const auto [entry, is_new] = list_of_.try_emplace(pair.rank, lists_.size());
      if (is_new) lists_.emplace_back();
      last_rank_ = pair.rank;
      last_list_ = entry->second;
    }
    List& list = lists_[last_list_];
    if (!list.waiting) {
      list.waiting = true;
      ranks_.push({pair.rank, last_list_});
    }
    if (list.reading) {
      list.late.push(pair.position);
    } else {
      list.positions.push_back(pair.position);
    }
  }

  bool Pop(Pair& pair) {
    while (!ranks_.empty()) {
      const auto [rank, index] = ranks_.top();
      List& list = lists_[index];
      if (!list.reading) {
        list.reading = true;
        if (!std::is_sorted(list.positions.begin(), list.positions.end())) {
          std::sort(list.positions.begin(), list.positions.end());
        }
      }
      const bool has_next = list.next < list.positions.size();
      if (!list.late.empty() && (!has_next || list.late.top() < list.positions[list.next])) {
        pair = {rank, list.late.top()};
        list.late.pop();
        return true;
      }
      if (has_next) {
        pair = {rank, list.positions[list.next++]};
        return true;
      }
      list = List();
      ranks_.pop();
    }
    return false;
  }

 private:
  // The positions of one rank. Those that come while it is read go to a heap, and are merged in.
  struct List {
    std::vector<int32_t> positions;
    size_t next = 0;
    MinHeap<int32_t> late;
    bool waiting = false;
    bool reading = false;
  };

  std::unordered_map<int32_t, size_t> list_of_;  // by rank
  std::vector<List> lists_;
  int32_t last_rank_ = kNoMerge;
  size_t last_list_ = 0;
  MinHeap<std::pair<int32_t, size_t>> ranks_;  // of the lists that wait or are read
};

}  // namespace

MergeTable::MergeTable(int64_t num_merges)
    : slots_(std::bit_ceil(static_cast<uint64_t>(num_merges) * 2 + 1), Slot{kEmpty, {0, 0}}),
      mask_(slots_.size() - 1) {}

void MergeTable::Insert(int32_t left, int32_t right, Merge merge) {
  const uint64_t key = Key(left, right);
  uint64_t slot = Hash(key) & mask_;
  while (slots_[slot].key != kEmpty && slots_[slot].key != key) slot = (slot + 1) & mask_;
  slots_[slot] = {key, merge};
}

void BytePairMerger::UpdateRank(int32_t position) {
  Symbol& symbol = symbols_[position];
  const Merge* merge =
      symbol.next == kNone ? nullptr : merges_.Find(symbol.token, symbols_[symbol.next].token);
  symbol.rank = merge != nullptr ? merge->rank : kNoMerge;
}

template <typename Queue>
void BytePairMerger::MergeAll(Queue& queue) {
  const auto update = [&](int32_t position) {
    UpdateRank(position);
    if (symbols_[position].rank != kNoMerge) queue.Push({symbols_[position].rank, position});
  };
  for (int32_t position = 0; position < static_cast<int32_t>(symbols_.size()); ++position) {
    update(position);
  }
  Pair pair;
  while (queue.Pop(pair)) {
    Symbol& left = symbols_[pair.position];
    if (left.rank != pair.rank) continue;  // one of the two merged with another meanwhile
    Symbol& right = symbols_[left.next];
    left.token = merges_.Find(left.token, right.token)->token;
    left.next = right.next;
    right.rank = kNoMerge;
    if (left.next != kNone) symbols_[left.next].previous = pair.position;
    update(pair.position);
    if (left.previous != kNone) update(left.previous);
  }
}

void BytePairMerger::Encode(std::string_view piece, std::vector<int32_t>& tokens) {
  if (piece.empty()) return;
  const int32_t length = static_cast<int32_t>(piece.size());
  symbols_.resize(piece.size());
  for (int32_t position = 0; position < length; ++position) {
    symbols_[position] = {byte_tokens_[static_cast<uint8_t>(piece[position])], kNoMerge,
                          position - 1, position + 1 < length ? position + 1 : kNone};
  }
  if (piece.size() >= kLongPiece) {
    RankQueue queue;
    MergeAll(queue);
    symbols_.shrink_to_fit();
  } else {
    HeapQueue queue;
    MergeAll(queue);
  }
  for (int32_t position = 0; position != kNone; position = symbols_[position].next) {
    tokens.push_back(symbols_[position].token);
  }
}

}  // namespace winnow
