// The GPU as a backend: a device, a stream, memory and its copies behind the operations.
#include "cuda/cuda_backend.h"

#include <cuda_runtime_api.h>

#include <cstring>
#include <numeric>

#include "base/check.h"
#include "cuda/context.h"
#include "cuda/cuda_ops.h"
#include "cuda/dsa/dsa_ops.h"
#include "cuda/roofs.h"
#include "cuda/scratch.h"

namespace winnow::cuda {
namespace {

constexpr int kHopper = 9;  // of the compute capability

std::string Mebibytes(size_t bytes) { return std::to_string(bytes >> 20) + " MiB"; }

// A stretch of operations as a graph: one launch for all of them.
struct Graph {
  int device = 0;
  cudaGraphExec_t launchable = nullptr;
  int64_t moves = 0;  // of the memory that its operations work with, when it was made

  Graph() = default;
  Graph(const Graph&) = delete;
  Graph& operator=(const Graph&) = delete;
  ~Graph() {
    cudaSetDevice(device);
    if (launchable != nullptr) cudaGraphExecDestroy(launchable);
  }
};

class CudaBackend final : public Backend {
 public:
  CudaBackend(int device, std::string name, Precision precision, int multiprocessors)
      : device_(device), name_(std::move(name)) {
    context_.precision = precision;
    context_.multiprocessors = multiprocessors;
  }
  ~CudaBackend() override {
    cudaSetDevice(device_);
    if (context_.stream != nullptr) cudaStreamDestroy(context_.stream);
  }

  Status Start() {
    Use();
    context_.Check(cudaStreamCreateWithFlags(&context_.stream, cudaStreamNonBlocking), "start");
    return context_.failure;
  }

  std::string Describe() const override { return "cuda " + std::to_string(device_) + ", " + name_; }
  Precision precision() const override { return context_.precision; }
  bool shares_host_memory() const override { return false; }

  Result<DeviceMemory> Allocate(int64_t bytes) override;
  std::shared_ptr<void> AllocateOnHost(int64_t bytes) override;
  void CopyToDevice(void* device, const void* host, int64_t bytes) override {
    Copy(device, host, bytes, cudaMemcpyHostToDevice, "CopyToDevice");
  }
  void CopyToHost(void* host, const void* device, int64_t bytes) override {
    Copy(host, device, bytes, cudaMemcpyDeviceToHost, "CopyToHost");
    context_.Check(cudaStreamSynchronize(context_.stream), "CopyToHost");
  }
  void Copy(void* target, const void* source, int64_t bytes) override {
    Copy(target, source, bytes, cudaMemcpyDeviceToDevice, "Copy");
  }
  bool records() const override { return true; }
  void Repeat(Recording& recording, const std::function<void()>& operations) override;
  Status Finish() override {
    Use();
    context_.Check(cudaStreamSynchronize(context_.stream), "Finish");
    return context_.failure;
  }
  int64_t SelectionScratchBytes(int64_t topk) const override {
    return cuda::SelectionScratchBytes(topk);
  }
  int64_t ScratchBytes(const StepShape& shape) const override {
    const ScratchNeed need = ScratchOfSteps(context_, shape);
    return std::accumulate(need.begin(), need.end(), int64_t{0});
  }
  void ReserveScratch(const StepShape& shape) override {
    Use();
    const ScratchNeed need = ScratchOfSteps(context_, shape);
    for (int purpose = 0; purpose < Scratch::kNumPurposes; ++purpose) {
      context_.Get<uint8_t>(static_cast<Scratch::Purpose>(purpose), need[purpose], "scratch");
    }
  }
  int64_t scratch_bytes() const override { return context_.scratch.bytes(); }
  Result<Roofs> MeasureRoofs() override {
    Use();
    return cuda::MeasureRoofs(context_);
  }

 protected:
  void DoEmbed(const EmbedArgs& args) override { Run(cuda::Embed, args); }
  void DoAddRmsNorm(const AddRmsNormArgs& args) override { Run(cuda::AddRmsNorm, args); }
  void DoRmsNorm(const RmsNormArgs& args) override { Run(cuda::RmsNorm, args); }
  void DoLinear(const LinearArgs& args) override { Run(cuda::Linear, args); }
  void DoAbsorbQuery(const AbsorbQueryArgs& args) override { Run(cuda::AbsorbQuery, args); }
  void DoWriteLatent(const WriteLatentArgs& args) override { Run(cuda::WriteLatent, args); }
  void DoWriteIndexKeys(const WriteIndexKeysArgs& args) override {
    Run(cuda::WriteIndexKeys, args);
  }
  void DoPrepareIndexQuery(const PrepareIndexQueryArgs& args) override {
    Run(cuda::PrepareIndexQuery, args);
  }
  void DoSelectTokens(const SelectTokensArgs& args) override { Run(cuda::SelectTokens, args); }
  void DoAttention(const AttentionArgs& args) override { Run(cuda::Attention, args); }
  void DoExpandValue(const ExpandValueArgs& args) override { Run(cuda::ExpandValue, args); }
  void DoFeedForward(const FeedForwardArgs& args) override { Run(cuda::FeedForward, args); }
  void DoMoe(const MoeArgs& args) override { Run(cuda::Moe, args); }
  void DoDrawTokens(const DrawTokensArgs& args) override { Run(cuda::DrawTokens, args); }

