// Policies as the forward pass calls them.
#include "eval/selection_policies.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <optional>
#include <random>

#include "base/check.h"

namespace winnow::eval {
namespace {

// Writes the selection of one token as SelectTokens would.
void Write(const BatchView& batch, int64_t token, const std::vector<int32_t>& chosen,
           const SelectionView& selection) {
  const int64_t width = selection.positions.dims[1];
  int32_t* positions = selection.positions.As<int32_t>() + token * width;
  int32_t* slots = selection.slots.As<int32_t>() + token * width;
  WINNOW_CHECK(static_cast<int64_t>(chosen.size()) <= width, "a policy chose more than its budget");
  std::fill(positions, positions + width, -1);
  std::fill(slots, slots + width, -1);
  std::copy(chosen.begin(), chosen.end(), positions);
  for (size_t place = 0; place < chosen.size(); ++place) {
    slots[place] = static_cast<int32_t>(SlotOf(batch, chosen[place]));
  }
  selection.counts.As<int32_t>()[token] = static_cast<int32_t>(chosen.size());
}

int64_t PositionOf(const BatchView& batch, int64_t token) {
  return batch.positions.As<int32_t>()[token];
}

uint64_t Mixed(uint64_t seed, uint64_t layer, uint64_t position) {
  uint64_t x = seed + 0x9e3779b97f4a7c15u * (layer + 1) + 0xbf58476d1ce4e5b9u * (position + 1);
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

// Looks at positions only.
class PatternPolicy : public SelectionPolicy {
 public:
  using Pattern =
      std::function<std::vector<int32_t>(int64_t layer, int64_t position, int64_t budget)>;
  PatternPolicy(ThreadPool& pool, Pattern pattern) : pool_(pool), pattern_(std::move(pattern)) {}

  void Select(const Pass& pass, const AttentionState& state,
              const SelectionView& selection) override {
    pool_.ParallelFor(pass.num_tokens(), [&](int64_t token, int) {
      Write(pass.batch, token,
            pattern_(state.layer, PositionOf(pass.batch, token), pass.config.index_topk),
            selection);
    });
  }

 private:
  ThreadPool& pool_;
  Pattern pattern_;
};

// The largest mass of true attention: the best that a selection shared by the heads could do.
class OraclePolicy : public SelectionPolicy {
 public:
  explicit OraclePolicy(ThreadPool& pool) : mass_(pool) {}

  void Select(const Pass& pass, const AttentionState& state,
              const SelectionView& selection) override {
    std::vector<int32_t> tokens(static_cast<size_t>(pass.num_tokens()));
    std::iota(tokens.begin(), tokens.end(), 0);
    mass_.ForEach(pass, state, tokens, [&](size_t token, std::span<const float> mass) {
      Write(pass.batch, static_cast<int64_t>(token), MostMass(mass, pass.config.index_topk),
            selection);
    });
  }

 private:
  AttentionMass mass_;
};

// Keys are the latent rows, queries the absorbed heads; both are hashed by the same rotations.
class LshPolicy : public SelectionPolicy {
 public:
  LshPolicy(ThreadPool& pool, uint64_t seed) : pool_(pool), seed_(seed) {}

  void Select(const Pass& pass, const AttentionState& state,
              const SelectionView& selection) override {
    const int64_t dim = state.latent.latent_dim + state.latent.rope_dim;
    const int64_t heads = state.q.dims[1];
    const size_t layer = static_cast<size_t>(state.layer);
    if (!hash_) hash_.emplace(dim, seed_);
    if (keys_.size() <= layer) keys_.resize(layer + 1);
    HashKeys(pass, state, dim, keys_[layer]);
    const std::vector<uint8_t>& keys = keys_[layer];
    pool_.ParallelFor(pass.num_tokens(), [&](int64_t token, int) {
      uint16_t heads_in[kLshRounds][kLshBuckets] = {};
      uint8_t buckets[kLshRounds];
      for (int64_t head = 0; head < heads; ++head) {
        hash_->Hash(state.q.As<float>() + (token * heads + head) * dim, buckets);
        for (int64_t round = 0; round < kLshRounds; ++round) ++heads_in[round][buckets[round]];
      }
      std::vector<uint16_t> matches(static_cast<size_t>(PositionOf(pass.batch, token)) + 1);
      for (size_t s = 0; s < matches.size(); ++s) {
        for (int64_t round = 0; round < kLshRounds; ++round) {
          matches[s] += heads_in[round][keys[s * kLshRounds + static_cast<size_t>(round)]];
        }
      }
      Write(pass.batch, token, MostMatches(matches, pass.config.index_topk), selection);
    });
  }

 private:
  // Rows not hashed yet, and those of this step, whose slots may have held others.
  void HashKeys(const Pass& pass, const AttentionState& state, int64_t dim,
                std::vector<uint8_t>& keys) {
    const int64_t known =
        std::min(static_cast<int64_t>(keys.size()) / kLshRounds, PositionOf(pass.batch, 0));
    const int64_t end = PositionOf(pass.batch, pass.num_tokens() - 1) + 1;
    keys.resize(static_cast<size_t>(end * kLshRounds));
    pool_.ParallelFor(end - known, [&](int64_t piece, int) {
      const int64_t position = known + piece;
      std::vector<float> row(static_cast<size_t>(dim));
      DecodeLatentRow(state.latent, SlotOf(pass.batch, position), row.data());
      hash_->Hash(row.data(), keys.data() + position * kLshRounds);
    });
  }

  ThreadPool& pool_;
  uint64_t seed_;
  std::optional<LshHash> hash_;
  std::vector<std::vector<uint8_t>> keys_;  // [layer][position, round]
};

NamedPolicy Positional(std::string name, PatternPolicy::Pattern pattern) {
  return {std::move(name), [pattern = std::move(pattern)](ThreadPool& pool) {
            return std::make_unique<PatternPolicy>(pool, pattern);
          }};
}

// A pattern that is the same in every layer.
template <typename Pattern>
PatternPolicy::Pattern InEveryLayer(Pattern pattern) {
  return [pattern](int64_t, int64_t position, int64_t budget) { return pattern(position, budget); };
}

}  // namespace

std::vector<NamedPolicy> OtherPolicies(uint64_t seed) {
  return {
      {"oracle", [](ThreadPool& pool) { return std::make_unique<OraclePolicy>(pool); }},
      Positional("sliding window", InEveryLayer(WindowPattern)),
      Positional("strided", InEveryLayer(StridedPattern)),
      Positional("fixed", InEveryLayer(FixedPattern)),
      {"LSH", [seed](ThreadPool& pool) { return std::make_unique<LshPolicy>(pool, seed); }},
      Positional("random",
                 [seed](int64_t layer, int64_t position, int64_t budget) {
                   return RandomPattern(
                       position, budget,
                       Mixed(seed, static_cast<uint64_t>(layer), static_cast<uint64_t>(position)));
                 }),
  };
}

// Box and Muller's normal numbers: std::normal_distribution differs between libraries.
LshHash::LshHash(int64_t dim, uint64_t seed) : dim_(dim) {
  std::mt19937_64 random(seed);
  const auto uniform = [&random] { return (static_cast<double>(random() >> 11) + 0.5) * 0x1p-53; };
  rotations_.resize(static_cast<size_t>(kLshRounds * kLshBuckets / 2 * dim));
  for (float& value : rotations_) {
    const double radius = std::sqrt(-2 * std::log(uniform()));
    value = static_cast<float>(radius * std::cos(6.283185307179586 * uniform()));
  }
}

void LshHash::Hash(const float* x, uint8_t* buckets) const {
  constexpr int64_t kHalf = kLshBuckets / 2;
  const float* rotation = rotations_.data();
  for (int64_t round = 0; round < kLshRounds; ++round) {
    float best = -INFINITY;
    for (int64_t direction = 0; direction < kHalf; ++direction, rotation += dim_) {
      const float dot = Dot(x, rotation, dim_);
      if (dot > best) {
        best = dot;
        buckets[round] = static_cast<uint8_t>(direction);
      }
      if (-dot > best) {
        best = -dot;
        buckets[round] = static_cast<uint8_t>(direction + kHalf);
      }
    }
  }
}

}  // namespace winnow::eval
