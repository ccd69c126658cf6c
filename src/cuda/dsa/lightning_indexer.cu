// Parts 1 and 2 of DSA for any dimensions: scores of a bounded number of tokens and keys, then what
// is best of them and of what was kept before, segment after segment of the context.
//
// Order  over j one chain of fused multiply-adds, two dimensions at a time from 0 up, of each two
//        the second first; over heads four chains, head h in chain (h / 2) mod 4, then (0 + 1) +
//        (2 + 3); times the key's scale, plus 0: the definition's, so selections are the CPU's bit
//        for bit. Sums of int8 codes are whole numbers below 2^24, made as integers where J is a
//        multiple of 16 and at most 1024.
#include <algorithm>

#include "cuda/context.h"
#include "cuda/device.cuh"
#include "cuda/dsa/dsa_ops.h"
#include "cuda/dsa/index_layout.h"
#include "cuda/dsa/select_tokens_sm90.h"
#include "cuda/dsa/token_selection.cuh"

namespace winnow::cuda {
namespace {

constexpr int kThreads = 128;            // a key each
constexpr int kHeads = 8;                // at a time
constexpr int64_t kMaxSegment = 131072;  // keys
constexpr int64_t kMaxTokens = 32768;    // at once: rows of a grid
constexpr int64_t kMaxSegmentTokens = kScoreBytes / 4 / kMaxSegment;

struct ScoreArgs {
  const void* q;         // [tokens, I, J] floats, or packed codes
  const float* weights;  // [tokens, I]
  const uint8_t* pages;
  int64_t page_bytes;
  int32_t page_size;
  int32_t index_heads;
  int32_t index_dim;
  const int32_t* positions;
  const int32_t* sequences;
  const int32_t* page_table;
  int32_t max_pages;
  int32_t topk;
  float* scores;  // [tokens, stride]
  int64_t stride;
  int32_t first_key;  // of the segment
  int32_t num_keys;
};

// Codes of a key as floats.
template <IndexKeyType kType>
__device__ float Code(const uint8_t* page, int index_dim, int key, int j) {
  const int64_t at = CodePlace(kType, index_dim, key, j);
  if constexpr (kType == IndexKeyType::kF32) return reinterpret_cast<const float*>(page)[at];
  if constexpr (kType == IndexKeyType::kBf16) {
    return Bf16ToFloat(reinterpret_cast<const uint16_t*>(page)[at]);
  }
  if constexpr (kType == IndexKeyType::kE4m3) return E4m3ToFloat(page[at]);
  return static_cast<float>(static_cast<int8_t>(page[at]));
}

// Dots of one key with up to kHeads heads.
template <IndexKeyType kType>
__device__ void DotCodes(const ScoreArgs& a, const float* q, int heads, const uint8_t* page,
                         int key, float (&dots)[kHeads]) {
#pragma unroll
  for (int h = 0; h < kHeads; ++h) dots[h] = 0;
  const auto add = [&](int j) {
    const float code = Code<kType>(page, a.index_dim, key, j);
#pragma unroll
    for (int h = 0; h < kHeads; ++h) {
      if (h < heads) dots[h] = fmaf(q[h * a.index_dim + j], code, dots[h]);
    }
  };
  for (int j = 0; j < a.index_dim; j += 2) {
    if (j + 1 < a.index_dim) add(j + 1);
    add(j);
  }
}

// The same for codes packed by fours, as exact integers.
__device__ void DotPacked(const ScoreArgs& a, const int4* q, int heads, const uint8_t* page,
                          int key, float (&dots)[kHeads]) {
  const int chunks = a.index_dim / 16;
  int sums[kHeads] = {};
  for (int chunk = 0; chunk < chunks; ++chunk) {
    const int4 code = *reinterpret_cast<const int4*>(
        page + CodePlace(IndexKeyType::kInt8, a.index_dim, key, chunk * 16));
#pragma unroll
    for (int h = 0; h < kHeads; ++h) {
      if (h >= heads) break;
      const int4 query = q[h * chunks + chunk];
      sums[h] = __dp4a(query.x, code.x, sums[h]);
      sums[h] = __dp4a(query.y, code.y, sums[h]);
      sums[h] = __dp4a(query.z, code.z, sums[h]);
      sums[h] = __dp4a(query.w, code.w, sums[h]);
    }
  }
#pragma unroll
  for (int h = 0; h < kHeads; ++h) dots[h] = static_cast<float>(sums[h]);
}

// Grid: x parts of the segment, a key a thread; y tokens.
template <IndexKeyType kType, bool kPacked>
__global__ void __launch_bounds__(kThreads) ScoreKernel(ScoreArgs a) {
  const int64_t token = blockIdx.y;
  const int candidates = a.positions[token] + 1;
  const int index = blockIdx.x * kThreads + threadIdx.x;
  const int position = a.first_key + index;
  if (candidates <= a.topk || index >= a.num_keys || position >= candidates) return;
  const int64_t sequence = a.sequences[token];
  const int64_t page_number = a.page_table[sequence * a.max_pages + position / a.page_size];
  const uint8_t* page = a.pages + page_number * a.page_bytes;
  const int key = position % a.page_size;
  const float* weights = a.weights + token * a.index_heads;
  float chain[4] = {0, 0, 0, 0};
  for (int first = 0; first < a.index_heads; first += kHeads) {
    const int heads = min(kHeads, a.index_heads - first);
    const int64_t at = (token * a.index_heads + first) * a.index_dim;
    float dots[kHeads];
    if constexpr (kPacked) {
      DotPacked(a, reinterpret_cast<const int4*>(static_cast<const int8_t*>(a.q) + at), heads, page,
                key, dots);
    } else {
      DotCodes<kType>(a, static_cast<const float*>(a.q) + at, heads, page, key, dots);
    }
#pragma unroll
    for (int h = 0; h < kHeads; ++h) {
      if (h >= heads) break;
      const float agreement = dots[h] < 0 ? 0 : dots[h];
      chain[h / 2] = fmaf(weights[first + h], agreement, chain[h / 2]);
    }
  }
  const float sum = (chain[0] + chain[1]) + (chain[2] + chain[3]);
  float scale = 1;
  if constexpr (IsRotated(kType)) {
    scale = reinterpret_cast<const float*>(page + a.page_bytes)[key - a.page_size];
  }
  a.scores[token * a.stride + index] = sum * scale + 0.0f;
}

__global__ void PackKernel(const float* q, int8_t* packed, int64_t count) {
  const int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i < count) packed[i] = static_cast<int8_t>(q[i]);
}

bool Packs(const SelectTokensArgs& args) {
  return args.cache.type == IndexKeyType::kInt8 && args.cache.index_dim % 16 == 0 &&
         args.cache.index_dim <= 1024 && args.cache.page_bytes % 16 == 0;
}

void LaunchScores(const ScoreArgs& a, IndexKeyType type, bool packed, int64_t tokens,
                  cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>(DivideUp(a.num_keys, kThreads)),
                  static_cast<unsigned>(tokens));
  switch (type) {
    case IndexKeyType::kF32:
      return ScoreKernel<IndexKeyType::kF32, false><<<grid, kThreads, 0, stream>>>(a);
    case IndexKeyType::kBf16:
      return ScoreKernel<IndexKeyType::kBf16, false><<<grid, kThreads, 0, stream>>>(a);
    case IndexKeyType::kE4m3:
      return ScoreKernel<IndexKeyType::kE4m3, false><<<grid, kThreads, 0, stream>>>(a);
    case IndexKeyType::kInt8:
      if (packed) {
        return ScoreKernel<IndexKeyType::kInt8, true><<<grid, kThreads, 0, stream>>>(a);
      }
      return ScoreKernel<IndexKeyType::kInt8, false><<<grid, kThreads, 0, stream>>>(a);
  }
}

