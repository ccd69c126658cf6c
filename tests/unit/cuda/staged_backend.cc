// The GPU for tests that keep their tensors in memory of the host, pages of index keys as the CPU
// lays them out: every operation's arguments go there and come back.
#include "unit/cuda/staged_backend.h"

#include <cstring>
#include <map>
#include <utility>
#include <vector>

#include "base/check.h"
#include "cpu/dsa/dsa_kernels.h"
#include "cuda/cuda_backend.h"
#include "cuda/dsa/index_layout.h"
#include "unit/cpu/other_backend.h"

namespace winnow::cuda {
namespace {

constexpr int64_t kArenaBytes = int64_t{1} << 30;

// A copy of `pages` with every code moved from the CPU's place to the GPU's, or back.
std::vector<uint8_t> Rearrange(const IndexCacheView& cache, const uint8_t* pages, bool to_gpu) {
  const int64_t bytes = CodeBytes(cache.type);
  const int64_t together = cpu::CodesTogether(cache.type);
  std::vector<uint8_t> result(pages, pages + cache.pages.bytes());
  for (int64_t page = 0; page < cache.pages.dims[0]; ++page) {
    const uint8_t* from = pages + page * cache.page_bytes;
    uint8_t* to = result.data() + page * cache.page_bytes;
    for (int key = 0; key < cache.page_size; ++key) {
      for (int j = 0; j < cache.index_dim; ++j) {
        const int64_t on_cpu =
            ((j / together * cache.page_size + key) * together + j % together) * bytes;
        const int64_t on_gpu =
            CodePlace(cache.type, static_cast<int>(cache.index_dim), key, j) * bytes;
        std::memcpy(to + (to_gpu ? on_gpu : on_cpu), from + (to_gpu ? on_cpu : on_gpu),
                    static_cast<size_t>(bytes));
      }
    }
  }
  return result;
}

// What one operation has on the device.
class Stage {
 public:
  Stage(Backend& gpu, uint8_t* arena) : gpu_(gpu), arena_(arena) {}

  TensorView In(TensorView view) {
    if (!view) return view;
    view.data = Place(view.data, view.bytes(), view.data);
    return view;
  }
  TensorView Out(TensorView view) {
    const TensorView staged = In(view);
    if (view) back_.push_back({view.data, staged.data, view.bytes()});
    return staged;
  }
  ScaledView In(ScaledView view) { return {In(view.value), In(view.scale)}; }
  RopeTable In(RopeTable rope) { return {In(rope.cos_sin), rope.half_split}; }
  FfnWeights In(const FfnWeights& ffn) {
    return {In(ffn.gate_proj), In(ffn.up_proj), In(ffn.down_proj)};
  }
  BatchView In(BatchView batch) {
    batch.token_ids = In(batch.token_ids);
    batch.positions = In(batch.positions);
    batch.sequences = In(batch.sequences);
    batch.slots = In(batch.slots);
    batch.page_table = In(batch.page_table);
    return batch;
  }
  LatentCacheView In(LatentCacheView cache) {
    cache.rows = In(cache.rows);
    return cache;
  }
  LatentCacheView Out(LatentCacheView cache) {
    cache.rows = Out(cache.rows);
    return cache;
  }
  SelectionView In(const SelectionView& s) { return {In(s.positions), In(s.slots), In(s.counts)}; }
  SelectionView Out(const SelectionView& s) {
    return {Out(s.positions), Out(s.slots), Out(s.counts)};
  }
  IndexCacheView In(IndexCacheView cache) {
    const std::vector<uint8_t> pages =
        Rearrange(cache, static_cast<const uint8_t*>(cache.pages.data), true);
    cache.pages.data = Place(cache.pages.data, cache.pages.bytes(), pages.data());
    return cache;
  }
  IndexCacheView Out(IndexCacheView cache) {
    const IndexCacheView staged = In(cache);
    index_back_ = {cache, staged};
    return staged;
  }

