// Views of tensors: a pointer with a shape. Views own nothing.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <string>

#include "base/check.h"
#include "tensor/dtype.h"

namespace winnow {

// The extents of a tensor, at most four.
class Dims {
 public:
  static constexpr int kMaxRank = 4;
  Dims() = default;
  Dims(std::initializer_list<int64_t> extents);

  int rank() const { return rank_; }
  int64_t operator[](int axis) const { return extents_[axis]; }
  int64_t count() const;         // product of the extents; 1 for rank 0
  std::string ToString() const;  // "[64, 7168]"
  bool operator==(const Dims&) const = default;

 private:
  int rank_ = 0;
  std::array<int64_t, kMaxRank> extents_{};
};

// A dense row-major tensor somewhere in memory. An empty view (data null) stands for "absent".
struct TensorView {
  void* data = nullptr;
  DType dtype = DType::kF32;
  Dims dims;

  TensorView() = default;
  TensorView(void* data, DType dtype, Dims dims) : data(data), dtype(dtype), dims(dims) {}
  TensorView(const void* data, DType dtype, Dims dims)
      : data(const_cast<void*>(data)), dtype(dtype), dims(dims) {}

  explicit operator bool() const { return data != nullptr; }
  int64_t bytes() const { return dims.count() * SizeOf(dtype); }

  // Elements as T; the caller has checked dtype.
  template <typename T>
  T* As() const {
    WINNOW_DCHECK(static_cast<int64_t>(sizeof(T)) == SizeOf(dtype), "view read as another type");
    return static_cast<T*>(data);
  }
  // The first `rows` rows of the leading axis.
  TensorView Head(int64_t rows) const;
  // `rows` rows of the leading axis from `first` on.
  TensorView Rows(int64_t first, int64_t rows) const;
};

// A weight matrix [N, K] as it is stored: values, and the scales of those that have any.
//   F32, BF16, F16  no scale
//   F8_E4M3         element (r, c) stands for value[r, c] * scale[r / 128, c / 128]
//   I8, U8          codes of 8 or 4 bits and the scales of their groups: tensor/group_codes.h
struct ScaledView {
  static constexpr int64_t kBlock = 128;
  TensorView value;  // [N, K]; [N, Int4RowBytes(K)] U8
  TensorView scale;  // [⌈N/128⌉, ⌈K/128⌉] F32, or none; [N, ⌈K/32⌉] BF16 of I8 and U8
  int64_t int4_columns = 0;  // K of U8

  explicit operator bool() const { return static_cast<bool>(value); }
  int64_t rows() const { return value.dims[0]; }
  int64_t columns() const { return value.dtype == DType::kU8 ? int4_columns : value.dims[1]; }
  bool has_groups() const { return value.dtype == DType::kI8 || value.dtype == DType::kU8; }
  int64_t bytes() const { return value.bytes() + (scale ? scale.bytes() : 0); }
};

// Host memory of its own, zeroed and aligned to 64 bytes. Two MiB and more come straight from the
// system, aligned to and marked for huge pages, and take physical memory only when they are first
// written.
class HostBuffer {
 public:
  HostBuffer() = default;
  // Aborts when the system has no such memory: sizes that come from outside are checked before.
  explicit HostBuffer(int64_t bytes);
  // The same, or an empty buffer where that would abort.
  static HostBuffer TryMake(int64_t bytes);
  // The memory that a buffer of so many bytes takes, rounded up to what the system hands out.
  static int64_t Footprint(int64_t bytes);
  uint8_t* data() const { return data_.get(); }
  int64_t size() const { return size_; }

 private:
  struct Free {
    Free() : mapped(0) {}
    explicit Free(int64_t mapped) : mapped(mapped) {}
    int64_t mapped;  // bytes to unmap; 0 means from the heap
    void operator()(uint8_t* data) const;
  };
  std::unique_ptr<uint8_t, Free> data_;
  int64_t size_ = 0;
};

}  // namespace winnow