class Selector {
 public:
  Selector(CudaContext& context, const SelectTokensArgs& args)
      : context_(context),
        args_(args),
        heads_(args.q.dims[1]),
        dim_(args.q.dims[2]),
        longest_(args.batch.page_table.dims[1] * args.batch.page_size),
        segment_(std::min(kMaxSegment, longest_)),
        group_(
            std::clamp<int64_t>(kScoreBytes / 4 / std::max<int64_t>(segment_, 1), 1, kMaxTokens)),
        topk_(std::min<int64_t>(args.topk, INT32_MAX)),
        kept_(std::min(topk_, longest_)) {}

  void Run();

 private:
  bool TakeMemory(int64_t tokens);
  void RunGroup(int64_t first, int64_t count);
  ScoreArgs Scores(int64_t first) const;
  SelectArgs Selection(int64_t first) const;
  bool whole() const { return longest_ <= segment_; }

  CudaContext& context_;
  const SelectTokensArgs& args_;
  const int64_t heads_;
  const int64_t dim_;
  const int64_t longest_;  // no context is longer
  const int64_t segment_;
  const int64_t group_;  // tokens whose scores are held at once
  const int64_t topk_;
  const int64_t kept_;  // candidates kept between segments
  int8_t* packed_ = nullptr;
  float* scores_ = nullptr;
  Kept kept_lists_[2];
};

