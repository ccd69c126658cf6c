// Automata over bytes while they are put together; byte_grammar.h makes rules of them.
//
// Besides bytes of UTF-8 a grammar knows markers: added tokens that a model must write as the one
// token and not letter by letter. A marker is spelled kMarkerByte and its content; no UTF-8 has
// that byte, so text and markers never meet.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

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

}  // namespace winnow
