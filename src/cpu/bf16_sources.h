// How products of bfloat16 numbers read weights: runs of a row, rounded, in registers. Included by
// bf16_linear_kernels.cc and tile_panels.h only.
//
// A source decodes the rows of a type:
//   EnterRows(row, c, n)        comes first, for n columns from c on, a multiple of kBlock, and
//   again
//                               where a row lies in another block of scales
//   RowOf(w, row)               where a row begins
//   Decode(row, c)              kPackedRun numbers from column c on, a multiple of it
//   DecodeLast(row, c, n)       the last n numbers of a row, then zeros
//   PrefetchBehind(row, rows, columns, c)   that column so many rows below
//   AskFor(row, c, n)           n columns from c on, into L2
//   kFewX                       up to how many rows of x it pays to decode in registers
#pragma once

#include "cpu/bf16_linear_kernels.h"
#include "cpu/pairs.h"
#include "tensor/group_codes.h"

namespace winnow::cpu::WINNOW_LEVEL {
namespace {

constexpr int64_t kBlock = 128;       // of scales
constexpr int64_t kTableBytes = 256;  // two bytes for each magnitude

int64_t DivideUp(int64_t a, int64_t b) { return (a + b - 1) / b; }

static_assert(kPackedRun == kInt4Run && kPackedRun == 2 * kCodeGroup);

// A run in registers.
struct Run {
  Pairs half[2];
  F32x16 part(int64_t index) const { return half[index / kParts].part[index % kParts]; }
};

// Into L2.
inline __attribute__((always_inline)) void AskForBytes(const void* first, int64_t bytes) {
  for (int64_t at = 0; at < bytes; at += 64) PrefetchL2(static_cast<const char*>(first) + at);
}

// Rows of elements one behind the other. Source::DecodeAt decodes 64 of them from column c on.
template <typename Source, typename Element>
struct ElementSource {
  using Row = const Element*;
  static Row RowOf(const WeightArgs& w, int64_t row) {
    return static_cast<const Element*>(w.data) + row * w.columns;
  }
  static inline __attribute__((always_inline)) void PrefetchBehind(Row row, int64_t rows,
                                                                   int64_t columns, int64_t c) {
    const Element* p = row + rows * columns + c;
    Prefetch(p);
    if constexpr (sizeof(Element) == 2) Prefetch(p + kPackedRun / 2);
  }
  static inline __attribute__((always_inline)) void AskFor(Row row, int64_t c, int64_t n) {
    AskForBytes(row + c, n * static_cast<int64_t>(sizeof(Element)));
  }
  Run Decode(Row row, int64_t c) const {
    return static_cast<const Source*>(this)->DecodeAt(row + c, c);
  }
  Run DecodeLast(Row row, int64_t c, int64_t n) const {
    Element run[kPackedRun] = {};
    memcpy(run, row + c, static_cast<size_t>(n) * sizeof(Element));
    return static_cast<const Source*>(this)->DecodeAt(run, c);
  }
};

struct F32Source : ElementSource<F32Source, float> {
  static constexpr int64_t kFewX = 8;
  explicit F32Source(const WeightArgs&, float*) {}
  void EnterRows(int64_t, int64_t, int64_t) {}
  Run DecodeAt(const float* p, int64_t) const {
    return {{Pack(Load(p), Load(p + 16)), Pack(Load(p + 32), Load(p + 48))}};
  }
};

struct Bf16Source : ElementSource<Bf16Source, uint16_t> {
  static constexpr int64_t kFewX = 8;
  explicit Bf16Source(const WeightArgs&, float*) {}
  void EnterRows(int64_t, int64_t, int64_t) {}
  Run DecodeAt(const uint16_t* p, int64_t) const {
    return {{LoadBf16Pairs(p), LoadBf16Pairs(p + 32)}};
  }
};

struct F16Source : ElementSource<F16Source, uint16_t> {
  static constexpr int64_t kFewX = 8;
  explicit F16Source(const WeightArgs&, float*) {}
  void EnterRows(int64_t, int64_t, int64_t) {}
  Run DecodeAt(const uint16_t* p, int64_t) const {
    return {
        {PackNumbers(LoadF16(p), LoadF16(p + 16)), PackNumbers(LoadF16(p + 32), LoadF16(p + 48))}};
  }
};

// The factor of a block; a NaN in the form that arithmetic gives.
float ScaleAt(const float* scales, int64_t block) {
  const float scale = scales ? scales[block] : 1.0f;
  return scale == scale ? scale : __builtin_nanf("");
}

#if defined(__AVX512BF16__) && defined(__AVX512VBMI__)

// For each block of scales a table of the rounded product of every magnitude: low bytes, then high
// ones, which decoding looks up.
struct E4m3Source : ElementSource<E4m3Source, uint8_t> {
  static constexpr int64_t kFewX = 8;
  const float* scales;
  int64_t num_blocks;  // of a row
  uint8_t* tables;
  E4m3Source(const WeightArgs& w, float* memory)
      : scales(w.scale), num_blocks(DivideUp(w.columns, kBlock)) {
    tables = reinterpret_cast<uint8_t*>(memory);
  }

