// The mixture of experts.
//
// Tokens are sorted by expert; an expert meets all of its tokens at once, and experts without
// tokens cost nothing. There are three loops over the threads whatever the number of experts:
//   route     a token a piece: scores, selection, weights
//   gate, up  pieces of an expert's hidden width, of every chosen expert and the shared ones
//   down      pieces of the output's width: in each, experts one after the other in ascending
//   order,
//             the shared ones last, so that a sum's order depends on nothing but the token
#include <cmath>
#include <limits>

#include "base/check.h"
#include "cpu/context.h"
#include "cpu/cpu_ops.h"
#include "cpu/work.h"

namespace winnow::cpu {
namespace {

// Whether score `a` is preferred to the score `b` of a lower index: a tie is not, nor is NaN.
bool Beats(float a, float b) { return a > b || (std::isnan(b) && !std::isnan(a)); }

// The score of a group: the sum of its two best, or its only one.
float GroupScore(const float* scores, int64_t size) {
  float best = -std::numeric_limits<float>::infinity();
  float second = best;
  for (int64_t expert = 0; expert < size; ++expert) {
    if (scores[expert] > best) {
      second = best;
      best = scores[expert];
    } else if (scores[expert] > second) {
      second = scores[expert];
    }
  }
  return size == 1 ? best : best + second;
}

// Marks the `count` best of `scores` [size] among those that `open` allows, ties to the lower
// index.
void MarkBest(const float* scores, const bool* open, int64_t size, int64_t count, bool* marked) {
  std::fill(marked, marked + size, false);
  for (int64_t chosen = 0; chosen < count; ++chosen) {
    int64_t best = -1;
    for (int64_t i = 0; i < size; ++i) {
      if (marked[i] || (open && !open[i])) continue;
      if (best < 0 || Beats(scores[i], scores[best])) best = i;
    }
    if (best < 0) return;
    marked[best] = true;
  }
}

// Working memory of the operation, laid out in one piece of scratch.
struct Workspace {
  Workspace(CpuContext& context, const Products& products, const MoeArgs& args);
  // Sets the pointers below as if memory began at `begin`; returns how many bytes they need.
  int64_t LayOut(const Products& products, const MoeArgs& args, uintptr_t begin);

