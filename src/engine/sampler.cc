#include "engine/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "base/check.h"
#include "base/text.h"

namespace winnow {
namespace {

constexpr float kNever = -std::numeric_limits<float>::infinity();

bool Likelier(const TokenLogit& a, const TokenLogit& b) {
  return a.logit != b.logit ? a.logit > b.logit : a.id < b.id;
}

void FindFinite(std::span<const float> logits, std::vector<TokenLogit>* finite) {
  std::vector<TokenLogit>& candidates = *finite;
  candidates.clear();
  candidates.reserve(logits.size());
  for (size_t id = 0; id < logits.size(); ++id) {
    if (logits[id] > kNever) candidates.push_back({static_cast<int32_t>(id), logits[id]});
  }
}

double LogSumExp(std::span<const float> logits, float largest) {
  double sum = 0.0;
  for (const float logit : logits) sum += std::exp(static_cast<double>(logit) - largest);
  return largest + std::log(sum);
}

void RankTop(std::span<const float> logits, double log_total, int64_t count, Sample* sample) {
  std::vector<TokenLogit> candidates;
  FindFinite(logits, &candidates);
  const size_t kept = std::min(candidates.size(), static_cast<size_t>(count));
  std::partial_sort(candidates.begin(), candidates.begin() + static_cast<int64_t>(kept),
                    candidates.end(), Likelier);
  for (size_t rank = 0; rank < kept; ++rank) {
    sample->top.push_back({candidates[rank].id, candidates[rank].logit - log_total});
  }
}

// The shortest run of likeliest candidates that holds `share` of `total`, sorted. Mostly a few
// tokens hold the mass, so only as many are sorted as are needed.
size_t NucleusSize(std::vector<TokenLogit>& candidates, const std::vector<double>& mass_of_id,
                   double share, double total) {
  double mass = 0.0;
  size_t sorted = 0;
  for (size_t size = 0; size < candidates.size(); ++size) {
    if (size == sorted) {
      const size_t next = std::min(candidates.size(), std::max<size_t>(64, 4 * sorted));
      std::partial_sort(candidates.begin() + static_cast<int64_t>(sorted),
                        candidates.begin() + static_cast<int64_t>(next), candidates.end(),
                        Likelier);
      sorted = next;
    }
    mass += mass_of_id[static_cast<size_t>(candidates[size].id)];
    if (mass >= share * total) return size + 1;
  }
  return candidates.size();
}

Status NoneIsFinite() { return Internal("logits: none is a finite number"); }

Status NothingLeft() {
  return Internal("logits: none is left to draw after restriction and penalties");
}

Status OutOfRange(const char* name, double value, const char* range) {
  return InvalidArgument(fmt::format("{}: {}, expected {}", name, value, range));
}

}  // namespace

Status CheckSampler(const SamplerOptions& o) {
  // Written so that NaN fails each test.
  if (!(o.temperature >= 0.0 && o.temperature <= 100.0)) {
    return OutOfRange("temperature", o.temperature, "0 to 100");
  }
  if (!(o.top_p > 0.0 && o.top_p <= 1.0)) return OutOfRange("top_p", o.top_p, "above 0, to 1");
  if (o.top_k < 0) {
    return OutOfRange("top_k", static_cast<double>(o.top_k), "0 (all) or a positive number");
  }
  if (!(o.min_p >= 0.0 && o.min_p <= 1.0)) return OutOfRange("min_p", o.min_p, "0 to 1");
  if (!(o.repetition_penalty > 0.0 && o.repetition_penalty <= 100.0)) {
    return OutOfRange("repetition_penalty", o.repetition_penalty, "above 0, to 100");
  }
  if (!(std::fabs(o.presence_penalty) <= 100.0)) {
    return OutOfRange("presence_penalty", o.presence_penalty, "-100 to 100");
  }
  if (!(std::fabs(o.frequency_penalty) <= 100.0)) {
    return OutOfRange("frequency_penalty", o.frequency_penalty, "-100 to 100");
  }
  for (const auto& [id, bias] : o.logit_bias) {
    if (!(std::fabs(bias) <= 100.0)) return OutOfRange("logit_bias", bias, "-100 to 100");
  }
  if (o.logprobs < -1 || o.logprobs > 1000) {
    return OutOfRange("logprobs", static_cast<double>(o.logprobs), "0 to 1000");
  }
  return OkStatus();
}

int32_t LikeliestBelow(const SamplerOptions& o) {
  const bool greedy = o.temperature == 0.0 && o.logprobs < 0 && o.repetition_penalty == 1.0 &&
                      o.presence_penalty == 0.0 && o.frequency_penalty == 0.0 &&
                      o.logit_bias.empty();
  if (!greedy) return 0;
  const int64_t all = std::numeric_limits<int32_t>::max();
  return static_cast<int32_t>(o.vocab_limit > 0 ? std::min(o.vocab_limit, all) : all);
}

Sampler::Sampler(const SamplerOptions& options, std::span<const int32_t> prompt)
    : options_(options), random_(options.seed) {
  if (options_.repetition_penalty != 1.0) {
    for (const int32_t id : prompt) seen_[id] = true;
  }
}

void Sampler::ApplyPenalties(std::span<float> logits) const {
  const float repetition = static_cast<float>(options_.repetition_penalty);
  if (repetition != 1.0f) {
    for (const auto& [id, seen] : seen_) {
      float& logit = logits[static_cast<size_t>(id)];
      logit = logit > 0 ? logit / repetition : logit * repetition;
    }
  }
  for (const auto& [id, count] : generated_) {
    logits[static_cast<size_t>(id)] -= static_cast<float>(
        options_.presence_penalty + options_.frequency_penalty * static_cast<double>(count));
  }
  for (const auto& [id, bias] : options_.logit_bias) {
    logits[static_cast<size_t>(id)] += static_cast<float>(bias);
  }
}

Sample RankToken(std::span<const float> logits, int32_t token, int64_t count) {
  Sample sample;
  const float largest = *std::max_element(logits.begin(), logits.end());
  const double log_total = LogSumExp(logits, largest);
  RankTop(logits, log_total, count, &sample);
  sample.chosen = {token, logits[static_cast<size_t>(token)] - log_total};
  return sample;
}

Result<Sample> Sampler::Next(std::span<float> logits,
                             const std::function<void(std::span<float>)>& restrict) {
  const size_t limit = static_cast<size_t>(options_.vocab_limit);
  for (size_t id = 0; id < logits.size(); ++id) {
    if (std::isnan(logits[id]) || (limit > 0 && id >= limit)) logits[id] = kNever;
  }
  const float largest = *std::max_element(logits.begin(), logits.end());
  if (!std::isfinite(largest)) return NoneIsFinite();

  Sample sample;
  double log_total = 0.0;
  std::vector<float> unpenalised;
  if (options_.logprobs >= 0) {
    log_total = LogSumExp(logits, largest);
    RankTop(logits, log_total, options_.logprobs, &sample);
    unpenalised.assign(logits.begin(), logits.end());
  }
  ApplyPenalties(logits);
  if (restrict) restrict(logits);
  WINNOW_ASSIGN(sample.chosen.token_id, Draw(logits));
  if (options_.logprobs >= 0) {
    sample.chosen.logprob = unpenalised[static_cast<size_t>(sample.chosen.token_id)] - log_total;
  }
  ++generated_[sample.chosen.token_id];
  if (options_.repetition_penalty != 1.0) seen_[sample.chosen.token_id] = true;
  return sample;
}

Result<Sample> Sampler::Accept(int32_t likeliest) {
  if (likeliest < 0) return NoneIsFinite();
  Sample sample;
  sample.chosen.token_id = likeliest;
  return sample;
}

// One token, step 8 of 9. From dsa/lightning_indexer.h; next: Deliver() in generation.cc.
Result<int32_t> Sampler::Draw(std::span<const float> logits) {
  if (options_.temperature == 0.0) {
    const auto likeliest = std::max_element(logits.begin(), logits.end());
    if (!(*likeliest > kNever)) return NothingLeft();
    return static_cast<int32_t>(likeliest - logits.begin());
  }
  std::vector<TokenLogit>& candidates = candidates_;
  FindFinite(logits, &candidates);
  if (candidates.empty()) return NothingLeft();
  if (options_.top_k > 0 && static_cast<size_t>(options_.top_k) < candidates.size()) {
    std::nth_element(candidates.begin(), candidates.begin() + options_.top_k, candidates.end(),
                     Likelier);
    candidates.resize(static_cast<size_t>(options_.top_k));
  }
  const float largest = std::min_element(candidates.begin(), candidates.end(), Likelier)->logit;
  std::vector<double>& mass_of_id = mass_of_id_;
  mass_of_id.assign(logits.size(), 0.0);
  const auto drop_unlikely = [&](const TokenLogit& candidate) {
    const double mass =
        std::exp((static_cast<double>(candidate.logit) - largest) / options_.temperature);
    mass_of_id[static_cast<size_t>(candidate.id)] = mass;
    return mass < options_.min_p;
  };
  std::erase_if(candidates, drop_unlikely);
  // Sums run in the order of ids, whatever order top_k left behind.
  std::sort(candidates.begin(), candidates.end(),
            [](const TokenLogit& a, const TokenLogit& b) { return a.id < b.id; });
  const auto mass_of = [&](const TokenLogit& candidate) {
    return mass_of_id[static_cast<size_t>(candidate.id)];
  };
  double total = 0.0;
  for (const TokenLogit& candidate : candidates) total += mass_of(candidate);
  if (options_.top_p < 1.0) {
    candidates.resize(NucleusSize(candidates, mass_of_id, options_.top_p, total));
    total = 0.0;
    for (const TokenLogit& candidate : candidates) total += mass_of(candidate);
  }
  // 53 random bits: a uniform number in [0, 1) that every machine makes alike.
  double left = static_cast<double>(random_() >> 11) * 0x1p-53 * total;
  for (const TokenLogit& candidate : candidates) {
    left -= mass_of(candidate);
    if (left < 0.0) return candidate.id;
  }
  return candidates.back().id;
}

}  // namespace winnow