  void Finish() {
    const Status status = gpu_.Finish();
    WINNOW_CHECK(status.ok(), status.ToString());
    for (const Back& back : back_) gpu_.CopyToHost(back.host, back.device, back.bytes);
    if (index_back_.first.pages.data == nullptr) return;
    const auto& [host, device] = index_back_;
    std::vector<uint8_t> pages(static_cast<size_t>(host.pages.bytes()));
    gpu_.CopyToHost(pages.data(), device.pages.data, host.pages.bytes());
    pages = Rearrange(host, pages.data(), false);
    std::memcpy(host.pages.data, pages.data(), pages.size());
  }

 private:
  struct Back {
    void* host;
    const void* device;
    int64_t bytes;
  };

  void* Place(const void* host, int64_t bytes, const void* content) {
    const auto known = places_.find({host, bytes});
    if (known != places_.end()) return known->second;
    uint8_t* place = arena_ + used_;
    used_ += (bytes + 255) / 256 * 256 + 256;
    WINNOW_CHECK(used_ <= kArenaBytes, "the arguments of a test are larger than the arena");
    gpu_.CopyToDevice(place, content, bytes);
    places_[{host, bytes}] = place;
    return place;
  }

  Backend& gpu_;
  uint8_t* arena_;
  int64_t used_ = 0;
  std::map<std::pair<const void*, int64_t>, void*> places_;
  std::vector<Back> back_;
  std::pair<IndexCacheView, IndexCacheView> index_back_;
};

class StagedBackend final : public Backend {
 public:
  explicit StagedBackend(Precision precision)
      : gpu_(CreateCudaBackend({.precision = precision}).value()) {
    static const DeviceMemory* arena = new DeviceMemory(gpu_->Allocate(kArenaBytes).value());
    arena_ = static_cast<uint8_t*>(arena->get());
  }

  std::string Describe() const override { return gpu_->Describe(); }
  Precision precision() const override { return gpu_->precision(); }
  Result<DeviceMemory> Allocate(int64_t) override {
    return Unsupported("a staged backend has no memory of its own");
  }
  void CopyToDevice(void*, const void*, int64_t) override {}
  void CopyToHost(void*, const void*, int64_t) override {}
  void Copy(void*, const void*, int64_t) override {}
  int64_t SelectionScratchBytes(int64_t topk) const override {
    return gpu_->SelectionScratchBytes(topk);
  }
  Result<Roofs> MeasureRoofs() override { return gpu_->MeasureRoofs(); }

