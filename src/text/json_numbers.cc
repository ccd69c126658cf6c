// Bounds become runs of digits: numbers of each length, split where a digit is no longer free.
#include "text/json_numbers.h"

#include <algorithm>
#include <string>

#include "base/text.h"

namespace winnow {
namespace {

constexpr int kDigits = 18;

std::string Nines(size_t count) { return std::string(count, '9'); }
std::string Zeros(size_t count) { return std::string(count, '0'); }

// Digits from `low` to `high`, which are equally long.
void AddDigits(ByteNfa& nfa, int32_t from, std::string_view low, std::string_view high,
               int32_t to) {
  if (low.empty()) return nfa.AddEmpty(from, to);
  const size_t rest = low.size() - 1;
  const auto branch = [&](char first, char last, std::string_view low, std::string_view high) {
    if (first <= last) AddDigits(nfa, nfa.Bytes(from, first, last), low, high, to);
  };
  if (low == Zeros(low.size()) && high == Nines(high.size())) {
    branch('0', '9', Zeros(rest), Nines(rest));
  } else if (low[0] == high[0]) {
    branch(low[0], low[0], low.substr(1), high.substr(1));
  } else {
    branch(low[0], low[0], low.substr(1), Nines(rest));
    branch(low[0] + 1, high[0] - 1, Zeros(rest), Nines(rest));
    branch(high[0], high[0], Zeros(rest), high.substr(1));
  }
}

// Integers of [min, max], both not negative, without leading zeros.
void AddNaturals(ByteNfa& nfa, int32_t from, int64_t min, int64_t max, int32_t to) {
  int64_t first = 0;  // of its number of digits
  int64_t last = 9;
  for (int digits = 1; first <= max; ++digits) {
    if (last >= min) {
      AddDigits(nfa, from, fmt::format("{}", std::max(first, min)),
                fmt::format("{}", std::min(last, max)), to);
    }
    if (digits == kDigits) break;
    first = last + 1;
    last = last * 10 + 9;
  }
}

enum class Fraction { kAny, kZero, kMoreThanZero };

// How many digits behind the point a number next to `whole` may have so that a double tells the two
// apart: it tells any numbers of 15 digits apart, and any from 0.
int NumExactDigits(int64_t whole) {
  if (whole == 0) return kDigits;
  return std::max(15 - static_cast<int>(fmt::format("{}", whole).size()), 0);
}

// A point and up to `max_digits` digits; or nothing, unless there must be more than zero.
void AddFraction(ByteNfa& nfa, int32_t from, Fraction fraction, int max_digits, int32_t to) {
  if (fraction != Fraction::kMoreThanZero) nfa.AddEmpty(from, to);
  int32_t zeros = nfa.Spell(from, ".");
  if (fraction == Fraction::kZero) return nfa.AddBytes(zeros, '0', '0', to);
  int32_t digits = -1;  // behind a digit that is not 0
  for (int count = 0; count < max_digits; ++count) {
    const int32_t next_digits = nfa.AddState();
    nfa.AddBytes(zeros, '1', '9', next_digits);
    if (digits >= 0) nfa.AddBytes(digits, '0', '9', next_digits);
    nfa.AddEmpty(next_digits, to);
    zeros = nfa.Bytes(zeros, '0', '0');
    if (fraction == Fraction::kAny) nfa.AddEmpty(zeros, to);
    digits = next_digits;
  }
}

// Numbers of [min, max], both not negative, without sign. Next to a bound that is excluded they
// have no more digits than a double can tell from the bound, since that is what readers make of
// them.
void AddPositives(ByteNfa& nfa, int32_t from, const NumberBounds& bounds, int32_t to) {
  const auto add = [&](int64_t min, int64_t max, Fraction fraction, int max_digits) {
    if (min > max) return;
    const int32_t point = nfa.AddState();
    AddNaturals(nfa, from, min, max, point);
    AddFraction(nfa, point, fraction, max_digits, to);
  };
  if (bounds.min == bounds.max) {
    if (!bounds.excludes_min && !bounds.excludes_max) {
      add(bounds.min, bounds.max, Fraction::kZero, 1);
    }
    return;
  }
  const int64_t last = bounds.max - 1;  // the whole part of the largest numbers below max
  const int above_min = bounds.excludes_min ? NumExactDigits(bounds.min) : kDigits;
  const int below_max = bounds.excludes_max ? NumExactDigits(bounds.max) : kDigits;
  const Fraction first = bounds.excludes_min ? Fraction::kMoreThanZero : Fraction::kAny;
  if (bounds.min == last) {
    add(last, last, first, std::min(above_min, below_max));
  } else {
    add(bounds.min, bounds.min, first, above_min);
    add(bounds.min + 1, last - 1, Fraction::kAny, kDigits);
    add(last, last, Fraction::kAny, below_max);
  }
  if (!bounds.excludes_max) add(bounds.max, bounds.max, Fraction::kZero, 1);
}

}  // namespace

void AddIntegers(ByteNfa& nfa, int32_t from, const NumberBounds& bounds, int32_t to) {
  if (bounds.max >= 0 && bounds.min <= bounds.max) {
    AddNaturals(nfa, from, std::max<int64_t>(bounds.min, 0), bounds.max, to);
  }
  if (bounds.min < 0 && bounds.min <= bounds.max) {
    const int64_t least = std::max<int64_t>(-bounds.max, 1);
    AddNaturals(nfa, nfa.Spell(from, "-"), least, -bounds.min, to);
  }
}

void AddNumbers(ByteNfa& nfa, int32_t from, const NumberBounds& bounds, int32_t to) {
  if (bounds.min > bounds.max) return;
  if (bounds.max >= 0) {
    NumberBounds positive = bounds;
    if (bounds.min < 0) {
      positive.min = 0;
      positive.excludes_min = false;
    }
    AddPositives(nfa, from, positive, to);
  }
  if (bounds.min < 0) {
    NumberBounds negated = {-bounds.max, -bounds.min, bounds.excludes_max, bounds.excludes_min};
    if (bounds.max >= 0) {
      negated.min = 0;
      negated.excludes_min = true;
    }
    AddPositives(nfa, nfa.Spell(from, "-"), negated, to);
  }
}

void AddAnyNumber(ByteNfa& nfa, int32_t from, int32_t to) {
  const int32_t sign = nfa.Spell(from, "-");
  nfa.AddEmpty(from, sign);
  const int32_t point = nfa.AddState();
  AddNaturals(nfa, sign, 0, NumberBounds::kLargest, point);
  const int32_t exponent = nfa.AddState();
  AddFraction(nfa, point, Fraction::kAny, kDigits, exponent);
  nfa.AddEmpty(exponent, to);
  const int32_t letter = nfa.AddState();
  nfa.AddBytes(exponent, 'e', 'e', letter);
  nfa.AddBytes(exponent, 'E', 'E', letter);
  const int32_t digits = nfa.AddState();
  nfa.AddEmpty(letter, digits);
  nfa.AddBytes(letter, '+', '+', digits);
  nfa.AddBytes(letter, '-', '-', digits);
  const int32_t digit = nfa.Bytes(digits, '0', '9');
  nfa.AddEmpty(digit, to);
  nfa.AddBytes(digit, '0', '9', to);
}

}  // namespace winnow
