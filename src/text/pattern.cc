// The subset construction over ranges of code points, together with a count of characters.
#include "text/pattern.h"

#include <algorithm>
#include <map>

#include "base/check.h"
#include "base/text.h"

namespace winnow {
namespace {

constexpr int64_t kMaxStates = 1 << 12;
constexpr int64_t kMaxPatternWork = 1 << 22;

// Subsets of the parser's states together with a count of characters, as far as it matters.
class Determinizer {
 public:
  Determinizer(const PatternNfa& nfa, int64_t min, int64_t max, std::string_view forbidden)
      : nfa_(nfa.states), end_(nfa.end), min_(min), max_(max), forbidden_(forbidden) {
    NodeOf({nfa.start}, 0);
  }

  // False past the limits.
  bool Run(CharacterAutomaton& automaton) {
    for (size_t next = 0; next < keys_.size(); ++next) {
      Expand(*keys_[next], static_cast<int32_t>(next));
      if (std::ssize(keys_) > kMaxStates || work_ > kMaxPatternWork) return false;
    }
    automaton.states = Pruned();
    return true;
  }

 private:
  struct Key {
    std::vector<int32_t> subset;
    int64_t count;
    auto operator<=>(const Key&) const = default;
  };

  int32_t NodeOf(std::vector<int32_t> subset, int64_t count) {
    std::vector<bool> seen(nfa_.size());
    size_t kept = 0;
    for (int32_t state : subset) {
      if (!seen[state]) subset[kept++] = state;
      seen[state] = true;
    }
    subset.resize(kept);
    for (size_t next = 0; next < subset.size(); ++next) {
      for (int32_t target : nfa_[subset[next]].empty) {
        if (!seen[target]) subset.push_back(target);
        seen[target] = true;
      }
    }
    work_ += std::ssize(subset) + std::ssize(nfa_) / 64;
    std::sort(subset.begin(), subset.end());
    const auto [entry, is_new] =
        nodes_.try_emplace({std::move(subset), count}, static_cast<int32_t>(states_.size()));
    if (is_new) {
      states_.emplace_back();
      keys_.push_back(&entry->first);
    }
    return entry->second;
  }

  void Expand(const Key& key, int32_t node) {
    states_[node].is_final =
        std::binary_search(key.subset.begin(), key.subset.end(), end_) && key.count >= min_;
    if (max_ >= 0 && key.count == max_) return;
    // Beyond the least a count matters only where there is a most.
    const int64_t count = max_ < 0 ? std::min(key.count + 1, min_) : key.count + 1;
    std::vector<CharacterEdge> edges;
    std::vector<uint32_t> borders;
    for (int32_t state : key.subset) {
      for (const CharacterEdge& edge : nfa_[state].edges) {
        edges.push_back(edge);
        borders.push_back(edge.first);
        borders.push_back(edge.last + 1);
      }
    }
    for (uint8_t byte : forbidden_) {
      borders.push_back(byte);
      borders.push_back(byte + 1u);
    }
    std::sort(borders.begin(), borders.end());
    borders.erase(std::unique(borders.begin(), borders.end()), borders.end());
    work_ += std::ssize(edges) * std::ssize(borders);
    if (work_ > kMaxPatternWork) return;
    for (size_t index = 0; index + 1 < borders.size(); ++index) {
      const uint32_t first = borders[index];
      if (first < 0x80 && forbidden_.find(static_cast<char>(first)) != std::string_view::npos) {
        continue;
      }
      std::vector<int32_t> targets;
      for (const CharacterEdge& edge : edges) {
        if (edge.first <= first && first <= edge.last) targets.push_back(edge.target);
      }
      if (targets.empty()) continue;
      const int32_t target = NodeOf(std::move(targets), count);
      states_[node].edges.push_back({first, borders[index + 1] - 1, target});
    }
  }

  // The states from which an end is reached, in their order; none if the start is not.
  std::vector<CharacterAutomaton::State> Pruned() {
    std::vector<std::vector<int32_t>> sources(states_.size());
    for (size_t state = 0; state < states_.size(); ++state) {
      for (const auto& edge : states_[state].edges) {
        sources[edge.target].push_back(static_cast<int32_t>(state));
      }
    }
    std::vector<bool> lives(states_.size());
    std::vector<int32_t> queue;
    for (size_t state = 0; state < states_.size(); ++state) {
      lives[state] = states_[state].is_final;
      if (lives[state]) queue.push_back(static_cast<int32_t>(state));
    }
    while (!queue.empty()) {
      const int32_t state = queue.back();
      queue.pop_back();
      for (int32_t source : sources[state]) {
        if (!lives[source]) queue.push_back(source);
        lives[source] = true;
      }
    }
    if (!lives[0]) return {};
    for (auto& state : states_) {
      std::erase_if(state.edges, [&](const auto& edge) { return !lives[edge.target]; });
    }
    return std::move(states_);
  }

  const std::vector<PatternNfa::State>& nfa_;
  int32_t end_;
  int64_t min_;
  int64_t max_;
  std::string_view forbidden_;
  int64_t work_ = 0;
  std::map<Key, int32_t> nodes_;
  std::vector<const Key*> keys_;  // in the order of the states
  std::vector<CharacterAutomaton::State> states_;
};

}  // namespace

Result<CharacterAutomaton> CompilePattern(std::string_view pattern, int64_t min, int64_t max,
                                          std::string_view forbidden, std::string_view what) {
  WINNOW_ASSIGN(const PatternNfa nfa, ParsePattern(pattern, what));
  CharacterAutomaton automaton;
  if (!Determinizer(nfa, min, max, forbidden).Run(automaton)) {
    return Unsupported(
        fmt::format("{}: {} with its lengths needs more than {} states, expected a smaller pattern",
                    what, Quoted(pattern), kMaxStates));
  }
  return automaton;
}

}  // namespace winnow
