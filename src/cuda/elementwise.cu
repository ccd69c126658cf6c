// What goes row by row or element by element: embedding, norms, the gate of feed-forward blocks.
#include "cuda/context.h"
#include "cuda/cuda_ops.h"
#include "cuda/device.cuh"
#include "cuda/dsa/sm90.cuh"
#include "cuda/product.h"

namespace winnow::cuda {
namespace {

constexpr int kRowThreads = 256;

// Grid: one block for each token.
__global__ void EmbedKernel(const int32_t* ids, Weight table, float* hidden) {
  const int64_t token = blockIdx.x;
  for (int64_t k = threadIdx.x; k < table.columns; k += blockDim.x) {
    hidden[token * table.columns + k] = ReadAnyWeight(table, ids[token], k, false);
  }
}

struct NormArgs {
  float* hidden;        // [rows, size]
  const float* branch;  // [rows, size], or none
  const float* weight;
  float eps;
  float* out;  // [rows, size], or none
  int32_t size;
};

constexpr int kNormLoads = 8;  // elements of a thread

// Grid: one block for each row. The sixteen chains of the sum of squares are lanes of one half
// warp. A row stays in registers, or where it is longer than those (kLong) is read again.
//
// Order  element k in chain k mod 16, each a chain of fused multiply-adds; chains 8, 4, 2, 1 apart.
template <int kThreads, bool kLong>
__global__ void __launch_bounds__(kThreads) AddRmsNormKernel(NormArgs args) {
  constexpr int kPart = kThreads * kNormLoads;
  __shared__ float part[kPart];
  __shared__ float scale;
  float* hidden = args.hidden + int64_t{blockIdx.x} * args.size;
  const float* branch = args.branch ? args.branch + int64_t{blockIdx.x} * args.size : nullptr;
  float weight[kNormLoads];
  float x[kNormLoads];
  const auto for_each = [&](int first, auto body) {
#pragma unroll
    for (int i = 0; i < kNormLoads; ++i) {
      const int k = first + i * kThreads + static_cast<int>(threadIdx.x);
      if (k < args.size) body(i, k);
    }
  };
  const auto load_weight = [&](int first) {
    if (args.out) for_each(first, [&](int i, int k) { weight[i] = args.weight[k]; });
  };
  const auto load = [&](int first) {
    for_each(first, [&](int i, int k) { x[i] = hidden[k]; });
    if (branch) for_each(first, [&](int i, int k) { x[i] = x[i] + branch[k]; });
  };
  const auto store = [&](int first) {
    if (branch) for_each(first, [&](int i, int k) { hidden[k] = x[i]; });
    if (args.out) {
      float* out = args.out + int64_t{blockIdx.x} * args.size;
      for_each(first, [&](int i, int k) { out[k] = x[i] * scale * weight[i]; });
    }
  };
  load_weight(0);  // it is there before anything runs
  sm90::WaitForPrevious();
  sm90::LetNextBegin();
  float chain = 0;
  for (int first = 0; first < args.size; first += kPart) {
    load(first);
    if (!args.out) continue;
    for_each(first, [&](int i, int k) { part[k - first] = x[i]; });
    __syncthreads();
    if (threadIdx.x < kWarp) {  // the second half warp repeats the first
      const int count = min(kPart, args.size - first);
#pragma unroll 16
      for (int k = threadIdx.x % kChains; k < count; k += kChains) {
        chain = fmaf(part[k], part[k], chain);
      }
    }
    if (kLong) __syncthreads();
  }
  if (args.out) {
    if (threadIdx.x < kWarp) {
      const float sum = SumChains(chain);
      const float mean = sum / static_cast<float>(args.size);
      if (threadIdx.x == 0) scale = 1.0f / sqrtf(mean + args.eps);
    }
    __syncthreads();
  }
  if constexpr (kLong) {
    for (int first = 0; first < args.size; first += kPart) {
      load(first);
      load_weight(first);
      store(first);
    }
  } else {
    store(0);
  }
}

__global__ void SwiGluKernel(const float* gate, const float* up, float* out, int64_t count) {
  sm90::WaitForPrevious();
  sm90::LetNextBegin();
  const int64_t k = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (k >= count) return;
  const float z = gate[k];
  const float silu = z / (1.0f + Exp(-z));
  out[k] = silu * up[k];
}

void LaunchNorm(CudaContext& context, const NormArgs& args, int64_t rows, const char* what) {
  if (rows == 0 || args.size == 0) return;
  const auto launch = [&](auto kernel, int threads) {
    context.Check(sm90::LaunchOverlapping(kernel,
                                          {.grid = dim3(static_cast<unsigned>(rows)),
                                           .threads = threads,
                                           .stream = context.stream},
                                          args),
                  what);
  };
  if (args.size <= 256 * kNormLoads) return launch(AddRmsNormKernel<256, false>, 256);
  if (args.size <= 1024 * kNormLoads) return launch(AddRmsNormKernel<1024, false>, 1024);
  launch(AddRmsNormKernel<1024, true>, 1024);
}

}  // namespace

void Embed(CudaContext& context, const EmbedArgs& args) {
  const int64_t tokens = args.token_ids.dims[0];
  if (tokens == 0) return;
  EmbedKernel<<<static_cast<unsigned>(tokens), kRowThreads, 0, context.stream>>>(
      args.token_ids.As<int32_t>(), ReadAs(args.table), args.hidden.As<float>());
  context.Launched("Embed");
}

void AddRmsNorm(CudaContext& context, const AddRmsNormArgs& args) {
  LaunchNorm(context,
             {.hidden = args.hidden.As<float>(),
              .branch = args.branch ? args.branch.As<float>() : nullptr,
              .weight = args.out ? args.weight.As<float>() : nullptr,
              .eps = args.eps,
              .out = args.out ? args.out.As<float>() : nullptr,
              .size = static_cast<int32_t>(args.hidden.dims[1])},
             args.hidden.dims[0], "AddRmsNorm");
}

void RmsNorm(CudaContext& context, const RmsNormArgs& args) {
  LaunchNorm(context,
             {.hidden = args.x.As<float>(),
              .branch = nullptr,
              .weight = args.weight.As<float>(),
              .eps = args.eps,
              .out = args.out.As<float>(),
              .size = static_cast<int32_t>(args.x.dims[1])},
             args.x.dims[0], "RmsNorm");
}

void SwiGlu(CudaContext& context, const float* gate, const float* up, float* out, int64_t count) {
  if (count == 0) return;
  const dim3 grid(static_cast<unsigned>(DivideUp<int64_t>(count, kRowThreads)));
  context.Check(sm90::LaunchOverlapping(
                    SwiGluKernel, {.grid = grid, .threads = kRowThreads, .stream = context.stream},
                    gate, up, out, count),
                "FeedForward");
}

}  // namespace winnow::cuda
