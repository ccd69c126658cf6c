// Grammars over bytes: rules, each a deterministic automaton, that call each other. The material of
// answer_grammar.h.
//
// Besides bytes of UTF-8 a grammar knows markers: added tokens that a model must write as the one
// token and not letter by letter. A marker is spelled kMarkerByte and its content; no UTF-8 has
// that byte, so text and markers never meet.
#pragma once

#include <bitset>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "winnow/status.h"

namespace winnow {

inline constexpr char kMarkerByte = '\xFF';

// What an edge does to the count of its rule's call, which begins at 0.
enum class CountAction : uint8_t {
  kNone,
  kTake,   // needs a count below the rule's max_count, adds one
  kLeave,  // needs a count of at least the rule's min_count
};

// Bytes in [first, last] lead to `target`.
struct ByteEdge {
  uint8_t first;
  uint8_t last;
  CountAction action;
  int32_t target;
};

// A text of `rule` leads to `target`.
struct CallEdge {
  int32_t rule;
  int32_t target;
};

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

// An automaton under construction: any number of edges for a byte, and edges for nothing. States
// are numbered from 0.
class ByteNfa {
 public:
  int32_t AddState();
  void AddBytes(int32_t from, uint8_t first, uint8_t last, int32_t to,
                CountAction action = CountAction::kNone);
  void AddCall(int32_t from, int32_t rule, int32_t to);
  void AddEmpty(int32_t from, int32_t to);
  // A text that leads here leads nowhere else: other ways of reading it are given up.
  void MakeExclusive(int32_t state) { states_[state].is_exclusive = true; }

  // Bytes in [first, last] from `from` to a new state, which is returned.
  int32_t Bytes(int32_t from, uint8_t first, uint8_t last);
  // The bytes of `text` from `from` to a new state; `from` itself if there are none.
  int32_t Spell(int32_t from, std::string_view text);
  // The characters of [first, last], surrogates left out, in UTF-8.
  void AddCharacters(int32_t from, uint32_t first, uint32_t last, int32_t to,
                     CountAction action = CountAction::kNone);

  int64_t size() const { return std::ssize(states_); }

 private:
  friend class GrammarBuilder;
  struct State {
    std::vector<ByteEdge> edges;
    std::vector<CallEdge> calls;
    std::vector<int32_t> empty;
    bool is_exclusive = false;
  };
  std::vector<State> states_;
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
