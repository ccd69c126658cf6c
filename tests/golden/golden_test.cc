// Winnow beside Hugging Face transformers, and beside itself cut into other pieces.
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "winnow/winnow.h"

namespace winnow {
namespace {

namespace fs = std::filesystem;

std::vector<std::string> Cases() {
  std::vector<std::string> cases;
  for (const auto& entry : fs::directory_iterator(GOLDEN_DIR)) {
    if (fs::exists(entry.path() / "expected.safetensors")) cases.push_back(entry.path().filename());
  }
  std::sort(cases.begin(), cases.end());
  return cases;
}

std::string TestName(const testing::TestParamInfo<std::string>& info) {
  std::string name = info.param;
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
}

VerifyOptions Exact() {
  VerifyOptions options;
  options.engine.precision = Precision::kF32;
  options.engine.backend = GOLDEN_BACKEND;
  options.engine.kv_cache = LatentType::kF32;
  options.engine.index_keys = IndexKeyType::kF32;
  return options;
}

class Golden : public testing::TestWithParam<std::string> {
 protected:
  std::string folder() const { return std::string(GOLDEN_DIR) + "/" + GetParam(); }
};

void ExpectPassed(const Result<VerifyReport>& report) {
  ASSERT_TRUE(report.ok()) << report.status().ToString();
  EXPECT_EQ(report->note, "");
  EXPECT_GE(report->stages.size(), 4u);
  for (const VerifyStage& stage : report->stages) {
    EXPECT_TRUE(stage.passed) << stage.name << " deviates by " << stage.deviation;
  }
}

TEST_P(Golden, AgreesWithTheReferenceInOneChunk) {
  VerifyOptions options = Exact();
  options.engine.chunk = 4096;
  ExpectPassed(Verify(folder(), options));
}

TEST_P(Golden, AgreesWithTheReferenceInChunksOfSeven) {
  VerifyOptions options = Exact();
  options.engine.chunk = 7;
  ExpectPassed(Verify(folder(), options));
}

INSTANTIATE_TEST_SUITE_P(Transformers, Golden, testing::ValuesIn(Cases()), TestName);

// A case whose reference is wrong on purpose: a test that could not fail would pass here too.
TEST(Verify, NamesTheFirstStageThatDeviates) {
  VerifyOptions options = Exact();
  options.engine.attention = AttentionMode::kDense;
  const auto report = Verify(std::string(GOLDEN_DIR) + "/v32-groups-f32", options);
  ASSERT_TRUE(report.ok()) << report.status().ToString();
  EXPECT_FALSE(report->passed);
  EXPECT_EQ(report->first_failure, "layer 0 selection");
}

// The same tokens in other pieces, on other threads and instruction sets: the same bytes.

struct Variant {
  int64_t chunk;
  int threads;
  std::string instruction_set;
  std::string backend = "cpu";
};

std::string LogitsFile(const std::string& model, EngineOptions options, const Variant& variant,
                       const std::vector<int32_t>& tokens) {
  options.model_dir = model;
  options.chunk = variant.chunk;
  options.num_threads = variant.threads;
  options.instruction_set = variant.instruction_set;
  options.backend = variant.backend;
  auto engine = Engine::Load(options);
  if (!engine.ok()) return "";  // an instruction set that this machine lacks
  const std::string path =
      testing::TempDir() + "/winnow_logits_" + std::to_string(::getpid()) + ".safetensors";
  const Status status = engine->WriteLogits({.token_ids = tokens, .selection = true, .out = path});
  EXPECT_TRUE(status.ok()) << status.ToString();
  std::ifstream file(path, std::ios::binary);
  std::ostringstream bytes;
  bytes << file.rdbuf();
  fs::remove(path);
  return bytes.str();
}

std::vector<int32_t> SomeTokens(int64_t count, int64_t vocab_size) {
  std::vector<int32_t> tokens;
  uint32_t state = 12345;
  for (int64_t token = 0; token < count; ++token) {
    state = state * 1664525u + 1013904223u;
    tokens.push_back(static_cast<int32_t>((state >> 8) % static_cast<uint32_t>(vocab_size)));
  }
  return tokens;
}

class SameBits : public testing::TestWithParam<std::string> {
 protected:
  void Compare(const EngineOptions& options) {
    const std::string model = std::string(GOLDEN_DIR) + "/" + GetParam();
    const std::vector<int32_t> tokens = SomeTokens(150, 96);
    const std::string whole = LogitsFile(model, options, {4096, 1, "portable"}, tokens);
    ASSERT_GT(whole.size(), 1000u);
    int compared = 0;
    for (const char* set : {"portable", "avx2", "avx512", "avx512_bf16", "amx"}) {
      // Tiles have an order of their own in bf16 precision.
      const bool tiles = std::string(set) == "amx" && options.precision == Precision::kBf16;
      const std::string expected =
          tiles ? LogitsFile(model, options, {4096, 1, set}, tokens) : whole;
      for (const int threads : {1, 2}) {
        for (const int64_t chunk : {1, 7, 16, 64, 4096}) {
          if (std::string(set) == "portable" && (threads == 2 || chunk == 1)) continue;  // slow
          const std::string pieces = LogitsFile(model, options, {chunk, threads, set}, tokens);
          if (pieces.empty()) continue;
          ++compared;
          EXPECT_TRUE(pieces == expected)
              << set << ", " << threads << " threads, chunks of " << chunk;
        }
      }
    }
    EXPECT_GE(compared, 3);
    // A GPU has the CPU's bits in f32 precision, and its own in bf16.
    const std::string expected =
        options.precision == Precision::kF32
            ? whole
            : LogitsFile(model, options, {4096, 1, "", GOLDEN_BACKEND}, tokens);
    for (const int64_t chunk : {1, 7, 64, 4096}) {
      const std::string pieces = LogitsFile(model, options, {chunk, 1, "", GOLDEN_BACKEND}, tokens);
      EXPECT_GT(pieces.size(), 1000u);
      EXPECT_TRUE(pieces == expected) << GOLDEN_BACKEND << ", chunks of " << chunk;
    }
  }
};

TEST_P(SameBits, InFullPrecision) {
  EngineOptions options;
  options.precision = Precision::kF32;
  options.kv_cache = LatentType::kF32;
  options.index_keys = IndexKeyType::kF32;
  Compare(options);
}

TEST_P(SameBits, WithIntegerIndexKeysAndShortRows) {
  EngineOptions options;
  options.precision = Precision::kBf16;
  options.kv_cache = LatentType::kFp8;
  options.index_keys = IndexKeyType::kInt8;
  Compare(options);
}

TEST_P(SameBits, WithE4m3IndexKeys) {
  EngineOptions options;
  options.kv_cache = LatentType::kBf16;
  options.index_keys = IndexKeyType::kE4m3;
  Compare(options);
}

INSTANTIATE_TEST_SUITE_P(Pieces, SameBits,
                         testing::Values("v32-groups-f32", "v32-ragged-fp8", "v32-odd-bf16",
                                         "glm-pattern-bf16"),
                         TestName);

}  // namespace
}  // namespace winnow
