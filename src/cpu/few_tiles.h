// run_panel on AMX for up to sixteen rows of x. Included by tile_linear_kernels.cc only.
//
// Reading the weight is what it costs, so everything else keeps up with memory. A unit of sixteen
// rows and 256 columns is decoded row by row, as the processor's own prefetching likes it, and the
// unit before is multiplied meanwhile, a step after every second row. So a unit lies between a
// store and the load of its tile: tiles wait until what they read has left the store buffer.
#pragma once

#include "cpu/bf16_sources.h"
#include "cpu/tile_panels.h"

namespace winnow::cpu::WINNOW_LEVEL {
namespace {

template <typename Source>
class FewProduct {
 public:
  explicit FewProduct(const PanelArgs& args)
      : args_(args),
        columns_(args.weight.columns),
        source_(args.weight, args.scratch + LargePanels::kFloats + kWaitingFloats) {}

  void Make() {
    const TileScope tiles(Shapes(args_.num_x));
    const int64_t last = args_.first_row + args_.num_rows;
    for (int64_t row = args_.first_row; row < last;) {
      const int64_t block_end = Min(last, (row / kBlock + 1) * kBlock);
      source_.EnterRows(row, 0, columns_);
      while (row < block_end) {
        const int64_t num_rows = Min(kTileSide, block_end - row);
        MeetRows(row, num_rows);
        row += num_rows;
      }
    }
    for (int step = 0; step < before_.steps; ++step) Multiply(step);
    StoreSums();
  }

 private:
  static constexpr int64_t kRuns = 4;  // of a unit
  static constexpr int64_t kUnitColumns = kRuns * kPackedRun;
  static constexpr int64_t kUnitFloats = kUnitColumns / kStep * kTileWords;

  // Memory is asked for the next unit, or where rows are short, so that the processor sees one
  // stream, for rows so far below.
  static constexpr int64_t kNarrow = 2 * kUnitColumns;
  static constexpr int64_t kRowsAhead = 4;

  // Tiles.
  static constexpr int kSum = 0;
  static constexpr int kRowsOfWeight = 1;
  static constexpr int kRowsOfX = 2;
  static TileShapes Shapes(int64_t num_x) {
    TileShapes shapes;
    shapes.Set(kSum, kTileSide, num_x);
    shapes.Set(kRowsOfWeight, kTileSide, kTileSide);
    shapes.Set(kRowsOfX, kTileSide, num_x);
    return shapes;
  }

  // The unit that is multiplied.
  struct Unit {
    int64_t row = 0;
    int64_t num_rows = 0;
    int64_t column = 0;
    int64_t steps = 0;
  };

  void MeetRows(int64_t row, int64_t num_rows) {
    typename Source::Row rows[kTileSide];
    for (int64_t r = 0; r < kTileSide; ++r) {
      rows[r] = Source::RowOf(args_.weight, row + Min(r, num_rows - 1));
    }
    for (int64_t c = 0; c < columns_; c += kUnitColumns) {
      const int64_t columns = columns_ - c;
      columns >= kUnitColumns ? Meet<true>(rows, c) : Meet<false>(rows, c);
      if (c == 0) {
        if (before_.num_rows > 0) StoreSums();
        ZeroTile<kSum>();
      }
      before_ = {row, num_rows, c, DivideUp(Min(columns, kUnitColumns), kStep)};
      slot_ ^= 1;
    }
  }

  // Decodes a unit from column c on, and multiplies the one before.
  template <bool kWhole>
  inline __attribute__((always_inline)) void Meet(const typename Source::Row* rows, int64_t c) {
    const Source source = source_;  // in registers: a store might be to anything else
    const int64_t columns = columns_;
    const bool narrow = columns <= kNarrow;
    const bool more = c + kUnitColumns < columns;
    const int64_t rows_ahead = narrow ? kRowsAhead : more ? 0 : kTileSide;
    const int64_t column_ahead = narrow ? c : more ? c + kUnitColumns : 0;
    float* to = args_.scratch + slot_ * kUnitFloats;
    for (int r = 0; r < kTileSide; ++r, to += kLanes) {
      const typename Source::Row row = rows[r];
      for (int64_t run = 0; run < kRuns; ++run) {
        const int64_t at = run * kPackedRun;
        const int64_t left = columns - c - at;
        if (!kWhole && left <= 0) break;
        Source::PrefetchBehind(row, rows_ahead, columns, column_ahead + at);
        const Run decoded = kWhole || left >= kPackedRun ? source.Decode(row, c + at)
                                                         : source.DecodeLast(row, c + at, left);
        Store(to + 2 * run * kTileWords, decoded.part(0));
        Store(to + (2 * run + 1) * kTileWords, decoded.part(1));
      }
      if (r % 2 == 1 && r / 2 < before_.steps) Multiply(r / 2);
    }
  }

  inline __attribute__((always_inline)) void Multiply(int64_t step) {
    const int64_t num_x = args_.num_x;
    LoadTile<kRowsOfX>(args_.x + (before_.column / kStep + step) * kLanes * num_x, num_x * 4);
    LoadTile<kRowsOfWeight>(args_.scratch + (slot_ ^ 1) * kUnitFloats + step * kTileWords,
                            kStepBytes);
    AddBf16Tiles<kSum, kRowsOfWeight, kRowsOfX>();
  }

  void StoreSums() {
    const int64_t num_x = args_.num_x;
    const int64_t num_rows = before_.num_rows;
    float* out = args_.out + (before_.row - args_.first_row);
    if (num_x == 1 && num_rows == kTileSide) return StoreTile<kSum>(out, 4);
    alignas(64) float sums[kTileWords];
    StoreTile<kSum>(sums, kTileSide * 4);
    for (int64_t m = 0; m < num_x; m += 4) {
      F32x16 of_x[4];
      TransposeQuarter(sums, kTileSide, m / 4, of_x);
      for (int64_t i = 0; i < Min(4, num_x - m); ++i) {
        StorePartial(out + (m + i) * args_.out_stride, of_x[i], num_rows);
      }
    }
  }

  const PanelArgs& args_;
  int64_t columns_;
  Source source_;
  Unit before_;
  int64_t slot_ = 0;  // that is decoded into; the other is multiplied
};

}  // namespace
}  // namespace winnow::cpu::WINNOW_LEVEL
