// The checks of every operation's arguments, before a device sees them. Each letter of ops.h is
// taken from the first tensor that has it; the others must agree.
#include "backend/backend.h"

#include <bit>
#include <initializer_list>

#include "backend/draw_token.h"
#include "base/check.h"
#include "tensor/group_codes.h"

namespace winnow {
namespace {

struct Extent {
  const char* letter;
  int64_t value;
};

std::string ToString(std::initializer_list<Extent> extents) {
  std::string text = "[";
  for (const Extent& extent : extents) {
    if (text.size() > 1) text += ", ";
    text += std::string(extent.letter) + "=" + std::to_string(extent.value);
  }
  return text + "]";
}

bool HasShape(const TensorView& view, std::initializer_list<Extent> extents) {
  if (view.dims.rank() != static_cast<int>(extents.size())) return false;
  int axis = 0;
  for (const Extent& extent : extents) {
    if (view.dims[axis++] != extent.value) return false;
  }
  return true;
}

// The checks of one operation. Messages are made only when something is wrong.
class Checker {
 public:
  explicit Checker(const char* op) : op_(op) {}

  void That(bool condition, const char* field, const std::string& found,
            const char* expected) const {
    WINNOW_CHECK(condition,
                 std::string(op_) + ": " + field + " is " + found + ", expected " + expected);
  }
  void Shape(const char* name, const TensorView& view,
             std::initializer_list<Extent> extents) const {
    WINNOW_CHECK(view || IsEmpty(extents), std::string(op_) + ": " + name +
                                               " is absent, expected shape " + ToString(extents));
    WINNOW_CHECK(HasShape(view, extents), std::string(op_) + ": " + name + " has shape " +
                                              view.dims.ToString() + ", expected " +
                                              ToString(extents));
  }
  void Type(const char* name, const TensorView& view, DType dtype) const {
    WINNOW_CHECK(view.dtype == dtype, std::string(op_) + ": " + name + " is " +
                                          DTypeName(view.dtype) + ", expected " + DTypeName(dtype));
  }
  void F32(const char* name, const TensorView& view, std::initializer_list<Extent> extents) const {
    Shape(name, view, extents);
    Type(name, view, DType::kF32);
  }
  void I32(const char* name, const TensorView& view, std::initializer_list<Extent> extents) const {
    Shape(name, view, extents);
    Type(name, view, DType::kI32);
  }
  // The same, or absent.
  void OptionalF32(const char* name, const TensorView& view,
                   std::initializer_list<Extent> extents) const {
    if (view) F32(name, view, extents);
  }
  void Weight(const char* name, const ScaledView& weight, Extent rows, Extent columns) const;
  void Groups(const char* name, const ScaledView& weight, Extent rows, Extent columns) const;
  void Rope(const RopeTable& rope, int64_t rope_dim) const;
  void Latent(const LatentCacheView& cache) const;
  void Index(const IndexCacheView& cache) const;
  void Batch(const BatchView& batch, int64_t num_tokens) const;
  void Selection(const SelectionView& selection, int64_t num_tokens) const;
  void Ffn(const FfnWeights* weights, int64_t hidden_size) const;

 private:
  static bool IsEmpty(std::initializer_list<Extent> extents) {
    for (const Extent& extent : extents) {
      if (extent.value == 0) return true;
    }
    return false;
  }

