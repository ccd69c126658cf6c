#include "engine/backends.h"

#include "base/check.h"
#include "base/text.h"
#include "cpu/cpu_backend.h"

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
      "instruction_set: {}, expected portable, avx2, avx512 or avx512_bf16", Quoted(name)));
}

}  // namespace

Result<std::unique_ptr<Backend>> CreateBackend(const EngineOptions& options) {
  if (options.num_threads < 0 || options.num_threads > kMaxThreads) {
    return InvalidArgument(
        fmt::format("num_threads: {}, expected 0 to {}", options.num_threads, kMaxThreads));
  }
  cpu::CpuOptions cpu;
  cpu.num_threads = options.num_threads;
  cpu.pin_threads = options.pin_threads;
  cpu.precision = options.precision;
  WINNOW_ASSIGN(cpu.instruction_set, ChooseInstructionSet(options.instruction_set));
  return cpu::CreateCpuBackend(cpu);
}

}  // namespace winnow
