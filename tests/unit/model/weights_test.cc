// A small checkpoint, whole and with one thing wrong at a time.
#include "model/weights.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>

#include "tensor/group_codes.h"
#include "tensor/half.h"
#include "unit/model/checkpoint.h"

namespace winnow {
namespace {

// Layer 0 is dense, layer 1 a mixture; sizes are ragged against the 128×128 blocks.
constexpr char kConfig[] = R"({
  "model_type": "glm_moe_dsa", "vocab_size": 10, "hidden_size": 130, "num_hidden_layers": 2,
  "num_attention_heads": 3, "q_lora_rank": 6, "kv_lora_rank": 8, "qk_nope_head_dim": 4,
  "qk_rope_head_dim": 2, "v_head_dim": 5, "index_n_heads": 2, "index_head_dim": 4,
  "index_topk": 3, "intermediate_size": 140, "moe_intermediate_size": 12, "n_routed_experts": 2,
  "n_shared_experts": 2, "num_experts_per_tok": 1, "first_k_dense_replace": 1,
  "rms_norm_eps": 1e-6, "max_position_embeddings": 64)";

ModelConfig Config(const std::string& more = "") {
  return ParseModelConfig(kConfig + more + "}", "config.json").value();
}

int64_t Count(const std::vector<int64_t>& shape) {
  int64_t count = 1;
  for (const int64_t extent : shape) count *= extent;
  return count;
}

// Element `index` of every F32 tensor here is index + 0.5.
TestTensor F32(const std::vector<int64_t>& shape) {
  TestTensor tensor{"F32", shape, std::string(static_cast<size_t>(4 * Count(shape)), '\0')};
  for (int64_t index = 0; index < Count(shape); ++index) {
    const float value = static_cast<float>(index) + 0.5f;
    std::memcpy(tensor.bytes.data() + 4 * index, &value, 4);
  }
  return tensor;
}

// Tensor of zeros of a type.
TestTensor Zeros(const std::string& dtype, int64_t size, const std::vector<int64_t>& shape) {
  return {dtype, shape, std::string(static_cast<size_t>(size * Count(shape)), '\0')};
}

// All tensors of Config(), with the shapes written out rather than computed.
TestTensors Checkpoint() {
  TestTensors tensors;
  const auto add = [&](const std::string& name, const std::vector<int64_t>& shape) {
    tensors[name] = F32(shape);
  };
  add("model.embed_tokens.weight", {10, 130});
  add("model.norm.weight", {130});
  add("lm_head.weight", {10, 130});
  for (const std::string layer : {"model.layers.0.", "model.layers.1."}) {
    add(layer + "input_layernorm.weight", {130});
    add(layer + "post_attention_layernorm.weight", {130});
    const std::string attention = layer + "self_attn.";
    add(attention + "q_a_proj.weight", {6, 130});
    add(attention + "q_a_layernorm.weight", {6});
    add(attention + "q_b_proj.weight", {18, 6});
    add(attention + "kv_a_proj_with_mqa.weight", {10, 130});
    add(attention + "kv_a_layernorm.weight", {8});
    add(attention + "kv_b_proj.weight", {27, 8});
    add(attention + "o_proj.weight", {130, 15});
    add(attention + "indexer.wq_b.weight", {8, 6});
    add(attention + "indexer.wk.weight", {4, 130});
    add(attention + "indexer.k_norm.weight", {4});
    add(attention + "indexer.k_norm.bias", {4});
    add(attention + "indexer.weights_proj.weight", {2, 130});
  }
  add("model.layers.0.mlp.gate_proj.weight", {140, 130});
  add("model.layers.0.mlp.up_proj.weight", {140, 130});
  add("model.layers.0.mlp.down_proj.weight", {130, 140});
  const std::string moe = "model.layers.1.mlp.";
  add(moe + "gate.weight", {2, 130});
  add(moe + "gate.e_score_correction_bias", {2});
  for (const std::string expert : {"experts.0.", "experts.1."}) {
    add(moe + expert + "gate_proj.weight", {12, 130});
    add(moe + expert + "up_proj.weight", {12, 130});
    add(moe + expert + "down_proj.weight", {130, 12});
  }
  add(moe + "shared_experts.gate_proj.weight", {24, 130});
  add(moe + "shared_experts.up_proj.weight", {24, 130});
  add(moe + "shared_experts.down_proj.weight", {130, 24});
  return tensors;
}

Result<Weights> Load(const TestFolder& folder, const TestTensors& tensors, ModelConfig config) {
  folder.Write("model.safetensors", SafetensorsFile(tensors));
  return Weights::Load(folder.path(), &config);
}

void ExpectWeightsRefused(const TestTensors& tensors, const ModelConfig& config, StatusCode code,
                          const std::string& message) {
  const TestFolder folder;
  const Status status = Load(folder, tensors, config).status();
  EXPECT_EQ(status.code(), code) << status.ToString();
  EXPECT_NE(status.ToString().find(message), std::string::npos)
      << "\"" << message << "\" not in: " << status.ToString();
}

// `tensors` with F8_E4M3 values and F32 scales for one matrix.
TestTensors WithFp8(TestTensors tensors, const std::string& name,
                    const std::vector<int64_t>& scale_shape) {
  tensors[name] = Zeros("F8_E4M3", 1, tensors[name].shape);
  tensors[name + "_scale_inv"] = F32(scale_shape);
  return tensors;
}

constexpr char kUp[] = "model.layers.0.mlp.up_proj.weight";  // [140, 130]: 2×2 blocks

TEST(Weights, BindEveryTensorByItsName) {
  const TestFolder folder;
  const Weights weights = Load(folder, Checkpoint(), Config()).value();
  EXPECT_EQ(weights.embed_tokens.value.dims, (Dims{10, 130}));
  EXPECT_EQ(weights.lm_head.value.dims, (Dims{10, 130}));
  EXPECT_NE(weights.lm_head.value.data, weights.embed_tokens.value.data);
  EXPECT_EQ(weights.norm.dims, (Dims{130}));
  ASSERT_EQ(weights.layers.size(), 2u);
  const LayerWeights& dense = weights.layers[0];
  ASSERT_TRUE(dense.mlp.has_value());
  EXPECT_FALSE(dense.moe.has_value());
  EXPECT_EQ(dense.mlp->gate_proj.value.dims, (Dims{140, 130}));
  EXPECT_EQ(dense.mlp->down_proj.value.dims, (Dims{130, 140}));
  const AttentionWeights& attention = dense.self_attn;
  EXPECT_EQ(attention.q_a_proj.value.dims, (Dims{6, 130}));
  EXPECT_EQ(attention.q_b_proj.value.dims, (Dims{18, 6}));
  EXPECT_EQ(attention.kv_a_proj_with_mqa.value.dims, (Dims{10, 130}));
  EXPECT_EQ(attention.kv_b_proj.value.dims, (Dims{27, 8}));
  EXPECT_EQ(attention.o_proj.value.dims, (Dims{130, 15}));
  EXPECT_FALSE(static_cast<bool>(attention.q_a_proj_bias));
  ASSERT_TRUE(attention.indexer.has_value());
  EXPECT_EQ(attention.indexer->wq_b.value.dims, (Dims{8, 6}));
  EXPECT_EQ(attention.indexer->k_norm_bias.dims, (Dims{4}));
  const LayerWeights& moe = weights.layers[1];
  EXPECT_FALSE(moe.mlp.has_value());
  ASSERT_TRUE(moe.moe.has_value());
  EXPECT_EQ(moe.moe->gate.value.dims, (Dims{2, 130}));
  ASSERT_EQ(moe.moe->experts.size(), 2u);
  EXPECT_EQ(moe.moe->experts[1].up_proj.value.dims, (Dims{12, 130}));
  EXPECT_EQ(moe.moe->shared_experts->gate_proj.value.dims, (Dims{24, 130}));
  const float* row = static_cast<const float*>(attention.q_b_proj.value.data);
  EXPECT_EQ(row[18 * 6 - 1], 18 * 6 - 0.5f);
  EXPECT_TRUE(weights.CheckIntact().ok());
}

TEST(Weights, LeaveMatricesInTheMappedFile) {
  const TestFolder folder;
  const Weights weights = Load(folder, Checkpoint(), Config()).value();
  const TensorDirectory directory = TensorDirectory::Open(folder.path()).value();
  // Two mappings of one file: equal distances between tensors mean views, not copies.
  const auto distance = [](const void* a, const void* b) {
    return static_cast<const char*>(a) - static_cast<const char*>(b);
  };
  EXPECT_EQ(distance(weights.layers[0].mlp->up_proj.value.data, weights.embed_tokens.value.data),
            distance(directory.Find(kUp)->data, directory.Find("model.embed_tokens.weight")->data));
}

TEST(Weights, ConvertVectorsToF32) {
  const TestFolder folder;
  TestTensors tensors = Checkpoint();
  const uint16_t bf16[4] = {0x3f80, 0xc000, 0x0000, 0x4049};
  const uint16_t f16[4] = {0x3c00, 0xc000, 0x0001, 0x7bff};
  const std::string prefix = "model.layers.0.self_attn.indexer.k_norm.";
  tensors[prefix + "weight"] = {"BF16", {4}, {reinterpret_cast<const char*>(bf16), 8}};
  tensors[prefix + "bias"] = {"F16", {4}, {reinterpret_cast<const char*>(f16), 8}};
  const Weights weights = Load(folder, tensors, Config()).value();
  const IndexerWeights& indexer = *weights.layers[0].self_attn.indexer;
  ASSERT_EQ(indexer.k_norm_weight.dtype, DType::kF32);
  ASSERT_EQ(indexer.k_norm_bias.dtype, DType::kF32);
  const float* weight = indexer.k_norm_weight.As<float>();
  const float* bias = indexer.k_norm_bias.As<float>();
  EXPECT_EQ(std::vector<float>(weight, weight + 4), (std::vector<float>{1, -2, 0, 3.140625f}));
  EXPECT_EQ(std::vector<float>(bias, bias + 4), (std::vector<float>{1, -2, 0x1p-24f, 65504}));
}

TEST(Weights, CopyMatricesThatLieOffTheirAlignment) {
  const TestFolder folder;
  TestTensors tensors = Checkpoint();
  // One byte at the front of the data moves everything after it.
  tensors["a.rotary_emb.inv_freq"] = {"U8", {1}, "x"};
  const Weights weights = Load(folder, tensors, Config()).value();
  for (const TensorView& view :
       {weights.embed_tokens.value, weights.layers[1].moe->experts[1].down_proj.value}) {
    EXPECT_EQ(reinterpret_cast<uintptr_t>(view.data) % 4, 0u);
    const float* values = view.As<float>();
    for (int64_t index = 0; index < view.dims.count(); ++index) {
      ASSERT_EQ(values[index], static_cast<float>(index) + 0.5f);
    }
  }
}

TEST(Weights, TakeScalesOfRaggedBlocksFromAnyShard) {
  const TestFolder folder;
  TestTensors first = WithFp8(Checkpoint(), kUp, {2, 2});
  const std::string scale = std::string(kUp) + "_scale_inv";
  TestTensors second = {{scale, first[scale]}};
  first.erase(scale);
  folder.Write("model-00001-of-00002.safetensors", SafetensorsFile(first));
  folder.Write("model-00002-of-00002.safetensors", SafetensorsFile(second));
  ModelConfig config = Config();
  const Weights weights = Weights::Load(folder.path(), &config).value();
  const ScaledView& up = weights.layers[0].mlp->up_proj;
  EXPECT_EQ(up.value.dtype, DType::kF8E4M3);
  ASSERT_EQ(up.scale.dims, (Dims{2, 2}));
  EXPECT_EQ(up.scale.As<float>()[3], 3.5f);
  EXPECT_FALSE(static_cast<bool>(weights.layers[0].mlp->gate_proj.scale));
}

TEST(Weights, ConvertScalesToF32) {
  const TestFolder folder;
  TestTensors tensors = WithFp8(Checkpoint(), kUp, {2, 2});
  const uint16_t scales[4] = {0x3f80, 0x3f00, 0x4000, 0x3e80};
  tensors[std::string(kUp) + "_scale_inv"] = {
      "BF16", {2, 2}, {reinterpret_cast<const char*>(scales), 8}};
  const Weights weights = Load(folder, tensors, Config()).value();
  const TensorView& scale = weights.layers[0].mlp->up_proj.scale;
  ASSERT_EQ(scale.dtype, DType::kF32);
  EXPECT_EQ(scale.As<float>()[1], 0.5f);
  EXPECT_EQ(scale.As<float>()[3], 0.25f);
}

TEST(Weights, RefuseScalesThatDoNotFit) {
  const std::string scale = std::string(kUp) + "_scale_inv";
  ExpectWeightsRefused(WithFp8(Checkpoint(), kUp, {1, 2}), Config(), StatusCode::kCorrupt,
                       "tensor \"" + scale + "\" is [1, 2], expected [2, 2]");
  TestTensors tensors = WithFp8(Checkpoint(), kUp, {2, 2});
  tensors.erase(scale);
  ExpectWeightsRefused(tensors, Config(), StatusCode::kCorrupt,
                       "tensor \"" + std::string(kUp) + "\" is F8_E4M3 without \"" + scale + "\"");
  tensors = Checkpoint();
  tensors[scale] = F32({2, 2});
  ExpectWeightsRefused(tensors, Config(), StatusCode::kCorrupt,
                       "tensor \"" + scale + "\" belongs to a matrix of F32, expected F8_E4M3");
  tensors = WithFp8(Checkpoint(), kUp, {2, 2});
  tensors[scale] = Zeros("F8_E8M0", 1, {2, 2});
  ExpectWeightsRefused(tensors, Config(), StatusCode::kUnsupported, "is F8_E8M0");
}

TEST(Weights, RefuseAnyMissingTensorByName) {
  const TestTensors tensors = Checkpoint();
  for (const auto& [name, tensor] : tensors) {
    TestTensors fewer = tensors;
    fewer.erase(name);
    ExpectWeightsRefused(fewer, Config(), StatusCode::kCorrupt,
                         "tensor \"" + name + "\" is missing");
  }
}

TEST(Weights, RefuseAnyMisshapenTensorByNameFoundAndExpected) {
  const TestTensors tensors = Checkpoint();
  for (const auto& [name, tensor] : tensors) {
    TestTensors wrong = tensors;
    std::vector<int64_t> shape = tensor.shape;
    shape.back() += 1;
    wrong[name] = F32(shape);
    ExpectWeightsRefused(wrong, Config(), StatusCode::kCorrupt,
                         "model.safetensors: tensor \"" + name);
  }
  TestTensors wrong = tensors;
  wrong["model.layers.1.self_attn.indexer.wk.weight"] = F32({8, 130});
  ExpectWeightsRefused(
      wrong, Config(), StatusCode::kCorrupt,
      "model.safetensors: tensor \"model.layers.1.self_attn.indexer.wk.weight\" is [8, "
      "130], expected [4, 130]\n  hint: config.json makes it [index_head_dim, "
      "hidden_size]");
  wrong = tensors;
  wrong["model.norm.weight"] = F32({130, 1});
  ExpectWeightsRefused(wrong, Config(), StatusCode::kCorrupt, "is [130, 1], expected [130]");
}

TEST(Weights, RefuseTypesTheyCannotRead) {
  TestTensors tensors = Checkpoint();
  tensors[kUp] = Zeros("F64", 8, {140, 130});
  ExpectWeightsRefused(tensors, Config(), StatusCode::kUnsupported,
                       "is F64, expected F32, BF16, F16");
  tensors[kUp] = Zeros("I8", 1, {140, 130});
  ExpectWeightsRefused(tensors, Config(), StatusCode::kUnsupported, "is I8");
  tensors = Checkpoint();
  tensors["model.norm.weight"] = Zeros("F8_E4M3", 1, {130});
  ExpectWeightsRefused(tensors, Config(), StatusCode::kUnsupported,
                       "is F8_E4M3, expected F32, BF16");
}

TEST(Weights, RefuseSuperfluousTensorsByName) {
  TestTensors tensors = Checkpoint();
  tensors["model.layers.0.self_attn.q_a_proj.bias"] = F32({6});
  ExpectWeightsRefused(
      tensors, Config(), StatusCode::kCorrupt,
      "model.safetensors: tensor \"model.layers.0.self_attn.q_a_proj.bias\" is not part");
  for (int64_t extra = 0; extra < 9; ++extra) tensors[fmt::format("x{}", extra)] = F32({1});
  ExpectWeightsRefused(
      tensors, Config(), StatusCode::kCorrupt,
      "\"model.layers.0.self_attn.q_a_proj.bias\", \"x0\", \"x1\" and 7 more are not "
      "part");
  tensors = Checkpoint();
  tensors["model.layers.1.mlp.experts.2.up_proj.weight"] = F32({12, 130});
  ExpectWeightsRefused(tensors, Config(), StatusCode::kCorrupt, "experts.2.up_proj");
}

TEST(Weights, PassOverMultiTokenPredictionLayers) {
  const TestFolder folder;
  TestTensors tensors = Checkpoint();
  tensors["model.layers.2.eh_proj.weight"] = F32({3, 3});
  tensors["model.layers.2.self_attn.q_a_proj.weight"] = Zeros("F8_E5M2", 1, {1, 1});
  EXPECT_TRUE(Load(folder, tensors, Config()).ok());
  EXPECT_TRUE(Load(folder, tensors, Config(R"(,"num_nextn_predict_layers": 1)")).ok());
  tensors["model.layers.3.enorm.weight"] = F32({3});
  tensors["model.layers.3.eh_proj.weight"] = F32({3, 3});
  EXPECT_TRUE(Load(folder, tensors, Config(R"(,"num_nextn_predict_layers": 2)")).ok());
  ExpectWeightsRefused(tensors, Config(), StatusCode::kCorrupt, "model.layers.3.enorm.weight");
  tensors.erase("model.layers.3.enorm.weight");
  tensors.erase("model.layers.3.eh_proj.weight");
  // A further layer without the mark of one is a config that is too short, announced or not.
  tensors.erase("model.layers.2.eh_proj.weight");
  ExpectWeightsRefused(tensors, Config(), StatusCode::kCorrupt,
                       "model.layers.2.self_attn.q_a_proj");
  ExpectWeightsRefused(tensors, Config(R"(,"num_nextn_predict_layers": 1)"), StatusCode::kCorrupt,
                       "model.layers.2.self_attn.q_a_proj");
}

TEST(Weights, PassOverStoredRotaryFrequencies) {
  const TestFolder folder;
  TestTensors tensors = Checkpoint();
  tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = F32({1});
  EXPECT_TRUE(Load(folder, tensors, Config()).ok());
}

TEST(Weights, ReadBiasesExactlyIfConfigHasThem) {
  const TestFolder folder;
  TestTensors tensors = Checkpoint();
  const ModelConfig config = Config(R"(,"attention_bias": true)");
  for (const std::string layer : {"model.layers.0.", "model.layers.1."}) {
    tensors[layer + "self_attn.q_a_proj.bias"] = F32({6});
    tensors[layer + "self_attn.kv_a_proj_with_mqa.bias"] = F32({10});
    tensors[layer + "self_attn.o_proj.bias"] = F32({130});
  }
  const Weights weights = Load(folder, tensors, config).value();
  EXPECT_EQ(weights.layers[1].self_attn.kv_a_proj_bias.dims, (Dims{10}));
  EXPECT_EQ(weights.layers[1].self_attn.o_proj_bias.As<float>()[129], 129.5f);
  ExpectWeightsRefused(Checkpoint(), config, StatusCode::kCorrupt, "q_a_proj.bias\" is missing");
}

TEST(Weights, TieTheHeadToTheEmbedding) {
  const TestFolder folder;
  TestTensors tensors = Checkpoint();
  const ModelConfig config = Config(R"(,"tie_word_embeddings": true)");
  for (const bool stored : {true, false}) {
    if (!stored) tensors.erase("lm_head.weight");
    const Weights weights = Load(folder, tensors, config).value();
    EXPECT_EQ(weights.lm_head.value.data, weights.embed_tokens.value.data);
  }
}

TestTensors WithoutIndexer(TestTensors tensors, int layer) {
  const std::string prefix = fmt::format("model.layers.{}.self_attn.indexer.", layer);
  std::erase_if(tensors, [&](const auto& entry) { return entry.first.starts_with(prefix); });
  return tensors;
}

TEST(Weights, DecideIndexersWhereConfigDoesNot) {
  const TestFolder folder;
  folder.Write("model.safetensors", SafetensorsFile(WithoutIndexer(Checkpoint(), 1)));
  ModelConfig config = Config();
  const Weights weights = Weights::Load(folder.path(), &config).value();
  EXPECT_EQ(config.indexer_types[1], IndexerType::kShared);
  EXPECT_FALSE(weights.layers[1].self_attn.indexer.has_value());

  folder.Write("model.safetensors", SafetensorsFile(Checkpoint()));
  config = Config(R"(,"index_topk_freq": 2)");
  ASSERT_EQ(config.indexer_types[1], IndexerType::kFull);
  config = Config(R"(,"index_topk_freq": 2, "index_skip_topk_offset": 1)");
  ASSERT_EQ(config.indexer_types[1], IndexerType::kShared);
  ASSERT_TRUE(Weights::Load(folder.path(), &config).ok());
  EXPECT_EQ(config.indexer_types[1], IndexerType::kFull);
}

TEST(Weights, HoldStatedIndexersAgainstTheTensors) {
  const std::string wq_b = "model.layers.1.self_attn.indexer.wq_b.weight";
  ExpectWeightsRefused(WithoutIndexer(Checkpoint(), 1), Config(R"(,"index_topk_pattern": "FF")"),
                       StatusCode::kCorrupt, wq_b + "\" is missing");
  ExpectWeightsRefused(Checkpoint(), Config(R"(,"index_topk_pattern": "FS")"), StatusCode::kCorrupt,
                       "layers.1.self_attn.indexer.k_norm.bias\", ");
  ExpectWeightsRefused(WithoutIndexer(Checkpoint(), 0), Config(), StatusCode::kCorrupt,
                       "model.layers.0.self_attn.indexer.wq_b.weight\" is missing");
  TestTensors partial = WithoutIndexer(Checkpoint(), 1);
  partial["model.layers.1.self_attn.indexer.wk.weight"] = F32({4, 130});
  ExpectWeightsRefused(partial, Config(), StatusCode::kCorrupt, wq_b + "\" is missing");
}

TEST(Weights, AllocateNothingForCountsThatTheFileDoesNotHold) {
  // 4096 layers of 65536 experts would take tens of gigabytes of views alone.
  std::string text = kConfig;
  const auto replace = [&](const std::string& from, const std::string& to) {
    text.replace(text.find(from), from.size(), to);
  };
  replace("\"num_hidden_layers\": 2", "\"num_hidden_layers\": 4096");
  replace("\"n_routed_experts\": 2", "\"n_routed_experts\": 65536");
  const ModelConfig config = ParseModelConfig(text + "}", "config.json").value();
  TestTensors tensors = Checkpoint();
  tensors["model.layers.1.mlp.gate.weight"] = Zeros("BF16", 2, {65536, 130});
  tensors["model.layers.1.mlp.gate.e_score_correction_bias"] = Zeros("BF16", 2, {65536});
  ExpectWeightsRefused(tensors, config, StatusCode::kCorrupt,
                       "experts.2.gate_proj.weight\" is missing");
}

TEST(Weights, SumUpWhatIsStoredHow) {
  const TestFolder folder;
  const Weights weights = Load(folder, WithFp8(Checkpoint(), kUp, {2, 2}), Config()).value();
  int64_t bytes = 0;
  int64_t tensors = 0;
  for (const StorageSummary::Row& row : weights.storage().rows) {
    bytes += row.bytes;
    tensors += row.tensors;
    if (row.dtype == "F8_E4M3") {
      EXPECT_EQ(row.tensors, 1);
      EXPECT_EQ(row.parameters, 140 * 130);
      EXPECT_EQ(row.bytes, 140 * 130);
    } else {
      EXPECT_EQ(row.dtype, "F32");
      EXPECT_EQ(row.bytes, 4 * row.parameters + 16) << "four scales are bytes, not parameters";
    }
  }
  EXPECT_EQ(weights.storage().rows.size(), 2u);
  EXPECT_EQ(tensors, static_cast<int64_t>(Checkpoint().size()) + 1);
  EXPECT_LT(bytes, weights.file_bytes());
}

TEST(Weights, TellProgressUpToOne) {
  const TestFolder folder;
  folder.Write("model.safetensors", SafetensorsFile(Checkpoint()));
  ModelConfig config = Config();
  double last = 0.0;
  const auto progress = [&](double fraction) {
    EXPECT_GE(fraction, last);
    last = fraction;
  };
  ASSERT_TRUE(Weights::Load(folder.path(), &config, {.progress = progress}).ok());
  EXPECT_EQ(last, 1.0);
}

// Config() of a model that is quantized to int8 or int4.
ModelConfig Quantized() {
  return Config(R"(, "quantization_config": {"quant_method": "winnow", "weights": "int4",
                "group_size": 32})");
}

