// What every operation of the CPU backend works with: threads, kernels, and memory to compute in.
#pragma once

#include <cstdint>
#include <vector>

#include "backend/backend.h"
#include "base/thread_pool.h"
#include "tensor/tensor.h"

namespace winnow::cpu {

struct Kernels;     // kernels.h
struct DsaKernels;  // dsa/dsa_kernels.h

// Memory that is kept from one operation to the next and grows when more is asked for. What is in
// it belongs to the last caller of Get.
class Scratch {
 public:
  // At least `bytes`, aligned to 64; the content is undefined.
  uint8_t* Get(int64_t bytes) {
    if (bytes > buffer_.size()) buffer_ = HostBuffer(bytes);
    return buffer_.data();
  }
  float* GetFloats(int64_t count) { return reinterpret_cast<float*>(Get(count * 4)); }

 private:
  HostBuffer buffer_;
};

struct CpuContext {
  ThreadPool& pool;
  const Kernels& kernels;
  const DsaKernels& dsa_kernels;
  Precision precision = Precision::kF32;
  Scratch shared;                       // for the operation as a whole
  std::vector<Scratch> thread_scratch;  // [num_threads], for the pieces of ParallelFor
};

}  // namespace winnow::cpu
