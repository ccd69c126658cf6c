// Two ways with equal results. Where the step has few tokens of each sequence, as in decoding, each
// token's keys are scored and its whole row of scores is searched. Where it has many, ranges of
// keys are scored for all tokens, and the best so far go on to the next range.
#include "cuda/dsa/select_tokens_sm90.h"

#include <algorithm>

#include "cuda/context.h"
#include "cuda/dsa/dsa_ops.h"
#include "cuda/dsa/lightning_indexer_sm90.h"
#include "cuda/dsa/token_selection_sm90.h"

namespace winnow::cuda {
namespace {

constexpr int64_t kRangeTokens = kScoreBytes / 4 / kMaxRange;
constexpr int64_t kManyTokens = 16;  // of a sequence: then its keys are worth sharing
constexpr int64_t kMaxTopk = 16384;  // beyond it a range does not fit in shared memory
constexpr int64_t kRangeUnit = 512;  // keys
constexpr const char* kWhat = "SelectTokens";

class Selector {
 public:
  Selector(CudaContext& context, const SelectTokensArgs& args)
      : context_(context),
        args_(args),
        tokens_(args.q.dims[0]),
        heads_(args.q.dims[1]),
        padded_heads_(PaddedIndexHeads(static_cast<int>(heads_))),
        longest_(args.batch.page_table.dims[1] * kIndexPageKeys),
        topk_(std::min<int64_t>(args.topk, INT32_MAX)) {}

  void Run();

 private:
  bool PackQueries();
  void RunRows(int64_t first, int64_t count);
  void RunRanges(int64_t first, int64_t count);
  IndexQueries Queries(int64_t first) const;
  IndexBatch Keys(int64_t first, int64_t count) const;
  SelectionBatch Selection(int64_t first, int64_t count) const;
  bool Check(cudaError_t error) { return context_.Check(error, kWhat); }

  CudaContext& context_;
  const SelectTokensArgs& args_;
  const int64_t tokens_;
  const int64_t heads_;
  const int64_t padded_heads_;
  const int64_t longest_;  // no context is longer
  const int64_t topk_;
  uint8_t* q_ = nullptr;
  float* weights_ = nullptr;
  float* unscale_ = nullptr;
  float* scores_ = nullptr;
  RunningSelection running_;
};

bool Selector::PackQueries() {
  const int64_t padded = PaddedIndexTokens(tokens_);
  q_ = context_.Get<uint8_t>(Scratch::kPrepared, PackedIndexQueryBytes(tokens_, heads_), kWhat);
  if (q_ == nullptr) return false;
  weights_ = reinterpret_cast<float*>(q_ + padded * padded_heads_ * kIndexDim);
  unscale_ = weights_ + padded * padded_heads_;
  return Check(PackIndexQueries(args_.q.As<float>(), args_.weights.As<float>(), tokens_,
                                static_cast<int>(heads_), IndexForm::kInt8, q_, weights_, unscale_,
                                context_.stream));
}

IndexQueries Selector::Queries(int64_t first) const {
  return {.form = IndexForm::kInt8,
          .heads = static_cast<int>(padded_heads_),
          .q = q_ + first * padded_heads_ * kIndexDim,
          .weights = weights_ + first * padded_heads_,
          .unscale = unscale_ + first};
}

IndexBatch Selector::Keys(int64_t first, int64_t count) const {
  const BatchView& batch = args_.batch;
  return {.num_tokens = count,
          .positions = batch.positions.As<int32_t>() + first,
          .sequences = batch.sequences.As<int32_t>() + first,
          .page_table = batch.page_table.As<int32_t>(),
          .page_table_stride = batch.page_table.dims[1],
          .pages = args_.cache.pages.As<uint8_t>(),
          .topk = static_cast<int>(topk_)};
}

SelectionBatch Selector::Selection(int64_t first, int64_t count) const {
  const BatchView& batch = args_.batch;
  const int64_t width = args_.selection.slots.dims[1];
  return {.num_tokens = count,
          .positions = batch.positions.As<int32_t>() + first,
          .sequences = batch.sequences.As<int32_t>() + first,
          .page_table = batch.page_table.As<int32_t>(),
          .page_table_stride = batch.page_table.dims[1],
          .topk = static_cast<int>(topk_),
          .out_positions = args_.selection.positions.As<int32_t>() + first * width,
          .out_slots = args_.selection.slots.As<int32_t>() + first * width,
          .out_counts = args_.selection.counts.As<int32_t>() + first,
          .width = width};
}

void Selector::RunRows(int64_t first, int64_t count) {
  if (longest_ > topk_ && !Check(ScoreTokens(Queries(first), Keys(first, count), scores_, longest_,
                                             context_.multiprocessors, context_.stream))) {
    return;
  }
  Check(SelectFromRows(Selection(first, count), scores_, longest_, context_.multiprocessors,
                       context_.stream));
}

void Selector::RunRanges(int64_t first, int64_t count) {
  for (int64_t key = 0; key < longest_; key += kMaxRange) {
    const int64_t left = std::min(kMaxRange, longest_ - key);
    const int64_t keys = (left + kRangeUnit - 1) / kRangeUnit * kRangeUnit;
    const bool last = key + kMaxRange >= longest_;
    if (!Check(ScoreKeyRange(Queries(first), Keys(first, count), key, keys, scores_, kMaxRange,
                             context_.multiprocessors, context_.stream)) ||
        !Check(SelectFromRange(Selection(first, count), running_, scores_, kMaxRange, key, keys,
                               last, context_.stream))) {
      return;
    }
  }
}

void Selector::Run() {
  if (tokens_ == 0 || !PackQueries()) return;
  const bool in_ranges =
      longest_ > topk_ && tokens_ >= kManyTokens * args_.batch.page_table.dims[0];
  const int64_t group = std::min(
      tokens_, in_ranges ? kRangeTokens : std::max<int64_t>(kScoreBytes / 4 / longest_, 1));
  scores_ =
      context_.Get<float>(Scratch::kScores, group * (in_ranges ? kMaxRange : longest_), kWhat);
  if (scores_ == nullptr) return;
  if (in_ranges) {
    const int64_t list = group * RunningRoom(topk_);
    uint32_t* lists = context_.Get<uint32_t>(Scratch::kLists, 2 * list + 2 * group, kWhat);
    if (lists == nullptr) return;
    running_ = {lists, reinterpret_cast<int32_t*>(lists + list), lists + 2 * list,
                lists + 2 * list + group};
  }
  for (int64_t first = 0; first < tokens_; first += group) {
    const int64_t count = std::min(group, tokens_ - first);
    in_ranges ? RunRanges(first, count) : RunRows(first, count);
  }
}

}  // namespace

bool SelectsOnTensorCores(const SelectTokensArgs& args) {
  return args.cache.type == IndexKeyType::kInt8 && args.cache.index_dim == kIndexDim &&
         args.cache.page_size == kIndexPageKeys && args.cache.page_bytes == kIndexPageBytes &&
         args.q.dims[1] <= 64 && args.topk <= kMaxTopk;
}

void SelectOnTensorCores(CudaContext& context, const SelectTokensArgs& args) {
  Selector(context, args).Run();
}

int64_t TensorSelectionBytes(int64_t topk) {
  return kScoreBytes + kRangeTokens * (RunningRoom(topk) + 1) * 8;
}

int64_t PackedIndexQueryBytes(int64_t tokens, int64_t heads) {
  const int64_t padded_heads = PaddedIndexHeads(static_cast<int>(heads));
  return PaddedIndexTokens(tokens) * (padded_heads * (kIndexDim + 4) + 4);
}

}  // namespace winnow::cuda
