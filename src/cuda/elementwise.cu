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

// Grid: one block for each row. The sixteen chains of the sum of squares are lanes of one half
// warp; what they read is brought to shared memory by all, a part at a time.
//
// Order  element k in chain k mod 16, each a chain of fused multiply-adds; chains 8, 4, 2, 1 apart.
__global__ void __launch_bounds__(kRowThreads) AddRmsNormKernel(NormArgs args) {
  constexpr int kPart = 4096;
  __shared__ float part[kPart];
  __shared__ float scale;
  sm90::WaitForPrevious();
  sm90::LetNextBegin();
  float* hidden = args.hidden + int64_t{blockIdx.x} * args.size;
  const float* branch = args.branch ? args.branch + int64_t{blockIdx.x} * args.size : nullptr;
  if (args.out) {
    float chain = 0;
    for (int first = 0; first < args.size; first += kPart) {
      const int count = min(kPart, args.size - first);
      __syncthreads();
      for (int k = threadIdx.x; k < count; k += kRowThreads) {
        const float x = hidden[first + k];
        part[k] = branch ? x + branch[first + k] : x;
      }
      __syncthreads();
      if (threadIdx.x < kWarp) {  // the second half warp repeats the first
#pragma unroll 8
        for (int k = threadIdx.x % kChains; k < count; k += kChains) {
          chain = fmaf(part[k], part[k], chain);
        }
      }
    }
    if (threadIdx.x < kWarp) {
      const float sum = SumChains(chain);
      const float mean = sum / static_cast<float>(args.size);
      if (threadIdx.x == 0) scale = 1.0f / sqrtf(mean + args.eps);
    }
    __syncthreads();
  }
  for (int k = threadIdx.x; k < args.size; k += kRowThreads) {
    float x = hidden[k];
    if (branch) {
      x = x + branch[k];
      hidden[k] = x;
    }
    if (args.out) {
      args.out[int64_t{blockIdx.x} * args.size + k] = x * scale * args.weight[k];
    }
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

struct Candidate {
  float logit;
  int32_t id;  // -1: none
};

// The better of two: the larger logit, of equal ones the lower id.
__device__ Candidate Better(Candidate a, Candidate b) {
  if (a.id < 0 || b.id < 0) return a.id < 0 ? b : a;
  return b.logit > a.logit || (b.logit == a.logit && b.id < a.id) ? b : a;
}

__device__ Candidate BestOfWarp(Candidate best) {
  for (int distance = kWarp / 2; distance > 0; distance /= 2) {
    best = Better(best, {__shfl_xor_sync(0xffffffff, best.logit, distance),
                         __shfl_xor_sync(0xffffffff, best.id, distance)});
  }
  return best;
}

constexpr int kLikeliestThreads = 1024;
constexpr int kLikeliestLoads = 8;

// Grid: one block for each row.
__global__ void __launch_bounds__(kLikeliestThreads)
    LikeliestKernel(const float* logits, const int32_t* limits, int32_t* tokens, int size) {
  __shared__ Candidate bests[kLikeliestThreads / kWarp];
  sm90::WaitForPrevious();
  sm90::LetNextBegin();
  const float* row = logits + int64_t{blockIdx.x} * size;
  const int limit = min(limits[blockIdx.x], size);
  Candidate best = {-INFINITY, -1};
  for (int first = threadIdx.x; first < limit; first += kLikeliestLoads * kLikeliestThreads) {
    float here[kLikeliestLoads];
#pragma unroll
    for (int i = 0; i < kLikeliestLoads; ++i) {
      const int id = first + i * kLikeliestThreads;
      here[i] = id < limit ? row[id] : -INFINITY;
    }
#pragma unroll
    for (int i = 0; i < kLikeliestLoads; ++i) {
      if (here[i] > best.logit) best = {here[i], first + i * kLikeliestThreads};
    }
  }
  best = BestOfWarp(best);
  if (threadIdx.x % kWarp == 0) bests[threadIdx.x / kWarp] = best;
  __syncthreads();
  if (threadIdx.x >= kWarp) return;
  best = BestOfWarp(bests[threadIdx.x]);
  if (threadIdx.x == 0) tokens[blockIdx.x] = best.logit < INFINITY ? best.id : -1;
}

void LaunchNorm(CudaContext& context, const NormArgs& args, int64_t rows, const char* what) {
  if (rows == 0 || args.size == 0) return;
  context.Check(sm90::LaunchOverlapping(AddRmsNormKernel,
                                        {.grid = dim3(static_cast<unsigned>(rows)),
                                         .threads = kRowThreads,
                                         .stream = context.stream},
                                        args),
                what);
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

void FindLikeliest(CudaContext& context, const FindLikeliestArgs& args) {
  const int64_t rows = args.logits.dims[0];
  if (rows == 0) return;
  context.Check(
      sm90::LaunchOverlapping(LikeliestKernel,
                              {.grid = dim3(static_cast<unsigned>(rows)),
                               .threads = kLikeliestThreads,
                               .stream = context.stream},
                              args.logits.As<float>(), args.limits.As<int32_t>(),
                              args.tokens.As<int32_t>(), static_cast<int>(args.logits.dims[1])),
      "FindLikeliest");
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
