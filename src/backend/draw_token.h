// How a token is drawn from its logits: the definition, for every device alike.
//
// A draw adds whole numbers only, so its token does not depend on the order in which anything is
// added. Of two tokens the likelier is the one with the larger logit, of equal logits the one with
// the lower id. Logits smaller than 2^-126 count as 0, NaN counts as -infinity.
//
//   mass    of a token: 2^40 · e^((logit - largest) / temperature), to the nearest whole number.
//           What is less than 2^-41 as likely as the likeliest token has none and is never drawn.
//   top_k   keeps the k likeliest,
//   min_p   of these the ones whose mass is at least min_p · 2^40,
//   top_p   of these the shortest run of likeliest whose masses reach top_p of all their masses.
//   token   ⌊random · total / 2^64⌋ is a place in the masses that are kept, one after the other by
//           ascending id.
#pragma once

#include <bit>
#include <cstdint>
#include <span>

namespace winnow {

// How the token of a row is drawn. Plain data: devices get it as it is.
struct DrawRule {
  int32_t below = 0;       // ids from here on are never drawn; 0: nothing is drawn
  int32_t top_k = 0;       // 0: all
  double temperature = 0;  // 0 or subnormal: the likeliest token, whatever else is said
  double top_p = 1;
  double min_p = 0;
  uint64_t random = 0;  // uniform in all 64 bits

  // Threads may take subnormal numbers for zeros.
  constexpr bool IsLikeliest() const { return !(temperature >= 0x1p-1022); }
  bool operator==(const DrawRule&) const = default;
};

// Ids that a row may have: their masses add up to less than 2^64.
inline constexpr int64_t kMostIds = (int64_t{1} << 24) - 1;

// The token drawn; -1: no logit below rule.below is a number, or one is +infinity.
int32_t DrawToken(std::span<const float> logits, const DrawRule& rule);

// ---- The arithmetic, in steps of IEEE 754 that give the same bits everywhere --------------------

// Ranks tokens: unsigned, the larger the likelier. kNeverDrawn: NaN and -infinity.
inline constexpr uint32_t kNeverDrawn = 0;
inline constexpr uint32_t kNoFiniteRank = 0x007fffff;  // the ranks of finite logits are above
inline constexpr uint32_t kInfiniteRank = 0xff800000;
constexpr uint32_t RankOf(float logit) {
  const uint32_t bits = std::bit_cast<uint32_t>(logit);
  const uint32_t size = bits & 0x7fffffff;
  const uint32_t rank = bits >> 31 ? ~bits : bits | 0x80000000;
  return size < 0x00800000                         ? 0x80000000
         : size > 0x7f800000 || bits == 0xff800000 ? kNeverDrawn
                                                   : rank;
}
// The logit of a rank but kNeverDrawn.
constexpr float LogitOf(uint32_t rank) {
  return std::bit_cast<float>(rank >> 31 ? rank & 0x7fffffff : ~rank);
}

inline constexpr int kMassBits = 40;  // of the largest mass

// What a difference of logits is multiplied by to become one of exponents of two. The bound keeps 0
// times it 0; there every other difference is mass 0 already.
constexpr double ExponentScale(double temperature) {
  const double scale = 0x1.71547652b82fep+0 / temperature;  // log2(e)
  return scale < 0x1p900 ? scale : 0x1p900;
}

// How many times a token is less likely than `largest`, as an exponent of two, from -64 to 0. It
// never falls as logits rise. -64 for NaN and -infinity.
constexpr double ExponentOf(float logit, float largest, double scale) {
  const bool counts = (std::bit_cast<uint32_t>(logit) & 0x7f800000) != 0;
  const double x =
      (static_cast<double>(counts ? logit : 0.0f) - static_cast<double>(largest)) * scale;
  return x > -64.0 ? x : -64.0;
}

// The mass of an exponent. 2^x is 2^n · e^r, the latter by its series to the 11th power, within
// 2^-46. Adding 1.5 · 2^52 and 2^52 rounds to whole numbers, to nearest, ties to even.
constexpr uint64_t MassOf(double x) {
  constexpr double kRound = 0x1.8p52;
  const double shifted = x + kRound;
  const double r = (x - (shifted - kRound)) * 0x1.62e42fefa39efp-1;  // log(2)
  double p = 1.0 / 39916800;
  p = p * r + 1.0 / 3628800;
  p = p * r + 1.0 / 362880;
  p = p * r + 1.0 / 40320;
  p = p * r + 1.0 / 5040;
  p = p * r + 1.0 / 720;
  p = p * r + 1.0 / 120;
  p = p * r + 1.0 / 24;
  p = p * r + 1.0 / 6;
  p = p * r + 0.5;
  p = p * r + 1.0;
  p = p * r + 1.0;
  const uint64_t power =
      (std::bit_cast<uint64_t>(shifted) - std::bit_cast<uint64_t>(kRound) + 1023 + kMassBits) << 52;
  return std::bit_cast<uint64_t>(p * std::bit_cast<double>(power) + 0x1p52) -
         std::bit_cast<uint64_t>(0x1p52);
}

// Equal parts of the exponents, `bins` of them and at least 64, from that of the likeliest on:
// where a search begins that goes on by ranks. It never rises with the exponent. Tokens of the last
// bin have no mass.
constexpr uint32_t BinOf(double x, uint32_t bins) {
  const double place = x * static_cast<double>(bins / 64);
  const uint32_t bin = static_cast<uint32_t>(std::bit_cast<uint64_t>(0x1p52 - place));
  return bin < bins ? bin : bins - 1;
}

// Ranks from one to another, both included; none where the first is higher.
struct RankRange {
  uint32_t lowest = 0;
  uint32_t highest = 0;

  constexpr bool Holds(uint32_t rank) const { return rank >= lowest && rank <= highest; }
};

// The smallest whole number that is no less than `share` of `whole`, for shares up to 1; at least
// 1. The product is that of doubles.
constexpr uint64_t ShareOf(double share, uint64_t whole) {
  const double exact = share * static_cast<double>(whole);
  if (!(exact < static_cast<double>(whole))) return whole;
  const uint64_t floor = static_cast<uint64_t>(exact);
  const uint64_t least = floor + (static_cast<double>(floor) < exact ? 1 : 0);
  return least < 1 ? 1 : least;
}

// The least mass that min_p keeps.
constexpr uint64_t LeastMass(double min_p) { return ShareOf(min_p, uint64_t{1} << kMassBits); }

}  // namespace winnow
