#include "engine/attention_rates.h"

#include <algorithm>
#include <chrono>
#include <functional>
#include <limits>
#include <random>
#include <vector>

#include "model/workspace.h"

namespace winnow {
namespace {

constexpr int64_t kContext = 4096;     // tokens, where the cache is as long
constexpr int64_t kPromptTokens = 64;  // enough to share what is read of the context
constexpr int kRuns = 5;
constexpr double kSecondsEach = 0.1;

// The fastest of a few runs: what disturbs one only ever makes it longer.
double FastestSeconds(Backend& backend, const std::function<void()>& run) {
  using Clock = std::chrono::steady_clock;
  double fastest = std::numeric_limits<double>::infinity();
  double total = 0;
  for (int turn = 0; turn < kRuns && total < kSecondsEach; ++turn) {
    const Clock::time_point start = Clock::now();
    run();
    if (!backend.Finish().ok()) return 0;  // the next step says why
    const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
    fastest = std::min(fastest, seconds);
    total += seconds;
  }
  return fastest;
}

// The last `tokens` tokens of a context, on the first pages of the cache.
class Probe {
 public:
  Probe(ModelRunner& runner, Workspace& workspace, int64_t tokens, int64_t context)
      : runner_(runner), workspace_(workspace), tokens_(tokens), context_(context) {
    const ModelConfig& c = runner.config();
    batch_.page_size = kPageSize;
    batch_.positions = Ints(tokens, [&](int64_t token) { return context - tokens + token; });
    batch_.sequences = Ints(tokens, [](int64_t) { return 0; });
    batch_.page_table = Ints(context / kPageSize, [](int64_t page) { return page; });
    batch_.page_table.dims = {1, context / kPageSize};
    attention_.q = Zeros({tokens, c.num_attention_heads, c.kv_lora_rank + c.qk_rope_head_dim});
    attention_.out = Zeros({tokens, c.num_attention_heads, c.kv_lora_rank});
    attention_.softmax_scale = 1;
    attention_.batch = batch_;
  }

  double DenseRow(const LayerCache& layer) {
    attention_.cache = layer.latent;
    attention_.selection = {};
    const double rows = static_cast<double>(tokens_ * (2 * context_ - tokens_ + 1)) / 2;
    return FastestSeconds(runner_.backend(), [&] { runner_.backend().Attention(attention_); }) /
           rows;
  }

  // Rows that lie apart: every few of the context, others for every token.
  double SparseRow(const LayerCache& layer) {
    const int64_t topk = std::min(runner_.config().index_topk, context_ / 2);
    const int64_t apart = (context_ - tokens_) / topk;
    const auto place = [&](int64_t index) { return index % topk * apart + index / topk % apart; };
    attention_.cache = layer.latent;
    attention_.selection.positions = Ints(tokens_ * topk, place);
    attention_.selection.slots = attention_.selection.positions;
    attention_.selection.positions.dims = attention_.selection.slots.dims = {tokens_, topk};
    attention_.selection.counts = Ints(tokens_, [&](int64_t) { return topk; });
    return FastestSeconds(runner_.backend(), [&] { runner_.backend().Attention(attention_); }) /
           static_cast<double>(tokens_ * topk);
  }

  double IndexKey(const LayerCache& layer) {
    const ModelConfig& c = runner_.config();
    SelectTokensArgs args;
    args.cache = *layer.index_keys;
    args.batch = batch_;
    args.topk = std::min(c.index_topk, context_ / 2);
    WriteRandomKeys(*layer.index_keys);
    args.q = Floats({tokens_, c.index_n_heads, c.index_head_dim});
    args.weights = Floats({tokens_, c.index_n_heads});
    const TensorView unturned = Ints(tokens_, [](int64_t) { return 0; });
    runner_.backend().PrepareIndexQuery({.q = args.q,
                                         .weights = args.weights,
                                         .positions = unturned,
                                         .rope = NoTurn(),
                                         .type = layer.index_keys->type});
    args.selection.positions = Zeros({tokens_, args.topk}, DType::kI32);
    args.selection.slots = Zeros({tokens_, args.topk}, DType::kI32);
    args.selection.counts = Zeros({tokens_}, DType::kI32);
    const double keys = static_cast<double>(tokens_ * (2 * context_ - tokens_ + 1)) / 2;
    return FastestSeconds(runner_.backend(), [&] { runner_.backend().SelectTokens(args); }) / keys;
  }

