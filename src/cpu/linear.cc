// Matrix products as operations: linear layers, the two halves of kv_b_proj, feed-forward blocks.
// What is done here is dividing: into parts of the weight's rows, so that each weight is read by
// one thread, and where those are too few, into parts of x as well.
#include "base/check.h"
#include "cpu/context.h"
#include "cpu/cpu_ops.h"
#include "cpu/dsa/rope.h"
#include "cpu/work.h"

namespace winnow::cpu {

ProductSplit Products::SplitProduct(int64_t num_x, int64_t rows, int64_t columns,
                                    int64_t bytes_per_weight, int64_t unit) const {
  const int num_threads = context_.pool.num_threads();
  ProductSplit split;
  if (num_x <= kFewX) {
    constexpr int64_t kWorthwhile = 16 << 10;  // bytes: a microsecond of memory bandwidth
    const int64_t bytes = rows * columns * bytes_per_weight;
    split.rows = SplitInto(rows, std::clamp<int64_t>(bytes / kWorthwhile, 1, 8 * num_threads),
                           std::max<int64_t>(unit, 16));
    split.x = {num_x, 1};
    return split;
  }
  constexpr int64_t kWorthwhile = 1 << 20;  // multiply-adds: some tens of microseconds
  const int64_t wanted =
      std::clamp<int64_t>(num_x * rows * columns / kWorthwhile, 1, 6 * num_threads);
  split.rows = SplitInto(rows, wanted, std::max(unit, PieceRows()));
  split.x = SplitInto(num_x, (wanted + split.rows.count - 1) / split.rows.count, 16);
  if (num_threads > 1 && split.x.size > kPanelX && split.rows.count < 4 * num_threads) {
    split.x = SplitInto(num_x, (num_x + kPanelX - 1) / kPanelX, 16);
  }
  return split;
}

Split Products::SplitDown(int64_t num_x, int64_t width) const {
  constexpr int64_t kAtOnce = 32 << 10;  // results of an expert, in L2 beside what it reads
  const int64_t parts = std::max<int64_t>(8 * context_.pool.num_threads(), num_x * width / kAtOnce);
  return SplitInto(width, parts, num_x == 1 ? 16 : PieceRows());
}

WeightArgs ReadAs(const ScaledView& weight) {
  return {.data = weight.value.data,
          .type = weight.value.dtype,
          .columns = weight.columns(),
          .scale = weight.scale && !weight.has_groups() ? weight.scale.As<float>() : nullptr,
          .group_scale = weight.has_groups() ? weight.scale.As<uint16_t>() : nullptr};
}

namespace {

// Calls body(first, last) for parts of `rows` rows, a multiple of `unit`: on all threads, if there
// is enough to do.
template <typename Body>
void ForRows(const CpuContext& context, int64_t rows, int64_t columns, int64_t unit,
             const Body& body) {
  constexpr int64_t kWorthSharing = 1 << 16;  // numbers: some microseconds
  if (rows * columns < kWorthSharing) return body(0, rows);
  const Split split = SplitInto(rows, 4 * context.pool.num_threads(), unit);
  context.ForEach(split.count, [&](int64_t piece, int) {
    body(split.begin(piece), std::min(rows, split.begin(piece + 1)));
  });
}

}  // namespace

ProductRows Products::Read(const float* x, int64_t num_rows, int64_t heads, int64_t columns,
                           float* memory) const {
  if (!bf16_) return {x, heads * columns, columns};
  const ProductRows rows = {memory, RowFloats(columns), num_rows * RowFloats(columns)};
  ForRows(context_, num_rows, heads * columns, RowsTogether(), [&](int64_t first, int64_t last) {
    for (int64_t head = 0; head < heads; ++head) {
      Write({.x = x + (first * heads + head) * columns,
             .x_stride = heads * columns,
             .num_x = last - first,
             .num_columns = columns,
             .packed = memory + head * rows.head_stride + first * rows.stride,
             .packed_stride = rows.stride});
    }
  });
  return rows;
}

ProductRows Products::ReadTransposed(const float* x, int64_t num_rows, int64_t columns,
                                     int64_t stride, float* memory) const {
  if (!bf16_) return {x, stride};
  const int64_t row_floats = RowFloats(columns);
  ForRows(context_, num_rows, columns, 1, [&](int64_t first, int64_t last) {
    for (int64_t row = first; row < last; ++row) {
      context_.kernels.bf16_linear.pack_row(x + row * stride, columns, memory + row * row_floats);
    }
  });
  return {memory, row_floats};
}

void Products::Write(const PackArgs& args) const {
  if (bf16_) return context_.kernels.bf16_linear.pack(args);
  for (int64_t m = 0; m < args.num_x; ++m) {
    std::copy_n(args.x + (args.x_rows ? args.x_rows[m] : m) * args.x_stride, args.num_columns,
                args.packed + m * args.packed_stride + args.first_column);
  }
}

void Embed(CpuContext& context, const EmbedArgs& args) {
  const int64_t size = args.table.columns();
  const WeightArgs table = ReadAs(args.table);
  const int32_t* ids = args.token_ids.As<int32_t>();
  context.ForEach(args.token_ids.dims[0], [&](int64_t token, int) {
    context.kernels.linear.decode_row(table, ids[token], args.hidden.As<float>() + token * size);
  });
}

namespace {

// out [num_x, N] = x · weightᵀ + bias
void Multiply(CpuContext& context, const Products& products, const ProductRows& x, int64_t num_x,
              const ScaledView& weight, const float* bias, float* out) {
  const int64_t columns = weight.columns();
  const int64_t rows = weight.rows();
  const ProductSplit split =
      products.SplitProduct(num_x, rows, columns, SizeOf(weight.value.dtype));
  context.ForEach(split.count(), [&](int64_t piece, int thread) {
    const int64_t row = split.rows.begin(piece / split.x.count);
    const int64_t m = split.x.begin(piece % split.x.count);
    PanelArgs panel;
    panel.x = x.data + m * x.stride;
    panel.x_stride = x.stride;
    panel.num_x = std::min(split.x.size, num_x - m);
    panel.weight = ReadAs(weight);
    panel.first_row = row;
    panel.num_rows = std::min(split.rows.size, rows - row);
    panel.bias = bias;
    panel.out = out + m * rows + row;
    panel.out_stride = rows;
    panel.scratch = context.scratch.OfThread<float>(thread, products.PanelScratch(columns));
    products.RunPanel(panel);
  });
}

}  // namespace

void Linear(CpuContext& context, const LinearArgs& args) {
  const int64_t num_x = args.x.dims[0];
  const int64_t columns = args.weight.columns();
  const Products products(context, context.rounds() && !args.keep_f32);
  float* memory = context.scratch.Shared<float>(products.ReadFloats(num_x, columns));
  const ProductRows x = products.Read(args.x.As<float>(), num_x, 1, columns, memory);
  Multiply(context, products, x, num_x, args.weight, args.bias ? args.bias.As<float>() : nullptr,
           args.out.As<float>());
}

void ExpandValue(CpuContext& context, const ExpandValueArgs& args) {
  const int64_t num_x = args.attended.dims[0];
  const int64_t heads = args.attended.dims[1];
  const int64_t latent_dim = args.attended.dims[2];
  const int64_t value_dim = args.out.dims[2];
  const int64_t head_rows = args.qk_nope_head_dim + value_dim;
  const Products products(context, context.rounds());
  float* memory = context.scratch.Shared<float>(products.ReadFloats(num_x * heads, latent_dim));
  const ProductRows attended =
      products.Read(args.attended.As<float>(), num_x, heads, latent_dim, memory);
  const int threads = context.pool.num_threads();
  const int64_t parts = heads >= 4 * threads ? 1 : (4 * threads + heads - 1) / heads;
  const Split rows = SplitInto(value_dim, parts, 32);
  const Split x = SplitInto(num_x, (num_x + kPanelX - 1) / kPanelX, 16);
  context.ForEach(heads * rows.count * x.count, [&](int64_t piece, int thread) {
    const int64_t m = x.begin(piece % x.count);
    const int64_t row = rows.begin(piece / x.count % rows.count);
    const int64_t head = piece / x.count / rows.count;
    PanelArgs panel;
    panel.x = attended.data + head * attended.head_stride + m * attended.stride;
    panel.x_stride = attended.stride;
    panel.num_x = std::min(x.size, num_x - m);
    panel.weight = ReadAs(args.kv_b_proj);
    panel.first_row = head * head_rows + args.qk_nope_head_dim + row;
    panel.num_rows = std::min(rows.size, value_dim - row);
    panel.out = args.out.As<float>() + (m * heads + head) * value_dim + row;
    panel.out_stride = heads * value_dim;
    panel.scratch = context.scratch.OfThread<float>(thread, products.PanelScratch(latent_dim));
    products.RunPanel(panel);
  });
}

void AbsorbQuery(CpuContext& context, const AbsorbQueryArgs& args) {
  const int64_t num_x = args.q.dims[0];
  const int64_t heads = args.q.dims[1];
  const int64_t query_dim = args.q.dims[2];
  const int64_t latent_dim = args.kv_b_proj.columns();
  const int64_t row_dim = args.out.dims[2];
  const int64_t rope_dim = row_dim - latent_dim;
  const int64_t nope_dim = query_dim - rope_dim;
  const int32_t* positions = args.positions.As<int32_t>();
  const Products products(context, context.rounds());
  float* memory = context.scratch.Shared<float>(products.ReadFloats(num_x * heads, nope_dim));
  const ProductRows queries =
      products.ReadTransposed(args.q.As<float>(), num_x * heads, nope_dim, query_dim, memory);
  const int threads = context.pool.num_threads();
  const int64_t parts = heads >= 4 * threads ? 1 : (4 * threads + heads - 1) / heads;
  const Split columns = SplitInto(latent_dim, parts, 128);
  const Split x = SplitInto(num_x, (num_x + kPanelX - 1) / kPanelX, 6);
  context.ForEach(heads * columns.count * x.count, [&](int64_t piece, int thread) {
    const int64_t m = x.begin(piece % x.count);
    const int64_t part = piece / x.count % columns.count;
    const int64_t head = piece / x.count / columns.count;
    const int64_t length = std::min(x.size, num_x - m);
    float* out = args.out.As<float>() + (m * heads + head) * row_dim;
    TransposedArgs product;
    product.x = queries.data + (m * heads + head) * queries.stride;
    product.x_stride = heads * queries.stride;
    product.num_x = length;
    product.weight = ReadAs(args.kv_b_proj);
    product.first_row = head * (nope_dim + args.v_head_dim);
    product.num_rows = nope_dim;
    product.first_column = columns.begin(part);
    product.last_column = std::min(latent_dim, columns.begin(part) + columns.size);
    product.out = out;
    product.out_stride = heads * row_dim;
    product.scratch =
        context.scratch.OfThread<float>(thread, products.TransposedScratch(nope_dim, latent_dim));
    products.RunTransposed(product);
    if (part != 0 || rope_dim == 0) return;
    const float* turned = args.q.As<float>() + (m * heads + head) * query_dim + nope_dim;
    for (int64_t i = 0; i < length; ++i) {
      float* to = out + i * heads * row_dim + latent_dim;
      std::copy_n(turned + i * heads * query_dim, rope_dim, to);
      ApplyRope(args.rope, positions[m + i], to);
    }
  });
}

void RunGateUp(const CpuContext& context, const Products& products, const FfnWeights& weights,
               PanelArgs panel, const HiddenRows& hidden) {
  const int64_t size = panel.num_x * panel.num_rows;
  float* gate = panel.scratch + products.PanelScratch(weights.gate_proj.columns());
  panel.out_stride = panel.num_rows;
  panel.weight = ReadAs(weights.gate_proj);
  panel.out = gate;
  products.RunPanel(panel);
  panel.weight = ReadAs(weights.up_proj);
  panel.out = gate + size;
  products.RunPanel(panel);
  context.kernels.elementwise.swiglu(gate, gate + size, gate, size);
  products.Write({.x = gate,
                  .x_stride = panel.num_rows,
                  .num_x = panel.num_x,
                  .first_column = panel.first_row,
                  .num_columns = panel.num_rows,
                  .packed = hidden.data,
                  .packed_stride = hidden.stride});
}

void FeedForward(CpuContext& context, const FeedForwardArgs& args) {
  const int64_t num_x = args.x.dims[0];
  const int64_t columns = args.x.dims[1];
  const int64_t width = args.weights->gate_proj.rows();
  const Products products(context, context.rounds());
  const int64_t read_floats = (products.ReadFloats(num_x, columns) + 15) / 16 * 16;
  const HiddenRows hidden = {
      context.scratch.Shared<float>(read_floats + num_x * products.RowFloats(width)) + read_floats,
      products.RowFloats(width)};
  const ProductRows x =
      products.Read(args.x.As<float>(), num_x, 1, columns, hidden.data - read_floats);
  const ProductSplit split = products.SplitProduct(
      num_x, width, columns, 2 * SizeOf(args.weights->gate_proj.value.dtype), kPackedRun);
  context.ForEach(split.count(), [&](int64_t piece, int thread) {
    const int64_t row = split.rows.begin(piece / split.x.count);
    const int64_t m = split.x.begin(piece % split.x.count);
    PanelArgs panel;
    panel.x = x.data + m * x.stride;
    panel.x_stride = x.stride;
    panel.num_x = std::min(split.x.size, num_x - m);
    panel.first_row = row;
    panel.num_rows = std::min(split.rows.size, width - row);
    panel.scratch = context.scratch.OfThread<float>(
        thread, products.PanelScratch(columns) + 2 * split.x.size * split.rows.size);
    RunGateUp(context, products, *args.weights, panel,
              {hidden.data + m * hidden.stride, hidden.stride});
  });
  Multiply(context, products, {hidden.data, hidden.stride}, num_x, args.weights->down_proj, nullptr,
           args.out.As<float>());
}

}  // namespace winnow::cpu
