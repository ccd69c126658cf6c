#include "engine/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/check.h"
#include "base/text.h"

namespace winnow {
namespace {

constexpr float kNever = -std::numeric_limits<float>::infinity();

struct TokenLogit {
  int32_t id = 0;
  float logit = 0;
};

bool Likelier(const TokenLogit& a, const TokenLogit& b) {
  return a.logit != b.logit ? a.logit > b.logit : a.id < b.id;
}

DrawRule RuleOf(const SamplerOptions& o) {
  const auto int32_of = [](int64_t number) {
    return static_cast<int32_t>(std::min<int64_t>(number, std::numeric_limits<int32_t>::max()));
  };
  DrawRule rule;
  rule.below = int32_of(o.vocab_limit > 0 ? o.vocab_limit : kMostIds);
  rule.top_k = int32_of(o.top_k);
  rule.temperature = o.temperature;
  rule.top_p = o.top_p;
  rule.min_p = o.min_p;
  return rule;
}

double LogSumExp(std::span<const float> logits, float largest) {
  double sum = 0.0;
  for (const float logit : logits) sum += std::exp(static_cast<double>(logit) - largest);
  return largest + std::log(sum);
}

void RankTop(std::span<const float> logits, double log_total, int64_t count, Sample* sample) {
  std::vector<TokenLogit> candidates;
  candidates.reserve(logits.size());
  for (size_t id = 0; id < logits.size(); ++id) {
    if (logits[id] > kNever) candidates.push_back({static_cast<int32_t>(id), logits[id]});
  }
  const size_t kept = std::min(candidates.size(), static_cast<size_t>(count));
  std::partial_sort(candidates.begin(), candidates.begin() + static_cast<int64_t>(kept),
                    candidates.end(), Likelier);
  for (size_t rank = 0; rank < kept; ++rank) {
    sample->top.push_back({candidates[rank].id, candidates[rank].logit - log_total});
  }
}

Status NoneIsFinite() { return Internal("logits: none is a finite number"); }

Status NothingLeft() {
  return Internal("logits: none that restriction and penalties leave is a finite number");
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

bool NeedsTokensAlone(const SamplerOptions& o) {
  return o.logprobs < 0 && o.repetition_penalty == 1.0 && o.presence_penalty == 0.0 &&
         o.frequency_penalty == 0.0 && o.logit_bias.empty();
}

Sampler::Sampler(const SamplerOptions& options, std::span<const int32_t> prompt)
    : options_(options), random_(options.seed), rule_(RuleOf(options)) {
  rule_.random = random_();
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
  rule_.random = random_();
  if (options_.logprobs >= 0) {
    sample.chosen.logprob = unpenalised[static_cast<size_t>(sample.chosen.token_id)] - log_total;
  }
  ++generated_[sample.chosen.token_id];
  if (options_.repetition_penalty != 1.0) seen_[sample.chosen.token_id] = true;
  return sample;
}

Result<Sample> Sampler::Accept(int32_t token) {
  if (token < 0) return NoneIsFinite();
  rule_.random = random_();
  Sample sample;
  sample.chosen.token_id = token;
  return sample;
}

// One token, step 8 of 9. From dsa/lightning_indexer.h; next: Deliver() in generation.cc.
Result<int32_t> Sampler::Draw(std::span<const float> logits) const {
  const int32_t token = DrawToken(logits, rule_);
  if (token < 0) return NothingLeft();
  return token;
}

}  // namespace winnow