// `tensors` with codes and scales for one matrix.
TestTensors WithCodes(TestTensors tensors, const std::string& name, const std::string& dtype,
                      const std::vector<int64_t>& shape, const std::vector<int64_t>& scale_shape) {
  tensors[name] = Zeros(dtype, 1, shape);
  tensors[name + "_scale"] = Zeros("BF16", 2, scale_shape);
  return tensors;
}

TEST(Weights, AreQuantizedByTheDefinitionWhereALayerMultiplies) {
  for (const bool int4 : {false, true}) {
    const TestFolder folder;
    folder.Write("model.safetensors", SafetensorsFile(Checkpoint()));
    ModelConfig config = Config();
    const Weights weights = Weights::Load(folder.path(), &config,
                                          {.weights = int4 ? WeightType::kInt4 : WeightType::kInt8,
                                           .num_threads = 2,
                                           .progress = {}})
                                .value();
    const ScaledView& up = weights.layers[0].mlp->up_proj;
    EXPECT_EQ(up.rows(), 140);
    EXPECT_EQ(up.columns(), 130);
    EXPECT_EQ(up.value.dtype, int4 ? DType::kU8 : DType::kI8);
    EXPECT_EQ(up.value.dims, (Dims{140, int4 ? 96 : 130}));
    EXPECT_EQ(up.scale.dims, (Dims{140, 5}));
    const size_t row_bytes = static_cast<size_t>(up.value.dims[1]);
    for (int64_t row = 0; row < 140; ++row) {
      std::vector<float> values(130);
      for (int64_t c = 0; c < 130; ++c) values[c] = static_cast<float>(row * 130 + c) + 0.5f;
      std::vector<uint8_t> codes(row_bytes);
      std::vector<uint16_t> scales(5);
      (int4 ? QuantizeInt4 : QuantizeInt8)(values.data(), 130, codes.data(), scales.data());
      ASSERT_EQ(std::memcmp(up.value.As<uint8_t>() + row * row_bytes, codes.data(), row_bytes), 0);
      ASSERT_EQ(std::memcmp(up.scale.As<uint16_t>() + row * 5, scales.data(), 10), 0);
    }
    EXPECT_EQ(weights.lm_head.value.dtype, DType::kI8);
    EXPECT_EQ(weights.layers[1].moe->experts[1].down_proj.value.dtype, up.value.dtype);
    const AttentionWeights& attention = weights.layers[0].self_attn;
    EXPECT_EQ(attention.o_proj.value.dtype, up.value.dtype);
    EXPECT_EQ(attention.q_b_proj.value.dtype, up.value.dtype);
    EXPECT_EQ(attention.kv_b_proj.value.dtype, DType::kI8);
    EXPECT_EQ(attention.kv_a_proj_with_mqa.value.dtype, DType::kI8);
    EXPECT_EQ(attention.indexer->wq_b.value.dtype, DType::kI8);
    EXPECT_EQ(weights.embed_tokens.value.dtype, DType::kF32);
    EXPECT_EQ(weights.layers[1].moe->gate.value.dtype, DType::kF32);
    EXPECT_EQ(weights.layers[0].self_attn.indexer->weights_proj.value.dtype, DType::kF32);
  }
}

