// run_panel on AMX. Included by tile_linear_kernels.cc only.
//
// The weight is decoded by panels of up to 32 rows and 512 columns, [groups, steps, 16 rows, 32
// columns]: as A of products they lie in L1, while x, which is B, passes from L2. Two groups of a
// panel by two of x are four sums [16 weight rows, 16 x rows] in tiles, which wait in scratch
// between two panels of the same rows.
//
// A product takes 16 cycles and leaves most of the processor free, but not for long: only what
// stands right beside it runs with it. So the rest is done a little at each step: decoding the
// columns to be multiplied next, asking memory for a panel to come, and turning sums that are done
// into rows of out.
#pragma once

#include "cpu/bf16_sources.h"
#include "cpu/panel_bias.h"
#include "cpu/tiles.h"

namespace winnow::cpu::WINNOW_LEVEL {
namespace {

constexpr int64_t kStep = 32;  // columns of a tile of A
constexpr int64_t kStepBytes = kStep * 2;
constexpr int64_t kRunSteps = kPackedRun / kStep;

// Groups of sixteen rows of a panel, its columns at most, and how many panels ahead memory is asked
// for the weight.
template <int kGroupsOf, int64_t kColumnsOf, int kPanelsAhead>
struct PanelShape {
  static constexpr int kGroups = kGroupsOf;
  static constexpr int64_t kColumns = kColumnsOf;
  static constexpr int kAhead = kPanelsAhead;
  static constexpr int64_t kRows = kGroups * kTileSide;
  static constexpr int64_t kGroupFloats = kColumns / kStep * kTileWords;
  static constexpr int64_t kFloats = kGroups * kGroupFloats;
};
// Many rows of x: panels as large as L1 allows, so that sums wait rarely. Fewer: the less of L1 a
// panel takes, the sooner it is decoded. Two groups of x: sums stay in their tiles. (Up to sixteen
// rows of x are for few_tiles.h.)
using LargePanels = PanelShape<2, 512, 1>;
using MediumPanels = PanelShape<2, 256, 1>;
using SmallPanels = PanelShape<1, 256, 2>;

// Rows of x in two groups, and their sums with a panel.
constexpr int64_t kPairX = 2 * kTileSide;
constexpr int64_t kPairFloats = 4 * kTileWords;
// Those that wait: of the rows of x at once with twelve panels.
constexpr int64_t kXAtOnce = 512;
constexpr int64_t kWaitingFloats = kXAtOnce / kPairX * 12 * kPairFloats;

constexpr int64_t kXBytes = 1 << 20;  // of x, for L2

// A panel, sums that wait, tables of decoded numbers.
int64_t PanelScratch(int64_t columns) {
  return LargePanels::kFloats + kWaitingFloats + DivideUp(columns, kBlock) * kTableBytes / 4;
}

int64_t Min(int64_t a, int64_t b) { return a < b ? a : b; }
int64_t PackedFloats(int64_t columns) { return DivideUp(columns, kPackedRun) * kPackedRun / 2; }
int64_t NumSteps(int64_t columns) { return DivideUp(columns, kStep); }

// Some columns of some rows of the weight, within one block of rows of scales, and the rows of x
// that they meet.
struct Panel {
  int64_t row = 0;
  int64_t num_rows = 0;
  int64_t column = 0;
  int64_t num_columns = 0;
  int64_t first_x = 0;
  int64_t num_x = 0;
  float* waiting = nullptr;  // its sums
  bool starts = false;       // sums start at zero, or wait
  bool ends = false;         // sums are done, or wait

  int64_t steps() const { return NumSteps(num_columns); }
  int64_t pairs() const { return DivideUp(num_x, kPairX); }
};

// The panels of a product one after the other. Where x fits into L2, all columns of the same rows;
// where it does not, the same columns of as many rows as sums may wait for.
template <typename Shape>
class Walk {
 public:
  explicit Walk(const PanelArgs& args) : args_(args), row_(args.first_row), block_(row_) {
    const int64_t row_bytes = PackedFloats(args.weight.columns) * int64_t{sizeof(float)};
    const int64_t fit = kXBytes / row_bytes / kPairX * kPairX;
    const bool all_columns = args.num_x <= kPairX || args.num_x <= fit || fit >= kXAtOnce / 2;
    const int64_t at_most = all_columns && fit >= kPairX ? Min(fit, kXAtOnce) : kXAtOnce;
    const int64_t parts = DivideUp(args.num_x, at_most);
    x_at_once_ = DivideUp(DivideUp(args.num_x, parts), kPairX) * kPairX;
    if (!all_columns) at_once_ = kWaitingFloats / (x_at_once_ / kPairX * kPairFloats);
  }

