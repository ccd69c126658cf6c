// The mixture of experts.
//
//   route     a warp a token: scores, selection, weights
//   sort      the chosen (token, expert) pairs by expert, and the tiles of rows that experts meet
//   gate, up, down   an expert's rows at once, a tile a block; experts without rows cost nothing
//   combine   a token's experts one after the other in ascending order, the shared ones last, so
//             that a sum's order depends on nothing but the token
#include <algorithm>
#include <cstring>
#include <span>

#include "base/check.h"
#include "cuda/context.h"
#include "cuda/cuda_ops.h"
#include "cuda/device.cuh"
#include "cuda/dsa/sm90.cuh"
#include "cuda/product.cuh"
#include "cuda/product_sm90.h"
#include "cuda/scratch.h"

namespace winnow::cuda {
namespace {

constexpr int kMaxExperts = 2048;

struct RouteArgs {
  const float* logits;  // [T, E]
  const float* bias;    // [E]
  int32_t* expert;      // [T, chosen] out, ascending
  float* weight;        // [T, chosen] out
  int32_t experts;
  int32_t chosen;
  int32_t groups;
  int32_t kept_groups;
  bool normalise;
  float factor;
};

// A score and its index as one number: the larger is the better, of equal scores the lower index;
// NaN is below every number. 0 is nobody.
__device__ uint64_t Rank(float score, int index) {
  const uint32_t bits = __float_as_uint(score + 0.0f);
  const uint32_t ordered = bits & 0x80000000 ? ~bits : bits | 0x80000000;
  const uint32_t rank = isnan(score) ? 1 : ordered;
  return uint64_t{rank} << 32 | ~static_cast<uint32_t>(index);
}
__device__ int IndexOf(uint64_t rank) { return static_cast<int>(~static_cast<uint32_t>(rank)); }

__device__ uint64_t WarpMax(uint64_t value) {
  for (int distance = 16; distance > 0; distance /= 2) {
    const uint64_t other = __shfl_xor_sync(0xffffffff, value, distance);
    value = other > value ? other : value;
  }
  return value;
}

// Marks the `count` best of `scores` among those that are `open`, by a warp.
__device__ void MarkBest(const float* scores, const bool* open, int size, int count, bool* marked) {
  const int lane = threadIdx.x;
  for (int i = lane; i < size; i += kWarp) marked[i] = false;
  __syncwarp();
  for (int chosen = 0; chosen < count; ++chosen) {
    uint64_t best = 0;
    for (int i = lane; i < size; i += kWarp) {
      if (marked[i] || !open[i]) continue;
      const uint64_t rank = Rank(scores[i], i);
      best = rank > best ? rank : best;
    }
    best = WarpMax(best);
    if (best == 0) return;
    if (lane == 0) marked[IndexOf(best)] = true;
    __syncwarp();
  }
}

// The score of a group: the sum of its two best, or its only one.
__device__ float GroupScore(const float* scores, int size) {
  float best = -INFINITY;
  float second = best;
  for (int expert = 0; expert < size; ++expert) {
    if (scores[expert] > best) {
      second = best;
      best = scores[expert];
    } else if (scores[expert] > second) {
      second = scores[expert];
    }
  }
  return size == 1 ? best : best + second;
}

struct RouteShared {
  float gates[kMaxExperts];
  float scores[kMaxExperts];
  float group_scores[kMaxExperts];
  bool open[kMaxExperts];
  bool marked[kMaxExperts];
  bool all[kMaxExperts];
};

// Grid: one warp for each token.
__global__ void RouteKernel(RouteArgs a) {
  extern __shared__ float memory[];
  RouteShared& s = *reinterpret_cast<RouteShared*>(memory);
  sm90::WaitForPrevious();
  sm90::LetNextBegin();
  const int64_t token = blockIdx.x;
  const int lane = threadIdx.x;
  for (int e = lane; e < a.experts; e += kWarp) {
    s.gates[e] = Sigmoid(a.logits[token * a.experts + e]);
    s.scores[e] = s.gates[e] + a.bias[e];
    s.open[e] = true;
    s.all[e] = true;
  }
  __syncwarp();
  if (a.groups > 1) {
    const int group_size = a.experts / a.groups;
    for (int group = lane; group < a.groups; group += kWarp) {
      s.group_scores[group] = GroupScore(s.scores + group * group_size, group_size);
    }
    __syncwarp();
    MarkBest(s.group_scores, s.all, a.groups, a.kept_groups, s.marked);
    __syncwarp();
    for (int e = lane; e < a.experts; e += kWarp) s.open[e] = s.marked[e / group_size];
    __syncwarp();
  }
  MarkBest(s.scores, s.open, a.experts, a.chosen, s.marked);
  __syncwarp();
  // The gates of the marked, in ascending order of experts; scores are not needed any more.
  int count = 0;
  for (int first = 0; first < a.experts; first += kWarp) {
    const int e = first + lane;
    const bool marked = e < a.experts && s.marked[e];
    const unsigned all = __ballot_sync(0xffffffff, marked);
    const int place = count + __popc(all & ((1u << lane) - 1));
    if (marked) {
      a.expert[token * a.chosen + place] = e;
      s.scores[place] = s.gates[e];
    }
    count += __popc(all);
  }
  __syncwarp();
  float sum = 0;
  for (int i = 0; i < count; ++i) sum = sum + s.scores[i];
  for (int i = lane; i < count; i += kWarp) {
    float weight = s.scores[i];
    if (a.normalise) weight = weight / (sum + 1e-20f);
    a.weight[token * a.chosen + i] = weight * a.factor;
  }
}

using Tile = ExpertTile;

struct SortArgs {
  const int32_t* expert;  // [pairs]
  int32_t* row_token;     // [rows] out, by expert: which token a row is; -1 between experts
  int32_t* row_of;        // [pairs] out: the row of a pair
  Tile* tiles;            // out
  int32_t* num_tiles;     // out
  int32_t pairs;
  int32_t rows;  // at most
  int32_t chosen;
  int32_t experts;
  int32_t tile_rows;
  int32_t unit;  // an expert's rows begin at a multiple of it
};

__device__ int AddUpWarp(int value) {
  for (int distance = 1; distance < kWarp; distance *= 2) {
    const int before = __shfl_up_sync(0xffffffff, value, distance);
    if (static_cast<int>(threadIdx.x) % kWarp >= distance) value += before;
  }
  return value;
}

// Grid: one block. An expert's rows come in any order: what a row becomes depends on it alone.
__global__ void SortKernel(SortArgs a) {
  __shared__ int32_t count[kMaxExperts];
  __shared__ int32_t first[kMaxExperts + 1];
  __shared__ int32_t first_tile[kMaxExperts + 1];
  sm90::WaitForPrevious();
  sm90::LetNextBegin();
  for (int e = threadIdx.x; e < a.experts; e += blockDim.x) count[e] = 0;
  for (int i = threadIdx.x; i < a.rows; i += blockDim.x) a.row_token[i] = -1;
  __syncthreads();
  for (int i = threadIdx.x; i < a.pairs; i += blockDim.x) atomicAdd(&count[a.expert[i]], 1);
  __syncthreads();
  if (threadIdx.x < kWarp) {
    int rows = 0;
    int tiles = 0;
    if (threadIdx.x == 0) first[0] = first_tile[0] = 0;
    for (int base = 0; base < a.experts; base += kWarp) {
      const int e = base + threadIdx.x;
      const int size = e < a.experts ? count[e] : 0;
      const int rows_up_to = rows + AddUpWarp(DivideUp(size, a.unit) * a.unit);
      const int tiles_up_to = tiles + AddUpWarp(DivideUp(size, a.tile_rows));
      if (e < a.experts) {
        first[e + 1] = rows_up_to;
        first_tile[e + 1] = tiles_up_to;
      }
      rows = __shfl_sync(0xffffffff, rows_up_to, kWarp - 1);
      tiles = __shfl_sync(0xffffffff, tiles_up_to, kWarp - 1);
    }
    if (threadIdx.x == 0) *a.num_tiles = tiles;
  }
  __syncthreads();
  for (int e = threadIdx.x; e < a.experts; e += blockDim.x) {
    for (int tile = first_tile[e]; tile < first_tile[e + 1]; ++tile) {
      const int done = (tile - first_tile[e]) * a.tile_rows;
      a.tiles[tile] = {e, first[e] + done, min(a.tile_rows, count[e] - done)};
    }
  }
  __syncthreads();
  for (int e = threadIdx.x; e < a.experts; e += blockDim.x) count[e] = 0;
  __syncthreads();
  for (int i = threadIdx.x; i < a.pairs; i += blockDim.x) {
    const int e = a.expert[i];
    const int row = first[e] + atomicAdd(&count[e], 1);
    a.row_token[row] = i / a.chosen;
    a.row_of[i] = row;
  }
}

// A product of every expert with its rows: `product` says all but the weight, num_x and where rows
// begin.
struct GroupedArgs {
  Product product;
  const Weight* table;  // [E, 3]: gate, up, down
  int32_t part;         // which of the three
  bool gathers;         // rows of x are tokens; otherwise they are sorted already
  const int32_t* row_token;
  const Tile* tiles;
  const int32_t* num_tiles;
};

__device__ Product OfTile(const GroupedArgs& a, const Tile& tile) {
  Product p = a.product;
  p.weight = a.table[tile.expert * 3 + a.part];
  p.num_x = tile.count;
  if (a.gathers) {
    p.x_rows = a.row_token + tile.first;
  } else {
    p.x += tile.first * p.x_stride;
  }
  p.out += tile.first * p.out_stride;
  return p;
}

// Grid: x parts of the weight's rows, y tiles.
template <int kX>
__global__ void __launch_bounds__(kFewThreads) GroupedFewKernel(GroupedArgs a) {
  if (static_cast<int>(blockIdx.y) >= *a.num_tiles) return;
  RunFew<kX>(OfTile(a, a.tiles[blockIdx.y]), blockIdx.x * kFewRows);
}
__global__ void __launch_bounds__(kManyThreads, 2) GroupedManyKernel(GroupedArgs a) {
  __shared__ ManyShared shared;
  if (static_cast<int>(blockIdx.y) >= *a.num_tiles) return;
  RunMany(OfTile(a, a.tiles[blockIdx.y]), 0, blockIdx.x * kTile, shared);
}

struct CombineArgs {
  const float* products;  // [pairs, D]
  const float* shared;    // [T, D], or none
  const int32_t* row_of;  // [T, chosen]
  const float* weight;    // [T, chosen]
  float* out;             // [T, D]
  int32_t chosen;
  int32_t size;
};

// Grid: x tokens, y parts of the width.
__global__ void CombineKernel(CombineArgs a) {
  sm90::WaitForPrevious();
  sm90::LetNextBegin();
  const int64_t token = blockIdx.x;
  const int k = blockIdx.y * blockDim.x + threadIdx.x;
  if (k >= a.size) return;
  float sum = 0;
  for (int i = 0; i < a.chosen; ++i) {
    const int64_t row = a.row_of[token * a.chosen + i];
    sum = fmaf(a.weight[token * a.chosen + i], a.products[row * a.size + k], sum);
  }
  if (a.shared) sum = fmaf(1.0f, a.shared[token * a.size + k], sum);
  a.out[token * a.size + k] = sum;
}

// The experts' weights as a table on the device. It is sent again only when it is another one.
const Weight* TableOf(CudaContext& context, const MoeArgs& args) {
  std::vector<Weight> table;
  table.reserve(args.experts.size() * 3);
  for (const FfnWeights& expert : args.experts) {
    for (const ScaledView* view : {&expert.gate_proj, &expert.up_proj, &expert.down_proj}) {
      table.push_back(ReadAs(*view));
    }
  }
  const int64_t bytes = static_cast<int64_t>(table.size() * sizeof(Weight));
  std::vector<uint8_t> content(static_cast<size_t>(bytes));
  std::memcpy(content.data(), table.data(), content.size());
  return static_cast<const Weight*>(
      context.tables.Get(args.experts.data(), std::move(content), context));
}

// All experts or none.
bool AllOnTensorCores(std::span<const FfnWeights> experts) {
  const auto type = [](const ScaledView& view) { return view.value.dtype; };
  return !experts.empty() && std::all_of(experts.begin(), experts.end(), [&](const auto& expert) {
    return HasTensorProducts(expert) && type(expert.gate_proj) == type(experts[0].gate_proj) &&
           type(expert.down_proj) == type(experts[0].down_proj);
  });
}

constexpr int64_t kTensorUnit = 8;  // an expert's rows begin at a multiple of it

// Rows of all experts, with those between them, at most.
int64_t RowsOf(int64_t pairs, int64_t experts, int64_t unit) {
  return DivideUp(pairs + (unit - 1) * std::min(pairs, experts), unit) * unit;
}
int64_t TilesOf(int64_t pairs, int64_t experts, int64_t tile_rows) {
  return std::min(pairs, pairs / tile_rows + experts);
}

class Mixture {
 public:
  Mixture(CudaContext& context, const MoeArgs& args)
      : context_(context),
        args_(args),
        tokens_(args.x.dims[0]),
        size_(args.x.dims[1]),
        experts_(static_cast<int64_t>(args.experts.size())),
        chosen_(args.num_experts_per_tok),
        pairs_(tokens_ * chosen_),
        width_(args.experts.empty() ? 0 : args.experts[0].gate_proj.rows()),
        on_tensor_cores_(context.rounds() && AllOnTensorCores(args.experts)),
        unit_(on_tensor_cores_ ? kTensorUnit : 1),
        rows_(RowsOf(pairs_, experts_, unit_)),
        tile_rows_(TileRows()) {}

