// Products of bfloat16 numbers for one thread; bf16_linear_kernels.h says in which order they add.
//
// A few rows of x: weights are decoded in registers, several rows of them at a time, and each is
// read once from memory. Many rows of x: a panel of weight rows is decoded into scratch, where it
// stays in L1, and tiles of four rows of x by a few panel rows are made from it. What is beyond the
// end of x or of the weight is computed from the last row and left out.
#include "cpu/bf16_linear_kernels.h"

#include "cpu/bf16_sources.h"
#include "cpu/panel_bias.h"

namespace winnow::cpu::WINNOW_LEVEL {
namespace {

constexpr int64_t kRunFloats = 2 * kPairsFloats;    // of a packed run
constexpr int64_t kRunParts = kRunFloats / kLanes;  // registers

int64_t Min(int64_t a, int64_t b) { return a < b ? a : b; }
int64_t NumRuns(int64_t columns) { return DivideUp(columns, kPackedRun); }
int64_t PackedFloats(int64_t columns) { return NumRuns(columns) * kRunFloats; }

// ---- Few rows -----------------------------------------------------------------------------------

const float* XRow(const PanelArgs& args, int64_t m) {
  m = Min(m, args.num_x - 1);
  return args.x + (args.x_rows ? args.x_rows[m] : m) * args.x_stride;
}

// out[i] = Sum(sums[i])
template <int kCount>
void SumEach(const F32x16* sums, float* out) {
#if defined(__AVX512F__)
  F32x16 all[kLanes];
  for (int i = 0; i < kLanes; ++i) all[i] = i < kCount ? sums[i] : Zero();
  Store(out, Sum16(all));
#else
  for (int i = 0; i < kCount; ++i) out[i] = Sum(sums[i]);
#endif
}

// kX rows of x by kRows rows of the weight from `row` on, those before `last_row`.
template <typename Source, int kX, int kRows>
inline __attribute__((always_inline)) void FewTile(const PanelArgs& args, const Source& source,
                                                   int64_t m, int64_t row, int64_t last_row) {
  const float* x[kX];
  for (int i = 0; i < kX; ++i) x[i] = XRow(args, m + i);
  typename Source::Row rows[kRows];
  for (int r = 0; r < kRows; ++r) {
    rows[r] = Source::RowOf(args.weight, Min(row + r, last_row - 1));
  }
  F32x16 sums[kLanes];  // [kX, kRows]
  for (F32x16& sum : sums) sum = Zero();
  const auto add = [&](int64_t run, int r, const Run& weight) __attribute__((always_inline)) {
    for (int i = 0; i < kX; ++i) {
      for (int64_t part = 0; part < kRunParts; ++part) {
        sums[i * kRows + r] = FmaPart(Load(x[i] + run * kRunFloats + part * kLanes),
                                      weight.part(part), sums[i * kRows + r]);
      }
    }
  };
  const int64_t columns = args.weight.columns;
  const int64_t whole = columns / kPackedRun;
  for (int64_t run = 0; run < whole; ++run) {
    const int64_t c = run * kPackedRun;
    for (int r = 0; r < kRows; ++r) {
      Source::PrefetchBehind(rows[r], kRows, columns, c);  // the rows of the next tile
      add(run, r, source.Decode(rows[r], c));
    }
  }
  if (const int64_t c = whole * kPackedRun; c < columns) {
    for (int r = 0; r < kRows; ++r) {
      add(whole, r, source.DecodeLast(rows[r], c, columns - c));
    }
  }
  float out[kLanes];
  SumEach<kX * kRows>(sums, out);
  for (int i = 0; i < kX && m + i < args.num_x; ++i) {
    for (int r = 0; r < kRows && row + r < last_row; ++r) {
      args.out[(m + i) * args.out_stride + (row + r - args.first_row)] = out[i * kRows + r];
    }
  }
}

// As many rows of the weight as there are registers for.
template <typename Source, int kX>
void FewRowsOfX(const PanelArgs& args, const Source& source, int64_t m, int64_t row,
                int64_t last_row) {
  constexpr int kSums = kNative == 16 ? 16 : 4;
  constexpr int kRows = kSums / kX < 8 ? kSums / kX : 8;
  for (; row < last_row; row += kRows) {
    FewTile<Source, kX, kRows>(args, source, m, row, last_row);
  }
}

// All rows of x by the rows of the weight within one block of scales.
template <typename Source>
void FewRows(const PanelArgs& args, const Source& source, int64_t row, int64_t last_row) {
  for (int64_t m = 0; m < args.num_x;) {
    const int64_t left = args.num_x - m;
    if (kNative == 16 && left > 4) {
      FewRowsOfX<Source, kNative == 16 ? 8 : 4>(args, source, m, row, last_row);
      m += 8;
    } else if (left > 2) {
      FewRowsOfX<Source, 4>(args, source, m, row, last_row);
      m += 4;
    } else if (left == 2) {
      FewRowsOfX<Source, 2>(args, source, m, row, last_row);
      m += 2;
    } else {
      FewRowsOfX<Source, 1>(args, source, m, row, last_row);
      m += 1;
    }
  }
}

// ---- Many rows ----------------------------------------------------------------------------------

constexpr int kTileX = 4;
constexpr int kTileRows = kNative == 16 ? 4 : 3;
constexpr int kTileSums = kTileX * kTileRows;
constexpr int64_t kPasses = kLanes / kNative;
// What a panel holds: with wide registers it lies in L1 beside four rows of x, else in L2. Where
// there are fewer columns, there are more rows.
constexpr int64_t kRowsAtOnce = kNative == 16 ? 4 : 24;
constexpr int64_t kColumnsAtOnce = kNative == 16 ? 2048 : 768;
constexpr int64_t kPanelFloats = kRowsAtOnce * kColumnsAtOnce / kPackedRun * kRunFloats;
constexpr int64_t kXBytes = 256 << 10;  // of x, for L2
// Rows of x, and of the weight, whose sums wait in scratch between two blocks of columns.
constexpr int64_t kWaitingX = 128;
constexpr int64_t kWaitingRows = 48;
constexpr int64_t kWaitingFloats = kWaitingX * kWaitingRows * kLanes;

static_assert(kRowsAtOnce % kTileRows == 0 && kWaitingRows % kRowsAtOnce == 0);
static_assert(kColumnsAtOnce % kBlock == 0 && kWaitingX % kTileX == 0);

// The panel, sums that wait, tables of decoded numbers.
int64_t PanelScratch(int64_t columns) {
  return kPanelFloats + kWaitingFloats + DivideUp(columns, kBlock) * kTableBytes / 4;
}

// A block of columns of the panel.
struct Block {
  int64_t first = 0;  // column
  int64_t columns = 0;
  bool starts = false;  // sums start at zero, or go on from `sums`
  bool ends = false;    // sums are added up, or wait in `sums`