  bool done() const { return x_ >= args_.num_x; }
  // Whether several rows' sums wait at the same time.
  bool is_wide() const { return at_once_ > 1; }

  Panel here() const {
    Panel panel;
    panel.row = row_;
    panel.num_rows = RowAfter() - row_;
    panel.column = column_;
    panel.num_columns = Min(Shape::kColumns, args_.weight.columns - column_);
    panel.first_x = x_;
    panel.num_x = Min(x_at_once_, args_.num_x - x_);
    panel.waiting =
        args_.scratch + LargePanels::kFloats + index_ * (x_at_once_ / kPairX) * kPairFloats;
    panel.starts = column_ == 0;
    panel.ends = column_ + Shape::kColumns >= args_.weight.columns;
    return panel;
  }

  void Advance() {
    row_ = RowAfter();
    const bool more_rows = row_ < args_.first_row + args_.num_rows;
    if (++index_ < at_once_ && more_rows) return;
    index_ = 0;
    column_ += Shape::kColumns;
    if (column_ < args_.weight.columns) {
      row_ = block_;
      return;
    }
    column_ = 0;
    if (!more_rows) {
      row_ = args_.first_row;
      x_ += x_at_once_;
    }
    block_ = row_;
  }

 private:
  int64_t RowAfter() const {
    return Min(Min(row_ + Shape::kRows, (row_ / kBlock + 1) * kBlock),
               args_.first_row + args_.num_rows);
  }

  const PanelArgs& args_;
  int64_t x_at_once_ = 0;
  int64_t at_once_ = 1;  // panels of the same columns
  int64_t row_;
  int64_t block_;  // its first row
  int64_t index_ = 0;
  int64_t column_ = 0;
  int64_t x_ = 0;
};

// ---- Beside products ----------------------------------------------------------------------------

// Decodes a panel into L1, the first run of all rows, then the next: each a little before it is
// multiplied. Beyond the last row it is decoded again. Meanwhile memory is asked for a panel to
// come, in the order in which it lies there.
template <typename Source, typename Shape>
class Decoder {
 public:
  Decoder(const PanelArgs& args, float* tables, float* out)
      : weight_(args.weight), source_(args.weight, tables), ahead_(args), out_(out) {
    after_ = ahead_.here();
    Ask(kRuns);
    for (int i = 1; i < Shape::kAhead; ++i) {
      Proceed();
      Ask(kRuns);
    }
  }

  // Of the next panel.
  void Begin(const Panel& panel) {
    if (panel.row != panel_.row) {
      for (int64_t r = 0; r < Shape::kRows; ++r) {
        rows_[r] = Source::RowOf(weight_, panel.row + Min(r, panel.num_rows - 1));
      }
    }
    panel_ = panel;
    Proceed();
    if (ahead_.is_wide()) {
      source_.EnterRows(panel.row, panel.column, panel.num_columns);
    } else if (panel.row / kBlock != block_) {
      source_.EnterRows(panel.row, 0, weight_.columns);
      block_ = panel.row / kBlock;
    }
  }

  // A run of a group, if the panel has it.
  inline __attribute__((always_inline)) void Decode(int64_t run, int64_t group) {
    const int64_t left = panel_.num_columns - run * kPackedRun;
    if (left <= 0) return;
    const Source source = source_;  // in registers: a store might be to anything else
    const typename Source::Row* rows = rows_ + group * kTileSide;
    const int64_t c = panel_.column + run * kPackedRun;
    float* to = out_ + group * Shape::kGroupFloats + run * kRunSteps * kTileWords;
    if (left >= kPackedRun) {
      for (int r = 0; r < kTileSide; ++r) StoreRun(source.Decode(rows[r], c), to + r * kLanes);
    } else {
      for (int r = 0; r < kTileSide; ++r) {
        StoreRun(source.DecodeLast(rows[r], c, left), to + r * kLanes);
      }
    }
  }

  // Asks for the next `count` runs of the panel to come, by whole rows.
  inline __attribute__((always_inline)) void Ask(int64_t count) {
    for (owed_ += count; owed_ >= kRunsInRow; owed_ -= kRunsInRow) {
      if (asked_ >= after_.num_rows) continue;
      Source::AskFor(Source::RowOf(weight_, after_.row + asked_++), after_.column,
                     after_.num_columns);
    }
  }

  static constexpr int64_t kRunsInRow = Shape::kColumns / kPackedRun;
  static constexpr int64_t kRuns = Shape::kRows * kRunsInRow;

 private:
  static inline __attribute__((always_inline)) void StoreRun(const Run& run, float* to) {
    Store(to, run.part(0));
    Store(to + kTileWords, run.part(1));
  }
  void Proceed() {
    if (!ahead_.done()) ahead_.Advance();
    if (!ahead_.done()) after_ = ahead_.here();
    asked_ = 0;
  }

