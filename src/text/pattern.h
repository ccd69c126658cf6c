// Regular expressions of JSON schemas ("pattern") as automata over characters.
//
// The subset of ECMA-262 that is regular: characters, classes, . \d \w \s and their opposites,
// groups, alternatives, * + ? {m,n} (lazy or not), and ^ and $ at the ends of the whole expression.
// As in JSON schema, an expression without ^ or $ may match anywhere in a text.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "text/pattern_nfa.h"
#include "winnow/status.h"

namespace winnow {

// Deterministic; state 0 is the start. From each state an end can be reached, unless there are no
// states because no text matches.
struct CharacterAutomaton {
  struct State {
    std::vector<CharacterEdge> edges;  // disjoint, without surrogates
    bool is_final = false;
  };
  std::vector<State> states;
};

// The automaton of the texts that match `pattern`, have min to max characters (max < 0: any
// number), and none of the characters of `forbidden`. kUnsupported for what the subset lacks and
// for what needs more than some thousand states; kInvalidArgument for what is no expression.
// `what` names the pattern in errors.
Result<CharacterAutomaton> CompilePattern(std::string_view pattern, int64_t min, int64_t max,
                                          std::string_view forbidden, std::string_view what);

}  // namespace winnow