TEST(Weights, AreQuantizedFromWhatFp8CodesStandFor) {
  TestTensors tensors = WithFp8(Checkpoint(), kUp, {2, 2});
  std::string& codes = tensors[kUp].bytes;
  for (size_t i = 0; i < codes.size(); ++i) codes[i] = static_cast<char>(i * 7 % 0x7f);
  const TestFolder folder;
  folder.Write("model.safetensors", SafetensorsFile(tensors));
  ModelConfig config = Config();
  const Weights weights =
      Weights::Load(folder.path(), &config, {.weights = WeightType::kInt8, .progress = {}}).value();
  const ScaledView& up = weights.layers[0].mlp->up_proj;
  for (int64_t row = 0; row < 140; ++row) {
    std::vector<float> values(130);
    for (int64_t c = 0; c < 130; ++c) {
      const float scale = static_cast<float>(row / 128 * 2 + c / 128) + 0.5f;
      values[c] = E4m3ToFloat(static_cast<uint8_t>(codes[row * 130 + c])) * scale;
    }
    std::vector<uint8_t> expected(130);
    std::vector<uint16_t> scales(5);
    ASSERT_TRUE(QuantizeInt8(values.data(), 130, expected.data(), scales.data()));
    ASSERT_EQ(std::memcmp(up.value.As<uint8_t>() + row * 130, expected.data(), 130), 0);
    ASSERT_EQ(std::memcmp(up.scale.As<uint16_t>() + row * 5, scales.data(), 10), 0);
  }
}