bool Selector::TakeMemory(int64_t tokens) {
  const int64_t group = std::min(group_, tokens);
  scores_ = context_.Get<float>(Scratch::kScores, group * segment_, "SelectTokens");
  if (scores_ == nullptr) return false;
  if (Packs(args_)) {
    packed_ = context_.Get<int8_t>(Scratch::kPrepared, tokens * heads_ * dim_, "SelectTokens");
    if (packed_ == nullptr) return false;
  }
  if (whole()) return true;
  const int64_t list = group * kept_;
  uint32_t* lists = context_.Get<uint32_t>(Scratch::kLists, 2 * (2 * list + group), "SelectTokens");
  if (lists == nullptr) return false;
  for (Kept& kept : kept_lists_) {
    kept.keys = lists;
    kept.positions = reinterpret_cast<int32_t*>(lists + list);
    kept.counts = reinterpret_cast<int32_t*>(lists + 2 * list);
    lists += 2 * list + group;
  }
  return true;
}

void Selector::Run() {
  const int64_t tokens = args_.q.dims[0];
  if (tokens == 0 || !TakeMemory(tokens)) return;
  if (packed_ != nullptr) {
    const int64_t count = tokens * heads_ * dim_;
    PackKernel<<<static_cast<unsigned>(DivideUp<int64_t>(count, 256)), 256, 0, context_.stream>>>(
        args_.q.As<float>(), packed_, count);
  }
  for (int64_t first = 0; first < tokens; first += group_) {
    RunGroup(first, std::min(group_, tokens - first));
  }
  context_.Launched("SelectTokens");
}

ScoreArgs Selector::Scores(int64_t first) const {
  const int64_t at = first * heads_ * dim_;
  return {.q = packed_ ? static_cast<const void*>(packed_ + at) : args_.q.As<float>() + at,
          .weights = args_.weights.As<float>() + first * heads_,
          .pages = args_.cache.pages.As<uint8_t>(),
          .page_bytes = args_.cache.page_bytes,
          .page_size = static_cast<int32_t>(args_.cache.page_size),
          .index_heads = static_cast<int32_t>(heads_),
          .index_dim = static_cast<int32_t>(dim_),
          .positions = args_.batch.positions.As<int32_t>() + first,
          .sequences = args_.batch.sequences.As<int32_t>() + first,
          .page_table = args_.batch.page_table.As<int32_t>(),
          .max_pages = static_cast<int32_t>(args_.batch.page_table.dims[1]),
          .topk = static_cast<int32_t>(topk_),
          .scores = scores_,
          .stride = segment_,
          .first_key = 0,
          .num_keys = 0};
}

SelectArgs Selector::Selection(int64_t first) const {
  const SelectionView& selection = args_.selection;
  const int64_t width = selection.slots.dims[1];
  SelectArgs a;
  a.scores = scores_;
  a.stride = segment_;
  a.kept_stride = kept_;
  a.positions = args_.batch.positions.As<int32_t>() + first;
  a.sequences = args_.batch.sequences.As<int32_t>() + first;
  a.page_table = args_.batch.page_table.As<int32_t>();
  a.max_pages = static_cast<int32_t>(args_.batch.page_table.dims[1]);
  a.page_size = static_cast<int32_t>(args_.batch.page_size);
  a.topk = static_cast<int32_t>(topk_);
  a.out_positions = selection.positions.As<int32_t>() + first * width;
  a.out_slots = selection.slots.As<int32_t>() + first * width;
  a.out_counts = selection.counts.As<int32_t>() + first;
  a.width = static_cast<int32_t>(width);
  return a;
}

void Selector::RunGroup(int64_t first, int64_t count) {
  ScoreArgs scores = Scores(first);
  SelectArgs select = Selection(first);
  int turn = 0;
  for (int64_t key = 0; key < longest_; key += segment_) {
    const int64_t keys = std::min(segment_, longest_ - key);
    scores.first_key = select.first_key = static_cast<int32_t>(key);
    scores.num_keys = select.num_keys = static_cast<int32_t>(keys);
    select.last = key + keys >= longest_;
    select.kept_in = key == 0 ? Kept() : kept_lists_[turn];
    select.kept_out = kept_lists_[1 - turn];
    turn = 1 - turn;
    // Contexts of at most K tokens are not scored.
    if (longest_ > topk_) {
      LaunchScores(scores, args_.cache.type, packed_ != nullptr, count, context_.stream);
    }
    LaunchSelect(select, count, context_.stream);
  }
}

}  // namespace

void SelectTokens(CudaContext& context, const SelectTokensArgs& args) {
  if (context.rounds() && SelectsOnTensorCores(args)) return SelectOnTensorCores(context, args);
  Selector(context, args).Run();
}

int64_t SelectionScratchBytes(int64_t topk) {
  return std::max(kScoreBytes + 2 * kMaxSegmentTokens * (topk * 8 + 4), TensorSelectionBytes(topk));
}

}  // namespace winnow::cuda
