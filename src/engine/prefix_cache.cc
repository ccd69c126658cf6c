#include "engine/prefix_cache.h"

#include <algorithm>

#include "base/check.h"
#include "model/kv_cache.h"

namespace winnow {
namespace {

using Tokens = std::span<const int32_t>;

int64_t CommonTokens(Tokens a, Tokens b) {
  const size_t limit = std::min(a.size(), b.size());
  return std::mismatch(a.begin(), a.begin() + static_cast<int64_t>(limit), b.begin()).first -
         a.begin();
}

}  // namespace

struct PrefixCache::Node {
  // Children in the order of their tokens, so that the one with the longest common beginning stands
  // next to where a run of tokens would be.
  struct ByTokens {
    using is_transparent = void;
    static Tokens Of(const std::unique_ptr<Node>& node) { return node->tokens; }
    static Tokens Of(Tokens tokens) { return tokens; }
    template <typename A, typename B>
    bool operator()(const A& a, const B& b) const {
      const Tokens left = Of(a);
      const Tokens right = Of(b);
      return std::lexicographical_compare(left.begin(), left.end(), right.begin(), right.end());
    }
  };

  std::vector<int32_t> tokens;  // empty in a root
  int32_t page = -1;
  int64_t position = 0;  // of the first token
  Node* parent = nullptr;
  std::string salt;  // of a root
  std::set<std::unique_ptr<Node>, ByTokens> children;
  int64_t references = 0;
  double worth = 0;
  int64_t last_use = 0;

  bool whole() const { return static_cast<int64_t>(tokens.size()) == kPageSize; }

  // The child that shares the most of its beginning with `wanted`, and how much; null: none.
  std::pair<Node*, int64_t> Closest(Tokens wanted) const {
    std::pair<Node*, int64_t> best{nullptr, 0};
    const auto after = children.lower_bound(wanted);
    const auto consider = [&](const std::unique_ptr<Node>& child) {
      const int64_t common = CommonTokens(child->tokens, wanted);
      if (common > best.second) best = {child.get(), common};
    };
    if (after != children.end()) consider(*after);
    if (after != children.begin()) consider(*std::prev(after));
    return best;
  }
};

bool PrefixCache::ByWorth::operator()(const Node* a, const Node* b) const {
  if (a->worth != b->worth) return a->worth < b->worth;
  return a->last_use < b->last_use;
}

PrefixCache::PrefixCache(PagePool& pool, std::function<double(int64_t)> cost)
    : pool_(pool), cost_(std::move(cost)) {}
PrefixCache::~PrefixCache() = default;

int32_t PrefixCache::Page(const Node* node) { return node->page; }

const PrefixCache::Node* PrefixCache::Root(const std::string& salt) const {
  const auto root = roots_.find(salt);
  return root == roots_.end() ? nullptr : root->second.get();
}

PrefixCache::Match PrefixCache::Find(const std::string& salt, Tokens tokens) {
  Match match;
  const Node* node = Root(salt);
  while (node != nullptr && !tokens.empty()) {
    const Tokens wanted = tokens.first(std::min(tokens.size(), static_cast<size_t>(kPageSize)));
    const auto [child, common] = node->Closest(wanted);
    if (child == nullptr) break;
    Reference(child);
    if (common < kPageSize) {
      match.tail = child;
      match.tail_tokens = common;
      break;
    }
    match.nodes.push_back(child);
    tokens = tokens.subspan(static_cast<size_t>(kPageSize));
    node = child;
  }
  return match;
}

int64_t PrefixCache::Length(const std::string& salt, Tokens tokens) const {
  int64_t length = 0;
  const Node* node = Root(salt);
  while (node != nullptr && !tokens.empty()) {
    const Tokens wanted = tokens.first(std::min(tokens.size(), static_cast<size_t>(kPageSize)));
    const auto [child, common] = node->Closest(wanted);
    length += common;
    if (child == nullptr || common < kPageSize) break;
    tokens = tokens.subspan(static_cast<size_t>(kPageSize));
    node = child;
  }
  return length;
}

PrefixCache::Node* PrefixCache::Insert(const std::string& salt, Node* parent, Tokens tokens,
                                       int32_t page) {
  WINNOW_CHECK(!tokens.empty() && static_cast<int64_t>(tokens.size()) <= kPageSize,
               "PrefixCache: a page of no tokens, or of too many");
  if (parent == nullptr) {
    std::unique_ptr<Node>& root = roots_[salt];
    if (root == nullptr) {
      root = std::make_unique<Node>();
      root->salt = salt;
    }
    parent = root.get();
  }
  const auto [known, common] = parent->Closest(tokens);
  if (common == static_cast<int64_t>(tokens.size())) {
    pool_.Give(page);
    Reference(known);
    return known;
  }
  auto node = std::make_unique<Node>();
  node->tokens.assign(tokens.begin(), tokens.end());
  node->page = page;
  node->parent = parent;
  node->position = parent->tokens.empty() ? 0 : parent->position + kPageSize;
  node->references = 1;
  evictable_.erase(parent);
  Node* added = node.get();
  parent->children.insert(std::move(node));
  DropCoveredTails(parent, tokens, added);
  return added;
}

// A page that holds fewer tokens than its new sibling, and none that the sibling does not hold, is
// of no more use. Such pages stand before the sibling, one beginning of it after another.
void PrefixCache::DropCoveredTails(Node* parent, Tokens tokens, const Node* keep) {
  for (;;) {
    const auto place = parent->children.find(tokens);
    if (place == parent->children.begin()) return;
    Node* before = std::prev(place)->get();
    const bool covered =
        before != keep && !before->whole() && before->references == 0 &&
        CommonTokens(before->tokens, tokens) == static_cast<int64_t>(before->tokens.size());
    if (!covered) return;
    Drop(before);
  }
}

void PrefixCache::Reference(Node* node) {
  if (node->references++ > 0) return;
  --num_unreferenced_;
  evictable_.erase(node);
}

void PrefixCache::Release(Node* node) {
  WINNOW_CHECK(node->references > 0, "PrefixCache: a page is released more often than referenced");
  if (--node->references > 0) return;
  ++num_unreferenced_;
  node->worth = clock_ + cost_(node->position);
  node->last_use = ++uses_;
  if (node->children.empty()) evictable_.insert(node);
}

bool PrefixCache::Evict() {
  if (evictable_.empty()) return false;
  Node* node = *evictable_.begin();
  clock_ = std::max(clock_, node->worth);
  Drop(node);
  return true;
}

void PrefixCache::Drop(Node* node) {
  WINNOW_CHECK(node->references == 0 && node->children.empty(), "PrefixCache: a page is in use");
  evictable_.erase(node);
  --num_unreferenced_;
  pool_.Give(node->page);
  Node* parent = node->parent;
  parent->children.erase(parent->children.find(Tokens(node->tokens)));
  if (!parent->children.empty()) return;
  if (parent->parent == nullptr) {
    roots_.erase(std::string(parent->salt));
  } else if (parent->references == 0) {
    evictable_.insert(parent);
  }
}

void PrefixCache::Clear() {
  while (Evict()) {
  }
}

}  // namespace winnow