TEST(Weights, RefuseToQuantizeWhatIsNoNumber) {
  const TestFolder folder;
  TestTensors tensors = Checkpoint();
  const float nan = NAN;
  std::memcpy(tensors[kUp].bytes.data() + 4 * 139 * 130, &nan, 4);
  folder.Write("model.safetensors", SafetensorsFile(tensors));
  ModelConfig config = Config();
  const Status status =
      Weights::Load(folder.path(), &config, {.weights = WeightType::kInt4, .progress = {}})
          .status();
  EXPECT_EQ(status.code(), StatusCode::kUnsupported);
  EXPECT_NE(status.ToString().find("model.safetensors: tensor \"" + std::string(kUp) +
                                   "\" has a weight that is no finite number"),
            std::string::npos)
      << status.ToString();
}

TEST(Weights, OfAQuantizedModelAreReadAsTheyAreStored) {
  const TestFolder folder;
  TestTensors tensors = WithCodes(Checkpoint(), kUp, "U8", {140, 96}, {140, 5});
  tensors = WithCodes(std::move(tensors), "lm_head.weight", "I8", {10, 130}, {10, 5});
  const Weights weights = Load(folder, tensors, Quantized()).value();
  const ScaledView& up = weights.layers[0].mlp->up_proj;
  EXPECT_EQ(up.value.dtype, DType::kU8);
  EXPECT_EQ(up.columns(), 130);
  EXPECT_EQ(up.scale.dims, (Dims{140, 5}));
  EXPECT_EQ(weights.lm_head.value.dtype, DType::kI8);
  EXPECT_EQ(weights.layers[0].mlp->gate_proj.value.dtype, DType::kF32);
}

