// Matrix products as operations: linear layers, the two halves of kv_b_proj, feed-forward blocks.
#include "cuda/absorb_query_sm90.h"
#include "cuda/context.h"
#include "cuda/cuda_ops.h"
#include "cuda/device.cuh"
#include "cuda/dsa/sm90.cuh"
#include "cuda/product.cuh"
#include "cuda/product_sm90.h"
#include "cuda/product_tiles.h"

namespace winnow::cuda {
namespace {

__device__ Product OfBatch(Product p, int index) {
  p.x += index * p.x_step;
  p.first_row += index * p.row_step;
  p.out += index * p.out_step;
  return p;
}

// One row of x. Grid: kFewRows rows of the weight a block; z: the batch.
__global__ void __launch_bounds__(kFewThreads) OneKernel(Product p) {
  sm90::WaitForPrevious();
  sm90::LetNextBegin();
  RunFew<1>(OfBatch(p, blockIdx.z), blockIdx.x * kFewRows);
}

constexpr int kColumns = 128;  // threads of a block, a column each
constexpr int kTokens = 8;
constexpr int kPartRows = 128;

// out[t, h, c] = sum over p of x[t, h, p] * weight[h * head_rows + p, c], one chain from p = 0 up.
// Grid: x 128 columns, y a head, z 8 tokens.
template <DType kType>
__global__ void __launch_bounds__(kColumns) TransposedKernel(AbsorbProduct a, bool round) {
  __shared__ float x[kPartRows][kTokens];
  const int head = blockIdx.y;
  const int token = blockIdx.z * kTokens;
  const int column = blockIdx.x * kColumns + threadIdx.x;
  const bool inside = column < a.weight.columns;
  float sum[kTokens] = {};
  for (int first = 0; first < a.num_rows; first += kPartRows) {
    const int count = min(kPartRows, a.num_rows - first);
    __syncthreads();
    for (int i = threadIdx.x; i < count * kTokens; i += kColumns) {
      const int t = min(token + i / count, a.num_x - 1);
      x[i % count][i / count] =
          MaybeRound(a.x[(int64_t{t} * a.heads + head) * a.x_dim + first + i % count], round);
    }
    __syncthreads();
    if (!inside) continue;
    const int64_t row = int64_t{head} * a.head_rows + first;
#pragma unroll 4
    for (int p = 0; p < count; ++p) {
      const float w = ReadWeight<kType>(a.weight, row + p, column, round);
#pragma unroll
      for (int t = 0; t < kTokens; ++t) sum[t] = fmaf(x[p][t], w, sum[t]);
    }
  }
  if (!inside) return;
#pragma unroll
  for (int t = 0; t < kTokens; ++t) {
    if (token + t >= a.num_x) break;
    a.out[(int64_t{token + t} * a.heads + head) * a.out_dim + column] = sum[t];
  }
}

void LaunchTransposed(const AbsorbProduct& a, bool round, cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>(DivideUp<int64_t>(a.weight.columns, kColumns)),
                  static_cast<unsigned>(a.heads),
                  static_cast<unsigned>(DivideUp(a.num_x, kTokens)));
  switch (a.weight.type) {
    case DType::kF32:
      return TransposedKernel<DType::kF32><<<grid, kColumns, 0, stream>>>(a, round);
    case DType::kBF16:
      return TransposedKernel<DType::kBF16><<<grid, kColumns, 0, stream>>>(a, round);
    case DType::kF16:
      return TransposedKernel<DType::kF16><<<grid, kColumns, 0, stream>>>(a, round);
    default:
      return TransposedKernel<DType::kF8E4M3><<<grid, kColumns, 0, stream>>>(a, round);
  }
}

struct TurnArgs {
  const float* q;       // [T * H, query_dim], the rotary part last
  const float* angles;  // [positions, 2, pairs]
  const int32_t* positions;
  float* out;  // [T * H, out_dim], the rotary part last
  int32_t rows;
  int32_t heads;
  int32_t query_dim;
  int32_t out_dim;
  int32_t pairs;
  bool half_split;
};

// A thread turns one pair of one head of one token.
__global__ void TurnQueryKernel(TurnArgs a) {
  sm90::WaitForPrevious();
  sm90::LetNextBegin();
  const int64_t index = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (index >= int64_t{a.rows} * a.pairs) return;
  const int64_t row = index / a.pairs;
  const int pair = static_cast<int>(index % a.pairs);
  const float* cosines = a.angles + int64_t{a.positions[row / a.heads]} * 2 * a.pairs;
  const int first = a.half_split ? pair : 2 * pair;
  const int second = a.half_split ? pair + a.pairs : 2 * pair + 1;
  const float* q = a.q + row * a.query_dim + a.query_dim - 2 * a.pairs;
  float* out = a.out + row * a.out_dim + a.out_dim - 2 * a.pairs;
  const float u = q[first];
  const float v = q[second];
  const float cosine = cosines[pair];
  const float sine = cosines[a.pairs + pair];
  out[first] = u * cosine - v * sine;
  out[second] = u * sine + v * cosine;
}

// The product of rows of x, or of silu(x) * up, packed before where it wants that.
void RunOnTensorCores(CudaContext& context, PackArgs x, TensorProduct product, const char* what) {
  if (ReadsPlainRows(product)) {
    product.plain = x;
  } else {
    const int64_t rows = PackedRowCount(x.rows);
    x.out.data =
        context.Get<uint8_t>(Scratch::kPacked, PackedBytes(x.rows, x.columns, x.batch), what);
    if (x.out.data == nullptr) return;
    x.out.rows = rows;
    x.out.step = DivideUp<int64_t>(x.columns, 64) * rows * 128;
    if (!context.Check(PackRows(x, context.stream), what)) return;
    product.x = x.out;
  }
  context.Check(RunTensorProduct(product, context.stream), what);
}

// A product on tensor cores: in bf16 precision, where the weight's form allows it.
void RunOnTensorCores(CudaContext& context, const Product& p, const char* what) {
  RunOnTensorCores(context,
                   {.x = p.x,
                    .x_stride = p.x_stride,
                    .x_rows = p.x_rows,
                    .rows = p.num_x,
                    .columns = p.weight.columns,
                    .batch = p.batch,
                    .x_step = p.x_step,
                    .weight = p.weight.type},
                   {.num_x = p.num_x,
                    .num_rows = p.num_rows,
                    .weight = p.weight,
                    .first_row = p.first_row,
                    .bias = p.bias,
                    .out = p.out,
                    .out_stride = p.out_stride,
                    .batch = p.batch,
                    .row_step = p.row_step,
                    .out_step = p.out_step},
                   what);
}

bool IsAligned(const float* x, int64_t stride, int64_t step) {
  return reinterpret_cast<uintptr_t>(x) % 8 == 0 && stride % 2 == 0 && step % 2 == 0;
}

}  // namespace

