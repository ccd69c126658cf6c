// The subset construction, which makes rules deterministic, and the checks that make a grammar safe
// to run: no dead ends, no loops that read nothing, no growth of readings.
#include "text/byte_grammar.h"

#include <algorithm>
#include <array>
#include <map>

#include "base/check.h"
#include "base/text.h"

namespace winnow {
namespace {

constexpr int64_t kMaxNodes = 1 << 17;
constexpr int64_t kMaxEdges = 1 << 20;
constexpr int kMaxReadings = 32;       // that one byte begins at one node
constexpr int64_t kMaxWork = 1 << 24;  // members of subsets looked at

}  // namespace

// The subset construction for one rule.
class GrammarBuilder::Subsets {
 public:
  Subsets(ByteGrammar& grammar, int64_t& work, const ByteNfa& nfa, int32_t rule, int32_t end)
      : grammar_(grammar), work_(work), nfa_(nfa), rule_(rule), end_(end), seen_(nfa.size()) {}

  // Appends the nodes; the first one is the start. False past the limits.
  bool Run(int32_t start) {
    NodeOf({start});
    for (size_t next = 0; next < subsets_.size(); ++next) {
      if (!Expand(subsets_[next]->first, subsets_[next]->second)) return false;
    }
    return true;
  }

 private:
  using Subset = std::vector<int32_t>;

  // The states reached for nothing, sorted.
  Subset Closure(Subset subset) {
    ++round_;
    size_t kept = 0;
    for (int32_t state : subset) {
      if (Mark(state)) subset[kept++] = state;
    }
    subset.resize(kept);
    bool is_exclusive = false;
    for (size_t next = 0; next < subset.size(); ++next) {
      const ByteNfa::State& state = nfa_.states_[subset[next]];
      is_exclusive |= state.is_exclusive;
      for (int32_t target : state.empty) {
        if (Mark(target)) subset.push_back(target);
      }
    }
    work_ += std::ssize(subset);
    if (is_exclusive) {
      // What an exclusive state reaches for nothing stays with it.
      Subset exclusive;
      for (int32_t state : subset) {
        if (nfa_.states_[state].is_exclusive) exclusive.push_back(state);
      }
      ++round_;
      for (int32_t state : exclusive) Mark(state);
      for (size_t next = 0; next < exclusive.size(); ++next) {
        for (int32_t target : nfa_.states_[exclusive[next]].empty) {
          if (Mark(target)) exclusive.push_back(target);
        }
      }
      subset = std::move(exclusive);
    }
    std::sort(subset.begin(), subset.end());
    return subset;
  }

  bool Mark(int32_t state) {
    if (seen_[state] == round_) return false;
    seen_[state] = round_;
    return true;
  }

  int32_t NodeOf(Subset targets) {
    const auto [entry, is_new] = nodes_.try_emplace(Closure(std::move(targets)), 0);
    if (is_new) {
      entry->second = static_cast<int32_t>(grammar_.nodes.size());
      grammar_.nodes.push_back({});
      subsets_.push_back(&*entry);
    }
    return entry->second;
  }