TEST(Weights, RefuseCodesThatDoNotFit) {
  const std::string up = kUp;
  const auto with = [&](const std::string& dtype, const std::vector<int64_t>& shape,
                        const std::vector<int64_t>& scale_shape) {
    return WithCodes(Checkpoint(), up, dtype, shape, scale_shape);
  };
  ExpectWeightsRefused(with("U8", {140, 65}, {140, 5}), Quantized(), StatusCode::kCorrupt,
                       "\"" + up + "\" is [140, 65], expected [140, 96]");
  ExpectWeightsRefused(with("I8", {140, 96}, {140, 5}), Quantized(), StatusCode::kCorrupt,
                       "\"" + up + "\" is [140, 96], expected [140, 130]");
  ExpectWeightsRefused(
      with("I8", {140, 130}, {140, 4}), Quantized(), StatusCode::kCorrupt,
      "\"" + up + "_scale\" is [140, 4], expected [140, 5] for groups of 32 of [140, 130]");
  ExpectWeightsRefused(with("I8", {140, 130}, {700}), Quantized(), StatusCode::kCorrupt,
                       "is [700], expected [140, 5]");
  TestTensors f32 = with("I8", {140, 130}, {140, 5});
  f32[up + "_scale"] = F32({140, 5});
  ExpectWeightsRefused(f32, Quantized(), StatusCode::kUnsupported,
                       "_scale\" is F32, expected BF16");
  TestTensors without = with("I8", {140, 130}, {140, 5});
  without.erase(up + "_scale");
  ExpectWeightsRefused(without, Quantized(), StatusCode::kCorrupt,
                       "\"" + up + "\" is I8 without \"" + up + "_scale\"");
  TestTensors both = with("I8", {140, 130}, {140, 5});
  both[up + "_scale_inv"] = F32({2, 2});
  ExpectWeightsRefused(both, Quantized(), StatusCode::kCorrupt, "is not part of the model");
  TestTensors plain = Checkpoint();
  plain[up + "_scale"] = Zeros("BF16", 2, {140, 5});
  ExpectWeightsRefused(plain, Quantized(), StatusCode::kCorrupt, "is not part of the model");
  // Where config.json does not say so, and where weights have to be exact.
  ExpectWeightsRefused(with("I8", {140, 130}, {140, 5}), Config(), StatusCode::kUnsupported,
                       "\"" + up + "\" is I8, expected F32, BF16, F16 or F8_E4M3");
  ExpectWeightsRefused(
      WithCodes(Checkpoint(), "model.layers.1.mlp.gate.weight", "I8", {2, 130}, {2, 5}),
      Quantized(), StatusCode::kUnsupported, "is I8, expected F32");
}

TEST(Weights, RefuseEveryTruncatedFile) {
  const TestFolder folder;
  const std::string file = SafetensorsFile(Checkpoint());
  ModelConfig config = Config();
  for (size_t length = 0; length < file.size(); length += length < 10000 ? 97 : 9973) {
    folder.Write("model.safetensors", file.substr(0, length));
    EXPECT_FALSE(Weights::Load(folder.path(), &config).ok()) << length;
  }
}

}  // namespace
}  // namespace winnow
