// A device that runs the forward pass: memory, and the operations of ops.h.
//
// Arguments are checked here, once for all devices, before the device sees them: a wrong shape is
// our own mistake and aborts with the letter that disagrees.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "backend/ops.h"
#include "winnow/status.h"

namespace winnow {

// Memory on a device; freed on destruction.
using DeviceMemory = std::shared_ptr<void>;

// What a device keeps of a stretch of operations; empty before the first run of it.
using Recording = std::shared_ptr<void>;

// What a device can do at most with the backend's threads and instructions, as measured. A
// multiply-add counts as two operations.
struct Roofs {
  double flops_f32 = 0;              // a second
  double flops_bf16 = 0;             // a second; 0 where the backend uses no instructions for them
  double ops_int8 = 0;               // a second: exact products of bytes and their sums
  double read_bytes_per_second = 0;  // from memory, in order
  int64_t cache_bytes = 0;           // what was read before as many others comes from memory again
};

// The largest step that a model will run, and what of the model its operations' working memory
// depends on. Letters: ops.h.
struct StepShape {
  int64_t num_tokens = 0;
  int64_t max_context = 0;
  AttentionMode attention = AttentionMode::kSparse;
  IndexKeyType index_keys = IndexKeyType::kInt8;
  int64_t hidden_size = 0;  // D
  int64_t num_heads = 0;    // H
  int64_t latent_dim = 0;   // C
  int64_t rope_dim = 0;     // R
  int64_t nope_dim = 0;     // P
  int64_t value_dim = 0;    // V
  int64_t query_rank = 0;   // Q; 0: queries have no latent
  int64_t index_heads = 0;  // I
  int64_t index_dim = 0;    // J
  int64_t topk = 0;         // K
  int64_t ffn_width = 0;    // F of layers without experts
  int64_t num_experts = 0;  // E; 0: no layer has experts
  int64_t experts_per_token = 0;
  int64_t n_group = 1;
  int64_t expert_width = 0;  // F of an expert
  int64_t shared_width = 0;  // F of the shared experts together
};

class Backend {
 public:
  virtual ~Backend() = default;

  // "cpu avx2, 2 threads"
  virtual std::string Describe() const = 0;
  virtual Precision precision() const = 0;
  // Whether views may point to any memory of the host: then weights stay in their mapped files, and
  // whoever has a view may read it.
  virtual bool shares_host_memory() const { return true; }
  // Whether weights may be codes with scales of groups (tensor/group_codes.h).
  virtual bool reads_group_codes() const { return false; }

  // `bytes` of zeroed device memory, aligned to 64. kResourceExhausted when the device has no more.
  virtual Result<DeviceMemory> Allocate(int64_t bytes) = 0;
  // `bytes` of zeroed memory of the host, aligned to 64, for what often comes from the device: the
  // way to it is the shortest there is. Not for CopyToDevice.
  virtual std::shared_ptr<void> AllocateOnHost(int64_t bytes);
  virtual void CopyToDevice(void* device, const void* host, int64_t bytes) = 0;
  virtual void CopyToHost(void* host, const void* device, int64_t bytes) = 0;
  virtual void Copy(void* target, const void* source, int64_t bytes) = 0;  // both on the device

  // Whether Repeat is faster than calling `operations`.
  virtual bool records() const { return false; }
  // Runs `operations`. In every call with this recording they ask for the same operations with the
  // same arguments, and what differs from call to call lies in device memory: so a device that has
  // run them may run them again from what it keeps, without calling them. They copy nothing to or
  // from the host.
  virtual void Repeat(Recording&, const std::function<void()>& operations) { operations(); }

  // Waits for what the device was asked to do. An error says that it could not: nothing computed
  // since the last time it could is to be trusted.
  virtual Status Finish() { return OkStatus(); }

  // The most bytes that SelectTokens holds in scores and candidates at once, whatever the context.
  virtual int64_t SelectionScratchBytes(int64_t topk) const = 0;

  // The most bytes that operations hold at once beside their arguments, in steps up to this shape.
  virtual int64_t ScratchBytes(const StepShape&) const { return 0; }
  // Takes them, so that no operation of such a step takes memory later.
  virtual void ReserveScratch(const StepShape&) {}
  // Those that are held now.
  virtual int64_t scratch_bytes() const { return 0; }

  // Works all of the device for a second or less. kResourceExhausted when memory is short.
  virtual Result<Roofs> MeasureRoofs() = 0;

  void Embed(const EmbedArgs& args);
  void AddRmsNorm(const AddRmsNormArgs& args);
  void RmsNorm(const RmsNormArgs& args);
  void Linear(const LinearArgs& args);
  void AbsorbQuery(const AbsorbQueryArgs& args);
  void WriteLatent(const WriteLatentArgs& args);
  void WriteIndexKeys(const WriteIndexKeysArgs& args);
  void PrepareIndexQuery(const PrepareIndexQueryArgs& args);
  void SelectTokens(const SelectTokensArgs& args);
  void Attention(const AttentionArgs& args);
  void ExpandValue(const ExpandValueArgs& args);
  void FeedForward(const FeedForwardArgs& args);
  void Moe(const MoeArgs& args);
  void DrawTokens(const DrawTokensArgs& args);

 protected:
  virtual void DoEmbed(const EmbedArgs& args) = 0;
  virtual void DoAddRmsNorm(const AddRmsNormArgs& args) = 0;
  virtual void DoRmsNorm(const RmsNormArgs& args) = 0;
  virtual void DoLinear(const LinearArgs& args) = 0;
  virtual void DoAbsorbQuery(const AbsorbQueryArgs& args) = 0;
  virtual void DoWriteLatent(const WriteLatentArgs& args) = 0;
  virtual void DoWriteIndexKeys(const WriteIndexKeysArgs& args) = 0;
  virtual void DoPrepareIndexQuery(const PrepareIndexQueryArgs& args) = 0;
  virtual void DoSelectTokens(const SelectTokensArgs& args) = 0;
  virtual void DoAttention(const AttentionArgs& args) = 0;
  virtual void DoExpandValue(const ExpandValueArgs& args) = 0;
  virtual void DoFeedForward(const FeedForwardArgs& args) = 0;
  virtual void DoMoe(const MoeArgs& args) = 0;
  virtual void DoDrawTokens(const DrawTokensArgs& args) = 0;
};

}  // namespace winnow
