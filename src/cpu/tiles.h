// AMX: eight registers that are tiles of up to 16 rows of 64 bytes, and products of them.
//
// A product adds to each element of C [rows, columns] a row of A by a column of B, where B holds
// the two bfloat16 numbers (or four bytes) of a step next to each other: B [steps, columns, 2].
// Of bfloat16 numbers it is, in this order and with subnormals as zeros,
//   even = fma(a[2k], b[2k], even), odd = fma(a[2k + 1], b[2k + 1], odd)   k ascending, from 0
//   c = c + (even + odd)
// and of bytes the exact sum. A product takes 16 cycles whatever the shapes; a load of a tile whose
// rows do not lie across cache lines, 8. Registers are named by the template arguments.
#pragma once

#include "cpu/simd.h"

namespace winnow::cpu::WINNOW_LEVEL {

static constexpr int64_t kTileSide = 16;     // rows of a tile, and 32-bit words of one
static constexpr int64_t kTileBytes = 1024;  // of a full one
static constexpr int64_t kTileWords = 256;

// What LDTILECFG reads.
struct alignas(64) TileShapes {
  uint8_t palette = 1;
  uint8_t start_row = 0;
  uint8_t reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};

  // Of none or of no words the register is not to be used.
  void Set(int tile, int64_t num_rows, int64_t words) {
    if (num_rows == 0 || words == 0) return;
    rows[tile] = static_cast<uint8_t>(num_rows);
    row_bytes[tile] = static_cast<uint16_t>(4 * words);
  }
};
static_assert(sizeof(TileShapes) == 64);

// The thread's tiles have their shapes from here to the end of the scope. It takes some hundred
// cycles: once in a kernel.
class TileScope {
 public:
  explicit TileScope(const TileShapes& shapes) { asm volatile("ldtilecfg %0" : : "m"(shapes)); }
  ~TileScope() { asm volatile("tilerelease"); }
  TileScope(const TileScope&) = delete;
  TileScope& operator=(const TileScope&) = delete;
};

// Other shapes within the scope; tiles are zero after it.
static inline void UseShapes(const TileShapes& shapes) {
  asm volatile("ldtilecfg %0" : : "m"(shapes));
}

#define WINNOW_TILE static inline __attribute__((always_inline)) void

template <int kTile>
WINNOW_TILE LoadTile(const void* p, int64_t row_bytes) {
  asm volatile("tileloadd (%0,%1,1), %%tmm%c2" : : "r"(p), "r"(row_bytes), "i"(kTile) : "memory");
}
// The same for what is not read again soon: it takes no place in L1.
template <int kTile>
WINNOW_TILE LoadTileOnce(const void* p, int64_t row_bytes) {
  asm volatile("tileloaddt1 (%0,%1,1), %%tmm%c2" : : "r"(p), "r"(row_bytes), "i"(kTile) : "memory");
}
template <int kTile>
WINNOW_TILE StoreTile(void* p, int64_t row_bytes) {
  asm volatile("tilestored %%tmm%c2, (%0,%1,1)" : : "r"(p), "r"(row_bytes), "i"(kTile) : "memory");
}
template <int kTile>
WINNOW_TILE ZeroTile() {
  asm volatile("tilezero %%tmm%c0" : : "i"(kTile));
}
// C += A · B
template <int kC, int kA, int kB>
WINNOW_TILE AddBf16Tiles() {
  asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(kC), "i"(kA), "i"(kB));
}
template <int kC, int kA, int kB>
WINNOW_TILE AddInt8Tiles() {
  asm volatile("tdpbssd %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(kC), "i"(kA), "i"(kB));
}

#undef WINNOW_TILE

// Words [4 quarter, 4 quarter + 4) of sixteen rows that lie `stride` words apart: out[i] holds word
// 4 quarter + i. It is put together by loads, so that half of the shuffles are left.
static inline __attribute__((always_inline)) void TransposeQuarter(const float* rows,
                                                                   int64_t stride, int64_t quarter,
                                                                   F32x16* out) {
  __m512 row[4];  // rows j, 4 + j, 8 + j, 12 + j
  for (int j = 0; j < 4; ++j) {
    const float* p = rows + j * stride + 4 * quarter;
    row[j] = _mm512_castps128_ps512(_mm_loadu_ps(p));
    row[j] = _mm512_insertf32x4(row[j], _mm_loadu_ps(p + 4 * stride), 1);
    row[j] = _mm512_insertf32x4(row[j], _mm_loadu_ps(p + 8 * stride), 2);
    row[j] = _mm512_insertf32x4(row[j], _mm_loadu_ps(p + 12 * stride), 3);
  }
  const __m512d low01 = _mm512_castps_pd(_mm512_unpacklo_ps(row[0], row[1]));
  const __m512d low23 = _mm512_castps_pd(_mm512_unpacklo_ps(row[2], row[3]));
  const __m512d high01 = _mm512_castps_pd(_mm512_unpackhi_ps(row[0], row[1]));
  const __m512d high23 = _mm512_castps_pd(_mm512_unpackhi_ps(row[2], row[3]));
  out[0] = {_mm512_castpd_ps(_mm512_unpacklo_pd(low01, low23))};
  out[1] = {_mm512_castpd_ps(_mm512_unpackhi_pd(low01, low23))};
  out[2] = {_mm512_castpd_ps(_mm512_unpacklo_pd(high01, high23))};
  out[3] = {_mm512_castpd_ps(_mm512_unpackhi_pd(high01, high23))};
}
// out[i] holds word i of all sixteen.
static inline __attribute__((always_inline)) void TransposeWords(const float* rows, int64_t stride,
                                                                 F32x16* out) {
  for (int quarter = 0; quarter < 4; ++quarter) {
    TransposeQuarter(rows, stride, quarter, out + 4 * quarter);
  }
}

}  // namespace winnow::cpu::WINNOW_LEVEL