void RunProduct(CudaContext& context, const Product& p, const char* what) {
  if (p.num_x == 0 || p.num_rows == 0 || p.batch == 0) return;
  if (p.round && HasTensorProduct(p.weight) && IsAligned(p.x, p.x_stride, p.x_step)) {
    return RunOnTensorCores(context, p, what);
  }
  if (p.num_x > 1) {
    context.Check(RunTiledProduct(p, context.multiprocessors, context.stream), what);
    return;
  }
  const dim3 grid(static_cast<unsigned>(DivideUp(p.num_rows, kFewRows)), 1,
                  static_cast<unsigned>(p.batch));
  context.Check(sm90::LaunchOverlapping(
                    OneKernel, {.grid = grid, .threads = kFewThreads, .stream = context.stream}, p),
                what);
}

void Linear(CudaContext& context, const LinearArgs& args) {
  const bool round = context.rounds() && !args.keep_f32;
  RunProduct(context,
             {.x = args.x.As<float>(),
              .x_stride = args.weight.columns(),
              .num_x = static_cast<int32_t>(args.x.dims[0]),
              .num_rows = static_cast<int32_t>(args.weight.rows()),
              .weight = ReadAs(args.weight),
              .bias = args.bias ? args.bias.As<float>() : nullptr,
              .out = args.out.As<float>(),
              .out_stride = args.weight.rows(),
              .round = round},
             "Linear");
}

void ExpandValue(CudaContext& context, const ExpandValueArgs& args) {
  const int64_t heads = args.attended.dims[1];
  const int64_t latent_dim = args.attended.dims[2];
  const int64_t value_dim = args.out.dims[2];
  RunProduct(context,
             {.x = args.attended.As<float>(),
              .x_stride = heads * latent_dim,
              .num_x = static_cast<int32_t>(args.attended.dims[0]),
              .num_rows = static_cast<int32_t>(value_dim),
              .weight = ReadAs(args.kv_b_proj),
              .first_row = args.qk_nope_head_dim,
              .out = args.out.As<float>(),
              .out_stride = heads * value_dim,
              .round = context.rounds(),
              .batch = static_cast<int32_t>(heads),
              .x_step = latent_dim,
              .row_step = args.qk_nope_head_dim + value_dim,
              .out_step = value_dim},
             "ExpandValue");
}

