// Matrix products for one thread; linear_kernels.h says in which order they add.
//
// A few rows of x: weights are decoded in registers, four rows of them at a time, so that four
// independent sums hide the latency of the multiply-add, and each weight is read once from memory.
//
// Many rows of x: a panel of weight rows is decoded into scratch (in L2), and tiles of rows of x by
// three panel rows are made from it. The sixteen chains of an element do not depend on one another,
// so a tile is made in passes of one register's lanes: the passes leave registers for a tile of
// four by three on AVX2, which loads 7 registers for 12 multiply-adds.
#include "cpu/linear_kernels.h"

#include "cpu/panel_bias.h"
#include "cpu/simd.h"
#include "tensor/group_codes.h"

namespace winnow::cpu::WINNOW_LEVEL {
namespace {

constexpr int64_t kBlock = 128;  // of scales

int64_t Min(int64_t a, int64_t b) { return a < b ? a : b; }
int64_t DivideUp(int64_t a, int64_t b) { return (a + b - 1) / b; }

// ---- Reading weights ----------------------------------------------------------------------------
// A reader decodes sixteen weights of one row within one block or group of scales (kRun columns);
// Enter moves it to that of a column. kAtOnce is how many rows are read at once when x has one row:
// enough for the work of decoding to hide the latency of one row's sum.

struct F32Reader {
  static constexpr int64_t kRun = INT64_MAX / 2;
  static constexpr int kAtOnce = 4;
  static constexpr int64_t kFewX = 8;
  const float* row;
  F32Reader() = default;
  F32Reader(const WeightArgs& w, int64_t r)
      : row(static_cast<const float*>(w.data) + r * w.columns) {}
  void Enter(int64_t) {}
  F32x16 At(int64_t c) const { return Load(row + c); }
  F32x16 At(int64_t c, int64_t n) const { return LoadPartial(row + c, n); }
};

struct Bf16Reader {
  static constexpr int64_t kRun = INT64_MAX / 2;
  static constexpr int kAtOnce = 4;
  static constexpr int64_t kFewX = 8;
  const uint16_t* row;
  Bf16Reader() = default;
  Bf16Reader(const WeightArgs& w, int64_t r)
      : row(static_cast<const uint16_t*>(w.data) + r * w.columns) {}
  void Enter(int64_t) {}
  F32x16 At(int64_t c) const { return LoadBf16(row + c); }
  F32x16 At(int64_t c, int64_t n) const { return LoadBf16Partial(row + c, n); }
};

struct F16Reader {
  static constexpr int64_t kRun = INT64_MAX / 2;
  static constexpr int kAtOnce = 4;
  static constexpr int64_t kFewX = 8;
  const uint16_t* row;
  F16Reader() = default;
  F16Reader(const WeightArgs& w, int64_t r)
      : row(static_cast<const uint16_t*>(w.data) + r * w.columns) {}
  void Enter(int64_t) {}
  F32x16 At(int64_t c) const { return LoadF16(row + c); }
  F32x16 At(int64_t c, int64_t n) const { return LoadF16Partial(row + c, n); }
};

struct E4m3Reader {
  static constexpr int64_t kRun = kBlock;
  static constexpr int kAtOnce = 2;
  static constexpr int64_t kFewX = 4;
  const uint8_t* row;
  const float* scales;
  F32x16 scale;
  E4m3Reader() = default;
  E4m3Reader(const WeightArgs& w, int64_t r)
      : row(static_cast<const uint8_t*>(w.data) + r * w.columns),
        scales(w.scale ? w.scale + r / kBlock * DivideUp(w.columns, kBlock) : nullptr) {}
  void Enter(int64_t c) {
    const float value = scales ? scales[c / kBlock] : 1.0f;
    scale = Broadcast(value == value ? value : __builtin_nanf(""));
  }
  F32x16 At(int64_t c) const { return Mul(LoadE4m3(row + c), scale); }
  F32x16 At(int64_t c, int64_t n) const { return Mul(LoadE4m3Partial(row + c, n), scale); }
};

struct Int8Reader {
  static constexpr int64_t kRun = kCodeGroup;
  static constexpr int kAtOnce = 4;
  static constexpr int64_t kFewX = 8;
  const int8_t* row;
  const uint16_t* scales;
  F32x16 scale;
  Int8Reader() = default;
  Int8Reader(const WeightArgs& w, int64_t r)
      : row(static_cast<const int8_t*>(w.data) + r * w.columns),
        scales(w.group_scale + r * NumCodeGroups(w.columns)) {}
  void Enter(int64_t c) { scale = BroadcastBf16(scales + c / kCodeGroup); }
  F32x16 At(int64_t c) const { return Mul(LoadI8AsFloat(row + c), scale); }
  F32x16 At(int64_t c, int64_t n) const { return Mul(LoadI8AsFloatPartial(row + c, n), scale); }
};

struct Int4Reader {
  static constexpr int64_t kRun = kCodeGroup;
  static constexpr int kAtOnce = 4;
  static constexpr int64_t kFewX = 8;
  const uint8_t* row;
  const uint16_t* scales;
  F32x16 scale;
  Int4Reader() = default;
  Int4Reader(const WeightArgs& w, int64_t r)
      : row(static_cast<const uint8_t*>(w.data) + r * Int4RowBytes(w.columns)),
        scales(w.group_scale + r * NumCodeGroups(w.columns)) {}
  void Enter(int64_t c) { scale = BroadcastBf16(scales + c / kCodeGroup); }
  F32x16 At(int64_t c) const {
    const I32x16 both = LoadU8(row + c / kInt4Run * (kInt4Run / 2) + c % kCodeGroup);
    const I32x16 code =
        c % kInt4Run < kCodeGroup ? And(both, BroadcastInt(15)) : ShiftRight<4>(both);
    return Mul(ToFloat(SubInt(code, BroadcastInt(8))), scale);
  }
  F32x16 At(int64_t c, int64_t n) const {
    float lanes[kLanes];
    Store(lanes, At(c));
    return LoadPartial(lanes, n);
  }
};

// Calls action.template Run<Reader>() for the reader of a type.
template <typename Action>
void WithReader(DType type, const Action& action) {
  switch (type) {
    case DType::kF32:
      return action.template Run<F32Reader>();
    case DType::kBF16:
      return action.template Run<Bf16Reader>();
    case DType::kF16:
      return action.template Run<F16Reader>();
    case DType::kI8:
      return action.template Run<Int8Reader>();
    case DType::kU8:
      return action.template Run<Int4Reader>();
    default:
      return action.template Run<E4m3Reader>();
  }
}

// out[c - first] for columns [first, last), then zeros up to a multiple of 16.
template <typename Reader>
void Decode(const WeightArgs& w, int64_t row, int64_t first, int64_t last, float* out) {
  Reader reader(w, row);
  int64_t c = first;
  while (c < last) {
    reader.Enter(c);
    const int64_t end = Min(last, c / Reader::kRun * Reader::kRun + Reader::kRun);
    for (; c + kLanes <= end; c += kLanes) Store(out + (c - first), reader.At(c));
    if (c < end) {
      Store(out + (c - first), reader.At(c, end - c));
      c = end;
    }
  }
}

// ---- Few rows -----------------------------------------------------------------------------------

const float* XRow(const PanelArgs& args, int64_t m) {
  return args.x + (args.x_rows ? args.x_rows[m] : m) * args.x_stride;
}

// kX rows of x by kRows rows of the weight from `row` on.
template <typename Reader, int kX, int kRows>
inline __attribute__((always_inline)) void FewTile(const PanelArgs& args, int64_t m, int64_t row) {
  const float* x[kX];
  for (int i = 0; i < kX; ++i) x[i] = XRow(args, m + i);
  F32x16 sums[kX][kRows];
  for (int i = 0; i < kX; ++i) {
    for (int r = 0; r < kRows; ++r) sums[i][r] = Zero();
  }
  Reader readers[kRows];
  for (int r = 0; r < kRows; ++r) readers[r] = Reader(args.weight, row + r);

  const int64_t columns = args.weight.columns;
  int64_t c = 0;
  while (c < columns) {
    for (int r = 0; r < kRows; ++r) readers[r].Enter(c);
    const int64_t end = Min(columns, c + Reader::kRun);
    for (; c + kLanes <= end; c += kLanes) {
      F32x16 here[kX];
      for (int i = 0; i < kX; ++i) here[i] = Load(x[i] + c);
      for (int r = 0; r < kRows; ++r) {
        const F32x16 weight = readers[r].At(c);
        for (int i = 0; i < kX; ++i) sums[i][r] = Fma(here[i], weight, sums[i][r]);
      }
    }
    if (c < end) {
      for (int r = 0; r < kRows; ++r) {
        const F32x16 weight = readers[r].At(c, end - c);
        for (int i = 0; i < kX; ++i) {
          sums[i][r] = Fma(LoadPartial(x[i] + c, end - c), weight, sums[i][r]);
        }
      }
      c = end;
    }
  }
  for (int i = 0; i < kX; ++i) {
    for (int r = 0; r < kRows; ++r) {
      args.out[(m + i) * args.out_stride + (row + r - args.first_row)] = Sum(sums[i][r]);
    }
  }
}

// kRows rows of the weight by all rows of x: of the latter four at a time, for which the weight
// comes from memory once and then from the cache.
template <typename Reader, int kRows>
void FewRowsOfX(const PanelArgs& args, int64_t row) {
  constexpr int kPair = kRows > 2 ? 2 : kRows;
  int64_t m = 0;
  for (; m + 4 <= args.num_x; m += 4) {
    for (int r = 0; r < kRows; ++r) FewTile<Reader, 4, 1>(args, m, row + r);
  }
  const int64_t left = args.num_x - m;
  if (left == 1) FewTile<Reader, 1, kRows>(args, m, row);
  for (int r = 0; r < kRows && left > 1; r += kPair) {
    left == 2 ? FewTile<Reader, 2, kPair>(args, m, row + r)
              : FewTile<Reader, 3, kPair>(args, m, row + r);
  }
}

template <typename Reader>
void FewRows(const PanelArgs& args) {
  int64_t row = args.first_row;
  const int64_t last = args.first_row + args.num_rows;
  for (; row + Reader::kAtOnce <= last; row += Reader::kAtOnce) {
    FewRowsOfX<Reader, Reader::kAtOnce>(args, row);
  }
  for (; row < last; ++row) FewRowsOfX<Reader, 1>(args, row);
}

// ---- Many rows ----------------------------------------------------------------------------------

constexpr int64_t kTileRows = 3;                   // rows of the weight
constexpr int64_t kTileX = kNative == 16 ? 8 : 4;  // rows of x
constexpr int64_t kPasses = kLanes / kNative;

// A block of columns of the panel.
struct Block {
  int64_t first = 0;  // column
  int64_t columns = 0;
  bool starts = false;  // sums start at zero, or go on from `sums`
  bool ends = false;    // sums are added up, or wait in `sums`
};

// One tile: rows x[0 … kX) from the block's first column on, and kRows rows of the panel. `sums`
// [kX, kRows, 16] holds the tile between blocks.
template <int kX, int kRows>
inline __attribute__((always_inline)) void Tile(const float* const* x, const float* panel,
                                                const Block& block, float* sums, float* out,
                                                int64_t out_stride) {
  alignas(64) float lanes[kX * kRows * kLanes];
  float* target = block.ends ? lanes : sums;
  const int64_t whole = block.columns / kLanes * kLanes;
  for (int64_t pass = 0; pass < kPasses; ++pass) {
    const int64_t offset = pass * kNative;
    Native acc[kX][kRows];
    for (int i = 0; i < kX; ++i) {
      for (int r = 0; r < kRows; ++r) {
        acc[i][r] = block.starts ? Native{} : LoadNative(sums + (i * kRows + r) * kLanes + offset);
      }
    }
    for (int64_t c = offset; c < whole; c += kLanes) {
      Native weight[kRows];
      for (int r = 0; r < kRows; ++r) weight[r] = LoadNative(panel + r * kPanelColumns + c);
      for (int i = 0; i < kX; ++i) {
        const Native here = LoadNative(x[i] + c);
        for (int r = 0; r < kRows; ++r) acc[i][r] = FmaNative(here, weight[r], acc[i][r]);
      }
    }
    if (whole < block.columns) {
      for (int i = 0; i < kX; ++i) {
        alignas(64) float here[kLanes];
        Store(here, LoadPartial(x[i] + whole, block.columns - whole));
        for (int r = 0; r < kRows; ++r) {
          acc[i][r] = FmaNative(LoadNative(here + offset),
                                LoadNative(panel + r * kPanelColumns + whole + offset), acc[i][r]);
        }
      }
    }
    for (int i = 0; i < kX; ++i) {
      for (int r = 0; r < kRows; ++r) {
        StoreNative(target + (i * kRows + r) * kLanes + offset, acc[i][r]);
      }
    }
  }
  if (!block.ends) return;
  for (int r = 0; r < kRows; ++r) {
    if constexpr (kX % 4 == 0) {
      for (int i = 0; i < kX; i += 4) {
        float four[4];
        Sum4(lanes + (i * kRows + r) * kLanes, kRows * kLanes, four);
        for (int k = 0; k < 4; ++k) out[(i + k) * out_stride + r] = four[k];
      }
    } else {
      for (int i = 0; i < kX; ++i) {
        out[i * out_stride + r] = Sum(Load(lanes + (i * kRows + r) * kLanes));
      }
    }
  }
}

template <int kX>
void TileColumn(const float* const* x, const float* panel, int64_t num_rows, const Block& block,
                float* sums, float* out, int64_t out_stride) {
  int64_t r = 0;
  for (; r + kTileRows <= num_rows; r += kTileRows) {
    Tile<kX, kTileRows>(x, panel + r * kPanelColumns, block, sums + kX * r * kLanes, out + r,
                        out_stride);
  }
  for (; r < num_rows; ++r) {
    Tile<kX, 1>(x, panel + r * kPanelColumns, block, sums + kX * r * kLanes, out + r, out_stride);
  }
}

// Rows [first_x, last_x) of x against the decoded panel.
void MeetPanel(const PanelArgs& args, int64_t first_x, int64_t last_x, const float* panel,
               int64_t num_rows, const Block& block, float* sums, float* out) {
  const float* x[8];
  for (int64_t m = first_x; m < last_x;) {
    const int64_t left = last_x - m;
    const int64_t take = left >= kTileX ? kTileX : left >= 4 ? 4 : left >= 2 ? 2 : 1;
    for (int64_t i = 0; i < take; ++i) x[i] = XRow(args, m + i) + block.first;
    float* tile_sums = sums + (m - first_x) * num_rows * kLanes;
    float* tile_out = out + m * args.out_stride;
    if (kTileX == 8 && take == 8) {
      TileColumn<kTileX>(x, panel, num_rows, block, tile_sums, tile_out, args.out_stride);
    } else if (take == 4) {
      TileColumn<4>(x, panel, num_rows, block, tile_sums, tile_out, args.out_stride);
    } else if (take == 2) {
      TileColumn<2>(x, panel, num_rows, block, tile_sums, tile_out, args.out_stride);
    } else {
      TileColumn<1>(x, panel, num_rows, block, tile_sums, tile_out, args.out_stride);
    }
    m += take;
  }
}

template <typename Reader>
void DecodePanel(const WeightArgs& weight, int64_t row, int64_t num_rows, const Block& block,
                 float* panel) {
  for (int64_t r = 0; r < num_rows; ++r) {
    Decode<Reader>(weight, row + r, block.first, block.first + block.columns,
                   panel + r * kPanelColumns);
  }
}

template <typename Reader>
void ManyRows(const PanelArgs& args) {
  float* panel = args.scratch;
  float* sums = args.scratch + kPanelRows * kPanelColumns;
  const int64_t columns = args.weight.columns;
  for (int64_t r = 0; r < args.num_rows; r += kPanelRows) {
    const int64_t row = args.first_row + r;
    const int64_t num_rows = Min(kPanelRows, args.num_rows - r);
    if (columns <= kPanelColumns) {
      const Block block = {0, columns, true, true};
      DecodePanel<Reader>(args.weight, row, num_rows, block, panel);
      MeetPanel(args, 0, args.num_x, panel, num_rows, block, sums, args.out + r);
      continue;
    }
    for (int64_t m = 0; m < args.num_x; m += kPanelX) {
      const int64_t last_x = Min(args.num_x, m + kPanelX);
      for (int64_t c = 0; c < columns; c += kPanelColumns) {
        const int64_t end = Min(columns, c + kPanelColumns);
        const Block block = {c, end - c, c == 0, end == columns};
        DecodePanel<Reader>(args.weight, row, num_rows, block, panel);
        MeetPanel(args, m, last_x, panel, num_rows, block, sums, args.out + r);
      }
    }
  }
}

struct Panel {
  const PanelArgs& args;
  template <typename Reader>
  void Run() const {
    args.num_x <= Reader::kFewX ? FewRows<Reader>(args) : ManyRows<Reader>(args);
    AddBias(args);
  }
};

void RunPanel(const PanelArgs& args) {
  if (args.num_x <= 0 || args.num_rows <= 0) return;
  WithReader(args.weight.type, Panel{args});
}

// ---- Transposed ---------------------------------------------------------------------------------

// One row of x: four rows of the weight at a time go into the sums, which lie in out, so that
// memory is read in long runs.
template <typename Reader, int kRows>
void AddRows(const TransposedArgs& args, int64_t p) {
  Reader readers[kRows];
  F32x16 x[kRows];
  for (int r = 0; r < kRows; ++r) {
    readers[r] = Reader(args.weight, args.first_row + p + r);
    x[r] = Broadcast(args.x[p + r]);
  }
  int64_t c = args.first_column;
  while (c < args.last_column) {
    for (int r = 0; r < kRows; ++r) readers[r].Enter(c);
    const int64_t end = Min(args.last_column, c / Reader::kRun * Reader::kRun + Reader::kRun);
    for (; c + kLanes <= end; c += kLanes) {
      F32x16 sum = p == 0 ? Zero() : Load(args.out + c);
      for (int r = 0; r < kRows; ++r) sum = Fma(x[r], readers[r].At(c), sum);
      Store(args.out + c, sum);
    }
    if (c < end) {
      F32x16 sum = p == 0 ? Zero() : LoadPartial(args.out + c, end - c);
      for (int r = 0; r < kRows; ++r) sum = Fma(x[r], readers[r].At(c, end - c), sum);
      StorePartial(args.out + c, sum, end - c);
      c = end;
    }
  }
}

template <typename Reader>
void TransposedOne(const TransposedArgs& args) {
  int64_t p = 0;
  for (; p + 4 <= args.num_rows; p += 4) AddRows<Reader, 4>(args, p);
  for (; p < args.num_rows; ++p) AddRows<Reader, 1>(args, p);
}

// kX rows of x by sixteen columns, decoded in `panel` [num_rows, 16].
template <int kX>
inline __attribute__((always_inline)) void TransposedTile(const TransposedArgs& args, int64_t m,
                                                          const float* panel, int64_t column) {
  F32x16 sums[kX];
  const float* x[kX];
  for (int i = 0; i < kX; ++i) {
    sums[i] = Zero();
    x[i] = args.x + (m + i) * args.x_stride;
  }
  for (int64_t p = 0; p < args.num_rows; ++p) {
    const F32x16 weight = Load(panel + p * kLanes);
    for (int i = 0; i < kX; ++i) sums[i] = Fma(Broadcast(x[i][p]), weight, sums[i]);
  }
  const int64_t n = Min(kLanes, args.last_column - column);
  for (int i = 0; i < kX; ++i) {
    float* out = args.out + (m + i) * args.out_stride + column;
    n == kLanes ? Store(out, sums[i]) : StorePartial(out, sums[i], n);
  }
}

template <typename Reader>
void TransposedMany(const TransposedArgs& args) {
  for (int64_t column = args.first_column; column < args.last_column; column += kLanes) {
    const int64_t n = Min(kLanes, args.last_column - column);
    for (int64_t p = 0; p < args.num_rows; ++p) {
      Reader reader(args.weight, args.first_row + p);
      reader.Enter(column);
      Store(args.scratch + p * kLanes, n == kLanes ? reader.At(column) : reader.At(column, n));
    }
    int64_t m = 0;
    for (; m + 6 <= args.num_x; m += 6) TransposedTile<6>(args, m, args.scratch, column);
    for (; m + 2 <= args.num_x; m += 2) TransposedTile<2>(args, m, args.scratch, column);
    for (; m < args.num_x; ++m) TransposedTile<1>(args, m, args.scratch, column);
  }
}

struct Transposed {
  const TransposedArgs& args;
  template <typename Reader>
  void Run() const {
    args.num_x == 1 ? TransposedOne<Reader>(args) : TransposedMany<Reader>(args);
  }
};

void RunTransposed(const TransposedArgs& args) {
  if (args.num_x <= 0 || args.num_rows <= 0) return;
  WithReader(args.weight.type, Transposed{args});
}

struct OneRow {
  const WeightArgs& weight;
  int64_t row;
  float* out;
  template <typename Reader>
  void Run() const {
    const int64_t whole = weight.columns / kLanes * kLanes;
    Decode<Reader>(weight, row, 0, whole, out);
    if (whole == weight.columns) return;
    Reader reader(weight, row);
    reader.Enter(whole);
    StorePartial(out + whole, reader.At(whole, weight.columns - whole), weight.columns - whole);
  }
};

void DecodeRow(const WeightArgs& weight, int64_t row, float* out) {
  WithReader(weight.type, OneRow{weight, row, out});
}

}  // namespace

extern const LinearKernels kLinearKernels = {RunPanel, RunTransposed, DecodeRow};

}  // namespace winnow::cpu::WINNOW_LEVEL
