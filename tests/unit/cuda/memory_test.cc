// The working memory of operations on a GPU is what was planned, before and after every kind of
// step.
#include <gtest/gtest.h>

#include "engine/model_runner.h"

namespace winnow {
namespace {

const std::string kSource = WINNOW_SOURCE_DIR;

std::unique_ptr<ModelRunner> Load(const std::string& model, Precision precision,
                                  AttentionMode attention, LatentType latent, int64_t context) {
  EngineOptions options;
  options.model_dir = kSource + "/" + model;
  options.backend = "cuda";
  options.precision = precision;
  options.attention = attention;
  options.kv_cache = latent;
  options.max_context = context;
  options.chunk = 300;
  options.max_sequences = 2;
  return ModelRunner::Load(
             options, [context](ModelConfig& config) { config.max_position_embeddings = context; })
      .value();
}

void ExpectPlanned(const std::string& model, Precision precision, AttentionMode attention,
                   LatentType latent, int64_t context) {
  const auto runner = Load(model, precision, attention, latent, context);
  EXPECT_EQ(runner->backend().scratch_bytes(), runner->step_memory().scratch) << model;
  std::vector<float> logits(static_cast<size_t>(runner->config().vocab_size));
  const std::vector<int32_t> tokens(static_cast<size_t>(context), 3);
  for (size_t first = 0, turn = 0; first < tokens.size(); ++turn) {
    const size_t count = std::min<size_t>(turn % 3 == 0   ? 300
                                          : turn % 3 == 1 ? 1
                                                          : 9,
                                          tokens.size() - first);
    ASSERT_TRUE(runner
                    ->Step(std::span<const int32_t>(tokens).subspan(first, count), LogitRows::kLast,
                           logits.data())
                    .ok());
    first += count;
  }
  EXPECT_EQ(runner->backend().scratch_bytes(), runner->step_memory().scratch)
      << model << ", " << Name(precision) << ", " << Name(attention) << ", " << Name(latent)
      << ", context " << context;
}

TEST(CudaMemory, IsWhatWasPlanned) {
  for (const std::string model : {"tests/golden/v32-heads-fp8", "tests/golden/v32-odd-bf16",
                                  "tests/golden/glm-pattern-bf16", "models/winnow-nano"}) {
    for (const Precision precision : {Precision::kF32, Precision::kBf16}) {
      for (const AttentionMode attention : {AttentionMode::kSparse, AttentionMode::kDense}) {
        for (const LatentType latent : {LatentType::kBf16, LatentType::kFp8}) {
          ExpectPlanned(model, precision, attention, latent, 700);
        }
      }
    }
  }
}

// Where dense attention sums chunks of a context apart.
TEST(CudaMemory, IsWhatWasPlannedForContextsOfSeveralChunks) {
  for (const AttentionMode attention : {AttentionMode::kSparse, AttentionMode::kDense}) {
    for (const LatentType latent : {LatentType::kBf16, LatentType::kFp8}) {
      ExpectPlanned("models/winnow-nano", Precision::kBf16, attention, latent, 5000);
    }
  }
}

}  // namespace
}  // namespace winnow
