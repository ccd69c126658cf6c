// The draw on a processor: a few passes over the logits, and no memory beside the stack.
#include "backend/draw_token.h"

#include <algorithm>
#include <array>
#include <cmath>

namespace winnow {
namespace {

// Logits are worked on so many at a time, so that loops over them become vectors.
constexpr size_t kBlock = 256;
// With fewer tokens of a block to weigh, they are weighed one by one.
constexpr size_t kFew = 32;
constexpr uint32_t kBins = 1024;  // of exponents
constexpr int kDigitBits = 10;    // of a rank, by which a search goes on

// A run of likeliest tokens: those that rank higher, and of those that rank equal the `ties` first.
struct Run {
  uint32_t rank = kNeverDrawn;
  uint64_t ties = 0;
};

struct Block {
  std::array<float, kBlock> logits;
  std::array<uint32_t, kBlock> ranks;

  // What the last block lacks is filled with what is never drawn.
  Block(std::span<const float> all, size_t first) {
    const size_t count = std::min(kBlock, all.size() - first);
    std::copy_n(all.begin() + static_cast<ptrdiff_t>(first), count, logits.begin());
    std::fill(logits.begin() + static_cast<ptrdiff_t>(count), logits.end(), NAN);
    for (size_t i = 0; i < kBlock; ++i) ranks[i] = RankOf(logits[i]);
  }
  size_t Count(const RankRange& range) const {
    size_t count = 0;
    for (const uint32_t rank : ranks) count += range.Holds(rank) ? 1 : 0;
    return count;
  }
};

// Sums of weights, of bins one after the other from the likeliest on.
class Bins {
 public:
  void Add(uint32_t bin, uint64_t weight) { sums_[bin] += weight; }
  uint64_t Total() const {
    uint64_t total = 0;
    for (const uint64_t sum : sums_) total += sum;
    return total;
  }
  // The bin in which the sum reaches `needed`; what comes before it is added to *before.
  uint32_t Reach(uint64_t needed, uint64_t* before) const {
    uint32_t bin = 0;
    for (; *before + sums_[bin] < needed; ++bin) *before += sums_[bin];
    return bin;
  }

 private:
  std::array<uint64_t, kBins> sums_ = {};
};

class TokenDraw {
 public:
  TokenDraw(std::span<const float> logits, const DrawRule& rule, float largest)
      : logits_(logits),
        rule_(rule),
        largest_(largest),
        scale_(ExponentScale(rule.temperature)),
        least_(LeastMass(rule.min_p)) {}

  int32_t Draw() {
    if (rule_.top_k > 0) KeepTopK();
    const uint64_t total = rule_.top_p < 1 ? KeepTopP() : TotalMass();
    return TokenAt(
        static_cast<uint64_t>(static_cast<unsigned __int128>(rule_.random) * total >> 64));
  }

 private:
  using Weights = std::array<uint64_t, kBlock>;

  uint64_t MassOfLogit(float logit) const {
    const uint64_t mass = MassOf(ExponentOf(logit, largest_, scale_));
    return mass >= least_ ? mass : 0;
  }
  uint64_t MassOfTie() const {
    return run_.rank == kNeverDrawn ? 0 : MassOfLogit(LogitOf(run_.rank));
  }
  // What the run holds, but for ties at its end.
  RankRange Above() const { return {run_.rank + 1, RankOf(largest_)}; }

  // A weight is 1 or a mass, and 0 out of the range.
  static void Count(const Block& block, const RankRange& range, Weights& weights) {
    for (size_t i = 0; i < kBlock; ++i) weights[i] = range.Holds(block.ranks[i]) ? 1 : 0;
  }
  void Weigh(const Block& block, const RankRange& range, Weights& weights) const {
    if (block.Count(range) < kFew) {
      for (size_t i = 0; i < kBlock; ++i) {
        weights[i] = range.Holds(block.ranks[i]) ? MassOfLogit(block.logits[i]) : 0;
      }
      return;
    }
    // Vectors, which members that a store might change and comparisons of 64 bits would prevent: a
    // difference below 0 says what is outside.
    const float largest = largest_;
    const double scale = scale_;
    const uint64_t least = least_;
    for (size_t i = 0; i < kBlock; ++i) {
      const uint64_t mass = MassOf(ExponentOf(block.logits[i], largest, scale));
      const uint64_t rank = block.ranks[i];
      const uint64_t outside =
          ((rank - range.lowest) | (range.highest - rank) | (mass - least)) >> 63;
      weights[i] = mass & (outside - 1);
    }
  }

  void KeepTopK() {
    const uint64_t k = static_cast<uint64_t>(rule_.top_k);
    const Found found =
        FindRun(Count, 0, [k](uint64_t candidates) { return std::min(k, candidates); });
    run_ = {found.rank, found.missing};
  }
  // Returns the mass that is kept.
  uint64_t KeepTopP() {
    const auto weigh = [this](const Block& block, const RankRange& range, Weights& weights) {
      Weigh(block, range, weights);
    };
    const double share = rule_.top_p;
    const Found found = FindRun(weigh, run_.ties * MassOfTie(),
                                [share](uint64_t total) { return ShareOf(share, total); });
    run_.rank = found.rank;
    const uint64_t mass = MassOfTie();
    run_.ties = (found.missing + mass - 1) / mass;
    return found.before + run_.ties * mass;
  }
  uint64_t TotalMass() const {
    uint64_t total = run_.ties * MassOfTie();
    for (size_t first = 0; first < logits_.size(); first += kBlock) {
      Weights weights;
      Weigh(Block(logits_, first), Above(), weights);
      for (const uint64_t mass : weights) total += mass;
    }
    return total;
  }

