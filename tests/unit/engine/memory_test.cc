// What a step takes from the system: nothing, and no more than was planned.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <numeric>

#include "engine/model_runner.h"
#include "unit/engine/allocations.h"

namespace winnow {
namespace {

constexpr int64_t kMiB = 1 << 20;

const std::string kGolden = std::string(WINNOW_SOURCE_DIR) + "/tests/golden/";

using Change = std::function<void(EngineOptions&)>;

std::unique_ptr<ModelRunner> Load(const std::string& model, int64_t context,
                                  const Change& change = {}) {
  EngineOptions options;
  options.model_dir = kGolden + model;
  options.num_threads = 2;
  options.max_context = context;
  options.chunk = 32;
  options.max_sequences = 2;
  if (change) change(options);
  auto runner = ModelRunner::Load(
      options, [&](ModelConfig& config) { config.max_position_embeddings = context; });
  return std::move(runner).value();
}

std::vector<int32_t> SomeTokens(int64_t count, int64_t vocab) {
  std::vector<int32_t> tokens(static_cast<size_t>(count));
  for (int64_t token = 0; token < count; ++token) {
    tokens[static_cast<size_t>(token)] = static_cast<int32_t>(token * token % 89 % vocab);
  }
  return tokens;
}

// Chunks of every length, and single tokens, from an empty cache to `context` tokens.
void RunTo(ModelRunner& runner, int64_t context, std::vector<float>& logits) {
  const std::vector<int32_t> tokens = SomeTokens(context, runner.config().vocab_size);
  const std::span<const int32_t> all = tokens;
  runner.Clear();
  for (int64_t first = 0, turn = 0; first < context; ++turn) {
    const int64_t chunk = turn % 3 == 0 ? runner.chunk() : turn % 3 == 1 ? 1 : turn % 7 + 2;
    const int64_t count = std::min({chunk, runner.chunk(), context - first});
    const auto part = all.subspan(static_cast<size_t>(first), static_cast<size_t>(count));
    ASSERT_TRUE(
        runner.Step(part, turn % 5 == 0 ? LogitRows::kAll : LogitRows::kLast, logits.data()).ok());
    first += count;
  }
}

TEST(Steps, TakeNoMemoryOnceTheFirstHaveRun) {
  for (const std::string model :
       {"v32-groups-f32", "v32-heads-fp8", "v32-odd-bf16", "glm-pattern-bf16"}) {
    for (const AttentionMode attention : {AttentionMode::kSparse, AttentionMode::kDense}) {
      for (const IndexKeyType keys : {IndexKeyType::kInt8, IndexKeyType::kBf16}) {
        for (const int threads : {1, 2, 3}) {
          const auto runner = Load(model, 700, [&](EngineOptions& options) {
            options.attention = attention;
            options.index_keys = keys;
            options.num_threads = threads;
          });
          std::vector<float> logits(static_cast<size_t>(runner->config().vocab_size * 32));
          RunTo(*runner, 33, logits);
          const int64_t scratch = runner->backend().scratch_bytes();
          const int64_t before = Allocations();
          RunTo(*runner, 700, logits);
          EXPECT_EQ(Allocations() - before, 1)  // the tokens of RunTo itself
              << model << " " << Name(attention) << " " << Name(keys) << " " << threads;
          EXPECT_EQ(runner->backend().scratch_bytes(), scratch);
          EXPECT_EQ(runner->step_memory().scratch, scratch);
        }
      }
    }
  }
}

TEST(Steps, TakeNoMemoryWithQuantizedWeights) {
  for (const WeightType weights : {WeightType::kInt8, WeightType::kInt4}) {
    const auto runner =
        Load("v32-groups-f32", 700, [&](EngineOptions& options) { options.weights = weights; });
    std::vector<float> logits(static_cast<size_t>(runner->config().vocab_size * 32));
    RunTo(*runner, 33, logits);
    const int64_t scratch = runner->backend().scratch_bytes();
    const int64_t before = Allocations();
    RunTo(*runner, 700, logits);
    EXPECT_EQ(Allocations() - before, 1) << Name(weights);  // the tokens of RunTo itself
    EXPECT_EQ(runner->backend().scratch_bytes(), scratch);
    EXPECT_EQ(runner->step_memory().scratch, scratch);
  }
}

TEST(Steps, OfAWholeModelStayWithinTheirPlan) {
  const auto runner =
      Load("../../models/winnow-nano", 2048, [](EngineOptions& options) { options.chunk = 512; });
  const int64_t scratch = runner->backend().scratch_bytes();
  EXPECT_EQ(runner->step_memory().scratch, scratch);
  std::vector<float> logits(static_cast<size_t>(runner->config().vocab_size));
  const std::vector<int32_t> tokens = SomeTokens(512, runner->config().vocab_size);
  ASSERT_TRUE(runner->Step({tokens.data(), 8}, LogitRows::kLast, logits.data()).ok());
  const int64_t before = Allocations();
  for (const size_t count : {512, 1, 9, 200, 512, 1}) {
    ASSERT_TRUE(runner->Step({tokens.data(), count}, LogitRows::kLast, logits.data()).ok());
  }
  EXPECT_EQ(Allocations() - before, 0);
  EXPECT_EQ(runner->backend().scratch_bytes(), scratch);
}

// A batch of the last tokens of a long context, as if all before them had been run.
struct LateBatch {
  LateBatch(ModelRunner& runner, int64_t context, int64_t count)
      : tokens(SomeTokens(count, runner.config().vocab_size)),
        pages(static_cast<size_t>(context / kPageSize)) {
    std::iota(pages.begin(), pages.end(), 0);
    batch.token_ids = tokens;
    for (int64_t position = context - count; position < context; ++position) {
      batch.positions.push_back(static_cast<int32_t>(position));
      batch.slots.push_back(static_cast<int32_t>(position));
    }
    batch.sequences.assign(static_cast<size_t>(count), 0);
    batch.page_tables.emplace_back(pages);
    batch.logit_rows.push_back(static_cast<int32_t>(count) - 1);
  }

