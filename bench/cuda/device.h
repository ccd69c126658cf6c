// What the benchmarks of kernels share: errors that end the program, and arrays on the device.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <vector>

namespace winnow::cuda {

inline void Must(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  std::fprintf(stderr, "%s: %s\n", what, cudaGetErrorString(error));
  std::exit(2);
}
#define MUST(call) Must(call, #call)

template <typename T>
class Device {
 public:
  explicit Device(size_t size) : size_(size) {
    MUST(cudaMalloc(&data_, std::max<size_t>(size * sizeof(T), 256)));
    MUST(cudaMemset(data_, 0xff, std::max<size_t>(size * sizeof(T), 256)));  // poison
  }
  explicit Device(const std::vector<T>& host) : Device(host.size()) {
    MUST(cudaMemcpy(data_, host.data(), host.size() * sizeof(T), cudaMemcpyHostToDevice));
  }
  Device(const Device&) = delete;
  ~Device() { cudaFree(data_); }
  T* get() const { return static_cast<T*>(data_); }
  std::vector<T> Host() const {
    std::vector<T> host(size_);
    MUST(cudaMemcpy(host.data(), data_, size_ * sizeof(T), cudaMemcpyDeviceToHost));
    return host;
  }

 private:
  void* data_ = nullptr;
  size_t size_;
};

}  // namespace winnow::cuda
