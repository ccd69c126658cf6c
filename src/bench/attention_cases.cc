// Selection and attention at the end of a context, for one token (decoding) and sixteen (a prompt,
// or tokens that are verified together).
#include <algorithm>

#include "base/check.h"
#include "base/text.h"
#include "bench/kernel_cases.h"

namespace winnow::bench {
namespace {

constexpr int64_t kTokens[] = {1, 16};
constexpr int64_t kMaxTurns = 1024;  // that differ
constexpr int64_t kMaxDenseContext = 32768;

// The last tokens of a sequence of `context`, in turn at each of the places where one fits into a
// cache of `num_slots`.
struct Tail {
  BatchView batch;
  TensorView page_tables;  // [places, pages]
  Rotation places;

  BatchView At(int64_t turn) const {
    BatchView view = batch;
    view.page_table = page_tables.Rows(turn % places.count, 1);
    return view;
  }
};

Result<Tail> MakeTail(Inputs& inputs, int64_t tokens, int64_t context, int64_t num_slots) {
  Tail tail{.places = Rotation(num_slots, context)};
  tail.places.count = std::min(tail.places.count, kMaxTurns);
  tail.batch.page_size = kPageSlots;
  WINNOW_ASSIGN(tail.batch.positions, inputs.Count(tokens, context - tokens));
  WINNOW_ASSIGN(tail.batch.sequences, inputs.Ints(std::vector<int32_t>(tokens, 0), {tokens}));
  const int64_t pages = context / kPageSlots;
  WINNOW_ASSIGN(TensorView numbers, inputs.Count(tail.places.count * pages, 0));
  numbers.dims = {tail.places.count, pages};
  tail.page_tables = numbers;
  return tail;
}

Result<SelectionView> MakeSelection(Inputs& inputs, int64_t tokens, int64_t width) {
  SelectionView selection;
  WINNOW_ASSIGN(selection.positions, inputs.Make(DType::kI32, {tokens, width}));
  WINNOW_ASSIGN(selection.slots, inputs.Make(DType::kI32, {tokens, width}));
  WINNOW_ASSIGN(selection.counts, inputs.Make(DType::kI32, {tokens}));
  return selection;
}

Result<KernelRun> PrepareSelect(Inputs& inputs, const ModelShape& shape, int64_t tokens,
                                int64_t context, IndexKeyType type) {
  SelectTokensArgs args;
  args.topk = shape.K;
  WINNOW_ASSIGN(args.cache, inputs.IndexKeys(type, shape.J));
  const int64_t num_slots = args.cache.pages.dims[0] * kPageSlots;
  WINNOW_ASSIGN(const Tail tail, MakeTail(inputs, tokens, context, num_slots));
  WINNOW_ASSIGN(args.selection, MakeSelection(inputs, tokens, shape.K));

  PrepareIndexQueryArgs query;
  query.type = type;
  WINNOW_ASSIGN(query.q, inputs.Floats({tokens, shape.I, shape.J}));
  WINNOW_ASSIGN(query.weights, inputs.Floats({tokens, shape.I}));
  WINNOW_ASSIGN(query.positions, inputs.Count(tokens, 0));
  WINNOW_ASSIGN(query.rope, inputs.Rope(shape.R));
  inputs.backend().PrepareIndexQuery(query);
  args.q = query.q;
  args.weights = query.weights;

  return KernelRun([&backend = inputs.backend(), args, tail](int64_t turn) mutable {
    args.batch = tail.At(turn);
    backend.SelectTokens(args);
  });
}

// Selections of K random rows for each token, ascending, `count` of them one after the other.
Result<SelectionView> DrawSelections(Inputs& inputs, const ModelShape& shape, int64_t tokens,
                                     int64_t context, const Rotation& places, int64_t count) {
  Random random(static_cast<uint64_t>(context));
  std::vector<int32_t> positions;
  std::vector<int32_t> slots;
  for (int64_t turn = 0; turn < count; ++turn) {
    const int32_t first_slot = static_cast<int32_t>(places.Offset(turn));
    for (int64_t token = 0; token < tokens; ++token) {
      for (const int32_t position : DrawAscending(shape.K, context - tokens + 1, random)) {
        positions.push_back(position);
        slots.push_back(first_slot + position);
      }
    }
  }
  SelectionView selection;
  WINNOW_ASSIGN(selection.positions, inputs.Ints(positions, {count * tokens, shape.K}));
  WINNOW_ASSIGN(selection.slots, inputs.Ints(slots, {count * tokens, shape.K}));
  const std::vector<int32_t> counts(static_cast<size_t>(count * tokens),
                                    static_cast<int32_t>(shape.K));
  WINNOW_ASSIGN(selection.counts, inputs.Ints(counts, {count * tokens}));
  return selection;
}

Result<AttentionArgs> MakeAttention(Inputs& inputs, const ModelShape& shape, int64_t tokens,
                                    LatentType type) {
  AttentionArgs args;
  WINNOW_ASSIGN(args.cache, inputs.Latents(type, shape.C, shape.R));
  WINNOW_ASSIGN(args.q, inputs.Floats({tokens, shape.H, shape.C + shape.R}));
  WINNOW_ASSIGN(args.out, inputs.Make(DType::kF32, {tokens, shape.H, shape.C}));
  args.softmax_scale = 0.0625f;
  return args;
}

Result<KernelRun> PrepareSparse(Inputs& inputs, const ModelShape& shape, int64_t tokens,
                                int64_t context, LatentType type) {
  WINNOW_ASSIGN(AttentionArgs args, MakeAttention(inputs, shape, tokens, type));
  // As many turns as it takes to read more than the caches hold.
  const int64_t bytes_read = std::min(tokens * shape.K, context) * args.cache.row_bytes;
  const int64_t count = std::clamp<int64_t>(inputs.pool_bytes() / bytes_read + 1, 2, kMaxTurns);
  const Rotation places(args.cache.rows.dims[0], context);
  WINNOW_ASSIGN(const SelectionView all,
                DrawSelections(inputs, shape, tokens, context, places, count));
  WINNOW_ASSIGN(const Tail tail, MakeTail(inputs, tokens, context, args.cache.rows.dims[0]));
  return KernelRun(
      [&backend = inputs.backend(), args, all, tail, tokens, count](int64_t turn) mutable {
        args.batch = tail.At(turn % count);
        const int64_t row = turn % count * tokens;
        args.selection = {all.positions.Rows(row, tokens), all.slots.Rows(row, tokens),
                          all.counts.Rows(row, tokens)};
        backend.Attention(args);
      });
}

Result<KernelRun> PrepareDense(Inputs& inputs, const ModelShape& shape, int64_t tokens,
                               int64_t context, LatentType type) {
  WINNOW_ASSIGN(AttentionArgs args, MakeAttention(inputs, shape, tokens, type));
  WINNOW_ASSIGN(const Tail tail, MakeTail(inputs, tokens, context, args.cache.rows.dims[0]));
  return KernelRun([&backend = inputs.backend(), args, tail](int64_t turn) mutable {
    args.batch = tail.At(turn);
    backend.Attention(args);
  });
}

}  // namespace

void AddSelectCases(const ModelShape& shape, std::vector<KernelCase>* cases) {
  for (const int64_t context : shape.contexts) {
    for (const IndexKeyType type :
         {IndexKeyType::kInt8, IndexKeyType::kE4m3, IndexKeyType::kBf16}) {
      for (const int64_t tokens : kTokens) {
        cases->push_back(
            {fmt::format("{}/select/{}K/{}/t{}", shape.name, context / 1024, Name(type), tokens),
             SelectCost(shape, tokens, context, type),
             [&shape, tokens, context, type](Inputs& inputs) {
               return PrepareSelect(inputs, shape, tokens, context, type);
             }});
      }
    }
  }
}

void AddAttentionCases(const ModelShape& shape, std::vector<KernelCase>* cases) {
  for (const int64_t context : shape.contexts) {
    for (const LatentType type : {LatentType::kBf16, LatentType::kFp8}) {
      for (const int64_t tokens : kTokens) {
        cases->push_back({fmt::format("{}/attend/sparse/{}K/{}/t{}", shape.name, context / 1024,
                                      Name(type), tokens),
                          SparseAttentionCost(shape, tokens, context, type),
                          [&shape, tokens, context, type](Inputs& inputs) {
                            return PrepareSparse(inputs, shape, tokens, context, type);
                          }});
      }
    }
  }
  for (const int64_t context : shape.contexts) {
    if (context > kMaxDenseContext) continue;
    for (const int64_t tokens : kTokens) {
      const LatentType type = LatentType::kBf16;
      cases->push_back({fmt::format("{}/attend/dense/{}K/{}/t{}", shape.name, context / 1024,
                                    Name(type), tokens),
                        DenseAttentionCost(shape, tokens, context, type),
                        [&shape, tokens, context, type](Inputs& inputs) {
                          return PrepareDense(inputs, shape, tokens, context, type);
                        }});
    }
  }
}

}  // namespace winnow::bench