  const WeightArgs& weight_;
  Source source_;
  int64_t block_ = -1;  // of scales
  Panel panel_ = {.row = -1};
  typename Source::Row rows_[Shape::kRows];
  Walk<Shape> ahead_;
  Panel after_;
  float* out_;
  int64_t asked_ = 0;  // rows
  int64_t owed_ = 0;   // runs
};

// The sums of a pair on their way to out: a quarter of one at a time.
template <int kGroups>
class SumsToStore {
 public:
  void Begin(const float* sums, int64_t num_rows, int64_t num_x, float* out, int64_t out_stride) {
    Finish();
    sums_ = sums;
    num_rows_ = num_rows;
    num_x_ = num_x;
    out_ = out;
    out_stride_ = out_stride;
    next_ = 0;
    end_ = 4 * kGroups * DivideUp(num_x, kTileSide);
  }
  inline __attribute__((always_inline)) void Quarter() {
    if (next_ == end_) return;
    const int64_t first_x = next_ / kGroups * 4;  // those of a row lie next to each other
    const int64_t group = next_ % kGroups;
    ++next_;
    const float* sum = sums_ + (first_x / kTileSide * 2 + group) * kTileWords;
    F32x16 rows[4];
    TransposeQuarter(sum, kTileSide, first_x % kTileSide / 4, rows);
    const int64_t n = Min(num_rows_ - group * kTileSide, kTileSide);
    if (n <= 0) return;
    for (int64_t i = 0; i < 4 && first_x + i < num_x_; ++i) {
      StorePartial(out_ + (first_x + i) * out_stride_ + group * kTileSide, rows[i], n);
    }
  }
  void Finish() {
    while (next_ < end_) Quarter();
  }

 private:
  const float* sums_ = nullptr;
  int64_t num_rows_ = 0;
  int64_t num_x_ = 0;
  float* out_ = nullptr;
  int64_t out_stride_ = 0;
  int64_t next_ = 0;
  int64_t end_ = 0;
};

// ---- Products -----------------------------------------------------------------------------------

// Tiles: sums [groups of x, groups of the panel]; the groups of the panel; those of x.
constexpr int kSums = 0;
constexpr int kWeights = 4;
constexpr int kXTiles = 6;

// For a pair of groups of so many rows of x.
TileShapes PairShapes(int64_t num_x) {
  TileShapes shapes;
  for (int group = 0; group < 2; ++group) {
    const int64_t rows = Min(kTileSide, num_x - group * kTileSide);
    if (rows <= 0) continue;
    shapes.Set(kSums + 2 * group, kTileSide, rows);
    shapes.Set(kSums + 2 * group + 1, kTileSide, rows);
    shapes.Set(kWeights + group, kTileSide, kTileSide);
    shapes.Set(kXTiles + group, kTileSide, rows);
  }
  shapes.Set(kWeights + 1, kTileSide, kTileSide);
  return shapes;
}

// A group of x: where its tiles lie.
struct XGroup {
  const float* tiles;
  int64_t rows;
};

// Sums of kX groups of x with kGroups of a panel: from zero, or as they waited.
template <int kGroups, int kX>
inline __attribute__((always_inline)) void BeginSums(const float* waiting, bool starts) {
  if (starts) {
    ZeroTile<kSums>();
    if constexpr (kGroups > 1) ZeroTile<kSums + 1>();
    if constexpr (kX > 1) ZeroTile<kSums + 2>();
    if constexpr (kX > 1 && kGroups > 1) ZeroTile<kSums + 3>();
    return;
  }
  LoadTile<kSums>(waiting, kTileSide * 4);
  if constexpr (kGroups > 1) LoadTile<kSums + 1>(waiting + kTileWords, kTileSide * 4);
  if constexpr (kX > 1) LoadTile<kSums + 2>(waiting + 2 * kTileWords, kTileSide * 4);
  if constexpr (kX > 1 && kGroups > 1) LoadTile<kSums + 3>(waiting + 3 * kTileWords, kTileSide * 4);
}
template <int kGroups, int kX>
inline __attribute__((always_inline)) void EndSums(float* waiting) {
  StoreTile<kSums>(waiting, kTileSide * 4);
  if constexpr (kGroups > 1) StoreTile<kSums + 1>(waiting + kTileWords, kTileSide * 4);
  if constexpr (kX > 1) StoreTile<kSums + 2>(waiting + 2 * kTileWords, kTileSide * 4);
  if constexpr (kX > 1 && kGroups > 1)
    StoreTile<kSums + 3>(waiting + 3 * kTileWords, kTileSide * 4);
}

// By many rows of x the panel is to stay in L1; a few stay there themselves.
template <typename Shape, int kTile>
inline __attribute__((always_inline)) void LoadX(const XGroup& x, int64_t step) {
  const float* tile = x.tiles + step * x.rows * kLanes;
  if constexpr (Shape::kGroups > 1) {
    LoadTileOnce<kTile>(tile, x.rows * 4);
  } else {
    LoadTile<kTile>(tile, x.rows * 4);
  }
}

// The steps of a panel by kX groups of x, with `beside` at each.
template <typename Shape, int kX, typename Beside>
inline __attribute__((always_inline)) void AddSteps(const float* weights, const XGroup* x,
                                                    int64_t steps, const Beside& beside) {
  for (int64_t step = 0; step < steps; ++step, weights += kTileWords) {
    LoadTile<kWeights>(weights, kStepBytes);
    LoadX<Shape, kXTiles>(x[0], step);
    AddBf16Tiles<kSums, kWeights, kXTiles>();
    if constexpr (Shape::kGroups > 1) {
      LoadTile<kWeights + 1>(weights + Shape::kGroupFloats, kStepBytes);
      AddBf16Tiles<kSums + 1, kWeights + 1, kXTiles>();
    }
    beside(step);
    if constexpr (kX > 1) {
      LoadX<Shape, kXTiles + 1>(x[1], step);
      AddBf16Tiles<kSums + 2, kWeights, kXTiles + 1>();
      if constexpr (Shape::kGroups > 1) AddBf16Tiles<kSums + 3, kWeights + 1, kXTiles + 1>();
    }
  }
}

template <typename Source, typename Shape>
class TileProduct {
 public:
  explicit TileProduct(const PanelArgs& args)
      : args_(args),
        walk_(args),
        sums_stay_(args.num_x <= kPairX),
        decoder_(args, args.scratch + LargePanels::kFloats + kWaitingFloats, args.scratch) {}

