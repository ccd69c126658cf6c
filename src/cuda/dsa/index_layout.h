// Where the codes of index keys and index queries lie in device memory: rows of J = 128 codes,
// eight 16-byte chunks each, with chunk c of row r at place c ^ (r mod 8). That is the order in
// which the tensor cores read shared memory without bank conflicts, so a page or a token's queries
// come from the cache in one bulk copy and are multiplied as they lie.
#pragma once

#include <cstdint>

namespace winnow::cuda {

inline constexpr int kIndexDim = 128;      // J
inline constexpr int kIndexPageKeys = 64;  // keys of a page
inline constexpr int kIndexCodeBytes = kIndexPageKeys * kIndexDim;
// Of a page: codes [64, 128] as below, then a f32 scale for each key.
inline constexpr int kIndexPageBytes = kIndexCodeBytes + kIndexPageKeys * 4;

// The byte of code j of row r: a key of a page, or a head of a token's queries.
#ifdef __CUDACC__
__host__ __device__
#endif
    constexpr int
    IndexCodeOffset(int r, int j) {
  return r * kIndexDim + (((j / 16) ^ (r % 8)) * 16) + j % 16;
}

}  // namespace winnow::cuda
