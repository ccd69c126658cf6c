// Scratch tensors of one step, from one piece of memory that is allocated once.
#pragma once

#include "backend/backend.h"

namespace winnow {

// Hands out tensors front to back. Scope gives back what was taken since it was made, so layers
// reuse the same memory.
class Workspace {
 public:
  static constexpr int64_t kAlignment = 64;

  static Result<Workspace> Create(int64_t bytes, Backend& backend) {
    Workspace workspace;
    auto memory = backend.Allocate(bytes);
    if (!memory.ok()) return memory.error();
    workspace.memory_ = *memory;
    workspace.size_ = bytes;
    return workspace;
  }

  TensorView New(DType dtype, Dims dims) {
    TensorView view(static_cast<uint8_t*>(memory_.get()) + used_, dtype, dims);
    used_ += Padded(view.bytes());
    WINNOW_CHECK(used_ <= size_, "the workspace is smaller than the step that it was planned for");
    return view;
  }

  static int64_t Padded(int64_t bytes) {
    return (bytes + kAlignment - 1) / kAlignment * kAlignment;
  }

  class Scope {
   public:
    explicit Scope(Workspace& workspace) : workspace_(workspace), used_(workspace.used_) {}
    ~Scope() { workspace_.used_ = used_; }
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;

   private:
    Workspace& workspace_;
    int64_t used_;
  };

 private:
  DeviceMemory memory_;
  int64_t size_ = 0;
  int64_t used_ = 0;
};

}  // namespace winnow
