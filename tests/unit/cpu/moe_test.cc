// The mixture of experts against a brute force that follows the definition token by token.
#include <algorithm>
#include <cmath>
#include <numeric>
#include <optional>

#include "unit/cpu/cpu_test_support.h"

namespace winnow::cpu {
namespace {

struct Routing {
  int64_t experts = 8;
  int64_t chosen = 2;
  int64_t groups = 1;
  int64_t kept_groups = 1;
  bool normalise = true;
  float factor = 1;
};

struct Mixture {
  Mixture(const Routing& routing, Storage storage, int64_t size, int64_t width,
          int64_t shared_width, uint32_t seed)
      : routing(routing), gate(DType::kF32, routing.experts, size, seed) {
    bias = RandomFloats(routing.experts, seed + 1);
    for (float& value : bias) value *= 0.3f;
    for (int64_t e = 0; e <= routing.experts; ++e) {
      const int64_t f = e < routing.experts ? width : shared_width;
      if (f == 0) break;
      for (int part = 0; part < 3; ++part) {
        matrices.push_back(std::make_unique<Matrix>(storage.type, part == 2 ? size : f,
                                                    part == 2 ? f : size, ++seed, storage.scales));
      }
    }
    for (int64_t e = 0; e < routing.experts; ++e) experts.push_back(Block(e));
    if (shared_width > 0) shared = Block(routing.experts);
    has_shared = shared_width > 0;
  }
  FfnWeights Block(int64_t e) const {
    return {matrices[3 * e]->view(), matrices[3 * e + 1]->view(), matrices[3 * e + 2]->view()};
  }

  std::vector<float> Run(Backend& backend, const std::vector<float>& x, int64_t tokens) const {
    std::vector<float> out(x.size(), NAN);
    const int64_t size = gate.columns();
    MoeArgs args;
    args.x = ViewOf(x, {tokens, size});
    args.gate = gate.view();
    args.e_score_correction_bias = ViewOf(bias, {routing.experts});
    args.experts = experts;
    args.shared_experts = has_shared ? &shared : nullptr;
    args.num_experts_per_tok = routing.chosen;
    args.n_group = routing.groups;
    args.topk_group = routing.kept_groups;
    args.norm_topk_prob = routing.normalise;
    args.routed_scaling_factor = routing.factor;
    args.out = ViewOf(out, {tokens, size});
    backend.Moe(args);
    return out;
  }

  Routing routing;
  Matrix gate;
  std::vector<float> bias;
  std::vector<std::unique_ptr<Matrix>> matrices;
  std::vector<FfnWeights> experts;
  FfnWeights shared;
  bool has_shared = false;
};

// The chosen experts and their weights by sorting everything.
std::vector<std::pair<int64_t, double>> Choose(const Mixture& m, const float* x) {
  const Routing& r = m.routing;
  std::vector<double> g(r.experts);
  std::vector<double> b(r.experts);
  for (int64_t e = 0; e < r.experts; ++e) {
    double logit = 0;
    for (int64_t k = 0; k < m.gate.columns(); ++k) {
      logit += static_cast<double>(x[k]) * m.gate.At(e, k, false);
    }
    g[e] = 1 / (1 + std::exp(-logit));
    b[e] = g[e] + m.bias[e];
  }
  const int64_t group_size = r.experts / r.groups;
  std::vector<double> score(r.groups);
  for (int64_t group = 0; group < r.groups; ++group) {
    std::vector<double> sorted(&b[group * group_size], &b[group * group_size] + group_size);
    std::sort(sorted.rbegin(), sorted.rend());
    score[group] = sorted[0] + (group_size > 1 ? sorted[1] : 0);
  }
  std::vector<int64_t> groups(r.groups);
  std::iota(groups.begin(), groups.end(), 0);
  std::stable_sort(groups.begin(), groups.end(),
                   [&](int64_t a, int64_t c) { return score[a] > score[c]; });
  groups.resize(r.kept_groups);
  std::vector<int64_t> order;
  for (int64_t e = 0; e < r.experts; ++e) {
    if (std::count(groups.begin(), groups.end(), e / group_size)) order.push_back(e);
  }
  std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t c) { return b[a] > b[c]; });
  order.resize(r.chosen);
  double sum = 0;
  for (int64_t e : order) sum += g[e];
  std::vector<std::pair<int64_t, double>> chosen;
  for (int64_t e : order) {
    chosen.push_back({e, g[e] / (r.normalise ? sum + 1e-20 : 1.0) * r.factor});
  }
  return chosen;
}

