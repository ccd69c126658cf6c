// The ceilings: plain multiply-adds, products of bytes by fours, products on tensor cores, and
// memory read in order.
#include <type_traits>

#include "cuda/context.h"
#include "cuda/device.cuh"
#include "cuda/dsa/products_sm90.cuh"
#include "cuda/dsa/sm90.cuh"
#include "cuda/roofs.h"

namespace winnow::cuda {
namespace {

constexpr int kThreads = 512;
constexpr int kChainsAThread = 8;
constexpr int kRounds = 4096;
constexpr int64_t kReadBytes = int64_t{2} << 30;
constexpr int kRuns = 5;

__global__ void MultiplyAddKernel(float* out, float factor) {
  float x[kChainsAThread];
#pragma unroll
  for (int i = 0; i < kChainsAThread; ++i) x[i] = static_cast<float>(threadIdx.x + i);
  for (int round = 0; round < kRounds; ++round) {
#pragma unroll
    for (int i = 0; i < kChainsAThread; ++i) x[i] = fmaf(x[i], factor, 1.0f);
  }
  float sum = 0;
#pragma unroll
  for (int i = 0; i < kChainsAThread; ++i) sum += x[i];
  if (sum == -1.0f) *out = sum;  // never; keeps the work
}

__global__ void ByteProductKernel(int* out, int factor) {
  int x[kChainsAThread];
#pragma unroll
  for (int i = 0; i < kChainsAThread; ++i) x[i] = threadIdx.x + i;
  for (int round = 0; round < kRounds; ++round) {
#pragma unroll
    for (int i = 0; i < kChainsAThread; ++i) x[i] = __dp4a(x[i], factor, x[i]);
  }
  int sum = 0;
#pragma unroll
  for (int i = 0; i < kChainsAThread; ++i) sum ^= x[i];
  if (sum == -1) *out = sum;
}

constexpr int kTensorThreads = 384;  // three warpgroups
constexpr int kTensorRounds = 512;
constexpr int kTensorColumns = 128;
constexpr int kTensorSteps = 16;  // products of a round

// Warpgroups multiply zeros from registers with zeros from shared memory: what tensor cores do at
// their highest clock. Products of bfloat16 numbers, or of codes of eight bits.
template <bool kCodes>
__global__ void __launch_bounds__(kTensorThreads, 1) TensorKernel(float* out) {
  using Number = std::conditional_t<kCodes, int32_t, float>;
  __shared__ __align__(1024) uint4 columns[kTensorColumns * 8];
  for (int i = threadIdx.x; i < kTensorColumns * 8; i += kTensorThreads) {
    columns[i] = make_uint4(0, 0, 0, 0);
  }
  __syncthreads();
  sm90::FenceProxyAsync();
  const uint64_t b = sm90::SwizzledMatrix(sm90::SharedAddress(columns), 1024);
  const uint32_t a[4] = {0, 0, 0, 0};
  Number sums[kTensorColumns / 2];
#pragma unroll
  for (Number& sum : sums) sum = 0;
  for (int round = 0; round < kTensorRounds; ++round) {
    sm90::ProductFence();
#pragma unroll
    for (int step = 0; step < kTensorSteps; ++step) {
      if constexpr (kCodes) {
        sm90::MultiplyCodes<kTensorColumns>(sums, a, b + step % 4 * 2, 1);
      } else {
        sm90::MultiplyRows<kTensorColumns>(sums, a, b + step % 4 * 2, 1);
      }
    }
    sm90::ProductCommit();
    sm90::ProductWait<0>();
    sm90::Pin(sums);
  }
  if (sums[0] == 1) *out = static_cast<float>(sums[1]);  // never; keeps the work
}

__global__ void ReadKernel(const uint4* data, int64_t count, uint32_t* out) {
  const int64_t stride = int64_t{gridDim.x} * blockDim.x;
  uint32_t sum = 0;
#pragma unroll 4
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < count; i += stride) {
    const uint4 value = data[i];
    sum ^= value.x ^ value.y ^ value.z ^ value.w;
  }
  if (sum == 0x9e3779b9) *out = sum;
}

// The fastest of a few runs, in seconds; 0 after an error.
template <typename Run>
double FastestSeconds(CudaContext& context, const Run& run) {
  cudaEvent_t begin = nullptr;
  cudaEvent_t end = nullptr;
  if (!context.Check(cudaEventCreate(&begin), "MeasureRoofs") ||
      !context.Check(cudaEventCreate(&end), "MeasureRoofs")) {
    return 0;
  }
  double fastest = 0;
  for (int turn = 0; turn < kRuns; ++turn) {
    context.Check(cudaEventRecord(begin, context.stream), "MeasureRoofs");
    run();
    context.Check(cudaEventRecord(end, context.stream), "MeasureRoofs");
    context.Check(cudaEventSynchronize(end), "MeasureRoofs");
    float milliseconds = 0;
    context.Check(cudaEventElapsedTime(&milliseconds, begin, end), "MeasureRoofs");
    const double seconds = static_cast<double>(milliseconds) / 1000;
    if (turn == 0 || seconds < fastest) fastest = seconds;
  }
  cudaEventDestroy(begin);
  cudaEventDestroy(end);
  return fastest;
}

}  // namespace

