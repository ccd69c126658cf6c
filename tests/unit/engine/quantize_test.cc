// Models quantized ahead of time and at load: the same numbers, and folders that appear whole.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>

#include "base/file.h"
#include "engine/model_runner.h"
#include "winnow/winnow.h"

namespace winnow {
namespace {

namespace fs = std::filesystem;

const std::string kGolden = std::string(WINNOW_SOURCE_DIR) + "/tests/golden/";

class QuantizeTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = testing::TempDir() + "winnow_quantize_XXXXXX";
    folder_ = mkdtemp(pattern.data());
  }
  void TearDown() override { fs::remove_all(folder_); }

  std::vector<std::string> Names() const {
    std::vector<std::string> names;
    for (const auto& entry : fs::directory_iterator(folder_)) {
      names.push_back(entry.path().filename().string());
    }
    return names;
  }

  fs::path folder_;
};

std::vector<float> Logits(const std::string& model, WeightType weights, Precision precision,
                          const std::string& set = "", int threads = 2, int64_t chunk = 64) {
  EngineOptions options;
  options.model_dir = model;
  options.weights = weights;
  options.precision = precision;
  options.instruction_set = set;
  options.num_threads = threads;
  options.chunk = chunk;
  options.max_context = 64;
  const auto runner = ModelRunner::Load(options).value();
  std::vector<int32_t> tokens;
  for (int32_t token = 0; token < 60; ++token) {
    tokens.push_back(token * token % 89 % static_cast<int32_t>(runner->config().vocab_size));
  }
  const size_t vocab = static_cast<size_t>(runner->config().vocab_size);
  std::vector<float> logits(tokens.size() * vocab);
  const std::span<const int32_t> all = tokens;
  const size_t step = static_cast<size_t>(std::min(runner->chunk(), runner->logit_rows()));
  for (size_t first = 0; first < all.size(); first += step) {
    const size_t count = std::min(step, all.size() - first);
    EXPECT_TRUE(
        runner->Step(all.subspan(first, count), LogitRows::kAll, logits.data() + first * vocab)
            .ok());
  }
  return logits;
}

QuantizeOptions Options(const std::string& model, const fs::path& out, WeightType weights) {
  QuantizeOptions options;
  options.model_dir = model;
  options.out_dir = out.string();
  options.weights = weights;
  options.num_threads = 2;
  return options;
}

TEST_F(QuantizeTest, GivesTheBitsOfQuantizingAtLoad) {
  for (const std::string name : {"v32-groups-f32", "v32-ragged-fp8", "v32-odd-bf16"}) {
    for (const WeightType type : {WeightType::kInt8, WeightType::kInt4}) {
      const fs::path out = folder_ / (name + Name(type));
      const Status status = Quantize(Options(kGolden + name, out, type));
      ASSERT_TRUE(status.ok()) << status.ToString();
      EXPECT_FALSE(fs::exists(out / "model.safetensors.index.json"));
      for (const Precision precision : {Precision::kF32, Precision::kBf16}) {
        const std::vector<float> ahead = Logits(out, WeightType::kStored, precision);
        EXPECT_EQ(ahead, Logits(kGolden + name, type, precision)) << name << Name(type);
        EXPECT_EQ(ahead, Logits(out, type, precision)) << name << Name(type);
        EXPECT_NE(ahead, Logits(kGolden + name, WeightType::kStored, precision));
      }
    }
  }
}

TEST_F(QuantizeTest, HasNoSayInWhatThreadsChunksAndInstructionSetsGive) {
  for (const WeightType type : {WeightType::kInt8, WeightType::kInt4}) {
    for (const Precision precision : {Precision::kF32, Precision::kBf16}) {
      const std::string model = kGolden + "v32-odd-bf16";
      const std::vector<float> logits = Logits(model, type, precision);
      EXPECT_EQ(logits, Logits(model, type, precision, "", 1, 3));
      EXPECT_EQ(logits, Logits(model, type, precision, "", 3, 1));
      // AMX has an order of its own in bf16 precision.
      const std::vector<float> plain = Logits(model, type, precision, "portable");
      if (precision == Precision::kF32) {
        EXPECT_EQ(logits, plain);
      }
      EXPECT_EQ(plain, Logits(model, type, precision, "portable", 1, 1));
      EXPECT_EQ(plain, Logits(model, type, precision, "portable", 3, 7));
    }
  }
}

