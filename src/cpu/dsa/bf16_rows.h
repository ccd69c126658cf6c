// Cache rows as pairs of bfloat16 numbers, which attention_bf16.h and attention_tiles.h multiply.
// Included by them only.
#pragma once

namespace winnow::cpu::WINNOW_LEVEL {
namespace {

constexpr int64_t kTilePairs = kTileRows / 2;
constexpr int64_t kPairWords = 32;  // bfloat16 values in a register

// 32 columns of two rows: each word of two holds a column, the first sixteen of them and the
// others.
struct Interleave {
  __m512i lower, upper;
  Interleave() {
    alignas(64) static constexpr auto kOrder = [] {
      struct {
        uint16_t at[64];
      } order{};
      for (int column = 0; column < 32; ++column) {
        order.at[2 * column] = static_cast<uint16_t>(column);
        order.at[2 * column + 1] = static_cast<uint16_t>(32 + column);
      }
      return order;
    }();
    lower = _mm512_load_si512(kOrder.at);
    upper = _mm512_load_si512(kOrder.at + 32);
  }
};

// 32 bfloat16 numbers times `scale`, rounded again.
__m512i ScalePairs(__m512i pairs, __m512 scale) {
  const __m512i high = _mm512_set1_epi32(static_cast<int>(0xffff0000u));
  const __m512 even = _mm512_mul_ps(_mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16)), scale);
  const __m512 odd = _mm512_mul_ps(_mm512_castsi512_ps(_mm512_and_si512(pairs, high)), scale);
  // The even ones come out first, then the odd ones.
  const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24,
                                         8, 23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  return _mm512_permutexvar_epi16(order, (__m512i)_mm512_cvtne2ps_pbh(odd, even));
}

// The latent part of an FP8 row, of a multiple of 64 values, to bfloat16.
void DecodeLatent(const uint8_t* row, int64_t latent_dim, uint16_t* out) {
  const __m512i low_bytes[2] = {_mm512_load_si512(kE4m3Bytes.low),
                                _mm512_load_si512(kE4m3Bytes.low + 64)};
  const __m512i high_bytes[2] = {_mm512_load_si512(kE4m3Bytes.high),
                                 _mm512_load_si512(kE4m3Bytes.high + 64)};
  // Unpacking works within quarters: codes are put so that it brings them in order.
  const __m512i quarters = _mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7);
  for (int64_t k = 0; k < latent_dim; k += 64) {
    float scale;
    memcpy(&scale, row + latent_dim + k / kScaleBlock * sizeof(scale), sizeof(scale));
    const __m512i codes = _mm512_permutexvar_epi64(quarters, _mm512_loadu_si512(row + k));
    const __m512i low = _mm512_permutex2var_epi8(low_bytes[0], codes, low_bytes[1]);
    const __m512i magnitude = _mm512_permutex2var_epi8(high_bytes[0], codes, high_bytes[1]);
    // magnitude ^ (codes & 0x80)
    const __m512i high = _mm512_ternarylogic_epi32(magnitude, codes, _mm512_set1_epi8(-128), 0x78);
    const __m512 factor = _mm512_set1_ps(scale);
    _mm512_storeu_si512(out + k, ScalePairs(_mm512_unpacklo_epi8(low, high), factor));
    _mm512_storeu_si512(out + k + 32, ScalePairs(_mm512_unpackhi_epi8(low, high), factor));
  }
}

}  // namespace
}  // namespace winnow::cpu::WINNOW_LEVEL
