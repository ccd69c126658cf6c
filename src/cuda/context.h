// What an operation on the GPU works with: a stream, precision, working memory, and the first thing
// that went wrong.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "backend/backend.h"

namespace winnow::cuda {

inline std::string ErrorText(cudaError_t error) {
  return std::string(cudaGetErrorName(error)) + ": " + cudaGetErrorString(error);
}

// Device memory that operations reuse: a piece for each purpose, which grows to the largest need
// seen and stays. Contents are undefined at each call. Operations follow each other on one stream,
// so none meets another's; a piece that grows is freed once the stream is done with it.
class Scratch {
 public:
  enum Purpose {
    kPrepared,  // index queries
    kScores,    // of keys
    kLists,     // candidates kept between segments
    kQueries,   // of attention, as bfloat16
    kSums,      // of attention, of chunks
    kPacked,    // activations as tensor cores read them
    kRouting,
    kHidden,
    kProducts,
    kNumPurposes
  };

  Scratch() = default;
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  ~Scratch() {
    for (Piece& piece : pieces_) cudaFree(piece.data);
  }
  int64_t bytes() const {
    int64_t sum = 0;
    for (const Piece& piece : pieces_) sum += piece.size;
    return sum;
  }
  // How often a piece has moved.
  int64_t moves() const { return moves_; }
  // At least `bytes`, aligned to 256.
  cudaError_t Get(Purpose purpose, int64_t bytes, void** data) {
    Piece& piece = pieces_[purpose];
    if (piece.size < bytes) {
      ++moves_;
      cudaFree(piece.data);  // waits for the device
      piece = Piece();
      const cudaError_t error = cudaMalloc(&piece.data, static_cast<size_t>(bytes));
      if (error != cudaSuccess) return error;
      piece.size = bytes;
    }
    *data = piece.data;
    return cudaSuccess;
  }

 private:
  struct Piece {
    void* data = nullptr;
    int64_t size = 0;
  };
  Piece pieces_[kNumPurposes];
  int64_t moves_ = 0;
};

struct CudaContext;

// Small tables that live on the host and are read on the device, such as where the experts of a
// layer lie. One is known by the address of what it was made from, and sent when its content is
// new.
class Tables {
 public:
  Tables() = default;
  Tables(const Tables&) = delete;
  Tables& operator=(const Tables&) = delete;
  ~Tables() {
    for (auto& [key, table] : tables_) cudaFree(table.device);
  }
  // The device's copy of `content`, or null, with the error remembered.
  const void* Get(const void* key, std::vector<uint8_t> content, CudaContext& context);
  // How often a table was sent.
  int64_t sent() const { return sent_; }

 private:
  struct Table {
    std::vector<uint8_t> content;
    void* device = nullptr;
  };
  std::map<const void*, Table> tables_;
  int64_t sent_ = 0;
};

struct CudaContext {
  cudaStream_t stream = nullptr;
  Precision precision = Precision::kF32;
  int multiprocessors = 0;
  Scratch scratch;
  Tables tables;
  Status failure;  // the first thing that went wrong

  bool rounds() const { return precision == Precision::kBf16; }

  // Remembers the first error; once there is one, operations do nothing until Finish tells it.
  void Fail(Status status) {
    if (failure.ok()) static_cast<void>(failure = std::move(status));
  }
  bool Check(cudaError_t error, const char* what) {
    if (error == cudaSuccess) return true;
    static_cast<void>(cudaGetLastError());  // told here, and not by what comes next
    const std::string text = std::string("cuda: ") + what + ": " + ErrorText(error);
    Fail(error == cudaErrorMemoryAllocation ? Status(ResourceExhausted(text))
                                            : Status(Internal(text)));
    return false;
  }
  // After a launch.
  bool Launched(const char* what) { return Check(cudaGetLastError(), what); }

  // `count` elements of working memory, or null, with the error remembered.
  template <typename T>
  T* Get(Scratch::Purpose purpose, int64_t count, const char* what) {
    void* data = nullptr;
    if (!Check(scratch.Get(purpose, count * static_cast<int64_t>(sizeof(T)), &data), what)) {
      return nullptr;
    }
    return static_cast<T*>(data);
  }
};

inline const void* Tables::Get(const void* key, std::vector<uint8_t> content,
                               CudaContext& context) {
  Table& table = tables_[key];
  if (table.content == content) return table.device;
  ++sent_;
  if (table.content.size() != content.size()) {
    cudaFree(table.device);
    table = Table();
    if (!context.Check(cudaMalloc(&table.device, content.size()), "Moe")) return nullptr;
  }
  table.content = std::move(content);
  // From pageable memory: what is sent has been read when the call returns.
  context.Check(cudaMemcpyAsync(table.device, table.content.data(), table.content.size(),
                                cudaMemcpyHostToDevice, context.stream),
                "Moe");
  return table.device;
}

}  // namespace winnow::cuda
