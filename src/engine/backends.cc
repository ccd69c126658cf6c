#include "engine/backends.h"

#include "base/check.h"
#include "base/text.h"
#include "cpu/cpu_backend.h"
#if WINNOW_CUDA
#include "cuda/cuda_backend.h"
#else
namespace winnow::cuda {
struct CudaOptions {
  int device = 0;
  Precision precision = Precision::kF32;
};
static Result<std::unique_ptr<Backend>> CreateCudaBackend(const CudaOptions&) {
  return Unsupported("backend: \"cuda\", expected cpu: this Winnow was built without CUDA",
                     "build it with -DWINNOW_CUDA=ON, or cmake --preset cuda");
}
}  // namespace winnow::cuda
#endif

namespace winnow {
namespace {

constexpr int kMaxThreads = 1024;

Result<cpu::InstructionSet> ChooseInstructionSet(const std::string& name) {
  if (name.empty()) return cpu::BestInstructionSet();
  for (const cpu::InstructionSet set : cpu::kInstructionSets) {
    if (name != cpu::InstructionSetName(set)) continue;
    if (!cpu::IsSupported(set)) {
      return Unsupported(fmt::format("instruction_set: this processor has no {}", name));
    }
    return set;
  }
  return InvalidArgument(fmt::format(
      "instruction_set: {}, expected portable, avx2, avx512, avx512_bf16 or amx", Quoted(name)));
}

}  // namespace

Status CheckThreads(int num_threads) {
  if (num_threads >= 0 && num_threads <= kMaxThreads) return OkStatus();
  return InvalidArgument(
      fmt::format("num_threads: {}, expected 0 to {}", num_threads, kMaxThreads));
}

Result<std::unique_ptr<Backend>> CreateBackend(const EngineOptions& options) {
  WINNOW_TRY(CheckThreads(options.num_threads));
  if (options.backend == "cuda") {
    return cuda::CreateCudaBackend({.device = options.device, .precision = options.precision});
  }
  if (options.backend != "cpu") {
    return InvalidArgument(
        fmt::format("backend: {}, expected cpu or cuda", Quoted(options.backend)));
  }
  cpu::CpuOptions cpu;
  cpu.num_threads = options.num_threads;
  cpu.pin_threads = options.pin_threads;
  cpu.precision = options.precision;
  WINNOW_ASSIGN(cpu.instruction_set, ChooseInstructionSet(options.instruction_set));
  return cpu::CreateCpuBackend(cpu);
}

}  // namespace winnow