TEST_F(QuantizeTest, LosesLittle) {
  const std::string model = std::string(WINNOW_SOURCE_DIR) + "/models/winnow-nano";
  const std::vector<float> exact = Logits(model, WeightType::kStored, Precision::kF32);
  double variance = 0;
  for (const float logit : exact) variance += static_cast<double>(logit) * logit;
  const auto error = [&](WeightType type) {
    const std::vector<float> found = Logits(model, type, Precision::kF32);
    double sum = 0;
    for (size_t i = 0; i < exact.size(); ++i) {
      sum += std::pow(static_cast<double>(found[i]) - exact[i], 2);
    }
    return sum / variance;
  };
  const double eight = error(WeightType::kInt8);
  const double four = error(WeightType::kInt4);
  EXPECT_LT(eight, 0.01);
  EXPECT_LT(four, 0.3);
  EXPECT_LT(eight, four);
}

TEST_F(QuantizeTest, CopiesWhatLiesBesideTheWeights) {
  const std::string nano = std::string(WINNOW_SOURCE_DIR) + "/models/winnow-nano";
  const fs::path out = folder_ / "out";
  ASSERT_TRUE(Quantize(Options(nano, out.string() + "/", WeightType::kInt4)).ok());
  for (const char* name : {"tokenizer.json", "generation_config.json", "chat_template.jinja"}) {
    EXPECT_EQ(ReadFile((out / name).string(), 1 << 24).value(),
              ReadFile(nano + "/" + name, 1 << 24).value());
  }
  EXPECT_LT(fs::file_size(out / "model.safetensors"), fs::file_size(nano + "/model.safetensors"));
}

TEST_F(QuantizeTest, LeavesNothingWhereItIsInterruptedOrFails) {
  QuantizeOptions options = Options(kGolden + "v32-odd-bf16", folder_ / "out", WeightType::kInt8);
  int calls = 0;
  options.progress = [&](double) { return ++calls < 3; };
  EXPECT_EQ(Quantize(options).code(), StatusCode::kCancelled);
  EXPECT_EQ(calls, 3);
  EXPECT_TRUE(Names().empty());
  options.progress = {};
  options.out_dir = (folder_ / "none" / "out").string();
  EXPECT_EQ(Quantize(options).code(), StatusCode::kNotFound);
  EXPECT_TRUE(Names().empty());
}

TEST_F(QuantizeTest, RefusesAFolderThatIsThereAndModelsThatAreQuantized) {
  const std::string model = kGolden + "v32-odd-bf16";
  const fs::path out = folder_ / "out";
  ASSERT_TRUE(Quantize(Options(model, out, WeightType::kInt8)).ok());
  const Status again = Quantize(Options(model, out, WeightType::kInt8));
  EXPECT_EQ(again.code(), StatusCode::kInvalidArgument);
  EXPECT_NE(again.ToString().find("it exists"), std::string::npos) << again.ToString();
  const Status twice = Quantize(Options(out, folder_ / "twice", WeightType::kInt4));
  EXPECT_EQ(twice.code(), StatusCode::kInvalidArgument);
  EXPECT_NE(twice.ToString().find("its weights are int8"), std::string::npos) << twice.ToString();
  EXPECT_EQ(Quantize(Options(model, folder_ / "as", WeightType::kStored)).code(),
            StatusCode::kInvalidArgument);
  EngineOptions options;
  options.model_dir = out;
  options.weights = WeightType::kInt4;
  const Status other = ModelRunner::Load(options).status();
  EXPECT_EQ(other.code(), StatusCode::kInvalidArgument);
  EXPECT_NE(other.ToString().find("quantized already"), std::string::npos) << other.ToString();
  EXPECT_EQ(Names(), std::vector<std::string>{"out"});
}

TEST_F(QuantizeTest, IsWhatInspectTellsOfMemory) {
  const std::string model = kGolden + "v32-ragged-fp8";
  const auto quantized = [](const ModelReport& report) {
    int64_t bytes = 0;
    for (const auto& row : report.storage) {
      if (row.dtype == "int4" || row.dtype == "int8") bytes += row.bytes;
    }
    return bytes;
  };
  InspectOptions options;
  options.weights = WeightType::kInt4;
  const ModelReport at_load = Inspect(model, options).value();
  ASSERT_TRUE(Quantize(Options(model, folder_ / "out", WeightType::kInt4)).ok());
  const ModelReport ahead = Inspect(folder_ / "out", {}).value();
  const ModelReport stored = Inspect(model, {}).value();
  EXPECT_GT(quantized(at_load), 0);
  EXPECT_EQ(quantized(at_load), quantized(ahead));
  EXPECT_EQ(at_load.memory[1].what, "weights, quantized to int4");
  EXPECT_EQ(at_load.memory[1].bytes, quantized(at_load));
  int64_t before = 0;
  int64_t after = 0;
  for (const auto& row : stored.storage) before += row.parameters;
  for (const auto& row : ahead.storage) after += row.parameters;
  EXPECT_EQ(before, after);
}

}  // namespace
}  // namespace winnow
