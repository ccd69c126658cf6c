// The CPU as a backend: threads, tables of kernels and working memory behind the operations.
#include "cpu/cpu_backend.h"

#include <unistd.h>

#include <atomic>
#include <cstring>

#include "base/check.h"
#include "base/cores.h"
#include "base/file.h"
#include "cpu/context.h"
#include "cpu/cpu_ops.h"
#include "cpu/dsa/dsa_ops.h"
#include "cpu/roofs.h"
#include "cpu/scratch.h"

namespace winnow::cpu {
namespace {

// Bytes that could be taken without swapping, as the kernel estimates; of all memory where it does
// not say.
int64_t AvailableMemory() {
  const Result<std::string> info = ReadFile("/proc/meminfo", 1 << 16);
  const std::string field = "MemAvailable:";
  if (info.ok()) {
    const size_t at = info->find(field);
    if (at != std::string::npos) {
      return std::strtoll(info->c_str() + at + field.size(), nullptr, 10) * 1024;
    }
  }
  return static_cast<int64_t>(sysconf(_SC_PHYS_PAGES)) * sysconf(_SC_PAGESIZE);
}

// Of the machine, or what a container leaves of it.
int64_t TotalMemory() {
  const int64_t all = static_cast<int64_t>(sysconf(_SC_PHYS_PAGES)) * sysconf(_SC_PAGESIZE);
  return std::min(all, ReadGroupLimits().memory.value_or(all));
}

class CpuBackend final : public Backend {
 public:
  explicit CpuBackend(const CpuOptions& options)
      : instruction_set_(options.instruction_set),
        pool_(options.num_threads, options.pin_threads),
        scratch_(pool_.num_threads()),
        context_{pool_, KernelsFor(options.instruction_set), options.precision, scratch_} {}

  std::string Describe() const override {
    const int threads = pool_.num_threads();
    return std::string("cpu ") + InstructionSetName(instruction_set_) + ", " +
           std::to_string(threads) + (threads == 1 ? " thread" : " threads");
  }
  Precision precision() const override { return context_.precision; }
  bool reads_group_codes() const override { return true; }

  Result<DeviceMemory> Allocate(int64_t bytes) override;
  void CopyToDevice(void* device, const void* host, int64_t bytes) override {
    if (bytes > 0) std::memcpy(device, host, static_cast<size_t>(bytes));
  }
  void CopyToHost(void* host, const void* device, int64_t bytes) override {
    if (bytes > 0) std::memcpy(host, device, static_cast<size_t>(bytes));
  }
  void Copy(void* target, const void* source, int64_t bytes) override {
    if (bytes > 0) std::memmove(target, source, static_cast<size_t>(bytes));
  }
  int64_t SelectionScratchBytes(int64_t topk) const override {
    return cpu::SelectionScratchBytes(pool_.num_threads(), topk);
  }
  int64_t ScratchBytes(const StepShape& shape) const override {
    const ScratchNeed need = ScratchOfSteps(context_, shape);
    return pool_.num_threads() * HostBuffer::Footprint(need.of_thread) +
           HostBuffer::Footprint(need.shared);
  }
  void ReserveScratch(const StepShape& shape) override {
    scratch_.Reserve(ScratchOfSteps(context_, shape));
  }
  int64_t scratch_bytes() const override { return scratch_.bytes(); }
  Result<Roofs> MeasureRoofs() override { return cpu::MeasureRoofs(context_, instruction_set_); }

 protected:
  void DoEmbed(const EmbedArgs& args) override { cpu::Embed(context_, args); }
  void DoAddRmsNorm(const AddRmsNormArgs& args) override { cpu::AddRmsNorm(context_, args); }
  void DoRmsNorm(const RmsNormArgs& args) override { cpu::RmsNorm(context_, args); }
  void DoLinear(const LinearArgs& args) override { cpu::Linear(context_, args); }
  void DoAbsorbQuery(const AbsorbQueryArgs& args) override { cpu::AbsorbQuery(context_, args); }
  void DoWriteLatent(const WriteLatentArgs& args) override { cpu::WriteLatent(context_, args); }
  void DoWriteIndexKeys(const WriteIndexKeysArgs& args) override {
    cpu::WriteIndexKeys(context_, args);
  }
  void DoPrepareIndexQuery(const PrepareIndexQueryArgs& args) override {
    cpu::PrepareIndexQuery(context_, args);
  }
  void DoSelectTokens(const SelectTokensArgs& args) override { cpu::SelectTokens(context_, args); }
  void DoAttention(const AttentionArgs& args) override { cpu::Attention(context_, args); }
  void DoExpandValue(const ExpandValueArgs& args) override { cpu::ExpandValue(context_, args); }
  void DoFeedForward(const FeedForwardArgs& args) override { cpu::FeedForward(context_, args); }
  void DoMoe(const MoeArgs& args) override { cpu::Moe(context_, args); }
  void DoDrawTokens(const DrawTokensArgs& args) override { cpu::DrawTokens(context_, args); }

 private:
  InstructionSet instruction_set_;
  ThreadPool pool_;
  Scratch scratch_;
  CpuContext context_;
  // Bytes handed out and not yet freed: large buffers take memory only as they are written, so what
  // the system calls available may be promised already. Outlives the backend with its memory.
  std::shared_ptr<std::atomic<int64_t>> promised_ = std::make_shared<std::atomic<int64_t>>(0);
};

Result<DeviceMemory> CpuBackend::Allocate(int64_t bytes) {
  WINNOW_CHECK(bytes >= 0, "Allocate: a negative size");
  const int64_t total = TotalMemory();
  const int64_t available = std::min(AvailableMemory(), total);
  if (bytes > available || *promised_ > total - bytes) {
    return ResourceExhausted("cpu memory: " + std::to_string(bytes) + " bytes wanted, " +
                             std::to_string(std::min(available, total - *promised_)) +
                             " are available");
  }
  HostBuffer buffer = HostBuffer::TryMake(bytes);
  if (bytes > 0 && buffer.data() == nullptr) {
    return ResourceExhausted("cpu memory: " + std::to_string(bytes) +
                             " bytes wanted, the system gives none");
  }
  *promised_ += bytes;
  struct Owner {
    HostBuffer buffer;
    std::shared_ptr<std::atomic<int64_t>> promised;
    ~Owner() { *promised -= buffer.size(); }
  };
  std::shared_ptr<Owner> owner(new Owner{std::move(buffer), promised_});
  return DeviceMemory(owner, owner->buffer.data());
}

}  // namespace

std::unique_ptr<Backend> CreateCpuBackend(const CpuOptions& options) {
  return std::make_unique<CpuBackend>(options);
}

}  // namespace winnow::cpu
