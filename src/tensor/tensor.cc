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

HostBuffer::HostBuffer(int64_t bytes) : size_(bytes) {
  constexpr size_t kHugePage = size_t{2} << 20;
  const size_t alignment = static_cast<size_t>(bytes) >= kHugePage ? kHugePage : 64;
  const size_t size = (static_cast<size_t>(bytes) + alignment - 1) / alignment * alignment;
  if (size == 0) return;
  void* data = std::aligned_alloc(alignment, size);
  WINNOW_CHECK(data != nullptr, "out of memory for " + std::to_string(bytes) + " bytes");
  if (alignment == kHugePage) {
    madvise(data, size, MADV_HUGEPAGE);  // advice only: small pages work too
  }
  std::memset(data, 0, size);
  data_.reset(static_cast<uint8_t*>(data));
}

void HostBuffer::Free::operator()(uint8_t* data) const { std::free(data); }

}  // namespace winnow