 protected:
  void DoEmbed(const EmbedArgs& a) override {
    Stage s(*gpu_, arena_);
    gpu_->Embed({s.In(a.token_ids), s.In(a.table), s.Out(a.hidden)});
    s.Finish();
  }
  void DoAddRmsNorm(const AddRmsNormArgs& a) override {
    Stage s(*gpu_, arena_);
    gpu_->AddRmsNorm({s.Out(a.hidden), s.In(a.branch), s.In(a.weight), a.eps, s.Out(a.out)});
    s.Finish();
  }
  void DoRmsNorm(const RmsNormArgs& a) override {
    Stage s(*gpu_, arena_);
    gpu_->RmsNorm({s.In(a.x), s.In(a.weight), a.eps, s.Out(a.out)});
    s.Finish();
  }
  void DoLinear(const LinearArgs& a) override {
    Stage s(*gpu_, arena_);
    gpu_->Linear({s.In(a.x), s.In(a.weight), s.In(a.bias), s.Out(a.out), a.keep_f32});
    s.Finish();
  }
  void DoAbsorbQuery(const AbsorbQueryArgs& a) override {
    Stage s(*gpu_, arena_);
    gpu_->AbsorbQuery({s.In(a.q), s.In(a.kv_b_proj), s.In(a.positions), s.In(a.rope), a.v_head_dim,
                       s.Out(a.out)});
    s.Finish();
  }
  void DoWriteLatent(const WriteLatentArgs& a) override {
    Stage s(*gpu_, arena_);
    gpu_->WriteLatent({s.In(a.kv_a), s.In(a.kv_a_layernorm), a.eps, s.In(a.positions),
                       s.In(a.slots), s.In(a.rope), s.Out(a.cache)});
    s.Finish();
  }
  void DoWriteIndexKeys(const WriteIndexKeysArgs& a) override {
    Stage s(*gpu_, arena_);
    gpu_->WriteIndexKeys({s.In(a.k), s.In(a.k_norm_weight), s.In(a.k_norm_bias), a.eps,
                          s.In(a.positions), s.In(a.slots), s.In(a.rope), s.Out(a.cache)});
    s.Finish();
  }
  void DoPrepareIndexQuery(const PrepareIndexQueryArgs& a) override {
    Stage s(*gpu_, arena_);
    gpu_->PrepareIndexQuery(
        {s.Out(a.q), s.Out(a.weights), s.In(a.positions), s.In(a.rope), a.type});
    s.Finish();
  }
  void DoSelectTokens(const SelectTokensArgs& a) override {
    Stage s(*gpu_, arena_);
    gpu_->SelectTokens(
        {s.In(a.q), s.In(a.weights), s.In(a.cache), s.In(a.batch), a.topk, s.Out(a.selection)});
    s.Finish();
  }
  void DoAttention(const AttentionArgs& a) override {
    Stage s(*gpu_, arena_);
    gpu_->Attention({s.In(a.q), s.In(a.cache), s.In(a.selection), s.In(a.batch), a.softmax_scale,
                     s.Out(a.out)});
    s.Finish();
  }
  void DoExpandValue(const ExpandValueArgs& a) override {
    Stage s(*gpu_, arena_);
    gpu_->ExpandValue({s.In(a.attended), s.In(a.kv_b_proj), a.qk_nope_head_dim, s.Out(a.out)});
    s.Finish();
  }
  void DoFeedForward(const FeedForwardArgs& a) override {
    Stage s(*gpu_, arena_);
    const FfnWeights weights = s.In(*a.weights);
    gpu_->FeedForward({s.In(a.x), &weights, s.Out(a.scratch), s.Out(a.out)});
    s.Finish();
  }
  void DoMoe(const MoeArgs& a) override {
    Stage s(*gpu_, arena_);
    MoeArgs staged = a;
    staged.x = s.In(a.x);
    staged.gate = s.In(a.gate);
    staged.e_score_correction_bias = s.In(a.e_score_correction_bias);
    std::vector<FfnWeights> experts;
    for (const FfnWeights& expert : a.experts) experts.push_back(s.In(expert));
    staged.experts = experts;
    FfnWeights shared;
    if (a.shared_experts) {
      shared = s.In(*a.shared_experts);
      staged.shared_experts = &shared;
    }
    staged.out = s.Out(a.out);
    gpu_->Moe(staged);
    s.Finish();
  }
  void DoDrawTokens(const DrawTokensArgs& a) override {
    Stage s(*gpu_, arena_);
    gpu_->DrawTokens({s.In(a.logits), s.In(a.rules), s.Out(a.tokens)});
    s.Finish();
  }

 private:
  std::unique_ptr<Backend> gpu_;
  uint8_t* arena_;
};

}  // namespace

std::unique_ptr<Backend> MakeStagedBackend(Precision precision) {
  return std::make_unique<StagedBackend>(precision);
}

}  // namespace winnow::cuda

namespace winnow::cpu {

// In bf16 precision the CPU adds in orders of its own.
std::unique_ptr<Backend> MakeOtherBackend(Precision precision) {
  if (precision != Precision::kF32) return nullptr;
  return cuda::MakeStagedBackend(precision);
}

}  // namespace winnow::cpu