std::vector<double> RunBlock(const Mixture& m, int64_t e, const float* x, bool round) {
  const Matrix& gate = *m.matrices[3 * e];
  const Matrix& up = *m.matrices[3 * e + 1];
  const Matrix& down = *m.matrices[3 * e + 2];
  std::vector<double> hidden(gate.rows());
  for (int64_t f = 0; f < gate.rows(); ++f) {
    double a = 0;
    double b = 0;
    for (int64_t k = 0; k < gate.columns(); ++k) {
      a += static_cast<double>(x[k]) * gate.At(f, k, round);
      b += static_cast<double>(x[k]) * up.At(f, k, round);
    }
    hidden[f] = a / (1 + std::exp(-a)) * b;
  }
  std::vector<double> out(down.rows());
  for (int64_t d = 0; d < down.rows(); ++d) {
    for (int64_t f = 0; f < down.columns(); ++f) out[d] += hidden[f] * down.At(d, f, round);
  }
  return out;
}

std::vector<double> BruteForce(const Mixture& m, const std::vector<float>& x, int64_t tokens,
                               bool round) {
  const int64_t size = m.gate.columns();
  std::vector<double> out(x.size());
  for (int64_t t = 0; t < tokens; ++t) {
    std::vector<std::pair<int64_t, double>> parts = Choose(m, &x[t * size]);
    if (m.has_shared) parts.push_back({m.routing.experts, 1.0});
    for (const auto& [expert, weight] : parts) {
      const std::vector<double> y = RunBlock(m, expert, &x[t * size], round);
      for (int64_t k = 0; k < size; ++k) out[t * size + k] += weight * y[k];
    }
  }
  return out;
}

void ExpectNear(const std::vector<float>& out, const std::vector<double>& expected, bool round) {
  double scale = 0;
  for (double value : expected) scale = std::max(scale, std::fabs(value));
  for (size_t i = 0; i < out.size(); ++i) {
    ASSERT_NEAR(out[i], expected[i], scale * (round ? 0.03 : 2e-5)) << i;
  }
}

constexpr Routing kRoutings[] = {
    {.experts = 8, .chosen = 2},
    {.experts = 16, .chosen = 4, .groups = 4, .kept_groups = 2, .factor = 2.5f},
    {.experts = 6, .chosen = 3, .groups = 6, .kept_groups = 4},  // groups of one
    {.experts = 5, .chosen = 5, .normalise = false, .factor = 1.5f},
    {.experts = 1, .chosen = 1},
    {.experts = 64, .chosen = 6, .groups = 8, .kept_groups = 3},
};

TEST(Moe, IsTheWeightedSumOfTheChosenExperts) {
  for (const Sums sums : kAllSums) {
    const bool round = sums != Sums::kF32;
    const auto backends = EqualBackends(sums);
    if (backends.empty()) continue;
    uint32_t seed = 1;
    for (const Routing& routing : kRoutings) {
      for (int64_t tokens : {1, 2, 5, 40}) {
        for (int64_t shared : {0, 30}) {
          const Storage& storage = kStorages[seed / 1000 % std::size(kStorages)];
          const Mixture mixture(routing, storage, 33, 20, shared, seed += 1000);
          const std::vector<float> x = RoundedToBf16(RandomFloats(tokens * 33, seed));
          const std::vector<float> first = mixture.Run(*backends[0], x, tokens);
          ExpectNear(first, BruteForce(mixture, x, tokens, round), round);
          for (const auto& backend : backends) {
            if (!Reads(*backend, storage.scales)) continue;
            EXPECT_TRUE(SameBits(mixture.Run(*backend, x, tokens), first)) << backend->Describe();
          }
        }
      }
    }
  }
}

TEST(Moe, GivesATokenTheSameBitsAloneAndInABatch) {
  for (Precision precision : {Precision::kF32, Precision::kBf16}) {
    const auto backend = CreateCpuBackend({.num_threads = 2, .precision = precision});
    const Mixture mixture(kRoutings[1], {DType::kBF16, Scales::kNone}, 50, 70, 90, 77);
    const std::vector<float> x = RandomFloats(150 * 50, 78);
    const std::vector<float> batch = mixture.Run(*backend, x, 150);
    for (int64_t tokens : {1, 3, 20}) {
      const std::vector<float> part(x.begin() + 7 * 50, x.begin() + (7 + tokens) * 50);
      const std::vector<float> expected(batch.begin() + 7 * 50, batch.begin() + (7 + tokens) * 50);
      EXPECT_TRUE(SameBits(mixture.Run(*backend, part, tokens), expected)) << tokens;
    }
  }
}

