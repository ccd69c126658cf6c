// Products of bfloat16 numbers for one thread on AMX; bf16_linear_kernels.h says in which order
// they add. Takes the place of bf16_linear_kernels.cc at the level amx.
//
// Panels: 16 rows of the weight are A, as they are stored, decoded through L1; up to 16 rows of x,
// packed together, are B; C is [weight rows, x rows]. C gets its blocks of 32 columns one after the
// other, in one tile, so that a row of x has the same sums in any company.
// Transposed: rows of x are A, pairs of rows of the weight, interleaved, are B.
#include "cpu/bf16_linear_kernels.h"
#include "cpu/bf16_sources.h"
#include "cpu/panel_bias.h"
#include "cpu/tiles.h"

namespace winnow::cpu::WINNOW_LEVEL {
namespace {

constexpr int64_t kStep = 32;  // columns of a tile of A
constexpr int64_t kStepBytes = kStep * 2;
constexpr int64_t kRunSteps = kPackedRun / kStep;

int64_t Min(int64_t a, int64_t b) { return a < b ? a : b; }
int64_t PackedFloats(int64_t columns) { return DivideUp(columns, kPackedRun) * kPackedRun / 2; }
int64_t NumSteps(int64_t columns) { return DivideUp(columns, kStep); }

uint8_t* Bytes(float* p) { return reinterpret_cast<uint8_t*>(p); }
const uint8_t* Bytes(const float* p) { return reinterpret_cast<const uint8_t*>(p); }

// ---- Packing ------------------------------------------------------------------------------------
// Sixteen rows of x lie together, [steps, 16 pairs of columns, rows, 2]; the last rows likewise,
// however few they are.

// 32 columns from `column` on, rounded, and zeros past the last.
F32x16 RoundStep(const float* row, int64_t column, int64_t columns) {
  const auto at = [&](int64_t k) {
    const int64_t n = columns - k;
    return n >= kLanes ? Load(row + k) : n > 0 ? LoadPartial(row + k, n) : Zero();
  };
  return Pack(at(column), at(column + kLanes)).part[0];
}

void PackRow(const float* x, int64_t columns, float* packed) {
  for (int64_t c = 0; c < PackedFloats(columns) * 2; c += kStep, packed += kLanes) {
    Store(packed, RoundStep(x, c, columns));
  }
}

// At most sixteen rows.
void PackTogether(const float* const* rows, int64_t num_rows, int64_t columns, float* packed) {
  if (num_rows == 1) return PackRow(rows[0], columns, packed);
  alignas(64) float rounded[kTileWords] = {};
  for (int64_t c = 0; c < PackedFloats(columns) * 2; c += kStep) {
    for (int64_t m = 0; m < num_rows; ++m) {
      Store(rounded + m * kLanes, RoundStep(rows[m], c, columns));
    }
    F32x16 pairs[kLanes];
    TransposeWords(rounded, kLanes, pairs);
    for (int pair = 0; pair < kLanes; ++pair, packed += num_rows) {
      StorePartial(packed, pairs[pair], num_rows);
    }
  }
}

void PackRows(const PackArgs& args) {
  for (int64_t first = 0; first < args.num_x; first += kTileSide) {
    const int64_t num_rows = Min(kTileSide, args.num_x - first);
    const float* rows[kTileSide];
    for (int64_t m = 0; m < num_rows; ++m) {
      const int64_t row = args.x_rows ? args.x_rows[first + m] : first + m;
      rows[m] = args.x + row * args.x_stride;
    }
    PackTogether(
        rows, num_rows, args.num_columns,
        args.packed + first * args.packed_stride + PackedFloats(args.first_column) * num_rows);
  }
}

// ---- Panels -------------------------------------------------------------------------------------

// A panel is decoded into scratch, [groups of sixteen rows, steps, 16, 32], so many columns at a
// time, and meets so many rows of x before the next; sums wait in scratch meanwhile.
constexpr int64_t kPanelGroups = 2;
constexpr int64_t kMaxColumns = 512;
constexpr int64_t kXAtOnce = 512;
constexpr int64_t kPanelBytes = kPanelGroups * kTileSide * kMaxColumns * 2;
// All columns where they fit; of more, as many as leave the first-level cache to x.
int64_t ColumnsAtOnce(int64_t columns) { return columns <= kMaxColumns ? kMaxColumns : 256; }
static_assert(kPanelBytes <= kBf16PanelScratch * int64_t{sizeof(float)});
static_assert(kXAtOnce * kBlock <= kWaitingX * kWaitingRows * kLanes);

// Tiles: sums of two groups of weight rows with whole groups of x, and with its last rows if those
// are less; two of weights; x likewise.
constexpr int kSums = 0;
constexpr int kLastSums = 2;
constexpr int kWeights = 4;
constexpr int kX = 6;
constexpr int kLastX = 7;

TileShapes PanelShapes(int64_t num_x) {
  TileShapes shapes;
  for (int group = 0; group < 2; ++group) {
    shapes.Set(kSums + group, kTileSide, kTileSide);
    shapes.Set(kLastSums + group, kTileSide, num_x % kTileSide);
    shapes.Set(kWeights + group, kTileSide, kTileSide);
  }
  shapes.Set(kX, kTileSide, kTileSide);
  shapes.Set(kLastX, kTileSide, num_x % kTileSide);
  return shapes;
}

// Some columns of some rows of the weight.
struct Panel {
  int64_t first_row = 0;
  int64_t num_rows = 0;  // at most those of kPanelGroups
  int64_t first = 0;     // column
  int64_t columns = 0;
  bool starts = false;  // sums start at zero, or wait
  bool ends = false;    // sums are done, or wait