  bool Expand(const Subset& subset, int32_t node) {
    std::vector<ByteEdge> edges;
    std::map<int32_t, Subset> calls;
    bool is_final = false;
    for (int32_t state : subset) {
      const ByteNfa::State& from = nfa_.states_[state];
      edges.insert(edges.end(), from.edges.begin(), from.edges.end());
      for (const CallEdge& call : from.calls) calls[call.rule].push_back(call.target);
      is_final |= state == end_;
    }
    work_ += std::ssize(edges);
    // Between two neighbouring borders the same edges apply.
    std::bitset<257> borders;
    for (const ByteEdge& edge : edges) borders.set(edge.first).set(edge.last + 1);
    std::vector<ByteEdge> merged;
    for (int first = 0; first < 256;) {
      int last = first;
      while (last < 255 && !borders[last + 1]) ++last;
      Subset targets;
      CountAction action = CountAction::kNone;
      for (const ByteEdge& edge : edges) {
        if (edge.first > first || edge.last < first) continue;
        WINNOW_CHECK(targets.empty() || action == edge.action, "edges of one byte count alike");
        targets.push_back(edge.target);
        action = edge.action;
      }
      if (!targets.empty()) {
        const int32_t target = NodeOf(std::move(targets));
        if (!merged.empty() && merged.back().target == target && merged.back().action == action &&
            merged.back().last + 1 == first) {
          merged.back().last = static_cast<uint8_t>(last);
        } else {
          merged.push_back(
              {static_cast<uint8_t>(first), static_cast<uint8_t>(last), action, target});
        }
      }
      first = last + 1;
    }
    std::vector<CallEdge> merged_calls;
    for (auto& [rule, targets] : calls) merged_calls.push_back({rule, NodeOf(std::move(targets))});
    if (std::ssize(grammar_.nodes) > kMaxNodes || std::ssize(grammar_.edges) > kMaxEdges ||
        std::ssize(grammar_.calls) > kMaxEdges || merged_calls.size() > 0xFFFF ||
        work_ > kMaxWork) {
      return false;
    }
    grammar_.nodes[node] = {static_cast<int32_t>(grammar_.edges.size()),
                            static_cast<int32_t>(grammar_.calls.size()),
                            static_cast<uint16_t>(merged.size()),
                            static_cast<uint16_t>(merged_calls.size()),
                            is_final,
                            rule_};
    grammar_.edges.insert(grammar_.edges.end(), merged.begin(), merged.end());
    grammar_.calls.insert(grammar_.calls.end(), merged_calls.begin(), merged_calls.end());
    return true;
  }

