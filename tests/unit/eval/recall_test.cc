// Recall beside a naive computation: softmax in doubles from the definition, and the selections
// that runs with each form of the index keys really made.
#include "eval/recall.h"

#include <gtest/gtest.h>

#include <cstring>
#include <set>

#include "small_run.h"
#include "tensor/half.h"

namespace winnow::eval {
namespace {

struct Naive {
  double mass = 0;
  double oracle = 0;
  double overlap = 0;
};

Naive NaiveRecall(const Recorder& recorder, const ModelConfig& config, int64_t layer,
                  const std::vector<int32_t>& positions) {
  int64_t own = layer;
  while (config.indexer_types[static_cast<size_t>(own)] != IndexerType::kFull) --own;
  Naive sum;
  for (const int32_t position : positions) {
    const std::vector<double>& mass = recorder.mass.at({layer, position});
    const std::vector<int32_t>& selected = recorder.selected.at({own, position});
    const std::vector<int32_t> best = Best(mass, config.index_topk);
    const std::set<int32_t> oracle(best.begin(), best.end());
    for (const int32_t s : selected) {
      sum.mass += mass[static_cast<size_t>(s)];
      sum.overlap += oracle.count(s) / static_cast<double>(config.index_topk);
    }
    for (const int32_t s : best) sum.oracle += mass[static_cast<size_t>(s)];
  }
  return sum;
}

class RecallOf : public testing::TestWithParam<const char*> {};

TEST_P(RecallOf, AgreesWithANaiveComputation) {
  const std::vector<int32_t> tokens = SomeTokens(100);
  const std::vector<int32_t> positions = {12, 13, 40, 41, 63, 64, 98, 99};
  for (size_t type = 0; type < kIndexKeyTypes.size(); ++type) {
    EngineOptions options;
    options.precision = Precision::kF32;
    options.kv_cache = LatentType::kF32;
    options.index_keys = kIndexKeyTypes[type];
    const auto runner = LoadSmall(GetParam(), options, type % 2 == 0 ? 512 : 7);
    Recorder recorder;
    const std::vector<float> logits = RunAll(*runner, tokens, &recorder);
    const auto audit = RecallAudit::Create(*runner, positions, 2).value();
    EXPECT_EQ(RunAll(*runner, tokens, audit.get()), logits) << "an audit changes nothing";
    for (int64_t layer = 0; layer < runner->config().num_hidden_layers; ++layer) {
      const Naive naive = NaiveRecall(recorder, runner->config(), layer, positions);
      const LayerRecall& recall = audit->layers()[static_cast<size_t>(layer)];
      EXPECT_EQ(recall.queries, static_cast<int64_t>(positions.size()));
      EXPECT_NEAR(recall.mass[type], naive.mass, 1e-4) << layer;
      EXPECT_NEAR(recall.oracle_mass, naive.oracle, 1e-4) << layer;
      EXPECT_NEAR(recall.overlap[type], naive.overlap, 1e-9) << layer;
      for (const double mass : recall.mass) EXPECT_LE(mass, recall.oracle_mass + 1e-5);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(SmallModels, RecallOf,
                         testing::Values("v32-groups-f32", "glm-list-f32", "v32-odd-bf16"));

TEST(SamplePositions, DrawsDifferentOnesInOrder) {
  const std::vector<int32_t> some = SamplePositions(256, 4096, 64, 1);
  EXPECT_EQ(some.size(), 64u);
  EXPECT_EQ(std::set<int32_t>(some.begin(), some.end()).size(), 64u);
  EXPECT_TRUE(std::is_sorted(some.begin(), some.end()));
  EXPECT_GE(some.front(), 256);
  EXPECT_LT(some.back(), 4096);
  EXPECT_EQ(SamplePositions(256, 4096, 64, 1), some);
  EXPECT_NE(SamplePositions(256, 4096, 64, 2), some);
  EXPECT_EQ(SamplePositions(10, 13, 64, 1), (std::vector<int32_t>{10, 11, 12}));
}

// The row as it was written, within what the type can hold.
TEST(AttentionMass, DecodesRowsOfEveryCacheType) {
  const int64_t C = 256, R = 4;
  for (const LatentType type : {LatentType::kF32, LatentType::kBf16, LatentType::kFp8}) {
    LatentCacheView cache{type, C, R, LatentRowBytes(type, C, R), {}};
    std::vector<uint8_t> bytes(static_cast<size_t>(3 * cache.row_bytes));
    cache.rows = TensorView(bytes.data(), DType::kU8, {3, cache.row_bytes});
    uint8_t* row = bytes.data() + 2 * cache.row_bytes;
    const auto put = [&row](const auto& value) {
      std::memcpy(row, &value, sizeof(value));
      row += sizeof(value);
    };
    std::vector<float> expected;
    for (int64_t k = 0; k < C + R; ++k) expected.push_back(static_cast<float>(k % 7) * 0.5f - 1);
    if (type == LatentType::kFp8) {
      for (int64_t k = 0; k < C; ++k) {  // codes of half the value in the second block
        put(FloatToE4m3(expected[static_cast<size_t>(k)] / (k < 128 ? 1.0f : 2.0f)));
      }
      put(1.0f);
      put(2.0f);
    }
    for (int64_t k = type == LatentType::kFp8 ? C : 0; k < C + R; ++k) {
      const float value = expected[static_cast<size_t>(k)];
      if (type == LatentType::kF32) {
        put(value);
      } else {
        put(FloatToBf16(value));
      }
    }
    std::vector<float> found(static_cast<size_t>(C + R));
    DecodeLatentRow(cache, 2, found.data());
    EXPECT_EQ(found, expected) << Name(type);
  }
}

}  // namespace
}  // namespace winnow::eval