  int64_t groups() const { return DivideUp(num_rows, kTileSide); }
  int64_t steps() const { return NumSteps(columns); }
};

// Beyond the last row it is decoded again.
template <typename Source>
inline __attribute__((always_inline)) void DecodePanel(const WeightArgs& weight,
                                                       const Source& source, const Panel& panel,
                                                       uint8_t* out) {
  const int64_t group_bytes = DivideUp(panel.columns, kPackedRun) * kRunSteps * kTileBytes;
  const int64_t last = panel.first + panel.columns;
  for (int64_t r = 0; r < panel.groups() * kTileSide; ++r) {
    const typename Source::Row from =
        Source::RowOf(weight, panel.first_row + Min(r, panel.num_rows - 1));
    uint8_t* to = out + r / kTileSide * group_bytes + r % kTileSide * kStepBytes;
    for (int64_t c = panel.first; c < last; c += kPackedRun, to += kRunSteps * kTileBytes) {
      const Run run =
          last - c >= kPackedRun ? source.Decode(from, c) : source.DecodeLast(from, c, last - c);
      Store(reinterpret_cast<float*>(to), run.part(0));
      Store(reinterpret_cast<float*>(to + kTileBytes), run.part(1));
    }
  }
}

// Adds the steps of kGroups groups of weight rows by `num_x` rows of x to sums.
template <int kSum, int kXTile, int kGroups>
inline __attribute__((always_inline)) void AddSteps(const uint8_t* weights, int64_t group_bytes,
                                                    const uint8_t* x, int64_t num_x,
                                                    int64_t steps) {
  for (int64_t step = 0; step < steps; ++step) {
    LoadTile<kXTile>(x + step * num_x * kStepBytes, num_x * 4);
    LoadTile<kWeights>(weights + step * kTileBytes, kStepBytes);
    AddBf16Tiles<kSum, kWeights, kXTile>();
    if constexpr (kGroups > 1) {
      LoadTile<kWeights + 1>(weights + group_bytes + step * kTileBytes, kStepBytes);
      AddBf16Tiles<kSum + 1, kWeights + 1, kXTile>();
    }
  }
}

// A tile of sums [16 weight rows, num_x], stored with rows of sixteen, to out.
void StoreSums(const float* sums, int64_t num_rows, int64_t num_x, float* out, int64_t out_stride) {
  F32x16 rows[kTileSide];
  TransposeWords(sums, kTileSide, rows);
  if (num_rows == kTileSide && num_x == kTileSide) {
    for (int m = 0; m < kTileSide; ++m) Store(out + m * out_stride, rows[m]);
    return;
  }
  for (int64_t m = 0; m < num_x; ++m) StorePartial(out + m * out_stride, rows[m], num_rows);
}

// A panel by one group of x. `waiting` holds its sums between panels, `out` is that of the group.
template <int kSum, int kXTile, int kGroups>
inline __attribute__((always_inline)) void MeetGroup(const Panel& panel, const uint8_t* weights,
                                                     const uint8_t* x, int64_t num_x,
                                                     float* waiting, float* out,
                                                     int64_t out_stride) {
  const int64_t group_bytes = DivideUp(panel.columns, kPackedRun) * kRunSteps * kTileBytes;
  if (panel.starts) {
    ZeroTile<kSum>();
    if constexpr (kGroups > 1) ZeroTile<kSum + 1>();
  } else {
    LoadTile<kSum>(waiting, kTileSide * 4);
    if constexpr (kGroups > 1) LoadTile<kSum + 1>(waiting + kTileWords, kTileSide * 4);
  }
  AddSteps<kSum, kXTile, kGroups>(weights, group_bytes, x, num_x, panel.steps());
  StoreTile<kSum>(waiting, kTileSide * 4);
  if constexpr (kGroups > 1) StoreTile<kSum + 1>(waiting + kTileWords, kTileSide * 4);
  if (!panel.ends) return;
  for (int64_t group = 0; group < kGroups; ++group) {
    StoreSums(waiting + group * kTileWords, Min(kTileSide, panel.num_rows - group * kTileSide),
              num_x, out + group * kTileSide, out_stride);
  }
}

// Rows [first_x, last_x) of x.
template <int kGroups>
void MeetX(const PanelArgs& args, const Panel& panel, const uint8_t* weights, int64_t first_x,
           int64_t last_x, float* waiting) {
  float* out = args.out + (panel.first_row - args.first_row);
  for (int64_t m = first_x; m < last_x; m += kTileSide) {
    const int64_t num_x = Min(kTileSide, last_x - m);
    const float* x = args.x + m * args.x_stride + PackedFloats(panel.first) * num_x;
    if (num_x == kTileSide) {
      MeetGroup<kSums, kX, kGroups>(panel, weights, Bytes(x), kTileSide, waiting,
                                    out + m * args.out_stride, args.out_stride);
    } else {
      MeetGroup<kLastSums, kLastX, kGroups>(panel, weights, Bytes(x), num_x, waiting,
                                            out + m * args.out_stride, args.out_stride);
    }
    if (!(panel.starts && panel.ends)) waiting += kGroups * kTileWords;
  }
}

// Rows [first_row, last_row) of the weight, at most kBlock, by all rows of x.
template <typename Source>
void ManyRows(const PanelArgs& args, const Source& source, int64_t first_row, int64_t last_row) {
  constexpr int64_t kPanelRows = kPanelGroups * kTileSide;
  uint8_t* weights = Bytes(args.scratch);
  const int64_t columns = args.weight.columns;
  const int64_t at_once = ColumnsAtOnce(columns);
  for (int64_t m = 0; m < args.num_x; m += kXAtOnce) {
    const int64_t last_x = Min(args.num_x, m + kXAtOnce);
    for (int64_t c = 0; c < columns; c += at_once) {
      const int64_t end = Min(columns, c + at_once);
      float* waiting = args.scratch + kBf16PanelScratch;
      for (int64_t row = first_row; row < last_row; row += kPanelRows) {
        const Panel panel = {row,           Min(kPanelRows, last_row - row), c, end - c, c == 0,
                             end == columns};
        DecodePanel(args.weight, source, panel, weights);
        panel.groups() == 2 ? MeetX<2>(args, panel, weights, m, last_x, waiting)
                            : MeetX<1>(args, panel, weights, m, last_x, waiting);
        waiting += kPanelRows * kXAtOnce;
      }
    }
  }
}

// At most sixteen rows of x: reading and decoding the weight is what it costs. Sums stay in a tile
// while a few columns at a time are decoded, beside the products of those before.
template <typename Source, int kSum, int kXTile>
void FewRows(const PanelArgs& args, const Source& source, int64_t first_row, int64_t last_row) {
  alignas(64) float sums[kTileWords] = {};
  const int64_t columns = args.weight.columns;
  const int64_t num_x = args.num_x;
  for (int64_t row = first_row; row < last_row; row += kTileSide) {
    const int64_t num_rows = Min(kTileSide, last_row - row);
    typename Source::Row rows[kTileSide];
    for (int64_t r = 0; r < kTileSide; ++r) {
      rows[r] = Source::RowOf(args.weight, row + Min(r, num_rows - 1));
    }
    ZeroTile<kSum>();
    for (int64_t c = 0; c < columns; c += kPackedRun) {
      uint8_t* weights = Bytes(args.scratch) + c / kPackedRun % 4 * kRunSteps * kTileBytes;
      const int64_t n = columns - c;
      for (int64_t r = 0; r < kTileSide; ++r) {
        Source::PrefetchBehind(rows[r], kTileSide, columns, c);  // the rows of the next group
        const Run run =
            n >= kPackedRun ? source.Decode(rows[r], c) : source.DecodeLast(rows[r], c, n);
        Store(reinterpret_cast<float*>(weights + r * kStepBytes), run.part(0));
        Store(reinterpret_cast<float*>(weights + kTileBytes + r * kStepBytes), run.part(1));
      }
      AddSteps<kSum, kXTile, 1>(weights, 0, Bytes(args.x + PackedFloats(c) * num_x), num_x,
                                Min(kRunSteps, NumSteps(n)));
    }
    StoreTile<kSum>(sums, kTileSide * 4);
    StoreSums(sums, num_rows, num_x, args.out + (row - args.first_row), args.out_stride);
  }
}

struct PanelProduct {
  const PanelArgs& args;
  template <typename Source>
  void Run() const {
    Source source(args.weight,
                  args.scratch + kBf16PanelScratch + kWaitingX * kWaitingRows * kLanes);
    const TileScope tiles(PanelShapes(args.num_x));
    const int64_t last = args.first_row + args.num_rows;
    for (int64_t row = args.first_row; row < last;) {
      const int64_t end = Min(last, (row / kBlock + 1) * kBlock);
      source.EnterRows(row);
      if (args.num_x < kTileSide) {
        FewRows<Source, kLastSums, kLastX>(args, source, row, end);
      } else if (args.num_x == kTileSide) {
        FewRows<Source, kSums, kX>(args, source, row, end);
      } else {
        ManyRows(args, source, row, end);
      }
      row = end;
    }
    AddBias(args);
  }
};

void RunPanel(const PanelArgs& args) {
  if (args.num_x <= 0 || args.num_rows <= 0) return;
  WithSource(args.weight.type, PanelProduct{args});
}

// ---- Transposed ---------------------------------------------------------------------------------

constexpr int64_t kGroups = kPackedRun / kLanes;   // of sixteen columns, in a run
constexpr int64_t kPairFloats = kGroups * kLanes;  // of two rows of a run

// Tiles: sums of the groups of columns with sixteen rows of x; sums of one group with the last
// ones; x likewise; the weight.
constexpr int kGroupSums = 0;
constexpr int kOneSum = 4;
constexpr int kRowsOfX = 5;
constexpr int kLastRows = 6;
constexpr int kPairs = 7;

TileShapes TransposedShapes(int64_t num_x) {
  TileShapes shapes;
  for (int group = 0; group < kGroups; ++group) {
    shapes.Set(kGroupSums + group, kTileSide, kTileSide);
  }
  shapes.Set(kOneSum, num_x % kTileSide, kTileSide);
  shapes.Set(kRowsOfX, kTileSide, kTileSide);
  shapes.Set(kLastRows, num_x % kTileSide, kTileSide);
  shapes.Set(kPairs, kTileSide, kTileSide);
  return shapes;
}

// Columns of a run from `column` on for all pairs of rows, and zeros up to whole steps of them:
// [pairs, 4, 16].
template <typename Source>
void DecodeRun(const TransposedArgs& args, Source& source, int64_t column, float* panel) {
  const int64_t n = Min(kPackedRun, args.last_column - column);
  const auto decode = [&](int64_t p) {
    if (p >= args.num_rows) return Run{{Pack(Zero(), Zero()), Pack(Zero(), Zero())}};
    const int64_t row = args.first_row + p;
    if (p == 0 || row % kBlock == 0) source.EnterRows(row);
    const typename Source::Row from = Source::RowOf(args.weight, row);
    Source::PrefetchBehind(from, 0, args.weight.columns, column + kPackedRun);
    return n == kPackedRun ? source.Decode(from, column) : source.DecodeLast(from, column, n);
  };
  for (int64_t p = 0; p < NumSteps(args.num_rows) * kStep; p += 2, panel += kPairFloats) {
    const Run even = decode(p);
    const Run odd = decode(p + 1);
    for (int half = 0; half < 2; ++half) {
      Pairs both[2];
      InterleaveRows(even.half[half], odd.half[half], both);
      Store(panel + 2 * half * kLanes, both[0].part[0]);
      Store(panel + (2 * half + 1) * kLanes, both[1].part[0]);
    }
  }
}

// Tile kSum [rows of x, 16 columns] to out; columns that are none are left out.
template <int kSum>
inline __attribute__((always_inline)) void StoreTransposed(const TransposedArgs& args, int64_t m,
                                                           int64_t num_x, int64_t column) {
  const int64_t n = args.last_column - column;
  float* out = args.out + m * args.out_stride + column;
  if (n >= kLanes) return StoreTile<kSum>(out, args.out_stride * 4);
  if (n <= 0) return;
  alignas(64) float sums[kTileWords];
  StoreTile<kSum>(sums, kTileSide * 4);
  for (int64_t i = 0; i < num_x; ++i) {
    StorePartial(out + i * args.out_stride, Load(sums + i * kLanes), n);
  }
}

// Sixteen rows of x by the run.
void TransposedTile(const TransposedArgs& args, int64_t m, const float* panel, int64_t column) {
  ZeroTile<0>();
  ZeroTile<1>();
  ZeroTile<2>();
  ZeroTile<3>();
  const float* x = args.x + m * args.x_stride;
  for (int64_t step = 0; step < NumSteps(args.num_rows); ++step) {
    const float* pairs = panel + step * kTileSide * kPairFloats;
    LoadTile<kRowsOfX>(x + step * kLanes, args.x_stride * 4);
    LoadTile<kPairs>(pairs, kPairFloats * 4);
    AddBf16Tiles<0, kRowsOfX, kPairs>();
    LoadTile<kPairs>(pairs + kLanes, kPairFloats * 4);
    AddBf16Tiles<1, kRowsOfX, kPairs>();
    LoadTile<kPairs>(pairs + 2 * kLanes, kPairFloats * 4);
    AddBf16Tiles<2, kRowsOfX, kPairs>();
    LoadTile<kPairs>(pairs + 3 * kLanes, kPairFloats * 4);
    AddBf16Tiles<3, kRowsOfX, kPairs>();
  }
  StoreTransposed<0>(args, m, kTileSide, column);
  StoreTransposed<1>(args, m, kTileSide, column + kLanes);
  StoreTransposed<2>(args, m, kTileSide, column + 2 * kLanes);
  StoreTransposed<3>(args, m, kTileSide, column + 3 * kLanes);
}

// The last rows of x by one group of the run's columns.
void LastTile(const TransposedArgs& args, int64_t m, const float* panel, int64_t column,
              int64_t group) {
  ZeroTile<kOneSum>();
  const float* x = args.x + m * args.x_stride;
  for (int64_t step = 0; step < NumSteps(args.num_rows); ++step) {
    LoadTile<kLastRows>(x + step * kLanes, args.x_stride * 4);
    LoadTile<kPairs>(panel + step * kTileSide * kPairFloats + group * kLanes, kPairFloats * 4);
    AddBf16Tiles<kOneSum, kLastRows, kPairs>();
  }
  StoreTransposed<kOneSum>(args, m, args.num_x - m, column + group * kLanes);
}

struct TransposedProduct {
  const TransposedArgs& args;
  template <typename Source>
  void Run() const {
    float* panel = args.scratch;
    Source source(args.weight, panel + NumSteps(args.num_rows) * kTileSide * 128);
    const TileScope tiles(TransposedShapes(args.num_x));
    for (int64_t c = args.first_column; c < args.last_column; c += kPackedRun) {
      DecodeRun(args, source, c, panel);
      int64_t m = 0;
      for (; m + kTileSide <= args.num_x; m += kTileSide) TransposedTile(args, m, panel, c);
      if (m == args.num_x) continue;
      for (int64_t group = 0; group < kGroups; ++group) LastTile(args, m, panel, c, group);
    }
  }
};

void RunTransposed(const TransposedArgs& args) {
  if (args.num_x <= 0 || args.num_rows <= 0) return;
  WithSource(args.weight.type, TransposedProduct{args});
}

}  // namespace

extern const Bf16LinearKernels kBf16LinearKernels = {
    kTileSide, kPanelGroups* kTileSide, PackedFloats, PackRows, RunPanel, RunTransposed, PackRow};

}  // namespace winnow::cpu::WINNOW_LEVEL
