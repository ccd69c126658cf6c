#include "tensor/tensor.h"

#include <sys/mman.h>

#include <cstdlib>
#include <cstring>

namespace winnow {

Dims::Dims(std::initializer_list<int64_t> extents) {
  WINNOW_CHECK(extents.size() <= kMaxRank, "a tensor has more than four axes");
  for (int64_t extent : extents) extents_[rank_++] = extent;
}

int64_t Dims::count() const {
  int64_t product = 1;
  for (int axis = 0; axis < rank_; ++axis) product *= extents_[axis];
  return product;
}

std::string Dims::ToString() const {
  std::string text = "[";
  for (int axis = 0; axis < rank_; ++axis) {
    if (axis > 0) text += ", ";
    text += std::to_string(extents_[axis]);
  }
  return text + "]";
}

TensorView TensorView::Rows(int64_t first, int64_t rows) const {
  WINNOW_DCHECK(dims.rank() > 0 && first >= 0 && first + rows <= dims[0], "rows outside a view");
  TensorView part = *this;
  int64_t row_bytes = SizeOf(dtype);
  for (int axis = 1; axis < dims.rank(); ++axis) row_bytes *= dims[axis];
  part.data = static_cast<uint8_t*>(data) + first * row_bytes;
  switch (dims.rank()) {
    case 1:
      part.dims = {rows};
      break;
    case 2:
      part.dims = {rows, dims[1]};
      break;
    case 3:
      part.dims = {rows, dims[1], dims[2]};
      break;
    default:
      part.dims = {rows, dims[1], dims[2], dims[3]};
      break;
  }
  return part;
}

TensorView TensorView::Head(int64_t rows) const { return Rows(0, rows); }

namespace {

constexpr size_t kHugePage = size_t{2} << 20;
constexpr size_t kAlignment = 64;

// `size` bytes (a multiple of kHugePage) at a multiple of kHugePage: one more is mapped, and what
// lies outside is given back.
uint8_t* MapAligned(size_t size) {
  const int protection = PROT_READ | PROT_WRITE;
  const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
  void* mapped = mmap(nullptr, size + kHugePage, protection, flags, -1, 0);
  if (mapped == MAP_FAILED) return nullptr;
  const uintptr_t begin = reinterpret_cast<uintptr_t>(mapped);
  const uintptr_t aligned = (begin + kHugePage - 1) / kHugePage * kHugePage;
  if (aligned > begin) munmap(mapped, aligned - begin);
  munmap(reinterpret_cast<void*>(aligned + size), begin + kHugePage - aligned);
  madvise(reinterpret_cast<void*>(aligned), size, MADV_HUGEPAGE);  // advice: small pages work too
  return reinterpret_cast<uint8_t*>(aligned);
}

bool IsLarge(int64_t bytes) { return static_cast<size_t>(bytes) >= kHugePage; }

}  // namespace

int64_t HostBuffer::Footprint(int64_t bytes) {
  const int64_t unit = static_cast<int64_t>(IsLarge(bytes) ? kHugePage : kAlignment);
  return (bytes + unit - 1) / unit * unit;
}

HostBuffer HostBuffer::TryMake(int64_t bytes) {
  WINNOW_CHECK(bytes >= 0, "a buffer of negative size");
  HostBuffer buffer;
  const size_t size = static_cast<size_t>(Footprint(bytes));
  if (size == 0) return buffer;
  const bool large = IsLarge(bytes);
  uint8_t* data =
      large ? MapAligned(size) : static_cast<uint8_t*>(std::aligned_alloc(kAlignment, size));
  if (data == nullptr) return buffer;
  if (!large) std::memset(data, 0, size);
  buffer.data_ = std::unique_ptr<uint8_t, Free>(data, Free(large ? static_cast<int64_t>(size) : 0));
  buffer.size_ = bytes;
  return buffer;
}

HostBuffer::HostBuffer(int64_t bytes) : HostBuffer(TryMake(bytes)) {
  WINNOW_CHECK(size_ == bytes, "out of memory for " + std::to_string(bytes) + " bytes");
}

void HostBuffer::Free::operator()(uint8_t* data) const {
  if (mapped > 0) {
    munmap(data, static_cast<size_t>(mapped));
  } else {
    std::free(data);
  }
}

}  // namespace winnow