  void EnterRows(int64_t row, int64_t c, int64_t n) {
    F32x16 magnitudes[8];
    for (int i = 0; i < 8; ++i) {
      alignas(16) uint8_t codes[16];
      for (int code = 0; code < 16; ++code) codes[code] = static_cast<uint8_t>(16 * i + code);
      magnitudes[i] = LoadE4m3(codes);
    }
    const float* of_row = scales ? scales + row / kBlock * num_blocks : nullptr;
    for (int64_t block = c / kBlock; block < DivideUp(c + n, kBlock); ++block) {
      WriteTable(magnitudes, Broadcast(ScaleAt(of_row, block)), tables + block * kTableBytes);
    }
  }
  static void WriteTable(const F32x16* magnitudes, F32x16 scale, uint8_t* table) {
    __m512i words[4];
    for (int i = 0; i < 4; ++i) {
      words[i] = (__m512i)_mm512_cvtne2ps_pbh(Mul(magnitudes[2 * i + 1], scale).v,
                                              Mul(magnitudes[2 * i], scale).v);
    }
    alignas(64) uint8_t even[64];
    for (int i = 0; i < 64; ++i) even[i] = static_cast<uint8_t>(2 * i);
    const __m512i low = _mm512_load_si512(even);
    const __m512i high = _mm512_or_si512(low, _mm512_set1_epi8(1));
    for (int i = 0; i < 2; ++i) {
      _mm512_store_si512(table + 64 * i,
                         _mm512_permutex2var_epi8(words[2 * i], low, words[2 * i + 1]));
      _mm512_store_si512(table + 128 + 64 * i,
                         _mm512_permutex2var_epi8(words[2 * i], high, words[2 * i + 1]));
    }
  }

