// The checks that stand before every operation: what agrees reaches the device, and what does not
// aborts with the tensor and the letter.
#include "backend/backend.h"

#include <gtest/gtest.h>

#include <vector>

#include "backend/draw_token.h"

namespace winnow {
namespace {

// A device that only counts.
class CountingBackend final : public Backend {
 public:
  std::string Describe() const override { return "counting"; }
  Precision precision() const override { return Precision::kF32; }
  Result<DeviceMemory> Allocate(int64_t) override { return DeviceMemory(); }
  void CopyToDevice(void*, const void*, int64_t) override {}
  void CopyToHost(void*, const void*, int64_t) override {}
  void Copy(void*, const void*, int64_t) override {}
  int64_t SelectionScratchBytes(int64_t) const override { return 0; }
  Result<Roofs> MeasureRoofs() override { return Roofs(); }
  int calls = 0;

 protected:
  void DoEmbed(const EmbedArgs&) override { ++calls; }
  void DoAddRmsNorm(const AddRmsNormArgs&) override { ++calls; }
  void DoRmsNorm(const RmsNormArgs&) override { ++calls; }
  void DoLinear(const LinearArgs&) override { ++calls; }
  void DoAbsorbQuery(const AbsorbQueryArgs&) override { ++calls; }
  void DoWriteLatent(const WriteLatentArgs&) override { ++calls; }
  void DoWriteIndexKeys(const WriteIndexKeysArgs&) override { ++calls; }
  void DoPrepareIndexQuery(const PrepareIndexQueryArgs&) override { ++calls; }
  void DoSelectTokens(const SelectTokensArgs&) override { ++calls; }
  void DoAttention(const AttentionArgs&) override { ++calls; }
  void DoExpandValue(const ExpandValueArgs&) override { ++calls; }
  void DoFeedForward(const FeedForwardArgs&) override { ++calls; }
  void DoMoe(const MoeArgs&) override { ++calls; }
  void DoDrawTokens(const DrawTokensArgs&) override { ++calls; }
};

// Tensors of nothing: only their shapes are looked at.
alignas(64) char some_memory[64];
TensorView F32(Dims dims) { return {some_memory, DType::kF32, dims}; }
TensorView I32(Dims dims) { return {some_memory, DType::kI32, dims}; }
TensorView U8(Dims dims) { return {some_memory, DType::kU8, dims}; }

LatentCacheView Latent() {
  return {.type = LatentType::kFp8,
          .latent_dim = 512,
          .rope_dim = 64,
          .row_bytes = 656,
          .rows = U8({128, 656})};
}

IndexCacheView Index() {
  return {.type = IndexKeyType::kInt8,
          .index_dim = 128,
          .page_size = 64,
          .page_bytes = 64 * 132,
          .pages = U8({2, 64 * 132})};
}

BatchView Batch() {
  return {.page_size = 64,
          .token_ids = I32({8}),
          .positions = I32({8}),
          .sequences = I32({8}),
          .slots = I32({8}),
          .page_table = I32({3, 2})};
}

SelectionView Selection() {
  return {.positions = I32({8, 96}), .slots = I32({8, 96}), .counts = I32({8})};
}

AttentionArgs Attention() {
  return {.q = F32({8, 6, 576}),
          .cache = Latent(),
          .selection = Selection(),
          .batch = Batch(),
          .softmax_scale = 1,
          .out = F32({8, 6, 512})};
}

SelectTokensArgs SelectTokens() {
  return {.q = F32({8, 4, 128}),
          .weights = F32({8, 4}),
          .cache = Index(),
          .batch = Batch(),
          .topk = 96,
          .selection = Selection()};
}

RopeTable Rope() { return {.cos_sin = F32({4096, 2, 32})}; }

TEST(Backend, LetsAgreeingArgumentsThrough) {
  CountingBackend backend;
  backend.Attention(Attention());
  backend.SelectTokens(SelectTokens());
  backend.WriteLatent({.kv_a = F32({8, 576}),
                       .kv_a_layernorm = F32({512}),
                       .positions = I32({8}),
                       .slots = I32({8}),
                       .rope = Rope(),
                       .cache = Latent()});
  backend.WriteIndexKeys({.k = F32({8, 128}),
                          .k_norm_weight = F32({128}),
                          .k_norm_bias = F32({128}),
                          .positions = I32({8}),
                          .slots = I32({8}),
                          .rope = Rope(),
                          .cache = Index()});
  backend.PrepareIndexQuery(
      {.q = F32({8, 4, 128}), .weights = F32({8, 4}), .positions = I32({8}), .rope = Rope()});
  backend.AbsorbQuery({.q = F32({8, 6, 128 + 64}),
                       .kv_b_proj = {.value = F32({6 * (128 + 96), 512})},
                       .positions = I32({8}),
                       .rope = Rope(),
                       .v_head_dim = 96,
                       .out = F32({8, 6, 576})});
  backend.ExpandValue({.attended = F32({8, 6, 512}),
                       .kv_b_proj = {.value = F32({6 * (128 + 96), 512})},
                       .qk_nope_head_dim = 128,
                       .out = F32({8, 6, 96})});
  backend.Linear(
      {.x = F32({8, 300}),
       .weight = {.value = {some_memory, DType::kF8E4M3, {200, 300}}, .scale = F32({2, 3})},
       .out = F32({8, 200})});
  backend.DrawTokens(
      {.logits = F32({8, 300}), .rules = U8({8, sizeof(DrawRule)}), .tokens = I32({8})});
  EXPECT_EQ(backend.calls, 9);
}

TEST(Backend, LetsDenseAttentionThroughWithoutASelection) {
  CountingBackend backend;
  AttentionArgs args = Attention();
  args.selection = {};
  backend.Attention(args);
  EXPECT_EQ(backend.calls, 1);
}

TEST(BackendDeathTest, NamesTheTensorAndTheLetter) {
  CountingBackend backend;
  AttentionArgs attention = Attention();
  attention.selection.slots = I32({7, 96});
  EXPECT_DEATH(backend.Attention(attention),
               "Attention: selection.slots has shape \\[7, 96\\], expected \\[T=8, W=96\\]");
  SelectTokensArgs select = SelectTokens();
  select.weights = F32({8, 5});
  EXPECT_DEATH(backend.SelectTokens(select),
               "SelectTokens: weights has shape \\[8, 5\\], expected \\[T=8, I=4\\]");
}

TEST(BackendDeathTest, NamesTheTypeAndWhatIsAbsent) {
  CountingBackend backend;
  AttentionArgs attention = Attention();
  attention.out.dtype = DType::kBF16;
  EXPECT_DEATH(backend.Attention(attention), "Attention: out is BF16, expected F32");
  attention = Attention();
  attention.cache.rows.data = nullptr;
  EXPECT_DEATH(backend.Attention(attention), "Attention: cache.rows is absent");
}

TEST(BackendDeathTest, RefusesScalesOfTheWrongShape) {
  CountingBackend backend;
  EXPECT_DEATH(backend.Linear({.x = F32({8, 300}),
                               .weight = {.value = {some_memory, DType::kF8E4M3, {200, 300}},
                                          .scale = F32({2, 2})},
                               .out = F32({8, 200})}),
               "Linear: weight has shape \\[2, 2\\], expected \\[ceil\\(rows/128\\)=2, "
               "ceil\\(columns/128\\)=3\\]");
}

TEST(BackendDeathTest, RefusesPagesThatAreNotOfTheCache) {
  CountingBackend backend;
  SelectTokensArgs args = SelectTokens();
  args.batch.page_size = 32;
  EXPECT_DEATH(backend.SelectTokens(args), "batch.page_size is 32");
  args = SelectTokens();
  args.cache.page_bytes = 64 * 128;
  EXPECT_DEATH(backend.SelectTokens(args), "cache.page_bytes is 8192");
  args = SelectTokens();
  args.cache.index_dim = 96;
  args.cache.page_bytes = 64 * 100;
  args.cache.pages = U8({2, 64 * 100});
  args.q = F32({8, 4, 96});
  EXPECT_DEATH(backend.SelectTokens(args), "J is 96, expected a power of two");
}

TEST(LatentRowBytes, IsTheRowOfEachType) {
  EXPECT_EQ(LatentRowBytes(LatentType::kF32, 512, 64), 2304);
  EXPECT_EQ(LatentRowBytes(LatentType::kBf16, 512, 64), 1152);
  EXPECT_EQ(LatentRowBytes(LatentType::kFp8, 512, 64), 656);
  EXPECT_EQ(LatentRowBytes(LatentType::kFp8, 130, 2), 130 + 8 + 4);
}

TEST(IndexPageBytes, IsThePageOfEachType) {
  EXPECT_EQ(IndexPageBytes(IndexKeyType::kF32, 128, 64), 64 * 512);
  EXPECT_EQ(IndexPageBytes(IndexKeyType::kBf16, 128, 64), 64 * 256);
  EXPECT_EQ(IndexPageBytes(IndexKeyType::kE4m3, 128, 64), 8448);
  EXPECT_EQ(IndexPageBytes(IndexKeyType::kInt8, 128, 64), 8448);
  EXPECT_EQ(IndexPageBytes(IndexKeyType::kBf16, 1, 64), 64 * 8);  // as for four dimensions
}

}  // namespace
}  // namespace winnow