  std::vector<int32_t> tokens;
  std::vector<int32_t> pages;
  Batch batch;
};

// What is held on purpose for every token of the context: rows and index keys, the angles, and a
// token of the sequence that is run alone.
int64_t BytesOfContext(const ModelRunner& runner) {
  const int64_t tokens = runner.max_context();
  int64_t bytes = HostBuffer::Footprint(tokens * runner.config().qk_rope_head_dim * 4) + tokens * 4;
  for (int64_t layer = 0; layer < runner.config().num_hidden_layers; ++layer) {
    const LayerCache& cache = runner.cache().layer(layer);
    bytes += HostBuffer::Footprint(cache.latent.rows.bytes());
    if (cache.index_keys) bytes += HostBuffer::Footprint(cache.index_keys->pages.bytes());
  }
  return bytes;
}

TEST(Workspace, IsKeptAt128KAndAMillionTokens) {
  for (const int64_t context : {int64_t{128} << 10, int64_t{1} << 20}) {
    for (const int64_t budget : {12 * kMiB, 14 * kMiB, 16 * kMiB}) {
      const int64_t before = LiveBytes();
      const auto runner = Load("v32-groups-f32", context, [&](EngineOptions& options) {
        options.workspace_bytes = budget;
        options.chunk = 4096;
      });
      EXPECT_LE(runner->step_memory().total(), budget);
      EXPECT_LT(runner->chunk(), 4096);
      LateBatch late(*runner, context, std::min<int64_t>(runner->chunk(), 24));
      std::vector<float> logits(static_cast<size_t>(runner->config().vocab_size));
      TakePeakBytes();
      ASSERT_TRUE(runner->Run(late.batch, {.logits = logits.data()}).ok());
      const int64_t of_steps = TakePeakBytes() - before - BytesOfContext(*runner);
      constexpr int64_t kModel = kMiB;  // names, shapes and settings of weights, mostly
      EXPECT_LE(of_steps, budget + kModel) << context << " tokens, " << budget << " bytes";
      // Arenas are held whole, so the plan is no overstatement either.
      EXPECT_GE(of_steps, runner->step_memory().activations + runner->step_memory().scratch);
    }
  }
}

TEST(Workspace, ChangesNoBitOfALogit) {
  std::vector<float> free_logits(160), tight_logits(160);
  for (const int64_t budget : {int64_t{0}, 12 * kMiB}) {
    const auto runner = Load("v32-groups-f32", 4096, [&](EngineOptions& options) {
      options.workspace_bytes = budget;
      options.chunk = 4096;
    });
    const std::vector<int32_t> tokens = SomeTokens(1500, 160);
    for (size_t first = 0; first < tokens.size();) {
      const size_t count = std::min(static_cast<size_t>(runner->chunk()), tokens.size() - first);
      ASSERT_TRUE(runner
                      ->Step(std::span(tokens).subspan(first, count), LogitRows::kLast,
                             (budget == 0 ? free_logits : tight_logits).data())
                      .ok());
      first += count;
    }
  }
  EXPECT_EQ(free_logits, tight_logits);
}

TEST(Workspace, TooLittleIsRefusedWithWhatSuffices) {
  EngineOptions options;
  options.model_dir = kGolden + "v32-heads-fp8";
  options.num_threads = 2;
  options.workspace_bytes = 1;
  const auto refused = ModelRunner::Load(options);
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().code(), StatusCode::kInvalidArgument);
  const std::string message(refused.error().message());
  const std::string words = "expected at least ";
  ASSERT_NE(message.find(words), std::string::npos) << message;
  const int64_t least = std::stoll(message.substr(message.find(words) + words.size()));
  options.workspace_bytes = least * kMiB;
  EXPECT_TRUE(ModelRunner::Load(options).ok());
  options.workspace_bytes = (least - 1) * kMiB;
  EXPECT_FALSE(ModelRunner::Load(options).ok());
}

TEST(Workspace, InspectShowsThePlan) {
  InspectOptions options;
  options.num_threads = 2;
  options.context = 4096;
  options.chunk = 4096;
  options.workspace_bytes = 14 * kMiB;
  const auto report = Inspect(kGolden + "v32-groups-f32", options);
  ASSERT_TRUE(report.ok());
  int64_t of_steps = 0;
  for (const auto& row : report->memory) {
    if (row.what.starts_with("step")) of_steps += row.bytes;
  }
  EXPECT_LE(of_steps, options.workspace_bytes);
  EXPECT_GT(of_steps, options.workspace_bytes - 4 * kMiB);
}

}  // namespace
}  // namespace winnow