 private:
  // Keys that differ: a selection among equal ones would take another time.
  void WriteRandomKeys(const IndexCacheView& cache) {
    const int64_t J = runner_.config().index_head_dim;
    const TensorView k = Floats({kPageSize, J});
    const TensorView unturned = Ints(kPageSize, [](int64_t) { return 0; });
    const TensorView weight = Floats({J});
    const RopeTable rope = NoTurn();
    for (int64_t first = 0; first < context_; first += kPageSize) {
      Workspace::Scope scope(workspace_);
      runner_.backend().WriteIndexKeys(
          {.k = k,
           .k_norm_weight = weight,
           .k_norm_bias = Floats({J}),
           .eps = 1e-6f,
           .positions = unturned,
           .slots = Ints(kPageSize, [&](int64_t token) { return first + token; }),
           .rope = rope,
           .cache = cache});
    }
  }

  // The angles of position 0.
  RopeTable NoTurn() {
    const int64_t pairs = runner_.config().qk_rope_head_dim / 2;
    std::vector<float> row(static_cast<size_t>(2 * pairs), 0.0f);
    std::fill(row.begin(), row.begin() + pairs, 1.0f);
    const TensorView view = workspace_.New(DType::kF32, {1, 2, pairs});
    runner_.backend().CopyToDevice(view.data, row.data(), view.bytes());
    return {view, false};
  }

  TensorView Floats(Dims dims) {
    TensorView view = workspace_.New(DType::kF32, dims);
    std::vector<float> values(static_cast<size_t>(view.bytes()) / sizeof(float));
    for (float& value : values) value = static_cast<float>(random_() >> 40) * 0x1p-23f - 1.0f;
    runner_.backend().CopyToDevice(view.data, values.data(), view.bytes());
    return view;
  }

  TensorView Zeros(Dims dims, DType type = DType::kF32) {
    TensorView view = workspace_.New(type, dims);
    const std::vector<uint8_t> zeros(static_cast<size_t>(view.bytes()));
    runner_.backend().CopyToDevice(view.data, zeros.data(), view.bytes());
    return view;
  }

  TensorView Ints(int64_t count, const std::function<int64_t(int64_t)>& value) {
    std::vector<int32_t> values;
    for (int64_t index = 0; index < count; ++index) {
      values.push_back(static_cast<int32_t>(value(index)));
    }
    TensorView view = workspace_.New(DType::kI32, {count});
    runner_.backend().CopyToDevice(view.data, values.data(), view.bytes());
    return view;
  }

  ModelRunner& runner_;
  Workspace& workspace_;
  int64_t tokens_;
  int64_t context_;
  BatchView batch_;
  AttentionArgs attention_;
  std::mt19937_64 random_{1};
};

int64_t ProbeBytes(const ModelConfig& c, int64_t tokens, int64_t context) {
  const int64_t topk = std::min(c.index_topk, context / 2);
  const int64_t width = c.num_attention_heads * (2 * c.kv_lora_rank + c.qk_rope_head_dim) +
                        c.index_n_heads * (c.index_head_dim + 1) + 4 * topk + 8;
  const int64_t keys = (kPageSize + 2) * c.index_head_dim + 2 * kPageSize;
  return 4 * (tokens * width + context + keys + 2 * c.qk_rope_head_dim) +
         48 * Workspace::kAlignment;
}

const LayerCache* LayerWithIndexer(const ModelRunner& runner) {
  for (int64_t layer = 0; layer < runner.config().num_hidden_layers; ++layer) {
    if (runner.cache().layer(layer).index_keys) return &runner.cache().layer(layer);
  }
  return nullptr;
}

}  // namespace

Result<AttentionRates> AttentionRates::Measure(ModelRunner& runner) {
  const int64_t cached = runner.num_pages() * kPageSize;
  const int64_t context = std::min(kContext, cached) / kPageSize * kPageSize;
  const int64_t tokens = std::min(kPromptTokens, context / 4);
  const LayerCache* layer = LayerWithIndexer(runner);
  AttentionRates rates;
  for (const auto& [phase, count] : {std::pair(&rates.prompt_, tokens), {&rates.answer_, 1}}) {
    WINNOW_ASSIGN(Workspace workspace,
                  Workspace::Create(ProbeBytes(runner.config(), count, context), runner.backend()));
    Probe probe(runner, workspace, count, context);
    phase->dense_row = probe.DenseRow(layer ? *layer : runner.cache().layer(0));
    if (layer == nullptr) continue;
    phase->sparse_row = probe.SparseRow(*layer);
    phase->index_key = probe.IndexKey(*layer);
  }
  return rates;
}

double AttentionRates::DenseSeconds(const RunCounts& counts, double seconds) const {
  if (counts.index_keys_scored == 0) return seconds;  // it was dense
  const Rates& rates = counts.tokens > 1 ? prompt_ : answer_;
  const double sparse = rates.sparse_row * static_cast<double>(counts.attention_rows_read) +
                        rates.index_key * static_cast<double>(counts.index_keys_scored);
  return std::max(0.0, seconds - sparse) +
         rates.dense_row * static_cast<double>(counts.attention_rows_dense);
}

}  // namespace winnow
