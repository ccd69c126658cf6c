// Products of bfloat16 numbers for one thread on AMX; bf16_linear_kernels.h says in which order
// they add. Takes the place of bf16_linear_kernels.cc at the level amx.
//
// Panels: 16 rows of the weight are A, as they are stored, decoded through L1; up to 16 rows of x,
// packed together, are B; C is [weight rows, x rows]. C gets its blocks of 32 columns one after the
// other, in one tile, so that a row of x has the same sums in any company.
// Transposed: rows of x are A, pairs of rows of the weight, interleaved, are B.
#include "cpu/bf16_linear_kernels.h"
#include "cpu/few_tiles.h"
#include "cpu/tile_panels.h"

namespace winnow::cpu::WINNOW_LEVEL {
namespace {

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

struct PanelProduct {
  const PanelArgs& args;
  template <typename Source>
  void Run() const {
    if (args.num_x > 4 * kPairX) {
      TileProduct<Source, LargePanels>(args).Run();
    } else if (args.num_x > kPairX) {
      TileProduct<Source, MediumPanels>(args).Run();
    } else if (args.num_x > kTileSide) {
      TileProduct<Source, SmallPanels>(args).Run();
    } else {
      FewProduct<Source>(args).Make();
    }
    AddBias(args);
  }
};

void RunPanel(const PanelArgs& args) {
  if (args.num_x <= 0 || args.num_rows <= 0) return;
  WithSource(args.weight.type, PanelProduct{args});
}

// ---- Transposed ---------------------------------------------------------------------------------

constexpr int64_t kGroups = kPackedRun / kLanes;      // of sixteen columns, in a run
constexpr int64_t kRowPairFloats = kGroups * kLanes;  // of two rows of a run

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
  for (int64_t p = 0; p < NumSteps(args.num_rows) * kStep; p += 2, panel += kRowPairFloats) {
    const Run even = DecodeRowOf(args, source, p, column);
    const Run odd = DecodeRowOf(args, source, p + 1, column);
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
    const float* pairs = panel + step * kTileSide * kRowPairFloats;
    LoadTile<kRowsOfX>(x + step * kLanes, args.x_stride * 4);
    LoadTile<kPairs>(pairs, kRowPairFloats * 4);
    AddBf16Tiles<0, kRowsOfX, kPairs>();
    LoadTile<kPairs>(pairs + kLanes, kRowPairFloats * 4);
    AddBf16Tiles<1, kRowsOfX, kPairs>();
    LoadTile<kPairs>(pairs + 2 * kLanes, kRowPairFloats * 4);
    AddBf16Tiles<2, kRowsOfX, kPairs>();
    LoadTile<kPairs>(pairs + 3 * kLanes, kRowPairFloats * 4);
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
    LoadTile<kPairs>(panel + step * kTileSide * kRowPairFloats + group * kLanes,
                     kRowPairFloats * 4);
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
    kTileSide,    LargePanels::kRows, PackedFloats,  PackRows,
    PanelScratch, RunPanel,           RunTransposed, PackRow};

}  // namespace winnow::cpu::WINNOW_LEVEL