 private:
  // The calling thread's device: the runtime keeps one for each thread.
  void Use() { context_.Check(cudaSetDevice(device_), "cudaSetDevice"); }

  template <typename Args>
  void Run(void (*operation)(CudaContext&, const Args&), const Args& args) {
    Use();
    if (context_.failure.ok()) operation(context_, args);
  }

  int64_t moves() const { return context_.scratch.moves() + context_.tables.sent(); }
  void Record(Graph& graph, const std::function<void()>& operations);

  void Copy(void* target, const void* source, int64_t bytes, cudaMemcpyKind kind,
            const char* what) {
    Use();
    if (bytes <= 0 || !context_.failure.ok()) return;
    // From pageable memory of the host: what is sent has been read when the call returns.
    context_.Check(
        cudaMemcpyAsync(target, source, static_cast<size_t>(bytes), kind, context_.stream), what);
  }

  int device_;
  std::string name_;
  CudaContext context_;
};

// The first time operations are run as they come: it loads their kernels, sends their tables and
// takes their memory, none of which a recording could.
void CudaBackend::Repeat(Recording& recording, const std::function<void()>& operations) {
  Use();
  if (!context_.failure.ok()) return;
  if (recording == nullptr) {
    operations();
    const auto graph = std::make_shared<Graph>();
    graph->device = device_;
    recording = graph;
    return;
  }
  Graph& graph = *static_cast<Graph*>(recording.get());
  if (graph.launchable == nullptr || graph.moves != moves()) Record(graph, operations);
  if (!context_.failure.ok()) return;
  context_.Check(cudaGraphLaunch(graph.launchable, context_.stream), "Repeat");
}

void CudaBackend::Record(Graph& graph, const std::function<void()>& operations) {
  if (graph.launchable != nullptr) {
    context_.Check(cudaGraphExecDestroy(graph.launchable), "Repeat");
    graph.launchable = nullptr;
  }
  if (!context_.Check(cudaStreamBeginCapture(context_.stream, cudaStreamCaptureModeThreadLocal),
                      "Repeat")) {
    return;
  }
  operations();
  cudaGraph_t recorded = nullptr;
  context_.Check(cudaStreamEndCapture(context_.stream, &recorded), "Repeat");
  if (recorded == nullptr) return;
  if (context_.failure.ok()) {
    context_.Check(cudaGraphInstantiate(&graph.launchable, recorded, 0), "Repeat");
  }
  graph.moves = moves();
  context_.Check(cudaGraphDestroy(recorded), "Repeat");
}

Result<DeviceMemory> CudaBackend::Allocate(int64_t bytes) {
  WINNOW_CHECK(bytes >= 0, "Allocate: a negative size");
  Use();
  void* data = nullptr;
  const size_t size = static_cast<size_t>(std::max<int64_t>(bytes, 1));
  const cudaError_t error = cudaMalloc(&data, size);
  if (error == cudaErrorMemoryAllocation) {
    static_cast<void>(cudaGetLastError());  // not an error of what comes next
    size_t available = 0;
    size_t total = 0;
    context_.Check(cudaMemGetInfo(&available, &total), "Allocate");
    return ResourceExhausted("cuda memory: " + Mebibytes(size) + " wanted, " +
                             Mebibytes(available) + " of " + Mebibytes(total) + " are free");
  }
  if (!context_.Check(error, "Allocate")) return context_.failure;
  DeviceMemory memory(data, [device = device_](void* pointer) {
    cudaSetDevice(device);
    cudaFree(pointer);
  });
  context_.Check(cudaMemsetAsync(data, 0, size, context_.stream), "Allocate");
  return memory;
}

// Pinned, or where the system has no such memory left, as any.
std::shared_ptr<void> CudaBackend::AllocateOnHost(int64_t bytes) {
  Use();
  void* data = nullptr;
  const size_t size = static_cast<size_t>(std::max<int64_t>(bytes, 1));
  if (cudaMallocHost(&data, size) != cudaSuccess) {
    static_cast<void>(cudaGetLastError());  // not an error of what comes next
    return Backend::AllocateOnHost(bytes);
  }
  std::memset(data, 0, size);
  return {data, [](void* pointer) { cudaFreeHost(pointer); }};
}

}  // namespace

Result<std::unique_ptr<Backend>> CreateCudaBackend(const CudaOptions& options) {
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error != cudaSuccess) return Unavailable("cuda: no device, " + ErrorText(error));
  if (options.device < 0 || options.device >= count) {
    return InvalidArgument("device: " + std::to_string(options.device) + ", expected 0 to " +
                           std::to_string(count - 1));
  }
  cudaDeviceProp properties;
  if (const cudaError_t failed = cudaGetDeviceProperties(&properties, options.device);
      failed != cudaSuccess) {
    return Unavailable("cuda: device " + std::to_string(options.device) + ", " + ErrorText(failed));
  }
  if (properties.major != kHopper) {
    return Unsupported("cuda: device " + std::to_string(options.device) + " is " +
                           std::string(properties.name) + " of compute capability " +
                           std::to_string(properties.major) + "." +
                           std::to_string(properties.minor) + ", expected 9.0",
                       "the kernels are made for Hopper: H100, H200");
  }
  auto backend = std::make_unique<CudaBackend>(options.device, properties.name, options.precision,
                                               properties.multiProcessorCount);
  WINNOW_TRY(backend->Start());
  return std::unique_ptr<Backend>(std::move(backend));
}

}  // namespace winnow::cuda
