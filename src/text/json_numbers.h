// Automata of JSON's numbers, at most 18 digits before and 18 behind the point and 2 in the
// exponent.
#pragma once

#include <cstdint>

#include "text/byte_nfa.h"

namespace winnow {

// Bounds of a number. Only whole ones; beyond ±(10^18 - 1) they are those.
struct NumberBounds {
  int64_t min = -kLargest;
  int64_t max = kLargest;
  bool excludes_min = false;  // of numbers that are not whole
  bool excludes_max = false;

  static constexpr int64_t kLargest = 999'999'999'999'999'999;
};
// Integers without exponent, and numbers without exponent, within bounds. Nothing if none is.
void AddIntegers(ByteNfa& nfa, int32_t from, const NumberBounds& bounds, int32_t to);
void AddNumbers(ByteNfa& nfa, int32_t from, const NumberBounds& bounds, int32_t to);

// Numbers with or without exponent.
void AddAnyNumber(ByteNfa& nfa, int32_t from, int32_t to);

}  // namespace winnow
