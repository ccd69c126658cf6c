// The first half of compiling a pattern (pattern.h): reading it into an automaton with empty edges.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "winnow/status.h"

namespace winnow {

// Code points in [first, last] lead to `target`.
struct CharacterEdge {
  uint32_t first;
  uint32_t last;
  int32_t target;
};

struct PatternNfa {
  struct State {
    std::vector<CharacterEdge> edges;
    std::vector<int32_t> empty;
  };
  std::vector<State> states;
  int32_t start = 0;
  int32_t end = 0;
};

// Texts that match `pattern` lead from start to end. Errors are those of CompilePattern.
Result<PatternNfa> ParsePattern(std::string_view pattern, std::string_view what);

}  // namespace winnow