  int64_t tokens = 0;
  int64_t experts = 0;
  int64_t chosen = 0;         // experts a token
  float* gates = nullptr;     // [T, E]      logits, then their sigmoids
  float* scores = nullptr;    // [T, E]      with the bias
  int32_t* expert = nullptr;  // [T, chosen] ascending
  float* weight = nullptr;    // [T, chosen]
  int64_t* first = nullptr;   // [E + 1]     where an expert's rows begin
  int64_t* offset = nullptr;  // [E + 1]     where its hidden rows begin, in floats; then the shared
  int64_t* pieces = nullptr;  // [E + 2]     which pieces of the first half are an expert's
  int32_t* row_token = nullptr;  // [T * chosen] sorted by expert, then token
  float* row_weight = nullptr;   // [T * chosen]
  float* hidden = nullptr;       // as products read it
  float* x = nullptr;            // likewise, where it is not what was given: tokens, or where rows
                                 // are packed together, those of each expert
};

int64_t Aligned(int64_t bytes) { return (bytes + 63) / 64 * 64; }

Workspace::Workspace(CpuContext& context, const Products& products, const MoeArgs& args)
    : tokens(args.x.dims[0]),
      experts(static_cast<int64_t>(args.experts.size())),
      chosen(args.num_experts_per_tok) {
  const int64_t bytes = LayOut(products, args, 0);
  LayOut(products, args, reinterpret_cast<uintptr_t>(context.scratch.Shared<uint8_t>(bytes)));
}

int64_t Workspace::LayOut(const Products& products, const MoeArgs& args, uintptr_t begin) {
  int64_t width = 0;
  for (const FfnWeights& each : args.experts) width = std::max(width, each.gate_proj.rows());
  const int64_t shared = args.shared_experts ? args.shared_experts->gate_proj.rows() : 0;
  const int64_t rows = tokens * chosen;
  int64_t bytes = 0;
  const auto take = [&](auto** pointer, int64_t count) {
    *pointer = reinterpret_cast<std::remove_reference_t<decltype(*pointer)>>(begin + bytes);
    bytes += Aligned(count * static_cast<int64_t>(sizeof(**pointer)));
  };
  take(&gates, tokens * experts);
  take(&scores, tokens * experts);
  take(&expert, rows);
  take(&weight, rows);
  take(&first, experts + 1);
  take(&offset, experts + 1);
  take(&pieces, experts + 2);
  take(&row_token, rows);
  take(&row_weight, rows);
  take(&hidden, rows * products.RowFloats(width) + tokens * products.RowFloats(shared));
  const int64_t packed =
      products.RowsTogether() == 1 ? tokens : rows + (args.shared_experts ? tokens : 0);
  take(&x, products.ReadFloats(packed, args.x.dims[1]));
  return bytes;
}

// The experts of one token and their weights.
void Route(const CpuContext& context, const MoeArgs& args, const Workspace& work, int64_t token,
           bool* marks) {
  const int64_t E = work.experts;
  float* gates = work.gates + token * E;
  float* scores = work.scores + token * E;
  context.kernels.elementwise.sigmoid(gates, gates, E);
  const float* bias = args.e_score_correction_bias.As<float>();
  for (int64_t e = 0; e < E; ++e) scores[e] = gates[e] + bias[e];

  bool* open = marks;
  bool* marked = marks + E;
  std::fill(open, open + E, true);
  if (args.n_group > 1) {
    const int64_t group_size = E / args.n_group;
    float* group_scores = reinterpret_cast<float*>(marks + Aligned(3 * E));
    for (int64_t group = 0; group < args.n_group; ++group) {
      group_scores[group] = GroupScore(scores + group * group_size, group_size);
    }
    bool* kept = marks + 2 * E;
    MarkBest(group_scores, nullptr, args.n_group, args.topk_group, kept);
    for (int64_t e = 0; e < E; ++e) open[e] = kept[e / group_size];
  }
  MarkBest(scores, open, E, work.chosen, marked);

  int32_t* expert = work.expert + token * work.chosen;
  float* weight = work.weight + token * work.chosen;
  float sum = 0;
  int64_t count = 0;
  for (int64_t e = 0; e < E; ++e) {
    if (!marked[e]) continue;
    expert[count] = static_cast<int32_t>(e);
    weight[count++] = gates[e];
    sum += gates[e];
  }
  for (int64_t i = 0; i < count; ++i) {
    if (args.norm_topk_prob) weight[i] /= sum + 1e-20f;
    weight[i] *= args.routed_scaling_factor;
  }
}

// Sorts the chosen (token, expert) pairs by expert, then token.
void SortByExpert(const Products& products, const MoeArgs& args, const Workspace& work) {
  const int64_t E = work.experts;
  const int64_t rows = work.tokens * work.chosen;
  std::fill(work.first, work.first + E + 1, 0);
  for (int64_t i = 0; i < rows; ++i) ++work.first[work.expert[i] + 1];
  for (int64_t e = 0; e < E; ++e) work.first[e + 1] += work.first[e];
  work.offset[0] = 0;
  for (int64_t e = 0; e < E; ++e) {
    work.offset[e + 1] = work.offset[e] + (work.first[e + 1] - work.first[e]) *
                                              products.RowFloats(args.experts[e].gate_proj.rows());
  }
  // first[e] serves as the place of the expert's next row, and ends where first[e + 1] began.
  for (int64_t token = 0; token < work.tokens; ++token) {
    for (int64_t i = token * work.chosen; i < (token + 1) * work.chosen; ++i) {
      const int64_t row = work.first[work.expert[i]]++;
      work.row_token[row] = static_cast<int32_t>(token);
      work.row_weight[row] = work.weight[i];
    }
  }
  for (int64_t e = E; e > 0; --e) work.first[e] = work.first[e - 1];
  work.first[0] = 0;
}

// Experts, and the shared ones as one more.
int64_t NumGroups(const MoeArgs& args) {
  return static_cast<int64_t>(args.experts.size()) + (args.shared_experts ? 1 : 0);
}

// The rows of expert `e`, or of the shared experts for e = E.
struct Group {
  const FfnWeights* weights;
  const int32_t* tokens;  // none: every token in order
  const float* factors;   // none: 1
  int64_t first;          // of its rows among those of all groups
  int64_t rows;
  float* hidden;  // [rows, F] as products read it
};
Group GroupOf(const MoeArgs& args, const Workspace& work, int64_t e) {
  float* hidden = work.hidden + work.offset[e];
  const int64_t first = work.first[e];
  if (e == work.experts) {
    return {args.shared_experts, nullptr, nullptr, first, work.tokens, hidden};
  }
  return {&args.experts[e],          work.row_token + first,
          work.row_weight + first,   first,
          work.first[e + 1] - first, hidden};
}

ProductSplit SplitGateUp(const Products& products, const Group& group) {
  const ScaledView& gate = group.weights->gate_proj;
  return products.SplitProduct(group.rows, gate.rows(), gate.columns(),
                               2 * SizeOf(gate.value.dtype), kPackedRun);
}

// x as the groups' products read it: all tokens, among which each group finds its own, or the rows
// of every group one behind the other.
ProductRows ReadX(CpuContext& context, const Products& products, const MoeArgs& args,
                  const Workspace& work) {
  const int64_t size = args.x.dims[1];
  const float* x = args.x.As<float>();
  if (products.RowsTogether() == 1) return products.Read(x, work.tokens, 1, size, work.x);
  const int64_t stride = products.RowFloats(size);
  const int64_t groups = NumGroups(args);
  const int64_t parts = (4 * context.pool.num_threads() + groups - 1) / groups;
  const auto pack = [&](int64_t piece) {
    const Group group = GroupOf(args, work, piece / parts);
    const Split split = SplitInto(group.rows, parts, products.RowsTogether());
    const int64_t part = piece % parts;
    if (part >= split.count) return;
    const int64_t first = split.begin(part);
    products.Write({.x = x + (group.tokens ? 0 : first * size),
                    .x_stride = size,
                    .x_rows = group.tokens ? group.tokens + first : nullptr,
                    .num_x = split.length(part, group.rows),
                    .num_columns = size,
                    .packed = work.x + (group.first + first) * stride,
                    .packed_stride = stride});
  };
  constexpr int64_t kFewTokens = 4;  // which are packed before threads could share them
  if (work.tokens <= kFewTokens) {
    for (int64_t piece = 0; piece < groups * parts; ++piece) pack(piece);
  } else {
    context.ForEach(groups * parts, [&](int64_t piece, int) { pack(piece); });
  }
  return {work.x, stride};
}

void GateUp(CpuContext& context, const Products& products, const ProductRows& x, const Group& group,
            int64_t piece, int thread) {
  const ScaledView& gate = group.weights->gate_proj;
  const ProductSplit split = SplitGateUp(products, group);
  const int64_t row = split.rows.begin(piece / split.x.count);
  const int64_t m = split.x.begin(piece % split.x.count);
  const bool finds = group.tokens && products.RowsTogether() == 1;
  const int64_t first = products.RowsTogether() == 1 ? m : group.first + m;
  PanelArgs panel;
  panel.x = x.data + (finds ? 0 : first * x.stride);
  panel.x_stride = x.stride;
  panel.x_rows = finds ? group.tokens + m : nullptr;
  panel.num_x = std::min(split.x.size, group.rows - m);
  panel.first_row = row;
  panel.num_rows = std::min(split.rows.size, gate.rows() - row);
  panel.scratch = context.scratch.OfThread<float>(
      thread, products.PanelScratch(gate.columns()) + 2 * split.x.size * split.rows.size);
  const int64_t stride = products.RowFloats(gate.rows());
  RunGateUp(context, products, *group.weights, panel, {group.hidden + m * stride, stride});
}

// Columns [first, first + count) of every token's output.
void Down(CpuContext& context, const Products& products, const MoeArgs& args, const Workspace& work,
          int64_t first, int64_t count, int thread) {
  const ElementwiseKernels& elementwise = context.kernels.elementwise;
  const int64_t size = args.x.dims[1];
  float* out = args.out.As<float>() + first;
  int64_t panel_scratch = 0;
  for (int64_t e = 0; e < NumGroups(args); ++e) {
    const FfnWeights& weights = *GroupOf(args, work, e).weights;
    panel_scratch = std::max(panel_scratch, products.PanelScratch(weights.down_proj.columns()));
  }
  float* scratch = context.scratch.OfThread<float>(thread, panel_scratch + work.tokens * count);
  float* product = scratch + panel_scratch;
  for (int64_t token = 0; token < work.tokens; ++token) {
    std::fill(out + token * size, out + token * size + count, 0.0f);
  }
  for (int64_t e = 0; e < NumGroups(args); ++e) {
    const Group group = GroupOf(args, work, e);
    if (group.rows == 0) continue;
    PanelArgs panel;
    panel.x = group.hidden;
    panel.x_stride = products.RowFloats(group.weights->gate_proj.rows());
    panel.num_x = group.rows;
    panel.weight = ReadAs(group.weights->down_proj);
    panel.first_row = first;
    panel.num_rows = count;
    panel.out = product;
    panel.out_stride = count;
    panel.scratch = scratch;
    products.RunPanel(panel);
    for (int64_t row = 0; row < group.rows; ++row) {
      const int64_t token = group.tokens ? group.tokens[row] : row;
      elementwise.accumulate(group.factors ? group.factors[row] : 1.0f, product + row * count,
                             out + token * size, count);
    }
  }
}

}  // namespace

void Moe(CpuContext& context, const MoeArgs& args) {
  const int64_t size = args.x.dims[1];
  const int threads = context.pool.num_threads();
  const Products products(context, context.rounds());
  const Workspace work(context, products, args);
  if (work.tokens == 0) return;

  LinearArgs router;
  router.x = args.x;
  router.weight = args.gate;
  router.out = TensorView(work.gates, DType::kF32, {work.tokens, work.experts});
  router.keep_f32 = true;
  Linear(context, router);
  const Split route = SplitInto(work.tokens, 4 * threads, 1);
  context.ForEach(route.count, [&](int64_t piece, int thread) {
    bool* marks = context.scratch.OfThread<bool>(
        thread, Aligned(3 * work.experts) + args.n_group * static_cast<int64_t>(sizeof(float)));
    const int64_t end = std::min(work.tokens, route.begin(piece + 1));
    for (int64_t token = route.begin(piece); token < end; ++token) {
      Route(context, args, work, token, marks);
    }
  });
  SortByExpert(products, args, work);

  const ProductRows x = ReadX(context, products, args, work);
  const int64_t groups = NumGroups(args);
  work.pieces[0] = 0;
  for (int64_t e = 0; e < groups; ++e) {
    const Group group = GroupOf(args, work, e);
    work.pieces[e + 1] = work.pieces[e] + (group.rows ? SplitGateUp(products, group).count() : 0);
  }
  context.ForEach(work.pieces[groups], [&](int64_t piece, int thread) {
    const int64_t* after = std::upper_bound(work.pieces, work.pieces + groups + 1, piece);
    const int64_t e = after - work.pieces - 1;
    GateUp(context, products, x, GroupOf(args, work, e), piece - work.pieces[e], thread);
  });

  const Split columns = products.SplitDown(work.tokens, size);
  context.ForEach(columns.count, [&](int64_t piece, int thread) {
    const int64_t first = columns.begin(piece);
    Down(context, products, args, work, first, std::min(columns.size, size - first), thread);
  });
}

}  // namespace winnow::cpu