  ByteGrammar& grammar_;
  int64_t& work_;
  const ByteNfa& nfa_;
  int32_t rule_;
  int32_t end_;
  std::map<Subset, int32_t> nodes_;
  std::vector<const std::pair<const Subset, int32_t>*> subsets_;  // in the order of their nodes
  std::vector<int32_t> seen_;  // by state: the last round it was met in
  int32_t round_ = 0;
};

int32_t GrammarBuilder::AddRule() {
  grammar_.rules.emplace_back();
  return static_cast<int32_t>(grammar_.rules.size() - 1);
}

void GrammarBuilder::Define(int32_t rule, const ByteNfa& nfa, int32_t start, int32_t end,
                            int64_t min_count, int64_t max_count) {
  WINNOW_CHECK(min_count <= max_count, "a rule that can be left");
  if (is_too_large_) return;
  const int32_t first_node = static_cast<int32_t>(grammar_.nodes.size());
  Subsets subsets(grammar_, work_, nfa, rule, end);
  is_too_large_ = !subsets.Run(start);
  if (is_too_large_) return;
  WINNOW_CHECK(!grammar_.nodes[first_node].is_final, "a rule that matches something");
  grammar_.rules[rule].start = first_node;
  grammar_.rules[rule].min_count = min_count;
  grammar_.rules[rule].max_count = max_count;
}

// Marks nodes that reach an end of their rule, backwards from the ends, and drops edges to others.
void GrammarBuilder::Prune() {
  struct Source {
    int32_t node;
    int32_t rule;  // that must have texts; -1: none
  };
  const size_t num_nodes = grammar_.nodes.size();
  std::vector<std::vector<Source>> sources(num_nodes);
  for (size_t node = 0; node < num_nodes; ++node) {
    const GrammarNode& from = grammar_.nodes[node];
    for (int32_t edge = from.first_edge; edge < from.first_edge + from.num_edges; ++edge) {
      sources[grammar_.edges[edge].target].push_back({static_cast<int32_t>(node), -1});
    }
    for (int32_t call = from.first_call; call < from.first_call + from.num_calls; ++call) {
      sources[grammar_.calls[call].target].push_back(
          {static_cast<int32_t>(node), grammar_.calls[call].rule});
    }
  }
  std::vector<bool> lives(num_nodes);
  std::vector<bool> has_text(grammar_.rules.size());
  std::vector<std::vector<int32_t>> waiting(grammar_.rules.size());  // nodes, for a rule's text
  std::vector<int32_t> queue;
  const auto revive = [&](int32_t node) {
    if (lives[node]) return;
    lives[node] = true;
    queue.push_back(node);
  };
  for (size_t node = 0; node < num_nodes; ++node) {
    if (grammar_.nodes[node].is_final) revive(static_cast<int32_t>(node));
  }
  while (!queue.empty()) {
    const int32_t node = queue.back();
    queue.pop_back();
    for (const Source& source : sources[node]) {
      if (source.rule < 0 || has_text[source.rule]) {
        revive(source.node);
      } else {
        waiting[source.rule].push_back(source.node);
      }
    }
    const int32_t rule = grammar_.nodes[node].rule;
    if (grammar_.rules[rule].start == node) {
      has_text[rule] = true;
      for (int32_t waiter : waiting[rule]) revive(waiter);
    }
  }
  for (GrammarNode& node : grammar_.nodes) {
    int32_t kept = node.first_edge;
    for (int32_t edge = node.first_edge; edge < node.first_edge + node.num_edges; ++edge) {
      if (lives[grammar_.edges[edge].target]) grammar_.edges[kept++] = grammar_.edges[edge];
    }
    node.num_edges = static_cast<uint16_t>(kept - node.first_edge);
    kept = node.first_call;
    for (int32_t call = node.first_call; call < node.first_call + node.num_calls; ++call) {
      const CallEdge& edge = grammar_.calls[call];
      if (lives[edge.target] && has_text[edge.rule]) grammar_.calls[kept++] = edge;
    }
    node.num_calls = static_cast<uint16_t>(kept - node.first_call);
  }
  if (!has_text[0]) grammar_.rules[0].start = -1;
}

// The first bytes of each rule, callees before callers. False if rules begin with each other in a
// circle.
bool GrammarBuilder::FindFirstBytes() {
  const size_t num_rules = grammar_.rules.size();
  std::vector<std::vector<int32_t>> callers(num_rules);
  std::vector<int32_t> num_open(num_rules);
  for (size_t rule = 0; rule < num_rules; ++rule) {
    if (grammar_.rules[rule].start < 0) continue;
    const GrammarNode& start = grammar_.nodes[grammar_.rules[rule].start];
    for (int32_t call = start.first_call; call < start.first_call + start.num_calls; ++call) {
      callers[grammar_.calls[call].rule].push_back(static_cast<int32_t>(rule));
      ++num_open[rule];
    }
  }
  std::vector<int32_t> ready;
  for (size_t rule = 0; rule < num_rules; ++rule) {
    if (num_open[rule] == 0) ready.push_back(static_cast<int32_t>(rule));
  }
  size_t num_done = 0;
  for (; num_done < ready.size(); ++num_done) {
    GrammarRule& rule = grammar_.rules[ready[num_done]];
    if (rule.start >= 0) {
      const GrammarNode& start = grammar_.nodes[rule.start];
      for (int32_t edge = start.first_edge; edge < start.first_edge + start.num_edges; ++edge) {
        for (int byte = grammar_.edges[edge].first; byte <= grammar_.edges[edge].last; ++byte) {
          rule.first_bytes.set(byte);
        }
      }
      for (int32_t call = start.first_call; call < start.first_call + start.num_calls; ++call) {
        rule.first_bytes |= grammar_.rules[grammar_.calls[call].rule].first_bytes;
      }
    }
    for (int32_t caller : callers[ready[num_done]]) {
      if (--num_open[caller] == 0) ready.push_back(caller);
    }
  }
  return num_done == num_rules;
}

// Where one byte begins several calls, readings multiply. That ends when the calls do, unless they
// lead back here.
Status GrammarBuilder::CheckReadings(std::string_view what) {
  std::vector<std::vector<int32_t>> callees(grammar_.rules.size());
  for (const GrammarNode& node : grammar_.nodes) {
    for (int32_t call = node.first_call; call < node.first_call + node.num_calls; ++call) {
      callees[node.rule].push_back(grammar_.calls[call].rule);
    }
  }
  for (std::vector<int32_t>& list : callees) {
    std::sort(list.begin(), list.end());
    list.erase(std::unique(list.begin(), list.end()), list.end());
  }
  const auto reaches = [&](int32_t from, int32_t to) {
    std::vector<bool> seen(callees.size());
    std::vector<int32_t> queue = {from};
    seen[from] = true;
    while (!queue.empty()) {
      const int32_t rule = queue.back();
      queue.pop_back();
      if (rule == to) return true;
      work_ += std::ssize(callees[rule]) + 1;
      for (int32_t callee : callees[rule]) {
        if (!seen[callee]) queue.push_back(callee);
        seen[callee] = true;
      }
    }
    return false;
  };
  std::map<std::pair<int32_t, int32_t>, bool> known;
  for (const GrammarNode& node : grammar_.nodes) {
    std::array<int, 256> readings{};
    for (int32_t edge = node.first_edge; edge < node.first_edge + node.num_edges; ++edge) {
      for (int byte = grammar_.edges[edge].first; byte <= grammar_.edges[edge].last; ++byte) {
        ++readings[byte];
      }
    }
    for (int32_t call = node.first_call; call < node.first_call + node.num_calls; ++call) {
      const std::bitset<256>& bytes = grammar_.rules[grammar_.calls[call].rule].first_bytes;
      for (int byte = 0; byte < 256; ++byte) readings[byte] += bytes[byte];
    }
    const int most = *std::max_element(readings.begin(), readings.end());
    if (most > kMaxReadings) {
      return Unsupported(fmt::format("{}: {} alternatives that begin alike, expected at most {}",
                                     what, most, kMaxReadings));
    }
    if (most <= 1) continue;
    for (int32_t call = node.first_call; call < node.first_call + node.num_calls; ++call) {
      const int32_t rule = grammar_.calls[call].rule;
      const std::bitset<256>& bytes = grammar_.rules[rule].first_bytes;
      bool is_shared = false;
      for (int byte = 0; byte < 256; ++byte) is_shared |= bytes[byte] && readings[byte] > 1;
      if (!is_shared) continue;
      const auto [entry, is_new] = known.try_emplace({rule, node.rule}, false);
      if (is_new) entry->second = reaches(rule, node.rule);
      if (entry->second) {
        return Unsupported(
            fmt::format("{}: alternatives that begin alike and contain themselves, expected ones "
                        "that differ in the value of their first property",
                        what));
      }
      if (work_ > kMaxWork) {
        is_too_large_ = true;
        return OkStatus();
      }
    }
  }
  return OkStatus();
}

Result<ByteGrammar> GrammarBuilder::Finish(std::string_view what) {
  const auto too_large = [&] {
    return InvalidArgument(
        fmt::format("{}: needs more than {} states, expected a smaller one", what, kMaxNodes));
  };
  if (is_too_large_) return too_large();
  Prune();
  if (grammar_.rules[0].start < 0) {
    return InvalidArgument(
        fmt::format("{}: contradicts itself, expected one that some value of "
                    "JSON satisfies",
                    what));
  }
  if (!FindFirstBytes()) {
    return InvalidArgument(
        fmt::format("{}: a $ref leads to itself, expected a value in between", what));
  }
  WINNOW_TRY(CheckReadings(what));
  if (is_too_large_) return too_large();
  return std::move(grammar_);
}

}  // namespace winnow