  // Where the weights of the present run's tokens, from the likeliest on, reach what is needed of
  // their total: a rank, the weight of what ranks higher, and how much those of the rank must add.
  // kNeverDrawn where tokens without mass are reached: then all may stay.
  struct Found {
    uint32_t rank = 0;
    uint64_t before = 0;
    uint64_t missing = 0;
  };
  // `of_ties` is what the ties at the run's end weigh. First by exponents, which spread the tokens,
  // then by the digits of the ranks of one bin.
  template <typename Weigh, typename Needed>
  Found FindRun(const Weigh& weigh, uint64_t of_ties, const Needed& needed_of) const {
    const auto bin_of = [this](float logit) {
      return BinOf(ExponentOf(logit, largest_, scale_), kBins);
    };
    Bins bins;
    Fill(bins, Above(), weigh, [&](float logit, uint32_t) { return bin_of(logit); });
    if (of_ties > 0) bins.Add(bin_of(LogitOf(run_.rank)), of_ties);
    const uint64_t needed = needed_of(bins.Total());
    Found found;
    const uint32_t bin = bins.Reach(needed, &found.before);
    if (bin == kBins - 1) return {};
    RankRange range = {HighestRankFrom(bin + 1) + 1, HighestRankFrom(bin)};
    while (range.lowest < range.highest) {
      const int shift =
          std::max(static_cast<int>(std::bit_width(range.highest - range.lowest)) - kDigitBits, 0);
      const auto digit_of = [&](uint32_t rank) { return (range.highest - rank) >> shift; };
      bins = {};
      Fill(bins, {std::max(range.lowest, run_.rank + 1), range.highest}, weigh,
           [&](float, uint32_t rank) { return digit_of(rank); });
      if (of_ties > 0 && range.Holds(run_.rank)) bins.Add(digit_of(run_.rank), of_ties);
      range.highest -= bins.Reach(needed, &found.before) << shift;
      range.lowest = std::max(range.lowest, range.highest - ((uint32_t{1} << shift) - 1));
    }
    found.rank = range.lowest;
    found.missing = needed - found.before;
    return found;
  }

  // The highest rank whose exponent's bin is `bin` or a later one; that of -infinity where there is
  // none.
  uint32_t HighestRankFrom(uint32_t bin) const {
    uint32_t in = kNoFiniteRank;
    uint32_t out = RankOf(largest_) + 1;
    while (in + 1 < out) {
      const uint32_t middle = in + (out - in) / 2;
      const double exponent = ExponentOf(LogitOf(middle), largest_, scale_);
      (BinOf(exponent, kBins) >= bin ? in : out) = middle;
    }
    return in;
  }

  template <typename Weigh, typename BinOfToken>
  void Fill(Bins& bins, const RankRange& range, const Weigh& weigh,
            const BinOfToken& bin_of) const {
    for (size_t first = 0; first < logits_.size(); first += kBlock) {
      const Block block(logits_, first);
      if (block.Count(range) == 0) continue;
      Weights weights;
      weigh(block, range, weights);
      for (size_t i = 0; i < kBlock; ++i) {
        if (weights[i] > 0) bins.Add(bin_of(block.logits[i], block.ranks[i]), weights[i]);
      }
    }
  }

  // The token in whose mass `place` is.
  int32_t TokenAt(uint64_t place) const {
    const uint64_t mass_of_tie = MassOfTie();
    uint64_t ties = run_.ties;
    for (size_t first = 0; first < logits_.size(); first += kBlock) {
      const Block block(logits_, first);
      if (block.Count({run_.rank, RankOf(largest_)}) == 0) continue;
      Weights weights;
      Weigh(block, Above(), weights);
      uint64_t mass = 0;
      for (size_t i = 0; i < kBlock; ++i) {
        if (block.ranks[i] == run_.rank && ties > 0) {
          weights[i] = mass_of_tie;
          --ties;
        }
        mass += weights[i];
      }
      if (place < mass) {
        size_t i = 0;
        for (; place >= weights[i]; ++i) place -= weights[i];
        return static_cast<int32_t>(first + i);
      }
      place -= mass;
    }
    return -1;  // never: places lie within the masses
  }

  std::span<const float> logits_;
  const DrawRule& rule_;
  float largest_;
  double scale_;
  uint64_t least_;
  Run run_;
};

uint32_t LargestRank(std::span<const float> logits) {
  uint32_t largest = kNeverDrawn;
  for (size_t first = 0; first < logits.size(); first += kBlock) {
    for (const uint32_t rank : Block(logits, first).ranks) largest = std::max(largest, rank);
  }
  return largest;
}

}  // namespace

int32_t DrawToken(std::span<const float> logits, const DrawRule& rule) {
  logits = logits.first(std::min(logits.size(), static_cast<size_t>(std::max(rule.below, 0))));
  const uint32_t largest = LargestRank(logits);
  if (largest == kNeverDrawn || largest == kInfiniteRank) return -1;
  if (!rule.IsLikeliest()) return TokenDraw(logits, rule, LogitOf(largest)).Draw();
  const auto likeliest = std::find_if(logits.begin(), logits.end(),
                                      [&](float logit) { return RankOf(logit) == largest; });
  return static_cast<int32_t>(likeliest - logits.begin());
}

}  // namespace winnow
