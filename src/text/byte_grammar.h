// Grammars over bytes: rules, each a deterministic automaton, that call each other. The material of
// answer_grammar.h.
#pragma once

#include <bitset>
#include <cstdint>
#include <string_view>
#include <vector>

#include "text/byte_nfa.h"
#include "winnow/status.h"

namespace winnow {

// Edges and calls lie in the grammar's lists, those of one node together.
struct GrammarNode {
  int32_t first_edge;
  int32_t first_call;
  uint16_t num_edges;
  uint16_t num_calls;
  bool is_final;  // the rule may end here
  int32_t rule;
};

struct GrammarRule {
  int32_t start = -1;
  int64_t min_count = 0;
  int64_t max_count = 0;
  std::bitset<256> first_bytes;  // that its texts begin with
};

// Rules and their nodes. Rule 0 is the whole. Every node reached can still reach an end.
struct ByteGrammar {
  std::vector<GrammarRule> rules;
  std::vector<GrammarNode> nodes;
  std::vector<ByteEdge> edges;  // of one node ascending and disjoint
  std::vector<CallEdge> calls;
};

// Makes a grammar of rules. Past the limits (nodes, edges, work) it does nothing more and Finish
// says so.
class GrammarBuilder {
 public:
  // A rule to be defined, once, or never if it has no texts.
  int32_t AddRule();
  // Edges of a byte that go from states of one reading must agree in their action. No rule may
  // match the empty text. `min_count` <= `max_count`.
  void Define(int32_t rule, const ByteNfa& nfa, int32_t start, int32_t end, int64_t min_count = 0,
              int64_t max_count = 0);
  bool is_too_large() const { return is_too_large_; }

  // Takes out what leads to no end. kInvalidArgument if no text is left, a rule begins with itself,
  // or a limit was passed; kUnsupported if more than 32 calls begin alike, or such contain
  // themselves, so that the number of readings would grow without bound. `what` names the source in
  // errors.
  Result<ByteGrammar> Finish(std::string_view what);

 private:
  class Subsets;

  void Prune();
  bool FindFirstBytes();
  Status CheckReadings(std::string_view what);

  ByteGrammar grammar_;
  int64_t work_ = 0;
  bool is_too_large_ = false;
};

}  // namespace winnow
