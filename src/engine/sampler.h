// From logits to a token.
#pragma once

#include <cstdint>
#include <functional>
#include <random>
#include <span>
#include <unordered_map>
#include <utility>
#include <vector>

#include "backend/draw_token.h"
#include "winnow/status.h"

namespace winnow {

// SamplingParams with nothing left open.
struct SamplerOptions {
  double temperature = 0.0;
  double top_p = 1.0;
  int64_t top_k = 0;
  double min_p = 0.0;
  double repetition_penalty = 1.0;
  double presence_penalty = 0.0;
  double frequency_penalty = 0.0;
  uint64_t seed = 0;
  int64_t vocab_limit = 0;  // ids from here on are padding of the head and never drawn
  int64_t logprobs = -1;    // -1: none; n ≥ 0: of the token and its n likeliest rivals
  std::vector<std::pair<int32_t, double>> logit_bias;
};

// kInvalidArgument naming the parameter, its value and its range.
Status CheckSampler(const SamplerOptions& options);

struct RankedToken {
  int32_t token_id = 0;
  double logprob = 0.0;
};

struct Sample {
  RankedToken chosen;            // logprob is filled only if asked for
  std::vector<RankedToken> top;  // likeliest first
};

// What the model thought of `token` and which `count` tokens it held likeliest, by its logits.
Sample RankToken(std::span<const float> logits, int32_t token, int64_t count);

// Whether tokens follow from the model's own logits alone and are all that is told of them: then
// whoever has the logits may draw (backend/draw_token.h).
bool NeedsTokensAlone(const SamplerOptions& options);

// Draws the tokens of one sequence. Equal logits, options and history give equal tokens: a draw is
// backend/draw_token.h's, by one number a token of a 64-bit Mersenne twister.
class Sampler {
 public:
  Sampler(const SamplerOptions& options, std::span<const int32_t> prompt);

  // Draws from `logits` [vocab_size], which it changes. NaN counts as -infinity. `restrict` (may be
  // empty) makes -infinity of what may not come next. Log probabilities are those of the model,
  // before restriction, penalties, bias and temperature. kInternal if no logit is a number.
  Result<Sample> Next(std::span<float> logits,
                      const std::function<void(std::span<float>)>& restrict = {});
  // How the next token is drawn.
  const DrawRule& rule() const { return rule_; }
  // In place of Next where NeedsTokensAlone: what was drawn by rule().
  Result<Sample> Accept(int32_t token);

 private:
  void ApplyPenalties(std::span<float> logits) const;
  Result<int32_t> Draw(std::span<const float> logits) const;

  SamplerOptions options_;
  std::mt19937_64 random_;
  std::unordered_map<int32_t, int64_t> generated_;  // how often each token was drawn
  std::unordered_map<int32_t, bool> seen_;          // prompt and generated, for repetition_penalty
  DrawRule rule_;                                   // with the next token's number
};

}  // namespace winnow