  void Run() {
    shaped_for_ = Min(args_.num_x, kPairX);
    const TileScope tiles(PairShapes(shaped_for_));
    for (; !walk_.done(); walk_.Advance()) {
      const Panel panel = walk_.here();
      decoder_.Begin(panel);
      Meet(panel);
    }
    to_store_.Finish();
  }

 private:
  void Meet(const Panel& panel) {
    for (int group = 0; group < Shape::kGroups; ++group) decoder_.Decode(0, group);
    for (int64_t pair = 0; pair < panel.pairs(); ++pair) {
      const int64_t num_x = Min(kPairX, panel.num_x - pair * kPairX);
      if (num_x != shaped_for_) {
        UseShapes(PairShapes(num_x));
        shaped_for_ = num_x;
      }
      num_x > kTileSide ? MeetPair<2>(panel, pair, num_x) : MeetPair<1>(panel, pair, num_x);
    }
  }

  template <int kX>
  void MeetPair(const Panel& panel, int64_t pair, int64_t num_x) {
    const int64_t m = panel.first_x + pair * kPairX;
    XGroup x[kX];
    for (int64_t group = 0; group < kX; ++group) {
      const int64_t first = group * kTileSide;
      const int64_t rows = Min(kTileSide, num_x - first);
      x[group] = {args_.x + (m + first) * args_.x_stride + PackedFloats(panel.column) * rows, rows};
    }
    float* waiting = panel.waiting + pair * kPairFloats;
    if (panel.starts || !sums_stay_) BeginSums<Shape::kGroups, kX>(waiting, panel.starts);
    const int64_t asked_a_step = DivideUp(decoder_.kRuns, panel.pairs() * panel.steps());
    const auto beside = [&](int64_t step) __attribute__((always_inline)) {
      // The run behind the one that is multiplied: of a step a group.
      const int64_t group = step % kRunSteps;
      if (pair == 0 && group < Shape::kGroups) decoder_.Decode(step / kRunSteps + 1, group);
      decoder_.Ask(asked_a_step);
      to_store_.Quarter();
    };
    AddSteps<Shape, kX>(args_.scratch, x, panel.steps(), beside);
    if (panel.ends) to_store_.Finish();  // it may be these that wait in the same place
    if (panel.ends || !sums_stay_) EndSums<Shape::kGroups, kX>(waiting);
    if (!panel.ends) return;
    to_store_.Begin(waiting, panel.num_rows, num_x,
                    args_.out + m * args_.out_stride + (panel.row - args_.first_row),
                    args_.out_stride);
  }

  const PanelArgs& args_;
  Walk<Shape> walk_;
  bool sums_stay_;  // in their tiles from the first column to the last
  Decoder<Source, Shape> decoder_;
  SumsToStore<Shape::kGroups> to_store_;
  int64_t shaped_for_ = 0;  // so many rows of x
};

}  // namespace
}  // namespace winnow::cpu::WINNOW_LEVEL