  int64_t floats() const { return PackedFloats(columns); }  // of a row of the panel
};

// The sums of a tile: one for each row of x and of the panel, from a register's lanes of all
// chains.
struct TileSums {
  Native of[kTileX][kTileRows];
};

// Adds a block of columns to the lanes from `offset` on.
inline __attribute__((always_inline)) void AddBlock(const float* const* x, const float* panel,
                                                    int64_t floats, int64_t offset,
                                                    TileSums& sums) {
  for (int64_t at = offset; at < floats; at += kLanes) {
    Native weight[kTileRows];
    for (int r = 0; r < kTileRows; ++r) weight[r] = LoadNative(panel + r * floats + at);
    for (int i = 0; i < kTileX; ++i) {
      const Native here = LoadNative(x[i] + at);
      for (int r = 0; r < kTileRows; ++r) {
        sums.of[i][r] = FmaPartNative(here, weight[r], sums.of[i][r]);
      }
    }
  }
}

// Where the lanes from `offset` on of a tile's sums lie in memory: [kTileX, kTileRows, 16].
inline __attribute__((always_inline)) void LoadSums(const float* from, int64_t offset,
                                                    TileSums& sums) {
  for (int i = 0; i < kTileX; ++i) {
    for (int r = 0; r < kTileRows; ++r) {
      sums.of[i][r] = LoadNative(from + (i * kTileRows + r) * kLanes + offset);
    }
  }
}
inline __attribute__((always_inline)) void StoreSums(float* to, int64_t offset,
                                                     const TileSums& sums) {
  for (int i = 0; i < kTileX; ++i) {
    for (int r = 0; r < kTileRows; ++r) {
      StoreNative(to + (i * kTileRows + r) * kLanes + offset, sums.of[i][r]);
    }
  }
}

// results [kTileX, kTileRows]
#if defined(__AVX512F__)
inline __attribute__((always_inline)) void AddUp(const TileSums& sums, float*, float* results) {
  F32x16 each[kTileSums];
  for (int i = 0; i < kTileSums; ++i) each[i] = {sums.of[i / kTileRows][i % kTileRows]};
  Store(results, Sum16(each));
}
#else
inline void AddUp(const TileSums&, float* chains, float* results) {
  for (int i = 0; i < kTileSums; ++i) results[i] = Sum(Load(chains + i * kLanes));
}
#endif

// One tile: num_x rows of x and num_rows of the panel, at most kTileX and kTileRows.
void Tile(const float* const* x, int64_t num_x, const float* panel, int64_t num_rows,
          const Block& block, float* waiting, float* out, int64_t out_stride) {
  TileSums sums;
  for (int64_t pass = 0; pass < kPasses; ++pass) {
    const int64_t offset = pass * kNative;
    if (block.starts) {
      sums = {};
    } else {
      LoadSums(waiting, offset, sums);
    }
    AddBlock(x, panel, block.floats(), offset, sums);
    if (kPasses > 1 || !block.ends) StoreSums(waiting, offset, sums);
  }
  if (!block.ends) return;
  float results[kLanes];
  AddUp(sums, waiting, results);
  if (num_x == kTileX && num_rows == kTileRows) {
    for (int64_t i = 0; i < kTileX; ++i) {
      memcpy(out + i * out_stride, results + i * kTileRows, kTileRows * sizeof(float));
    }
    return;
  }
  for (int64_t i = 0; i < num_x; ++i) {
    for (int64_t r = 0; r < num_rows; ++r) out[i * out_stride + r] = results[i * kTileRows + r];
  }
}

// Rows [first_x, last_x) of x against the decoded panel.
void MeetPanel(const PanelArgs& args, int64_t first_x, int64_t last_x, const float* panel,
               int64_t num_rows, const Block& block, float* sums, float* out) {
  for (int64_t m = first_x; m < last_x; m += kTileX) {
    const float* x[kTileX];
    for (int i = 0; i < kTileX; ++i) x[i] = XRow(args, m + i) + PackedFloats(block.first);
    for (int64_t r = 0; r < num_rows; r += kTileRows) {
      Tile(x, Min(kTileX, last_x - m), panel + r * block.floats(), Min(kTileRows, num_rows - r),
           block, sums, out + m * args.out_stride + r, args.out_stride);
      if (!(block.starts && block.ends)) sums += kTileSums * kLanes;
    }
  }
}

template <typename Source>
void DecodePanel(const WeightArgs& weight, const Source& source, int64_t row, int64_t num_rows,
                 const Block& block, float* panel) {
  const int64_t last = block.first + block.columns;
  for (int64_t r = 0; r < num_rows; ++r) {
    const typename Source::Row from = Source::RowOf(weight, row + r);
    float* out = panel + r * block.floats();
    for (int64_t c = block.first; c < last; c += kPackedRun, out += kRunFloats) {
      const Run run =
          last - c >= kPackedRun ? source.Decode(from, c) : source.DecodeLast(from, c, last - c);
      StorePairs(out, run.half[0]);
      StorePairs(out + kPairsFloats, run.half[1]);
    }
  }
}

// How many rows of x meet the panels before the next: sums wait for kWaitingX, and a part of x
// stays in L2.
int64_t XAtOnce(const PanelArgs& args) {
  if (args.weight.columns > kColumnsAtOnce) return kWaitingX;
  const int64_t row_bytes = PackedFloats(args.weight.columns) * int64_t{sizeof(float)};
  return kXBytes / row_bytes < kWaitingX ? kWaitingX : kXBytes / row_bytes / kTileX * kTileX;
}

// kWaitingRows rows of the weight at most, and rows [m, last_x) of x.
template <typename Source>
void MeetRows(const PanelArgs& args, const Source& source, int64_t first_row, int64_t last_row,
              int64_t m, int64_t last_x) {
  float* panel = args.scratch;
  const int64_t columns = args.weight.columns;
  for (int64_t c = 0; c < columns; c += kColumnsAtOnce) {
    const int64_t end = Min(columns, c + kColumnsAtOnce);
    const Block block = {c, end - c, c == 0, end == columns};
    float* waiting = args.scratch + kPanelFloats;
    const int64_t at_once = kPanelFloats / PackedFloats(Min(columns, kColumnsAtOnce));
    const int64_t step = Min(kWaitingRows, at_once / kTileRows * kTileRows);
    for (int64_t row = first_row; row < last_row; row += step) {
      const int64_t num_rows = Min(step, last_row - row);
      DecodePanel(args.weight, source, row, num_rows, block, panel);
      MeetPanel(args, m, last_x, panel, num_rows, block, waiting,
                args.out + (row - args.first_row));
      waiting += kWaitingX * step * kLanes;
    }
  }
}

template <typename Source>
void ManyRows(const PanelArgs& args, const Source& source, int64_t first_row, int64_t last_row) {
  const int64_t x_at_once = XAtOnce(args);
  for (int64_t row = first_row; row < last_row; row += kWaitingRows) {
    for (int64_t m = 0; m < args.num_x; m += x_at_once) {
      MeetRows(args, source, row, Min(row + kWaitingRows, last_row), m,
               Min(args.num_x, m + x_at_once));
    }
  }
}

struct Panel {
  const PanelArgs& args;
  template <typename Source>
  void Run() const {
    Source source(args.weight, args.scratch + kPanelFloats + kWaitingFloats);
    const int64_t last = args.first_row + args.num_rows;
    for (int64_t row = args.first_row; row < last;) {
      const int64_t end = Min(last, (row / kBlock + 1) * kBlock);
      source.EnterRows(row, 0, args.weight.columns);
      args.num_x <= Source::kFewX ? FewRows(args, source, row, end)
                                  : ManyRows(args, source, row, end);
      row = end;
    }
    AddBias(args);
  }
};

void RunPanel(const PanelArgs& args) {
  if (args.num_x <= 0 || args.num_rows <= 0) return;
  WithSource(args.weight.type, Panel{args});
}

// ---- Transposed ---------------------------------------------------------------------------------

constexpr int64_t kGroups = kPackedRun / kLanes;          // of sixteen columns, in a run
constexpr int64_t kPairFloats = kGroups * kPairsFloats;   // of two rows of a run
constexpr int64_t kAtOnce = kNative == 16 ? kGroups : 1;  // groups in registers
constexpr int kTransposedX = kNative == 16 ? 6 : 4;

// Columns of a run from `column` on, for all pairs of rows: [pairs, 4, parts, 16].
template <typename Source>
void DecodeRun(const TransposedArgs& args, Source& source, int64_t column, float* panel) {
  for (int64_t p = 0; p < args.num_rows; p += 2) {
    const Run even = DecodeRowOf(args, source, p, column);
    const Run odd = DecodeRowOf(args, source, p + 1, column);
    for (int half = 0; half < 2; ++half) {
      Pairs both[2];
      InterleaveRows(even.half[half], odd.half[half], both);
      StorePairs(panel + p / 2 * kPairFloats + (2 * half) * kPairsFloats, both[0]);
      StorePairs(panel + p / 2 * kPairFloats + (2 * half + 1) * kPairsFloats, both[1]);
    }
  }
}

// kX rows of x by kAtOnce groups of columns from `group` on.
template <int kX>
inline __attribute__((always_inline)) void TransposedTile(const TransposedArgs& args, int64_t m,
                                                          int64_t group, const float* panel,
                                                          int64_t column) {
  F32x16 sums[kX][kAtOnce];
  const float* x[kX];
  for (int i = 0; i < kX; ++i) {
    x[i] = args.x + Min(m + i, args.num_x - 1) * args.x_stride;
    for (F32x16& sum : sums[i]) sum = Zero();
  }
  for (int64_t pair = 0; pair < (args.num_rows + 1) / 2; ++pair) {
    const float* weights = panel + pair * kPairFloats + group * kPairsFloats;
    const int64_t block = pair / kLanes * kPairsFloats;
    for (int part = 0; part < kParts; ++part) {
      for (int i = 0; i < kX; ++i) {
        const F32x16 here = BroadcastPart(x[i] + block, pair % kLanes, part);
        for (int64_t g = 0; g < kAtOnce; ++g) {
          sums[i][g] = FmaPart(here, Load(weights + g * kPairsFloats + part * kLanes), sums[i][g]);
        }
      }
    }
  }
  for (int i = 0; i < kX && m + i < args.num_x; ++i) {
    for (int64_t g = 0; g < kAtOnce; ++g) {
      const int64_t c = column + (group + g) * kLanes;
      const int64_t n = Min(kLanes, args.last_column - c);
      if (n > 0) StorePartial(args.out + (m + i) * args.out_stride + c, sums[i][g], n);
    }
  }
}

struct Transposed {
  const TransposedArgs& args;
  template <typename Source>
  void Run() const {
    float* panel = args.scratch;
    Source source(args.weight, panel + (args.num_rows + 1) / 2 * kPairFloats);
    for (int64_t c = args.first_column; c < args.last_column; c += kPackedRun) {
      DecodeRun(args, source, c, panel);
      for (int64_t group = 0; group < kGroups; group += kAtOnce) {
        int64_t m = 0;
        for (; m + 1 < args.num_x; m += kTransposedX) {
          TransposedTile<kTransposedX>(args, m, group, panel, c);
        }
        if (m < args.num_x) TransposedTile<1>(args, m, group, panel, c);
      }
    }
  }
};

void RunTransposed(const TransposedArgs& args) {
  if (args.num_x <= 0 || args.num_rows <= 0) return;
  WithSource(args.weight.type, Transposed{args});
}

void PackRow(const float* x, int64_t columns, float* packed) {
  for (int64_t c = 0; c < columns; c += kPackedRun) {
    for (int half = 0; half < 2; ++half, packed += kPairsFloats) {
      const int64_t first = c + half * 2 * kLanes;
      const auto at = [&](int64_t k) {
        const int64_t n = columns - k;
        return n >= kLanes ? Load(x + k) : n > 0 ? LoadPartial(x + k, n) : Zero();
      };
      StorePairs(packed, Pack(at(first), at(first + kLanes)));
    }
  }
}

void PackRows(const PackArgs& args) {
  for (int64_t m = 0; m < args.num_x; ++m) {
    const int64_t row = args.x_rows ? args.x_rows[m] : m;
    PackRow(args.x + row * args.x_stride, args.num_columns,
            args.packed + m * args.packed_stride + PackedFloats(args.first_column));
  }
}

}  // namespace

extern const Bf16LinearKernels kBf16LinearKernels = {
    1, kPieceRows, PackedFloats, PackRows, PanelScratch, RunPanel, RunTransposed, PackRow};

}  // namespace winnow::cpu::WINNOW_LEVEL