  void Run();

 private:
  int64_t TileRows() const;
  bool TakeMemory();
  void Route();
  void Sort();
  void RunExperts();
  void RunExpertsOnTensorCores();
  void RunShared();
  void RunGrouped(int part, const float* x, int64_t x_stride, float* out, int64_t out_stride);
  void Combine();
  int64_t MaxTiles() const { return TilesOf(pairs_, experts_, tile_rows_); }

  CudaContext& context_;
  const MoeArgs& args_;
  const int64_t tokens_;
  const int64_t size_;
  const int64_t experts_;
  const int64_t chosen_;
  const int64_t pairs_;
  const int64_t width_;
  const bool on_tensor_cores_;
  const int64_t unit_;
  const int64_t rows_;  // of all experts, at most
  const int64_t tile_rows_;

  float* logits_ = nullptr;       // [T, E]
  float* weight_ = nullptr;       // [T, chosen]
  int32_t* expert_ = nullptr;     // [T, chosen]
  int32_t* row_token_ = nullptr;  // [rows]
  int32_t* row_of_ = nullptr;     // [pairs]
  int32_t* num_tiles_ = nullptr;
  Tile* tiles_ = nullptr;
  float* gate_ = nullptr;      // [rows, F], then of the shared experts [T, F]
  float* up_ = nullptr;        // the same
  float* products_ = nullptr;  // [rows, D]
  float* shared_ = nullptr;    // [T, D]
  const Weight* table_ = nullptr;
};

// On tensor cores a tile is wide enough for most experts' rows to be in one, so that their weights
// are read once.
int64_t Mixture::TileRows() const {
  if (!on_tensor_cores_) return tokens_ <= kFewX ? kFewX : kTile;
  const int64_t enough = 2 * pairs_ / std::max<int64_t>(experts_, 1);
  for (int64_t rows : {8, 16, 32, 64}) {
    if (enough <= rows) return rows;
  }
  return 128;
}

bool Mixture::TakeMemory() {
  const int64_t shared_width = args_.shared_experts ? args_.shared_experts->gate_proj.rows() : 0;
  const int64_t hidden = std::max(rows_ * width_, tokens_ * shared_width);
  const MoeMemory memory =
      MoeMemoryOf(tokens_, size_, experts_, chosen_, width_, shared_width, on_tensor_cores_);
  const auto get = [&](Scratch::Purpose purpose, int64_t bytes) {
    return reinterpret_cast<float*>(context_.Get<uint8_t>(purpose, bytes, "Moe"));
  };
  float* at = get(Scratch::kRouting, memory.routing);
  gate_ = get(Scratch::kHidden, memory.hidden);
  products_ = get(Scratch::kProducts, memory.products);
  table_ = TableOf(context_, args_);
  if (at == nullptr || gate_ == nullptr || products_ == nullptr || table_ == nullptr) return false;
  logits_ = at;
  weight_ = logits_ + tokens_ * experts_;
  expert_ = reinterpret_cast<int32_t*>(weight_ + pairs_);
  row_token_ = expert_ + pairs_;
  row_of_ = row_token_ + rows_;
  num_tiles_ = row_of_ + pairs_;
  tiles_ = reinterpret_cast<Tile*>(num_tiles_ + 1);
  up_ = gate_ + hidden;
  shared_ = products_ + rows_ * size_;
  return true;
}

void Mixture::Route() {
  LinearArgs router;
  router.x = args_.x;
  router.weight = args_.gate;
  router.out = TensorView(logits_, DType::kF32, {tokens_, experts_});
  router.keep_f32 = true;
  Linear(context_, router);
  const RouteArgs route = {.logits = logits_,
                           .bias = args_.e_score_correction_bias.As<float>(),
                           .expert = expert_,
                           .weight = weight_,
                           .experts = static_cast<int32_t>(experts_),
                           .chosen = static_cast<int32_t>(chosen_),
                           .groups = static_cast<int32_t>(args_.n_group),
                           .kept_groups = static_cast<int32_t>(args_.topk_group),
                           .normalise = args_.norm_topk_prob,
                           .factor = args_.routed_scaling_factor};
  context_.Check(sm90::LaunchOverlapping(RouteKernel,
                                         {.grid = dim3(static_cast<unsigned>(tokens_)),
                                          .threads = kWarp,
                                          .shared_bytes = static_cast<int>(sizeof(RouteShared)),
                                          .stream = context_.stream},
                                         route),
                 "Moe");
}

void Mixture::Sort() {
  const SortArgs sort = {.expert = expert_,
                         .row_token = row_token_,
                         .row_of = row_of_,
                         .tiles = tiles_,
                         .num_tiles = num_tiles_,
                         .pairs = static_cast<int32_t>(pairs_),
                         .rows = static_cast<int32_t>(rows_),
                         .chosen = static_cast<int32_t>(chosen_),
                         .experts = static_cast<int32_t>(experts_),
                         .tile_rows = static_cast<int32_t>(tile_rows_),
                         .unit = static_cast<int32_t>(unit_)};
  context_.Check(
      sm90::LaunchOverlapping(SortKernel,
                              {.grid = dim3(1), .threads = 1024, .stream = context_.stream}, sort),
      "Moe");
}

void Mixture::RunGrouped(int part, const float* x, int64_t x_stride, float* out,
                         int64_t out_stride) {
  GroupedArgs a;
  a.product.x = x;
  a.product.x_stride = x_stride;
  a.product.num_rows = static_cast<int32_t>(out_stride);
  a.product.out = out;
  a.product.out_stride = out_stride;
  a.product.round = context_.rounds();
  a.table = table_;
  a.part = part;
  a.gathers = part < 2;
  a.row_token = row_token_;
  a.tiles = tiles_;
  a.num_tiles = num_tiles_;
  const unsigned tiles = static_cast<unsigned>(MaxTiles());
  const dim3 few(static_cast<unsigned>(DivideUp<int64_t>(out_stride, kFewRows)), tiles);
  if (tokens_ == 1) {
    GroupedFewKernel<1><<<few, kFewThreads, 0, context_.stream>>>(a);
  } else if (tokens_ <= kFewX) {
    GroupedFewKernel<kFewX><<<few, kFewThreads, 0, context_.stream>>>(a);
  } else {
    const dim3 many(static_cast<unsigned>(DivideUp<int64_t>(out_stride, kTile)), tiles);
    GroupedManyKernel<<<many, kManyThreads, 0, context_.stream>>>(a);
  }
  context_.Launched("Moe");
}

void Mixture::RunExperts() {
  RunGrouped(0, args_.x.As<float>(), size_, gate_, width_);
  RunGrouped(1, args_.x.As<float>(), size_, up_, width_);
  SwiGlu(context_, gate_, up_, gate_, pairs_ * width_);
  RunGrouped(2, gate_, width_, products_, size_);
}

// Gate and up are two products of one batch.
void Mixture::RunExpertsOnTensorCores() {
  PackArgs pack;
  pack.x = args_.x.As<float>();
  pack.x_stride = size_;
  pack.x_rows = row_token_;
  pack.rows = rows_;
  pack.columns = size_;
  pack.weight = args_.experts[0].gate_proj.value.dtype;
  pack.out.rows = rows_;
  pack.out.data = context_.Get<uint8_t>(
      Scratch::kPacked,
      MoeMemoryOf(tokens_, size_, experts_, chosen_, width_, 0, on_tensor_cores_).packed, "Moe");
  if (pack.out.data == nullptr || !context_.Check(PackRows(pack, context_.stream), "Moe")) return;
  TensorProduct product;
  product.x = pack.out;
  product.num_rows = static_cast<int32_t>(width_);
  product.weight = ReadAs(args_.experts[0].gate_proj);
  product.out = gate_;
  product.out_stride = width_;
  product.batch = 2;
  product.out_step = up_ - gate_;
  product.table = table_;
  product.table_stride = 3;
  product.tiles = tiles_;
  product.num_tiles = num_tiles_;
  product.max_tiles = static_cast<int32_t>(MaxTiles());
  product.tile_rows = static_cast<int32_t>(tile_rows_);
  if (!context_.Check(RunTensorProduct(product, context_.stream), "Moe")) return;
  pack.x = gate_;
  pack.up = up_;
  pack.x_stride = width_;
  pack.x_rows = nullptr;
  pack.columns = width_;
  pack.weight = args_.experts[0].down_proj.value.dtype;
  if (!context_.Check(PackRows(pack, context_.stream), "Moe")) return;
  product.num_rows = static_cast<int32_t>(size_);
  product.weight = ReadAs(args_.experts[0].down_proj);
  product.out = products_;
  product.out_stride = size_;
  product.batch = 1;
  product.table = table_ + 2;
  context_.Check(RunTensorProduct(product, context_.stream), "Moe");
}

void Mixture::RunShared() {
  RunFeedForward(context_, *args_.shared_experts, args_.x.As<float>(), tokens_, gate_, shared_,
                 "Moe");
}

void Mixture::Combine() {
  const CombineArgs combine = {.products = products_,
                               .shared = args_.shared_experts ? shared_ : nullptr,
                               .row_of = row_of_,
                               .weight = weight_,
                               .out = args_.out.As<float>(),
                               .chosen = static_cast<int32_t>(chosen_),
                               .size = static_cast<int32_t>(size_)};
  const dim3 grid(static_cast<unsigned>(tokens_),
                  static_cast<unsigned>(DivideUp<int64_t>(size_, 256)));
  context_.Check(
      sm90::LaunchOverlapping(CombineKernel,
                              {.grid = grid, .threads = 256, .stream = context_.stream}, combine),
      "Moe");
}

void Mixture::Run() {
  if (tokens_ == 0) return;
  if (experts_ > kMaxExperts) {
    context_.Fail(Unsupported("cuda: " + std::to_string(experts_) +
                              " experts in a layer, expected at most " +
                              std::to_string(kMaxExperts)));
    return;
  }
  for (const FfnWeights& expert : args_.experts) {
    WINNOW_CHECK(expert.gate_proj.rows() == width_, "Moe: experts of different widths");
  }
  if (!TakeMemory()) return;
  Route();
  Sort();
  if (on_tensor_cores_) {
    RunExpertsOnTensorCores();
  } else {
    RunExperts();
  }
  // The experts' hidden rows have been read: the shared ones use their place.
  if (args_.shared_experts) RunShared();
  Combine();
}

}  // namespace

MoeMemory MoeMemoryOf(int64_t tokens, int64_t size, int64_t experts, int64_t chosen, int64_t width,
                      int64_t shared_width, bool on_tensor_cores) {
  constexpr int64_t kSmallestTile = 8;
  const int64_t pairs = tokens * chosen;
  const int64_t rows = RowsOf(pairs, experts, on_tensor_cores ? kTensorUnit : 1);
  const int64_t routing =
      tokens * experts + 3 * pairs + rows + 1 + 3 * TilesOf(pairs, experts, kSmallestTile);
  return {.routing = 4 * routing,
          .hidden = 8 * std::max(rows * width, tokens * shared_width),
          .products = 4 * (rows + tokens) * size,
          .packed = on_tensor_cores ? PackedBytes(rows, std::max(size, width), 1) : 0};
}

void Moe(CudaContext& context, const MoeArgs& args) { Mixture(context, args).Run(); }

}  // namespace winnow::cuda
