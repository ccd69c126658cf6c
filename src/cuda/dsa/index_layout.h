// Where the codes of index keys lie in a page of device memory: key by key, [page_size, J], then
// for kE4m3 and kInt8 a f32 scale for each key. Rows of J = 128 one-byte codes, those of packed
// index queries too, hold their eight 16-byte chunks exchanged, chunk c of row r at place
// c ^ (r mod 8): that is the order in which the tensor cores read shared memory without bank
// conflicts, so a page or a token's queries come from the cache in one bulk copy and are multiplied
// as they lie.
#pragma once

#include <cstdint>

#include "winnow/types.h"

#ifdef __CUDACC__
#define WINNOW_HOST_DEVICE __host__ __device__
#else
#define WINNOW_HOST_DEVICE
#endif

namespace winnow::cuda {

// What the tensor cores' kernels take.
inline constexpr int kIndexDim = 128;      // J
inline constexpr int kIndexPageKeys = 64;  // keys of a page
inline constexpr int kIndexCodeBytes = kIndexPageKeys * kIndexDim;
inline constexpr int kIndexPageBytes = kIndexCodeBytes + kIndexPageKeys * 4;

// The byte of one-byte code j of row r: a key of a page, or a head of a token's queries.
WINNOW_HOST_DEVICE constexpr int IndexCodeOffset(int r, int j) {
  return r * kIndexDim + (((j / 16) ^ (r % 8)) * 16) + j % 16;
}

WINNOW_HOST_DEVICE constexpr bool IsRotated(IndexKeyType type) {
  return type == IndexKeyType::kE4m3 || type == IndexKeyType::kInt8;
}

// Bytes of one code.
WINNOW_HOST_DEVICE constexpr int CodeBytes(IndexKeyType type) {
  return type == IndexKeyType::kF32 ? 4 : type == IndexKeyType::kBf16 ? 2 : 1;
}

// The place, in codes, of code j of the page's key `key`.
WINNOW_HOST_DEVICE constexpr int64_t CodePlace(IndexKeyType type, int index_dim, int key, int j) {
  if (index_dim == kIndexDim && IsRotated(type)) return IndexCodeOffset(key, j);
  return int64_t{key} * index_dim + j;
}

}  // namespace winnow::cuda

#undef WINNOW_HOST_DEVICE