Result<Roofs> MeasureRoofs(CudaContext& context) {
  int device = 0;
  int cache_bytes = 0;
  context.Check(cudaGetDevice(&device), "MeasureRoofs");
  context.Check(cudaDeviceGetAttribute(&cache_bytes, cudaDevAttrL2CacheSize, device),
                "MeasureRoofs");
  void* memory = nullptr;
  if (cudaMalloc(&memory, static_cast<size_t>(kReadBytes)) != cudaSuccess) {
    static_cast<void>(cudaGetLastError());
    return ResourceExhausted("cuda memory: 2 GiB wanted to measure how fast it is read");
  }
  context.Check(cudaMemsetAsync(memory, 1, static_cast<size_t>(kReadBytes), context.stream),
                "MeasureRoofs");
  const unsigned blocks = static_cast<unsigned>(context.multiprocessors) * 4;
  const double threads = static_cast<double>(blocks) * kThreads;
  const double operations = threads * kChainsAThread * kRounds;
  const double multiply_add = FastestSeconds(context, [&] {
    MultiplyAddKernel<<<blocks, kThreads, 0, context.stream>>>(static_cast<float*>(memory), 0.5f);
  });
  const double byte_product = FastestSeconds(context, [&] {
    ByteProductKernel<<<blocks, kThreads, 0, context.stream>>>(static_cast<int*>(memory),
                                                               0x01020304);
  });
  // Of bf16 precision alone; two operations for each of 64 rows, the columns, and 32 bytes of them.
  double bf16_product = 0;
  double code_product = 0;
  const unsigned processors = static_cast<unsigned>(context.multiprocessors);
  const double products = static_cast<double>(processors) * (kTensorThreads / 128) * kTensorRounds *
                          kTensorSteps * 2 * 64 * kTensorColumns;
  if (context.rounds()) {
    bf16_product = FastestSeconds(context, [&] {
      TensorKernel<false>
          <<<processors, kTensorThreads, 0, context.stream>>>(static_cast<float*>(memory));
    });
    code_product = FastestSeconds(context, [&] {
      TensorKernel<true>
          <<<processors, kTensorThreads, 0, context.stream>>>(static_cast<float*>(memory));
    });
  }
  const double read = FastestSeconds(context, [&] {
    ReadKernel<<<blocks, kThreads, 0, context.stream>>>(
        static_cast<const uint4*>(memory), kReadBytes / 16, static_cast<uint32_t*>(memory));
  });
  context.Launched("MeasureRoofs");
  cudaFree(memory);
  if (!context.failure.ok()) return context.failure;
  Roofs roofs;
  roofs.flops_f32 = 2 * operations / multiply_add;
  roofs.ops_int8 = 8 * operations / byte_product;
  if (context.rounds()) {
    roofs.flops_bf16 = products * 16 / bf16_product;
    roofs.ops_int8 = products * 32 / code_product;
  }
  roofs.read_bytes_per_second = static_cast<double>(kReadBytes) / read;
  roofs.cache_bytes = cache_bytes;
  return roofs;
}

}  // namespace winnow::cuda
