// Matrix products as operations: linear layers, the two halves of kv_b_proj, feed-forward blocks.
// What is done here is dividing: into parts of the weight's rows, so that each weight is read by
// one thread, and where those are too few, into parts of x as well.
#include "base/check.h"
#include "cpu/context.h"
#include "cpu/cpu_ops.h"
#include "cpu/dsa/rope.h"
#include "cpu/work.h"
#include "tensor/half.h"

namespace winnow::cpu {

ProductSplit SplitProduct(int num_threads, int64_t num_x, int64_t rows, int64_t columns,
                          int64_t bytes_per_weight) {
  ProductSplit split;
  if (num_x <= kFewX) {
    constexpr int64_t kWorthwhile = 16 << 10;  // bytes: a microsecond of memory bandwidth
    const int64_t bytes = rows * columns * bytes_per_weight;
    split.rows = SplitInto(rows, std::clamp<int64_t>(bytes / kWorthwhile, 1, 8 * num_threads),
                           num_x == 1 ? 4 : kPanelRows);
    split.x = {num_x, 1};
    return split;
  }
  constexpr int64_t kWorthwhile = 1 << 20;  // multiply-adds: some tens of microseconds
  const int64_t wanted =
      std::clamp<int64_t>(num_x * rows * columns / kWorthwhile, 1, 6 * num_threads);
  split.rows = SplitInto(rows, wanted, kPanelRows);
  split.x = SplitInto(num_x, (wanted + split.rows.count - 1) / split.rows.count, 16);
  if (num_threads > 1 && split.x.size > kPanelX && split.rows.count < 4 * num_threads) {
    split.x = SplitInto(num_x, (num_x + kPanelX - 1) / kPanelX, 16);
  }
  return split;
}

WeightArgs ReadAs(const ScaledView& weight, bool round) {
  return {.data = weight.value.data,
          .type = weight.value.dtype,
          .columns = weight.columns(),
          .scale = weight.scale ? weight.scale.As<float>() : nullptr,
          .round = round};
}

void Embed(CpuContext& context, const EmbedArgs& args) {
  const int64_t size = args.table.columns();
  const WeightArgs table = ReadAs(args.table, context.rounds());
  const int32_t* ids = args.token_ids.As<int32_t>();
  context.ForEach(args.token_ids.dims[0], [&](int64_t token, int) {
    context.kernels.linear.decode_row(table, ids[token], args.hidden.As<float>() + token * size);
  });
}

void Linear(CpuContext& context, const LinearArgs& args) {
  const int64_t num_x = args.x.dims[0];
  const int64_t columns = args.weight.columns();
  const int64_t rows = args.weight.rows();
  const bool round = context.rounds() && !args.keep_f32;
  const ProductSplit split = SplitProduct(context.pool.num_threads(), num_x, rows, columns,
                                          SizeOf(args.weight.value.dtype));
  context.ForEach(split.count(), [&](int64_t piece, int thread) {
    const int64_t row = split.rows.begin(piece / split.x.count);
    const int64_t m = split.x.begin(piece % split.x.count);
    PanelArgs panel;
    panel.x = args.x.As<float>() + m * columns;
    panel.x_stride = columns;
    panel.num_x = std::min(split.x.size, num_x - m);
    panel.weight = ReadAs(args.weight, round);
    panel.first_row = row;
    panel.num_rows = std::min(split.rows.size, rows - row);
    panel.bias = args.bias ? args.bias.As<float>() : nullptr;
    panel.out = args.out.As<float>() + m * rows + row;
    panel.out_stride = rows;
    panel.round_out = round;
    panel.scratch = context.scratch.OfThread<float>(thread, kLinearScratch);
    context.kernels.linear.run_panel(panel);
  });
}

void ExpandValue(CpuContext& context, const ExpandValueArgs& args) {
  const int64_t num_x = args.attended.dims[0];
  const int64_t heads = args.attended.dims[1];
  const int64_t latent_dim = args.attended.dims[2];
  const int64_t value_dim = args.out.dims[2];
  const int64_t head_rows = args.qk_nope_head_dim + value_dim;
  const int threads = context.pool.num_threads();
  const int64_t parts = heads >= 4 * threads ? 1 : (4 * threads + heads - 1) / heads;
  const Split rows = SplitInto(value_dim, parts, kPanelRows);
  const Split x = SplitInto(num_x, (num_x + kPanelX - 1) / kPanelX, 16);
  context.ForEach(heads * rows.count * x.count, [&](int64_t piece, int thread) {
    const int64_t m = x.begin(piece % x.count);
    const int64_t row = rows.begin(piece / x.count % rows.count);
    const int64_t head = piece / x.count / rows.count;
    PanelArgs panel;
    panel.x = args.attended.As<float>() + (m * heads + head) * latent_dim;
    panel.x_stride = heads * latent_dim;
    panel.num_x = std::min(x.size, num_x - m);
    panel.weight = ReadAs(args.kv_b_proj, context.rounds());
    panel.first_row = head * head_rows + args.qk_nope_head_dim + row;
    panel.num_rows = std::min(rows.size, value_dim - row);
    panel.out = args.out.As<float>() + (m * heads + head) * value_dim + row;
    panel.out_stride = heads * value_dim;
    panel.round_out = context.rounds();
    panel.scratch = context.scratch.OfThread<float>(thread, kLinearScratch);
    context.kernels.linear.run_panel(panel);
  });
}

namespace {

// The rotary part of one token's query for one head: from q, turned, to out.
void TurnQuery(const RopeTable& rope, int64_t position, const float* q, float* out, int64_t size,
               bool round) {
  std::copy(q, q + size, out);
  ApplyRope(rope, position, out);
  if (round) std::transform(out, out + size, out, RoundToBf16);
}

}  // namespace

void AbsorbQuery(CpuContext& context, const AbsorbQueryArgs& args) {
  const int64_t num_x = args.q.dims[0];
  const int64_t heads = args.q.dims[1];
  const int64_t query_dim = args.q.dims[2];
  const int64_t latent_dim = args.kv_b_proj.columns();
  const int64_t row_dim = args.out.dims[2];
  const int64_t rope_dim = row_dim - latent_dim;
  const int64_t nope_dim = query_dim - rope_dim;
  const int32_t* positions = args.positions.As<int32_t>();
  const int threads = context.pool.num_threads();
  const int64_t parts = heads >= 4 * threads ? 1 : (4 * threads + heads - 1) / heads;
  const Split columns = SplitInto(latent_dim, parts, 128);
  const Split x = SplitInto(num_x, (num_x + kPanelX - 1) / kPanelX, 6);
  context.ForEach(heads * columns.count * x.count, [&](int64_t piece, int thread) {
    const int64_t m = x.begin(piece % x.count);
    const int64_t part = piece / x.count % columns.count;
    const int64_t head = piece / x.count / columns.count;
    const int64_t length = std::min(x.size, num_x - m);
    const float* q = args.q.As<float>() + (m * heads + head) * query_dim;
    float* out = args.out.As<float>() + (m * heads + head) * row_dim;
    TransposedArgs product;
    product.x = q;
    product.x_stride = heads * query_dim;
    product.num_x = length;
    product.weight = ReadAs(args.kv_b_proj, context.rounds());
    product.first_row = head * (nope_dim + args.v_head_dim);
    product.num_rows = nope_dim;
    product.first_column = columns.begin(part);
    product.last_column = std::min(latent_dim, columns.begin(part) + columns.size);
    product.out = out;
    product.out_stride = heads * row_dim;
    product.round_out = context.rounds();
    product.scratch = context.scratch.OfThread<float>(thread, nope_dim * 16);
    context.kernels.linear.run_transposed(product);
    if (part != 0 || rope_dim == 0) return;
    for (int64_t i = 0; i < length; ++i) {
      TurnQuery(args.rope, positions[m + i], q + i * heads * query_dim + nope_dim,
                out + i * heads * row_dim + latent_dim, rope_dim, context.rounds());
    }
  });
}

void RunGateUp(const CpuContext& context, const FfnWeights& weights, PanelArgs panel) {
  panel.round_out = context.rounds();
  panel.weight = ReadAs(weights.gate_proj, context.rounds());
  context.kernels.linear.run_panel(panel);

  PanelArgs up = panel;
  up.weight = ReadAs(weights.up_proj, context.rounds());
  up.out = panel.scratch + kLinearScratch;
  up.out_stride = panel.num_rows;
  context.kernels.linear.run_panel(up);
  for (int64_t m = 0; m < panel.num_x; ++m) {
    float* gate = panel.out + m * panel.out_stride;
    context.kernels.elementwise.swiglu(gate, up.out + m * up.out_stride, gate, panel.num_rows,
                                       context.rounds());
  }
}

void FeedForward(CpuContext& context, const FeedForwardArgs& args) {
  const int64_t num_x = args.x.dims[0];
  const int64_t columns = args.x.dims[1];
  const int64_t width = args.weights->gate_proj.rows();
  const ProductSplit split = SplitProduct(context.pool.num_threads(), num_x, width, columns,
                                          2 * SizeOf(args.weights->gate_proj.value.dtype));
  context.ForEach(split.count(), [&](int64_t piece, int thread) {
    const int64_t row = split.rows.begin(piece / split.x.count);
    const int64_t m = split.x.begin(piece % split.x.count);
    PanelArgs panel;
    panel.x = args.x.As<float>() + m * columns;
    panel.x_stride = columns;
    panel.num_x = std::min(split.x.size, num_x - m);
    panel.first_row = row;
    panel.num_rows = std::min(split.rows.size, width - row);
    panel.out = args.scratch.As<float>() + m * width + row;
    panel.out_stride = width;
    panel.scratch =
        context.scratch.OfThread<float>(thread, kLinearScratch + split.x.size * split.rows.size);
    RunGateUp(context, *args.weights, panel);
  });

  LinearArgs down;
  down.x = TensorView(args.scratch.data, DType::kF32, {num_x, width});
  down.weight = args.weights->down_proj;
  down.out = args.out;
  Linear(context, down);
}

}  // namespace winnow::cpu
