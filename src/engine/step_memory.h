// What a step holds beside weights and cache, and the longest step that a budget allows.
#pragma once

#include "model/transformer.h"

namespace winnow {

// Rows of logits that a step with prompts to describe may hold beside one for every sequence.
constexpr int64_t kLogitRows = 64;

// Bytes, each rounded up as the system hands them out.
struct StepMemory {
  int64_t activations = 0;  // the workspace
  int64_t selection = 0;    // scores and candidates: the part of `scratch` that selecting needs
  int64_t scratch = 0;      // of the backend's operations
  int64_t logits = 0;       // of the samplers, and of who reads the logits of a whole prompt
  int64_t batch = 0;        // tokens, page tables and new angles on the host

  int64_t total() const { return activations + scratch + logits + batch; }
};

// `logit_rows` is how many tokens of a prompt at a time are run when the logits of all are wanted.
StepMemory CountStepMemory(const ModelConfig& config, const TransformerOptions& options,
                           IndexKeyType index_keys, int64_t logit_rows, const Backend& backend);

// Steps of a model: `chunk` tokens of prompts at a time, at most `max_tokens` in all.
struct StepPlan {
  int64_t chunk = 0;
  int64_t logit_rows = 0;
  TransformerOptions transformer;
  StepMemory memory;
};

// The plan with the largest chunk up to `chunk` that stays within `budget` bytes; 0: no budget.
// `options` says the rest; its max_tokens is set here, to at least one for every sequence and at
// most the `cache_tokens` that there is room for. kInvalidArgument with the smallest budget that
// suffices.
Result<StepPlan> PlanSteps(const ModelConfig& config, TransformerOptions options,
                           IndexKeyType index_keys, int64_t chunk, int64_t cache_tokens,
                           int64_t budget, const Backend& backend);

}  // namespace winnow