  // Codes are put so that unpacking, which works within quarters, brings them in order.
  Run DecodeAt(const uint8_t* p, int64_t c) const {
    const uint8_t* table = tables + c / kBlock * kTableBytes;
    const __m512i codes =
        _mm512_permutexvar_epi64(_mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7), _mm512_loadu_si512(p));
    const __m512i low =
        _mm512_permutex2var_epi8(_mm512_load_si512(table), codes, _mm512_load_si512(table + 64));
    const __m512i magnitude = _mm512_permutex2var_epi8(_mm512_load_si512(table + 128), codes,
                                                       _mm512_load_si512(table + 192));
    // magnitude ^ (codes & 0x80)
    const __m512i high = _mm512_ternarylogic_epi32(magnitude, codes, _mm512_set1_epi8(-128), 0x78);
    return {{{{{_mm512_castsi512_ps(_mm512_unpacklo_epi8(low, high))}}},
             {{{_mm512_castsi512_ps(_mm512_unpackhi_epi8(low, high))}}}}};
  }
};

#else

struct E4m3Source : ElementSource<E4m3Source, uint8_t> {
  static constexpr int64_t kFewX = 4;
  const float* scales;
  const float* of_row = nullptr;
  int64_t num_blocks;
  E4m3Source(const WeightArgs& w, float*)
      : scales(w.scale), num_blocks(DivideUp(w.columns, kBlock)) {}
  void EnterRows(int64_t row, int64_t, int64_t) {
    of_row = scales ? scales + row / kBlock * num_blocks : nullptr;
  }
  Run DecodeAt(const uint8_t* p, int64_t c) const {
    const F32x16 scale = Broadcast(ScaleAt(of_row, c / kBlock));
    const auto at = [&](int64_t first) { return Mul(LoadE4m3(p + first), scale); };
    return {{PackNumbers(at(0), at(16)), PackNumbers(at(32), at(48))}};
  }
};

#endif

// Codes of groups: their row, and that of their scales.
struct CodeRow {
  const uint8_t* codes;
  const uint16_t* scales;
};

// The scales of a run's two groups, by one load.
struct RunScales {
  F32x16 first, second;
  explicit RunScales(const uint16_t* scales) {
    int32_t both;
    memcpy(&both, scales, sizeof(both));
    const I32x16 all = BroadcastInt(both);
    first = Float(ShiftLeft<16>(all));
    second = Float(And(all, BroadcastInt(static_cast<int32_t>(0xffff0000u))));
  }
  // Those of the last run, of n weights: where it has one group only, there is no second scale.
  RunScales(const uint16_t* scales, int64_t n)
      : first(BroadcastBf16(scales)), second(n > kCodeGroup ? BroadcastBf16(scales + 1) : Zero()) {}
};

struct Int8Source {
  using Row = CodeRow;
  static constexpr int64_t kFewX = 8;
  explicit Int8Source(const WeightArgs&, float*) {}
  void EnterRows(int64_t, int64_t, int64_t) {}
  static Row RowOf(const WeightArgs& w, int64_t row) {
    return {static_cast<const uint8_t*>(w.data) + row * w.columns,
            w.group_scale + row * NumCodeGroups(w.columns)};
  }
  static inline __attribute__((always_inline)) void PrefetchBehind(const Row& row, int64_t rows,
                                                                   int64_t columns, int64_t c) {
    Prefetch(row.codes + rows * columns + c);
    Prefetch(row.scales + rows * NumCodeGroups(columns) + c / kCodeGroup);
  }
  static inline __attribute__((always_inline)) void AskFor(const Row& row, int64_t c, int64_t n) {
    AskForBytes(row.codes + c, n);
    PrefetchL2(row.scales + c / kCodeGroup);
  }
  Run Decode(const Row& row, int64_t c) const {
    return Product(row.codes + c, RunScales(row.scales + c / kCodeGroup));
  }
  Run DecodeLast(const Row& row, int64_t c, int64_t n) const {
    uint8_t codes[kPackedRun] = {};
    memcpy(codes, row.codes + c, static_cast<size_t>(n));
    return Product(codes, RunScales(row.scales + c / kCodeGroup, n));
  }
  static Run Product(const uint8_t* codes, const RunScales& scale) {
    const int8_t* p = reinterpret_cast<const int8_t*>(codes);
    return {
        {Pack(Mul(LoadI8AsFloat(p), scale.first), Mul(LoadI8AsFloat(p + 16), scale.first)),
         Pack(Mul(LoadI8AsFloat(p + 32), scale.second), Mul(LoadI8AsFloat(p + 48), scale.second))}};
  }
};

struct Int4Source {
  using Row = CodeRow;
  static constexpr int64_t kFewX = 8;
  explicit Int4Source(const WeightArgs&, float*) {}
  void EnterRows(int64_t, int64_t, int64_t) {}
  static Row RowOf(const WeightArgs& w, int64_t row) {
    return {static_cast<const uint8_t*>(w.data) + row * Int4RowBytes(w.columns),
            w.group_scale + row * NumCodeGroups(w.columns)};
  }
  static inline __attribute__((always_inline)) void PrefetchBehind(const Row& row, int64_t rows,
                                                                   int64_t columns, int64_t c) {
    Prefetch(row.codes + rows * Int4RowBytes(columns) + c / 2);
    Prefetch(row.scales + rows * NumCodeGroups(columns) + c / kCodeGroup);
  }
  static inline __attribute__((always_inline)) void AskFor(const Row& row, int64_t c, int64_t n) {
    AskForBytes(row.codes + c / 2, n / 2);
    PrefetchL2(row.scales + c / kCodeGroup);
  }
  Run Decode(const Row& row, int64_t c) const {
    return Product(row.codes + c / 2, RunScales(row.scales + c / kCodeGroup));
  }
  // Whatever the codes are that fill up a row, they count as zeros.
  Run DecodeLast(const Row& row, int64_t c, int64_t n) const {
    uint8_t codes[kInt4Run / 2];
    for (int64_t i = 0; i < kInt4Run / 2; ++i) {
      const int byte = row.codes[c / 2 + i];
      const int low = i < n ? byte & 15 : 8;
      const int high = kCodeGroup + i < n ? byte >> 4 : 8;
      codes[i] = static_cast<uint8_t>(low | high << 4);
    }
    return Product(codes, RunScales(row.scales + c / kCodeGroup, n));
  }
#if defined(__AVX512BF16__)
  // The rounded products of all sixteen codes by either scale are a register, which codes look up.
  static Run Product(const uint8_t* codes, const RunScales& scale) {
    const F32x16 all = {_mm512_setr_ps(-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7)};
    const __m512i table =
        (__m512i)_mm512_cvtne2ps_pbh(Mul(all, scale.second).v, Mul(all, scale.first).v);
    const __m512i both = _mm512_cvtepu8_epi16(Load32Bytes(codes));
    const __m512i low = _mm512_and_si512(both, _mm512_set1_epi16(15));
    const __m512i high = _mm512_or_si512(_mm512_srli_epi16(both, 4), _mm512_set1_epi16(16));
    return {{{{{_mm512_castsi512_ps(_mm512_permutexvar_epi16(low, table))}}},
             {{{_mm512_castsi512_ps(_mm512_permutexvar_epi16(high, table))}}}}};
  }
#else
  static Run Product(const uint8_t* codes, const RunScales& scale) {
    const I32x16 both[2] = {LoadU8(codes), LoadU8(codes + 16)};
    const auto times = [](I32x16 code, F32x16 factor) {
      return Mul(ToFloat(SubInt(code, BroadcastInt(8))), factor);
    };
    const I32x16 low = BroadcastInt(15);
    return {{Pack(times(And(both[0], low), scale.first), times(And(both[1], low), scale.first)),
             Pack(times(ShiftRight<4>(both[0]), scale.second),
                  times(ShiftRight<4>(both[1]), scale.second))}};
  }
#endif
};

// The run from `column` on of row `p` of a transposed product, p ascending; zeros past its last row
// and its last column.
template <typename Source>
inline __attribute__((always_inline)) Run DecodeRowOf(const TransposedArgs& args, Source& source,
                                                      int64_t p, int64_t column) {
  if (p >= args.num_rows) return Run{{Pack(Zero(), Zero()), Pack(Zero(), Zero())}};
  const int64_t row = args.first_row + p;
  if (p == 0 || row % kBlock == 0) source.EnterRows(row, 0, args.weight.columns);
  const typename Source::Row from = Source::RowOf(args.weight, row);
  Source::PrefetchBehind(from, 0, args.weight.columns, column + kPackedRun);
  const int64_t left = args.last_column - column;
  return left >= kPackedRun ? source.Decode(from, column) : source.DecodeLast(from, column, left);
}

// Calls action.template Run<Source>() for the source of a type.
template <typename Action>
void WithSource(DType type, const Action& action) {
  switch (type) {
    case DType::kF32:
      return action.template Run<F32Source>();
    case DType::kBF16:
      return action.template Run<Bf16Source>();
    case DType::kF16:
      return action.template Run<F16Source>();
    case DType::kI8:
      return action.template Run<Int8Source>();
    case DType::kU8:
      return action.template Run<Int4Source>();
    default:
      return action.template Run<E4m3Source>();
  }
}

}  // namespace
}  // namespace winnow::cpu::WINNOW_LEVEL