// Experts whose output is their own number in every place: the sum tells who was chosen.
class ChosenExperts {
 public:
  explicit ChosenExperts(const Routing& routing)
      : routing_(routing), zero_(routing.experts, 0.0f), down_(routing.experts) {
    // silu(20) * 1 is 20 to the last bit of what follows, and x is 1.
    for (int64_t e = 0; e < routing.experts; ++e) {
      down_[e] = {std::ldexp(1.0f, static_cast<int>(e)) / 20.0f};
    }
  }
  // The set of experts chosen under `bias`, as bits; all sigmoids are one half, or NaN where asked.
  uint64_t Under(const std::vector<float>& bias, const std::vector<float>* logits = nullptr) const {
    const std::vector<float> x = {1};
    const std::vector<float> gate = {20};
    const std::vector<float> up = {1};
    std::vector<FfnWeights> experts(routing_.experts);
    for (int64_t e = 0; e < routing_.experts; ++e) {
      experts[e].gate_proj.value = ViewOf(gate, {1, 1});
      experts[e].up_proj.value = ViewOf(up, {1, 1});
      experts[e].down_proj.value = ViewOf(down_[e], {1, 1});
    }
    std::vector<float> out(1);
    MoeArgs args;
    args.x = ViewOf(x, {1, 1});
    args.gate.value = ViewOf(logits ? *logits : zero_, {routing_.experts, 1});
    args.e_score_correction_bias = ViewOf(bias, {routing_.experts});
    args.experts = experts;
    args.num_experts_per_tok = routing_.chosen;
    args.n_group = routing_.groups;
    args.topk_group = routing_.kept_groups;
    args.norm_topk_prob = false;
    args.routed_scaling_factor = 2;
    args.out = ViewOf(out, {1, 1});
    std::optional<uint64_t> chosen;
    for (const auto& backend : EqualBackends(Sums::kF32)) {
      backend->Moe(args);
      const uint64_t set = static_cast<uint64_t>(std::llround(out[0]));
      EXPECT_EQ(chosen.value_or(set), set) << backend->Describe();
      chosen = set;
    }
    return *chosen;
  }

 private:
  Routing routing_;
  std::vector<float> zero_;
  std::vector<std::vector<float>> down_;
};

TEST(Moe, BreaksTiesTowardTheLowerExpert) {
  const ChosenExperts experts({.experts = 8, .chosen = 3});
  EXPECT_EQ(experts.Under({0, 0, 0, 0, 0, 0, 0, 0}), 0b00000111u);
  EXPECT_EQ(experts.Under({0, 0, 0, 0, 0, 1, 0, 1}), 0b10100001u);
  EXPECT_EQ(experts.Under({0, 1, 1, 1, 1, 0, 0, 0}), 0b00001110u);
}

TEST(Moe, ChoosesWithinTheBestGroupsEvenWhenAllScoresAreNegative) {
  const ChosenExperts experts({.experts = 8, .chosen = 3, .groups = 4, .kept_groups = 2});
  // Sums of two biases: -3, -7, -4, -21. Expert 7 is the best of all, but in the worst group.
  EXPECT_EQ(experts.Under({-2, -1, -3, -4, -2.5f, -1.5f, -20.5f, -0.5f}), 0b00100011u);
}

TEST(Moe, BreaksTiesTowardTheLowerGroup) {
  const ChosenExperts experts({.experts = 6, .chosen = 2, .groups = 3, .kept_groups = 1});
  EXPECT_EQ(experts.Under({0, 0, 1, 2, 2, 1}), 0b001100u);
}

TEST(Moe, CountsTheTwoBestOfAGroup) {
  const ChosenExperts experts({.experts = 6, .chosen = 1, .groups = 2, .kept_groups = 1});
  // The first group has the best expert, the second the better pair; a third expert counts nothing.
  EXPECT_EQ(experts.Under({5, 0, 4.5f, 4.8f, 4.9f, -100}), 0b010000u);
}

TEST(Moe, PrefersEveryNumberToNan) {
  const ChosenExperts experts({.experts = 4, .chosen = 2});
  EXPECT_EQ(experts.Under({NAN, -50, NAN, -60}), 0b1010u);
  const ChosenExperts grouped({.experts = 4, .chosen = 2, .groups = 2, .kept_groups = 1});
  EXPECT_EQ(grouped.Under({NAN, NAN, -50, -60}), 0b1100u);
}

TEST(Moe, UsesTheScoreWithoutTheBiasAsWeight) {
  const ChosenExperts experts({.experts = 3, .chosen = 1});
  // Chosen by bias alone; its weight stays sigmoid(0) * 2 = 1.
  EXPECT_EQ(experts.Under({0, 1000, 0}), 0b010u);
}

TEST(Moe, TakesNoTokens) {
  const auto backend = CreateCpuBackend({.num_threads = 2});
  const Mixture mixture(kRoutings[0], {DType::kF32, Scales::kNone}, 8, 8, 8, 5);
  std::vector<float> none;
  float unused = 0;
  MoeArgs args;
  args.x = TensorView(&unused, DType::kF32, {0, 8});
  args.gate = mixture.gate.view();
  args.e_score_correction_bias = ViewOf(mixture.bias, {8});
  args.experts = mixture.experts;
  args.num_experts_per_tok = 2;
  args.out = TensorView(&unused, DType::kF32, {0, 8});
  backend->Moe(args);
  EXPECT_EQ(unused, 0);
}

}  // namespace
}  // namespace winnow::cpu
