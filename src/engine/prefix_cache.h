// Pages of the KV cache that several sequences may read, found by the tokens they hold.
//
// A tree: every page hangs below the page of the tokens before it, and below the root of its salt.
// A page's rows depend on nothing but the tokens up to its end, so whoever comes with the same
// tokens may read them, and gets the bits that it would have computed itself.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "engine/page_pool.h"

namespace winnow {

// Not thread-safe: only the engine thread calls it.
class PrefixCache {
 public:
  struct Node;

  // `cost` says how dear it is to compute the page that begins at a position again, in any unit.
  PrefixCache(PagePool& pool, std::function<double(int64_t position)> cost);
  ~PrefixCache();
  PrefixCache(const PrefixCache&) = delete;
  PrefixCache& operator=(const PrefixCache&) = delete;

  struct Match {
    std::vector<Node*> nodes;  // whole pages, from the first token on
    Node* tail = nullptr;      // null, or a page whose first `tail_tokens` come next
    int64_t tail_tokens = 0;
  };
  // The longest known beginning of `tokens`, under `salt`. The caller holds a reference to every
  // node named and gives it back with Release.
  Match Find(const std::string& salt, std::span<const int32_t> tokens);

  // How many of `tokens` Find would find, tail included; changes nothing.
  int64_t Length(const std::string& salt, std::span<const int32_t> tokens) const;

  // Takes over `page`, which holds the rows of `tokens`, 1 to kPageSize of them, that follow
  // `parent` (null: nothing) under `salt`. If a page that begins with them is known already, `page`
  // goes back to the pool and the known one is returned. The caller holds a reference.
  Node* Insert(const std::string& salt, Node* parent, std::span<const int32_t> tokens,
               int32_t page);

  static int32_t Page(const Node* node);
  void Release(Node* node);

  // Gives the page that is worth least back to the pool; false if all are referenced. What a page
  // is worth: the cost of computing it again, aged by what was given up since it was last used
  // (GreedyDual; Cao and Irani 1997). Later pages of a sequence go before earlier ones.
  bool Evict();
  // Gives back every page without reference.
  void Clear();

  // Pages that Evict can give back, one after another.
  int64_t num_unreferenced() const { return num_unreferenced_; }

 private:
  struct ByWorth {
    bool operator()(const Node* a, const Node* b) const;
  };

  const Node* Root(const std::string& salt) const;
  void Reference(Node* node);
  void Drop(Node* node);
  void DropCoveredTails(Node* parent, std::span<const int32_t> tokens, const Node* keep);

  PagePool& pool_;
  std::function<double(int64_t)> cost_;
  std::map<std::string, std::unique_ptr<Node>> roots_;
  std::set<Node*, ByWorth> evictable_;  // without reference and without children
  double clock_ = 0;                    // what the page given up last was worth
  int64_t uses_ = 0;
  int64_t num_unreferenced_ = 0;
};

}  // namespace winnow