void AbsorbQuery(CudaContext& context, const AbsorbQueryArgs& args) {
  const int64_t tokens = args.q.dims[0];
  const int64_t heads = args.q.dims[1];
  const int64_t latent_dim = args.kv_b_proj.columns();
  const int64_t rope_dim = args.out.dims[2] - latent_dim;
  const int64_t nope_dim = args.q.dims[2] - rope_dim;
  if (tokens * heads == 0) return;
  const AbsorbProduct product = {.x = args.q.As<float>(),
                                 .num_x = static_cast<int32_t>(tokens),
                                 .heads = static_cast<int32_t>(heads),
                                 .x_dim = static_cast<int32_t>(args.q.dims[2]),
                                 .num_rows = static_cast<int32_t>(nope_dim),
                                 .head_rows = static_cast<int32_t>(nope_dim + args.v_head_dim),
                                 .weight = ReadAs(args.kv_b_proj),
                                 .out = args.out.As<float>(),
                                 .out_dim = static_cast<int32_t>(args.out.dims[2])};
  if (context.rounds() && HasAbsorbProduct(product)) {
    context.Check(RunAbsorbProduct(product, context.stream), "AbsorbQuery");
  } else {
    LaunchTransposed(product, context.rounds(), context.stream);
    context.Launched("AbsorbQuery");
  }
  if (rope_dim == 0) return;
  const TurnArgs turn = {.q = args.q.As<float>(),
                         .angles = args.rope.cos_sin.As<float>(),
                         .positions = args.positions.As<int32_t>(),
                         .out = args.out.As<float>(),
                         .rows = static_cast<int32_t>(tokens * heads),
                         .heads = static_cast<int32_t>(heads),
                         .query_dim = static_cast<int32_t>(args.q.dims[2]),
                         .out_dim = static_cast<int32_t>(args.out.dims[2]),
                         .pairs = static_cast<int32_t>(rope_dim / 2),
                         .half_split = args.rope.half_split};
  const int64_t pairs = tokens * heads * turn.pairs;
  context.Check(
      sm90::LaunchOverlapping(TurnQueryKernel,
                              {.grid = dim3(static_cast<unsigned>(DivideUp<int64_t>(pairs, 256))),
                               .threads = 256,
                               .stream = context.stream},
                              turn),
      "AbsorbQuery");
}

namespace {

// The same on tensor cores: silu(gate) * up is made on its way to the third product.
void RunFeedForwardOnTensorCores(CudaContext& context, const FfnWeights& weights, const float* x,
                                 int64_t tokens, float* hidden, float* out, const char* what) {
  const int64_t width = weights.gate_proj.rows();
  float* up = hidden + tokens * width;
  const auto run = [&](const ScaledView& weight, const float* from, const float* gated_by,
                       float* to) {
    RunOnTensorCores(context,
                     {.x = from,
                      .up = gated_by,
                      .x_stride = weight.columns(),
                      .rows = tokens,
                      .columns = weight.columns(),
                      .weight = weight.value.dtype},
                     {.num_x = static_cast<int32_t>(tokens),
                      .num_rows = static_cast<int32_t>(weight.rows()),
                      .weight = ReadAs(weight),
                      .out = to,
                      .out_stride = weight.rows()},
                     what);
  };
  run(weights.gate_proj, x, nullptr, hidden);
  run(weights.up_proj, x, nullptr, up);
  run(weights.down_proj, hidden, up, out);
}

}  // namespace

bool HasTensorProducts(const FfnWeights& weights) {
  const Weight gate = ReadAs(weights.gate_proj);
  const Weight up = ReadAs(weights.up_proj);
  return gate.type == up.type && HasTensorProduct(gate) && HasTensorProduct(up) &&
         HasTensorProduct(ReadAs(weights.down_proj));
}

void RunFeedForward(CudaContext& context, const FfnWeights& weights, const float* x, int64_t tokens,
                    float* hidden, float* out, const char* what) {
  if (tokens == 0) return;
  if (context.rounds() && HasTensorProducts(weights)) {
    return RunFeedForwardOnTensorCores(context, weights, x, tokens, hidden, out, what);
  }
  const int64_t width = weights.gate_proj.rows();
  float* up = hidden + tokens * width;
  const auto run = [&](const ScaledView& weight, const float* from, float* to) {
    RunProduct(context,
               {.x = from,
                .x_stride = weight.columns(),
                .num_x = static_cast<int32_t>(tokens),
                .num_rows = static_cast<int32_t>(weight.rows()),
                .weight = ReadAs(weight),
                .out = to,
                .out_stride = weight.rows(),
                .round = context.rounds()},
               what);
  };
  run(weights.gate_proj, x, hidden);
  run(weights.up_proj, x, up);
  SwiGlu(context, hidden, up, hidden, tokens * width);
  run(weights.down_proj, hidden, out);
}

void FeedForward(CudaContext& context, const FeedForwardArgs& args) {
  RunFeedForward(context, *args.weights, args.x.As<float>(), args.x.dims[0],
                 args.scratch.As<float>(), args.out.As<float>(), "FeedForward");
}

}  // namespace winnow::cuda
