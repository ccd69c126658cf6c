// The GPU itself: its memory, and what its results may not depend on.
#include <gtest/gtest.h>

#include "cuda/cuda_backend.h"
#include "unit/cpu/cpu_test_support.h"
#include "unit/cpu/dsa/dsa_problem.h"

namespace winnow::cpu {
namespace {

std::unique_ptr<Backend> Gpu() { return cuda::CreateCudaBackend({}).value(); }

TEST(CudaBackend, DescribesItself) {
  const auto backend = Gpu();
  EXPECT_EQ(backend->Describe().substr(0, 8), "cuda 0, ");
  EXPECT_FALSE(backend->shares_host_memory());
  EXPECT_EQ(backend->precision(), Precision::kF32);
}

TEST(CudaBackend, RefusesADeviceThatIsNotThere) {
  const auto backend = cuda::CreateCudaBackend({.device = 1000});
  ASSERT_FALSE(backend.ok());
  EXPECT_EQ(backend.error().code(), StatusCode::kInvalidArgument);
}

TEST(CudaBackend, GivesZeroedAlignedMemoryThatOutlivesIt) {
  DeviceMemory memory;
  const std::vector<float> values = RandomFloats(1000, 1);
  for (int64_t bytes : {1, 63, 4096, 5 << 20}) {
    const auto backend = Gpu();
    memory = backend->Allocate(bytes).value();
    EXPECT_EQ(reinterpret_cast<uintptr_t>(memory.get()) % 64, 0u);
    std::vector<uint8_t> back(bytes, 1);
    backend->CopyToHost(back.data(), memory.get(), bytes);
    EXPECT_EQ(back, std::vector<uint8_t>(bytes, 0));
  }
  const auto other = Gpu();
  const DeviceMemory second = other->Allocate(4000).value();
  other->CopyToDevice(memory.get(), values.data(), 4000);
  other->Copy(second.get(), memory.get(), 4000);
  std::vector<float> back(1000);
  other->CopyToHost(back.data(), second.get(), 4000);
  EXPECT_EQ(back, values);
  EXPECT_TRUE(other->Finish().ok());
}

TEST(CudaBackend, RefusesMoreMemoryThanThereIs) {
  const auto backend = Gpu();
  const Result<DeviceMemory> memory = backend->Allocate(int64_t{1} << 45);
  ASSERT_FALSE(memory.ok());
  EXPECT_EQ(memory.error().code(), StatusCode::kResourceExhausted);
  EXPECT_TRUE(backend->Allocate(1024).ok());
  EXPECT_TRUE(backend->Finish().ok());
}

std::vector<float> RunLinear(Backend& backend, const Matrix& weight, const float* x, int64_t m) {
  std::vector<float> out(m * weight.rows(), NAN);
  backend.Linear({.x = TensorView(x, DType::kF32, {m, weight.columns()}),
                  .weight = weight.view(),
                  .out = ViewOf(out, {m, weight.rows()})});
  return out;
}

TEST(CudaBackend, GivesARowTheSameBitsAloneAndInABatch) {
  const auto gpu = MakeOtherBackend(Precision::kF32);
  for (const Storage& storage : kStorages) {
    if (!Reads(*gpu, storage.scales)) continue;
    const Matrix weight(storage.type, 300, 2000, 11, storage.scales);
    const std::vector<float> x = RandomFloats(100 * 2000, 12);
    const std::vector<float> batch = RunLinear(*gpu, weight, x.data(), 100);
    for (int64_t rows : {1, 2, 3, 8, 9, 32, 33, 64}) {
      const std::vector<float> expected(batch.end() - rows * 300, batch.end());
      EXPECT_TRUE(SameBits(RunLinear(*gpu, weight, x.data() + (100 - rows) * 2000, rows), expected))
          << rows;
    }
  }
}

// Contexts beyond what is scored at once: what is kept of the first segment meets the second.
TEST(CudaBackend, SelectsAcrossSegmentsOfALongContext) {
  const auto gpu = MakeOtherBackend(Precision::kF32);
  for (Values values : {Values::kNormal, Values::kFew, Values::kAllSame, Values::kHostile}) {
    const SelectCase problem({.index_heads = 2,
                              .index_dim = 16,
                              .topk = 700,
                              .values = values,
                              .sequences = {{140000, {139999, 131072, 131071, 131000, 699, 700}}}},
                             5);
    EXPECT_TRUE(problem.Run(*gpu) == problem.Expected());
  }
}

// The dimensions of the big models, at which faster kernels may serve.
TEST(CudaBackend, SelectsAsTheCpuDoesAtTheDimensionsOfTheBigModels) {
  const auto gpu = MakeOtherBackend(Precision::kF32);
  for (int64_t heads : {32, 64}) {
    const SelectCase problem(
        {.index_heads = heads, .topk = 2048, .sequences = {{6000, {5999, 4000, 2048, 2047, 0}}}},
        6);
    EXPECT_TRUE(problem.Run(*gpu) == problem.Expected()) << heads;
  }
}

TEST(CudaBackend, AttendsAsTheCpuDoesAtTheDimensionsOfTheBigModels) {
  const auto gpu = MakeOtherBackend(Precision::kF32);
  const auto cpu = CreateCpuBackend({.num_threads = 4, .precision = Precision::kF32});
  for (LatentType type : {LatentType::kBf16, LatentType::kFp8}) {
    const AttentionCase problem(
        {.type = type, .num_heads = 128, .topk = 2048, .sequences = {{3000, {2999, 2500, 100}}}},
        7);
    EXPECT_TRUE(SameBits(problem.Run(*gpu), problem.Run(*cpu)));
  }
}

// Rows of x and of out on the device.
struct Rows {
  Rows(Backend& backend, int64_t rows, int64_t size)
      : dims{rows, size},
        memory(backend.Allocate(2 * dims.count() * 4).value()),
        x(memory.get(), DType::kF32, dims),
        out(static_cast<float*>(memory.get()) + dims.count(), DType::kF32, dims) {}
  Dims dims;
  DeviceMemory memory;
  TensorView x;
  TensorView out;
};

TEST(CudaBackend, RepeatsOperationsWithWhatIsInMemory) {
  const auto backend = Gpu();
  EXPECT_TRUE(backend->records());
  const Rows rows(*backend, 3, 100);
  const DeviceMemory weight = backend->Allocate(400).value();
  const std::vector<float> ones(100, 1.0f);
  backend->CopyToDevice(weight.get(), ones.data(), 400);
  int calls = 0;
  Recording recording;
  const auto norm = [&] {
    ++calls;
    backend->RmsNorm({.x = rows.x,
                      .weight = TensorView(weight.get(), DType::kF32, {100}),
                      .eps = 1e-6f,
                      .out = rows.out});
  };
  for (uint32_t turn = 0; turn < 5; ++turn) {
    const std::vector<float> x = RandomFloats(300, turn);
    backend->CopyToDevice(rows.x.data, x.data(), 1200);
    std::vector<float> repeated(300), plain(300);
    backend->Repeat(recording, norm);
    backend->CopyToHost(repeated.data(), rows.out.data, 1200);
    const int before = calls;
    norm();
    calls = before;
    backend->CopyToHost(plain.data(), rows.out.data, 1200);
    EXPECT_TRUE(SameBits(repeated, plain));
  }
  EXPECT_EQ(calls, 2);  // as it is, then recorded
  EXPECT_TRUE(backend->Finish().ok());
}

// What is recorded refers to working memory: when that moves, it is recorded again.
TEST(CudaBackend, RecordsAgainWhenWorkingMemoryMoves) {
  const auto backend = cuda::CreateCudaBackend({.precision = Precision::kBf16}).value();
  const Matrix weight(DType::kBF16, 64, 64, 1);
  const DeviceMemory stored = backend->Allocate(64 * 64 * 2).value();
  backend->CopyToDevice(stored.get(), weight.view().value.data, 64 * 64 * 2);
  const ScaledView view = {.value = {stored.get(), DType::kBF16, {64, 64}}};
  const Rows few(*backend, 2, 64);
  const Rows many(*backend, 4000, 64);
  const auto multiply = [&](const Rows& rows) {
    backend->Linear({.x = rows.x, .weight = view, .out = rows.out});
  };
  const std::vector<float> x = RandomFloats(128, 1);
  backend->CopyToDevice(few.x.data, x.data(), 512);
  Recording recording;
  int calls = 0;
  std::vector<float> first;
  for (int turn = 0; turn < 6; ++turn) {
    if (turn == 3) multiply(many);
    backend->Repeat(recording, [&] {
      ++calls;
      multiply(few);
    });
    std::vector<float> out(128);
    backend->CopyToHost(out.data(), few.out.data, 512);
    if (turn == 0) first = out;
    EXPECT_TRUE(SameBits(out, first)) << turn;
  }
  EXPECT_EQ(calls, 3);
  EXPECT_TRUE(backend->Finish().ok());
}

TEST(CudaBackend, ARecordingThatFailsIsAnError) {
  const auto backend = Gpu();
  Recording recording;
  const Rows rows(*backend, 1, 16);
  for (int turn = 0; turn < 2; ++turn) {
    backend->Repeat(recording, [&] {
      std::vector<float> out(16);
      backend->CopyToHost(out.data(), rows.x.data, 64);  // which waits for the device
    });
  }
  EXPECT_FALSE(backend->Finish().ok());
}

}  // namespace
}  // namespace winnow::cpu
