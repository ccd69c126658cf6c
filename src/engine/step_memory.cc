#include "engine/step_memory.h"

#include <algorithm>

#include "base/check.h"
#include "base/text.h"

namespace winnow {
namespace {

constexpr int64_t kMiB = 1 << 20;

}  // namespace

StepMemory CountStepMemory(const ModelConfig& config, const TransformerOptions& options,
                           IndexKeyType index_keys, int64_t logit_rows, const Backend& backend) {
  const int64_t T = options.max_tokens;
  StepMemory memory;
  memory.activations = HostBuffer::Footprint(Transformer::WorkspaceBytes(config, options));
  if (options.attention == AttentionMode::kSparse) {
    memory.selection =
        backend.SelectionScratchBytes(std::min(config.index_topk, options.max_context));
  }
  memory.scratch = backend.ScratchBytes(Transformer::ShapeOfSteps(config, options, index_keys));
  memory.logits = (options.max_sequences + std::min(kLogitRows, T) + logit_rows) *
                  config.vocab_size * int64_t{sizeof(float)};
  // Of the runner's batch and the engine's.
  constexpr int64_t kOfToken = 2 * (5 * sizeof(int32_t) + sizeof(DrawRule));
  memory.batch = T * kOfToken + Transformer::HostBytes(config, options);
  return memory;
}

Result<StepPlan> PlanSteps(const ModelConfig& config, TransformerOptions options,
                           IndexKeyType index_keys, int64_t chunk, int64_t cache_tokens,
                           int64_t budget, const Backend& backend) {
  const auto plan_for = [&](int64_t of_prompts) {
    StepPlan plan;
    plan.chunk = of_prompts;
    plan.logit_rows = budget > 0 ? std::min(of_prompts, kLogitRows) : of_prompts;
    plan.transformer = options;
    plan.transformer.max_tokens =
        std::max(std::min(of_prompts, cache_tokens), options.max_sequences);
    plan.memory = CountStepMemory(config, plan.transformer, index_keys, plan.logit_rows, backend);
    return plan;
  };
  if (budget == 0) return plan_for(chunk);
  const StepPlan least = plan_for(1);
  if (least.memory.total() > budget) {
    return InvalidArgument(
        fmt::format("workspace: {:.1f} MiB, expected at least {} MiB, for steps of {} tokens",
                    static_cast<double>(budget) / kMiB, (least.memory.total() + kMiB - 1) / kMiB,
                    least.transformer.max_tokens));
  }
  int64_t fits = 1;
  int64_t too_long = chunk + 1;
  while (fits + 1 < too_long) {
    const int64_t middle = fits + (too_long - fits) / 2;
    (plan_for(middle).memory.total() <= budget ? fits : too_long) = middle;
  }
  return plan_for(fits);
}

}  // namespace winnow