  const char* op_;
};

int64_t NumBlocks(int64_t extent) { return (extent + ScaledView::kBlock - 1) / ScaledView::kBlock; }

void Checker::Weight(const char* name, const ScaledView& weight, Extent rows,
                     Extent columns) const {
  if (weight.has_groups()) return Groups(name, weight, rows, columns);
  Shape(name, weight.value, {rows, columns});
  const DType dtype = weight.value.dtype;
  That(dtype == DType::kF32 || dtype == DType::kBF16 || dtype == DType::kF16 ||
           dtype == DType::kF8E4M3,
       name, DTypeName(dtype), "F32, BF16, F16, F8_E4M3, I8 or U8");
  if (!weight.scale) return;
  That(dtype == DType::kF8E4M3, name, DTypeName(dtype), "F8_E4M3, since it has scales of blocks");
  F32(name, weight.scale,
      {{"ceil(rows/128)", NumBlocks(rows.value)}, {"ceil(columns/128)", NumBlocks(columns.value)}});
}

void Checker::Groups(const char* name, const ScaledView& weight, Extent rows,
                     Extent columns) const {
  const bool int4 = weight.value.dtype == DType::kU8;
  That(weight.columns() == columns.value, name, std::to_string(weight.columns()), columns.letter);
  Shape(name, weight.value,
        {rows, {"bytes of a row", int4 ? Int4RowBytes(columns.value) : columns.value}});
  Shape(name, weight.scale, {rows, {"ceil(columns/32)", NumCodeGroups(columns.value)}});
  Type(name, weight.scale, DType::kBF16);
}

void Checker::Rope(const RopeTable& rope, int64_t rope_dim) const {
  F32("rope.cos_sin", rope.cos_sin,
      {{"positions", rope.cos_sin.dims[0]}, {"cos and sin", 2}, {"R/2", rope_dim / 2}});
  That(rope_dim % 2 == 0, "R", std::to_string(rope_dim), "an even number");
}

void Checker::Latent(const LatentCacheView& cache) const {
  That(cache.row_bytes == LatentRowBytes(cache.type, cache.latent_dim, cache.rope_dim),
       "cache.row_bytes", std::to_string(cache.row_bytes), "LatentRowBytes of its type, C and R");
  Shape("cache.rows", cache.rows, {{"N", cache.rows.dims[0]}, {"row_bytes", cache.row_bytes}});
  Type("cache.rows", cache.rows, DType::kU8);
}

void Checker::Index(const IndexCacheView& cache) const {
  That(cache.page_size > 0 && cache.page_size % 16 == 0, "cache.page_size",
       std::to_string(cache.page_size), "a multiple of 16");
  That(cache.page_bytes == IndexPageBytes(cache.type, cache.index_dim, cache.page_size),
       "cache.page_bytes", std::to_string(cache.page_bytes),
       "IndexPageBytes of its type, J and page_size");
  Shape("cache.pages", cache.pages,
        {{"pages", cache.pages.dims[0]}, {"page_bytes", cache.page_bytes}});
  Type("cache.pages", cache.pages, DType::kU8);
  const bool rotated = cache.type == IndexKeyType::kE4m3 || cache.type == IndexKeyType::kInt8;
  That(!rotated || std::has_single_bit(static_cast<uint64_t>(cache.index_dim)), "J",
       std::to_string(cache.index_dim), "a power of two, since keys are Hadamard-rotated");
}

void Checker::Batch(const BatchView& batch, int64_t num_tokens) const {
  I32("batch.positions", batch.positions, {{"T", num_tokens}});
  I32("batch.sequences", batch.sequences, {{"T", num_tokens}});
  I32("batch.page_table", batch.page_table,
      {{"B", batch.page_table.dims[0]}, {"max pages", batch.page_table.dims[1]}});
  That(batch.page_size > 0, "batch.page_size", std::to_string(batch.page_size), "positive");
}

void Checker::Selection(const SelectionView& selection, int64_t num_tokens) const {
  const int64_t width = selection.slots.dims[1];
  I32("selection.slots", selection.slots, {{"T", num_tokens}, {"W", width}});
  I32("selection.positions", selection.positions, {{"T", num_tokens}, {"W", width}});
  I32("selection.counts", selection.counts, {{"T", num_tokens}});
}

void Checker::Ffn(const FfnWeights* weights, int64_t hidden_size) const {
  That(weights != nullptr, "weights", "absent", "the weights of a feed-forward block");
  const int64_t width = weights->gate_proj.rows();
  Weight("gate_proj", weights->gate_proj, {"F", width}, {"D", hidden_size});
  Weight("up_proj", weights->up_proj, {"F", width}, {"D", hidden_size});
  Weight("down_proj", weights->down_proj, {"D", hidden_size}, {"F", width});
}

}  // namespace

int64_t LatentRowBytes(LatentType type, int64_t latent_dim, int64_t rope_dim) {
  switch (type) {
    case LatentType::kF32:
      return (latent_dim + rope_dim) * 4;
    case LatentType::kBf16:
      return (latent_dim + rope_dim) * 2;
    case LatentType::kFp8:
      return latent_dim + NumBlocks(latent_dim) * 4 + rope_dim * 2;
  }
  return 0;
}

int64_t IndexPageBytes(IndexKeyType type, int64_t index_dim, int64_t page_size) {
  switch (type) {
    case IndexKeyType::kF32:
      return page_size * PaddedIndexDim(index_dim) * 4;
    case IndexKeyType::kBf16:
      return page_size * PaddedIndexDim(index_dim) * 2;
    case IndexKeyType::kE4m3:
    case IndexKeyType::kInt8:
      return page_size * (PaddedIndexDim(index_dim) + 4);
  }
  return 0;
}

void Backend::Embed(const EmbedArgs& args) {
  const Checker check("Embed");
  const int64_t T = args.token_ids.dims[0];
  const int64_t D = args.table.columns();
  check.I32("token_ids", args.token_ids, {{"T", T}});
  check.Weight("table", args.table, {"vocab", args.table.rows()}, {"D", D});
  check.F32("hidden", args.hidden, {{"T", T}, {"D", D}});
  DoEmbed(args);
}

void Backend::AddRmsNorm(const AddRmsNormArgs& args) {
  const Checker check("AddRmsNorm");
  const int64_t T = args.hidden.dims[0];
  const int64_t D = args.hidden.dims[1];
  check.F32("hidden", args.hidden, {{"T", T}, {"D", D}});
  check.OptionalF32("branch", args.branch, {{"T", T}, {"D", D}});
  check.OptionalF32("out", args.out, {{"T", T}, {"D", D}});
  if (args.out) check.F32("weight", args.weight, {{"D", D}});
  DoAddRmsNorm(args);
}

void Backend::RmsNorm(const RmsNormArgs& args) {
  const Checker check("RmsNorm");
  const int64_t T = args.x.dims[0];
  const int64_t Q = args.x.dims[1];
  check.F32("x", args.x, {{"T", T}, {"Q", Q}});
  check.F32("weight", args.weight, {{"Q", Q}});
  check.F32("out", args.out, {{"T", T}, {"Q", Q}});
  DoRmsNorm(args);
}

void Backend::Linear(const LinearArgs& args) {
  const Checker check("Linear");
  const int64_t T = args.x.dims[0];
  const int64_t K = args.x.dims[1];
  const int64_t N = args.weight.rows();
  check.F32("x", args.x, {{"T", T}, {"K", K}});
  check.Weight("weight", args.weight, {"N", N}, {"K", K});
  check.OptionalF32("bias", args.bias, {{"N", N}});
  check.F32("out", args.out, {{"T", T}, {"N", N}});
  DoLinear(args);
}

void Backend::AbsorbQuery(const AbsorbQueryArgs& args) {
  const Checker check("AbsorbQuery");
  const int64_t T = args.q.dims[0];
  const int64_t H = args.q.dims[1];
  const int64_t C = args.kv_b_proj.columns();
  const int64_t R = args.out.dims[2] - C;
  const int64_t P = args.q.dims[2] - R;
  check.That(R >= 0, "R", std::to_string(R), "out's last extent less C, not negative");
  check.That(P >= 0, "P", std::to_string(P), "q's last extent less R, not negative");
  check.F32("q", args.q, {{"T", T}, {"H", H}, {"P+R", P + R}});
  check.Weight("kv_b_proj", args.kv_b_proj, {"H*(P+V)", H * (P + args.v_head_dim)}, {"C", C});
  check.I32("positions", args.positions, {{"T", T}});
  check.Rope(args.rope, R);
  check.F32("out", args.out, {{"T", T}, {"H", H}, {"C+R", C + R}});
  DoAbsorbQuery(args);
}

void Backend::WriteLatent(const WriteLatentArgs& args) {
  const Checker check("WriteLatent");
  const int64_t T = args.kv_a.dims[0];
  const int64_t C = args.cache.latent_dim;
  const int64_t R = args.cache.rope_dim;
  check.F32("kv_a", args.kv_a, {{"T", T}, {"C+R", C + R}});
  check.F32("kv_a_layernorm", args.kv_a_layernorm, {{"C", C}});
  check.I32("positions", args.positions, {{"T", T}});
  check.I32("slots", args.slots, {{"T", T}});
  check.Rope(args.rope, R);
  check.Latent(args.cache);
  DoWriteLatent(args);
}

void Backend::WriteIndexKeys(const WriteIndexKeysArgs& args) {
  const Checker check("WriteIndexKeys");
  const int64_t T = args.k.dims[0];
  const int64_t J = args.cache.index_dim;
  const int64_t R = args.rope.cos_sin.dims[2] * 2;
  check.F32("k", args.k, {{"T", T}, {"J", J}});
  check.F32("k_norm_weight", args.k_norm_weight, {{"J", J}});
  check.F32("k_norm_bias", args.k_norm_bias, {{"J", J}});
  check.I32("positions", args.positions, {{"T", T}});
  check.I32("slots", args.slots, {{"T", T}});
  check.Rope(args.rope, R);
  check.That(R <= J, "R", std::to_string(R), "at most J");
  check.Index(args.cache);
  DoWriteIndexKeys(args);
}

void Backend::PrepareIndexQuery(const PrepareIndexQueryArgs& args) {
  const Checker check("PrepareIndexQuery");
  const int64_t T = args.q.dims[0];
  const int64_t I = args.q.dims[1];
  const int64_t J = args.q.dims[2];
  const int64_t R = args.rope.cos_sin.dims[2] * 2;
  check.F32("q", args.q, {{"T", T}, {"I", I}, {"J", J}});
  check.F32("weights", args.weights, {{"T", T}, {"I", I}});
  check.I32("positions", args.positions, {{"T", T}});
  check.Rope(args.rope, R);
  check.That(R <= J, "R", std::to_string(R), "at most J");
  DoPrepareIndexQuery(args);
}

void Backend::SelectTokens(const SelectTokensArgs& args) {
  const Checker check("SelectTokens");
  const int64_t T = args.q.dims[0];
  const int64_t I = args.q.dims[1];
  const int64_t J = args.cache.index_dim;
  check.F32("q", args.q, {{"T", T}, {"I", I}, {"J", J}});
  check.F32("weights", args.weights, {{"T", T}, {"I", I}});
  check.Index(args.cache);
  check.Batch(args.batch, T);
  check.That(args.batch.page_size == args.cache.page_size, "batch.page_size",
             std::to_string(args.batch.page_size), "the page size of the cache");
  check.That(args.topk > 0, "topk", std::to_string(args.topk), "positive");
  check.Selection(args.selection, T);
  DoSelectTokens(args);
}

void Backend::Attention(const AttentionArgs& args) {
  const Checker check("Attention");
  const int64_t T = args.q.dims[0];
  const int64_t H = args.q.dims[1];
  const int64_t C = args.cache.latent_dim;
  check.F32("q", args.q, {{"T", T}, {"H", H}, {"C+R", C + args.cache.rope_dim}});
  check.Latent(args.cache);
  if (args.selection.slots) check.Selection(args.selection, T);
  check.Batch(args.batch, T);
  check.F32("out", args.out, {{"T", T}, {"H", H}, {"C", C}});
  DoAttention(args);
}

void Backend::ExpandValue(const ExpandValueArgs& args) {
  const Checker check("ExpandValue");
  const int64_t T = args.attended.dims[0];
  const int64_t H = args.attended.dims[1];
  const int64_t C = args.attended.dims[2];
  const int64_t P = args.qk_nope_head_dim;
  const int64_t V = args.out.dims[2];
  check.F32("attended", args.attended, {{"T", T}, {"H", H}, {"C", C}});
  check.Weight("kv_b_proj", args.kv_b_proj, {"H*(P+V)", H * (P + V)}, {"C", C});
  check.F32("out", args.out, {{"T", T}, {"H", H}, {"V", V}});
  DoExpandValue(args);
}

void Backend::FeedForward(const FeedForwardArgs& args) {
  const Checker check("FeedForward");
  const int64_t T = args.x.dims[0];
  const int64_t D = args.x.dims[1];
  check.F32("x", args.x, {{"T", T}, {"D", D}});
  check.Ffn(args.weights, D);
  check.F32("scratch", args.scratch, {{"T", T}, {"2F", 2 * args.weights->gate_proj.rows()}});
  check.F32("out", args.out, {{"T", T}, {"D", D}});
  DoFeedForward(args);
}

void Backend::Moe(const MoeArgs& args) {
  const Checker check("Moe");
  const int64_t T = args.x.dims[0];
  const int64_t D = args.x.dims[1];
  const int64_t E = static_cast<int64_t>(args.experts.size());
  check.F32("x", args.x, {{"T", T}, {"D", D}});
  check.Weight("gate", args.gate, {"E", E}, {"D", D});
  check.F32("e_score_correction_bias", args.e_score_correction_bias, {{"E", E}});
  for (const FfnWeights& expert : args.experts) check.Ffn(&expert, D);
  if (args.shared_experts) check.Ffn(args.shared_experts, D);
  check.That(args.n_group > 0 && E % args.n_group == 0, "n_group", std::to_string(args.n_group),
             "a divisor of E");
  check.That(args.topk_group > 0 && args.topk_group <= args.n_group, "topk_group",
             std::to_string(args.topk_group), "between 1 and n_group");
  const int64_t reachable = E / args.n_group * args.topk_group;
  check.That(args.num_experts_per_tok > 0 && args.num_experts_per_tok <= reachable,
             "num_experts_per_tok", std::to_string(args.num_experts_per_tok),
             "between 1 and the experts of topk_group groups");
  check.F32("out", args.out, {{"T", T}, {"D", D}});
  DoMoe(args);
}

std::shared_ptr<void> Backend::AllocateOnHost(int64_t bytes) {
  const auto buffer = std::make_shared<HostBuffer>(bytes);
  return {buffer, buffer->data()};
}

void Backend::DrawTokens(const DrawTokensArgs& args) {
  const Checker check("DrawTokens");
  const int64_t T = args.logits.dims[0];
  const int64_t N = args.logits.dims[1];
  check.F32("logits", args.logits, {{"T", T}, {"N", N}});
  check.That(N <= kMostIds, "N", std::to_string(N), "less than 2^24");
  check.Shape("rules", args.rules, {{"T", T}, {"bytes of a rule", sizeof(DrawRule)}});
  check.Type("rules", args.rules, DType::kU8);
  check.That(reinterpret_cast<uintptr_t>(args.rules.data) % alignof(DrawRule) == 0, "rules",
             "not aligned", "an address that is a multiple of 8");
  check.I32("tokens", args.tokens, {{"T", T}});
  DoDrawTokens(args);
}

}  // namespace winnow
