// Where the codes of index keys lie in a page of device memory: key by key, [page_size, J], then
// for kE4m3 and kInt8 a f32 scale for each key. Rows of 128 one-byte codes hold their eight 16-byte
// chunks exchanged, chunk c of key r at place c ^ (r mod 8): that is the order in which tensor
// cores read shared memory without bank conflicts.
#pragma once

#include <cstdint>

#include "winnow/types.h"

#ifdef __CUDACC__
#define WINNOW_HOST_DEVICE __host__ __device__
#else
#define WINNOW_HOST_DEVICE
#endif

namespace winnow::cuda {

WINNOW_HOST_DEVICE constexpr bool IsRotated(IndexKeyType type) {
  return type == IndexKeyType::kE4m3 || type == IndexKeyType::kInt8;
}

// Bytes of one code.
WINNOW_HOST_DEVICE constexpr int CodeBytes(IndexKeyType type) {
  return type == IndexKeyType::kF32 ? 4 : type == IndexKeyType::kBf16 ? 2 : 1;
}

// The place, in codes, of code j of the page's key `key`.
WINNOW_HOST_DEVICE constexpr int64_t CodePlace(IndexKeyType type, int index_dim, int key, int j) {
  const int64_t row = int64_t{key} * index_dim;
  if (index_dim != 128 || !IsRotated(type)) return row + j;
  return row + ((j / 16) ^ (key % 8)) * 16 + j % 16;
}

}  // namespace winnow::cuda

#undef WINNOW_HOST_DEVICE
