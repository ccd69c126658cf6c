// Products of plain f32 sums on their own, at the shapes of DeepSeek-V3.2 that run as such: the
// router, the weights of the index heads, and the logits. docs/benchmarks.md says how to build it.
//
//   products_f32 [WORDS…]     only what has one of the words in its name
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdio>
#include <string>
#include <vector>

#include "cuda/context.h"
#include "cuda/product.h"
#include "device.h"

namespace {

using namespace winnow;
using namespace winnow::cuda;

// Microseconds of a product; weights change from run to run, so they come from memory.
void Time(CudaContext& context, const char* name, DType type, int64_t rows, int64_t columns,
          int64_t tokens) {
  const int64_t bytes = rows * columns * SizeOf(type);
  const int copies = static_cast<int>(std::clamp<int64_t>((int64_t{400} << 20) / bytes, 1, 64));
  Device<uint8_t> data(static_cast<size_t>(bytes * copies));
  MUST(cudaMemset(data.get(), 0x3c, static_cast<size_t>(bytes * copies)));
  Device<float> x(std::vector<float>(static_cast<size_t>(tokens * columns), 0.25f));
  Device<float> out(static_cast<size_t>(tokens * rows));
  cudaEvent_t begin, end;
  MUST(cudaEventCreate(&begin));
  MUST(cudaEventCreate(&end));
  const auto launch = [&](int turn) {
    RunProduct(context,
               {.x = x.get(),
                .x_stride = columns,
                .num_x = static_cast<int32_t>(tokens),
                .num_rows = static_cast<int32_t>(rows),
                .weight = {.data = data.get() + turn % copies * bytes,
                           .type = type,
                           .scale_columns = static_cast<int32_t>((columns + 127) / 128),
                           .columns = columns},
                .out = out.get(),
                .out_stride = rows},
               name);
  };
  const int runs = rows * tokens > (1 << 20) ? 3 : 20;
  for (int i = 0; i < 3; ++i) launch(i);
  std::vector<float> times;
  for (int round = 0; round < 5; ++round) {
    MUST(cudaEventRecord(begin, context.stream));
    for (int i = 0; i < runs; ++i) launch(i + round);
    MUST(cudaEventRecord(end, context.stream));
    MUST(cudaEventSynchronize(end));
    float ms;
    MUST(cudaEventElapsedTime(&ms, begin, end));
    times.push_back(ms * 1000 / static_cast<float>(runs));
  }
  std::sort(times.begin(), times.end());
  const double us = times[2];
  std::printf("%-34s T=%-5ld %9.1f us %8.0f GB/s %7.2f TFLOP/s\n", name, static_cast<long>(tokens),
              us, static_cast<double>(bytes) / us / 1e3,
              2.0 * static_cast<double>(rows * columns * tokens) / us / 1e6);
  std::fflush(stdout);
}

}  // namespace

int main(int argc, char** argv) {
  CudaContext context;
  cudaDeviceProp properties;
  MUST(cudaGetDeviceProperties(&properties, 0));
  context.multiprocessors = properties.multiProcessorCount;
  MUST(cudaStreamCreate(&context.stream));
  std::printf("%s, %d multiprocessors\n", properties.name, properties.multiProcessorCount);
  struct Shape {
    const char* name;
    DType type;
    int64_t rows, columns;
  };
  const Shape shapes[] = {{"router, 256 x 7,168, f32", DType::kF32, 256, 7168},
                          {"router, 256 x 7,168, bf16", DType::kBF16, 256, 7168},
                          {"index weights, 64 x 7,168, bf16", DType::kBF16, 64, 7168},
                          {"q_b_proj, 24,576 x 1,536, bf16", DType::kBF16, 24576, 1536},
                          {"q_b_proj, 24,576 x 1,536, e4m3", DType::kF8E4M3, 24576, 1536},
                          {"logits, 129,280 x 7,168, bf16", DType::kBF16, 129280, 7168},
                          {"nano's logits, 8,192 x 384, bf16", DType::kBF16, 8192, 384}};
  for (const Shape& shape : shapes) {
    bool wanted = argc == 1;
    for (int i = 1; i < argc; ++i) {
      wanted = wanted || std::string(shape.name).find(argv[i]) != std::string::npos;
    }
    if (!wanted) continue;
    for (const int64_t tokens : {1, 2, 4, 8, 9, 16, 32, 48, 64, 512, 2048}) {
      if (shape.rows > 100000 && tokens > 64) continue;
      Time(context, shape.name, shape.type, shape.rows, shape.columns, tokens);
    }
  }
  return context.failure.ok() ? 0 : 1;
}
