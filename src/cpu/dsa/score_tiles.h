// Scores of int8 keys by products of tiles: what the level amx does. Included by
// lightning_indexer_kernels.cc only.
//
// A page holds four codes of a key next to each other and the keys one behind the other, which is
// how a tile of 64 dimensions by 16 keys is read as B. Rows of queries, 16 heads of one or several
// tokens, are A. Dots are exact integers, so that scores have the bits of every other level.
#pragma once

#include "cpu/tiles.h"

namespace winnow::cpu::WINNOW_LEVEL {
namespace {

constexpr int64_t kTileCodes = 64;           // of a row of a tile
constexpr int64_t kDotRows = 64;             // whose dots are made before they are added up
constexpr int64_t kNearRows = 128;           // of queries, which stay in L1 while keys go by
constexpr int64_t kTileRowsWorthwhile = 16;  // of queries: setting up tiles costs as much as 8 do

// Tiles: dots of sixteen rows and of the last ones, rows of queries likewise, keys.
constexpr int kDots = 0;
constexpr int kLastDots = 1;
constexpr int kQueries = 2;
constexpr int kLastQueries = 3;
constexpr int kKeys = 4;  // and kKeys + 1

int64_t CodeBytes(int64_t index_dim) { return RoundUp(index_dim, 4); }

// Whether so many rows of queries do: theirs are cut into equal tiles, or fill less than one.
bool ScoresByTiles(IndexKeyType type, int64_t rows, int64_t index_dim) {
  const int64_t bytes = CodeBytes(index_dim);
  return ScoresCodes(type, index_dim) && rows >= kTileRowsWorthwhile &&
         (bytes <= kTileCodes || bytes % kTileCodes == 0);
}

// [rows, CodeBytes]
int64_t PackCodes(const float* q, int64_t rows, int64_t index_dim, int8_t* codes) {
  const int64_t bytes = CodeBytes(index_dim);
  for (int64_t row = 0; row < rows; ++row) {
    int64_t j = 0;
    for (; j + kLanes <= index_dim; j += kLanes) StoreI8(codes + j, ToInt(Load(q + j)));
    for (; j < bytes; ++j) codes[j] = j < index_dim ? static_cast<int8_t>(q[j]) : int8_t{0};
    q += index_dim;
    codes += bytes;
  }
  return rows * bytes / 4;
}

// The keys of a page from first_key on, and rows of queries that are cut into kSteps tiles each; 0
// says that they are more than two.
template <int kSteps>
struct KeyTiles {
  const int32_t* words;  // four codes of a key each
  int64_t page_size;
  int64_t row_bytes;  // of a query

  explicit KeyTiles(const ScoreArgs& args)
      : words(reinterpret_cast<const int32_t*>(args.page) + args.first_key),
        page_size(args.page_size),
        row_bytes(CodeBytes(args.index_dim)) {}
  int64_t steps() const { return kSteps > 0 ? kSteps : row_bytes / kTileCodes; }
  template <int kTile>
  __attribute__((always_inline)) void Load(int64_t group, int64_t step) const {
    LoadTile<kTile>(words + group * kKeyGroup + step * (kTileCodes / 4) * page_size, page_size * 4);
  }
  // Those of up to two steps stay in tiles.
  __attribute__((always_inline)) void Enter(int64_t group) const {
    Load<kKeys>(group, 0);
    if constexpr (kSteps == 2) Load<kKeys + 1>(group, 1);
  }
};

TileShapes DotShapes(int64_t row_bytes, int64_t num_rows) {
  const int64_t words = row_bytes < kTileCodes ? row_bytes / 4 : kTileCodes / 4;
  TileShapes shapes;
  shapes.Set(kDots, kTileSide, kTileSide);
  shapes.Set(kLastDots, num_rows % kTileSide, kTileSide);
  shapes.Set(kQueries, kTileSide, words);
  shapes.Set(kLastQueries, num_rows % kTileSide, words);
  shapes.Set(kKeys, words, kTileSide);
  shapes.Set(kKeys + 1, words, kTileSide);
  return shapes;
}

// Rows of one tile.
template <int kOut, int kA, int kSteps>
inline __attribute__((always_inline)) void DotsOfTile(const KeyTiles<kSteps>& keys, int64_t group,
                                                      const int8_t* q, int32_t* dots) {
  ZeroTile<kOut>();
  LoadTile<kA>(q, keys.row_bytes);
  AddInt8Tiles<kOut, kA, kKeys>();
  for (int64_t step = 1; step < keys.steps(); ++step) {
    LoadTile<kA>(q + step * kTileCodes, keys.row_bytes);
    if constexpr (kSteps == 0) keys.template Load<kKeys + 1>(group, step);
    AddInt8Tiles<kOut, kA, kKeys + 1>();
  }
  StoreTile<kOut>(dots, kTileSide * 4);
}

// The dots of some rows with sixteen keys, which were entered: [num_rows, 16].
template <int kSteps>
inline __attribute__((always_inline)) void Dots(const KeyTiles<kSteps>& keys, int64_t group,
                                                const int8_t* q, int64_t num_rows, int32_t* dots) {
  int64_t row = 0;
  for (; row + kTileSide <= num_rows; row += kTileSide) {
    DotsOfTile<kDots, kQueries>(keys, group, q + row * keys.row_bytes, dots + row * kTileSide);
  }
  if (row == num_rows) return;
  DotsOfTile<kLastDots, kLastQueries>(keys, group, q + row * keys.row_bytes,
                                      dots + row * kTileSide);
}

// The four chains over the heads of a token, for sixteen keys.
struct HeadChains {
  F32x16 of[4] = {Zero(), Zero(), Zero(), Zero()};

  // Heads from a multiple of eight on; dots [heads, 16].
  void Add(const int32_t* dots, const float* weights, int64_t heads) {
    const auto add = [&](int64_t head, int i) __attribute__((always_inline)) {
      const F32x16 agreement = Max(Zero(), ToFloat(LoadInt(dots + head * kKeyGroup)));
      of[i / 2] = Fma(Broadcast(weights[head]), agreement, of[i / 2]);
    };
    int64_t head = 0;
    for (; head + 8 <= heads; head += 8) {
      for (int i = 0; i < 8; ++i) add(head + i, i);
    }
    for (int i = 0; i < 8; ++i) {
      if (head + i < heads) add(head + i, i);
    }
  }
  F32x16 Score(F32x16 key_scale) const {
    const F32x16 sum =
        WINNOW_LEVEL::Add(WINNOW_LEVEL::Add(of[0], of[1]), WINNOW_LEVEL::Add(of[2], of[3]));
    return WINNOW_LEVEL::Add(Mul(sum, key_scale), Zero());
  }
};

// Dots [tokens, heads, 16] that are to be added up.
struct Pending {
  const int32_t* dots = nullptr;
  int64_t first_token = 0;
  int64_t num_tokens = 0;
  int64_t group = 0;
};

void AddUp(const ScoreArgs& args, const Pending& pending) {
  const int64_t heads = args.index_heads;
  const int64_t key = pending.group * kKeyGroup;
  for (int64_t i = 0; i < pending.num_tokens; ++i) {
    const int64_t token = pending.first_token + i;
    HeadChains chains;
    chains.Add(pending.dots + i * heads * kKeyGroup, args.weights + token * heads, heads);
    Store(args.scores + token * args.scores_stride + key, chains.Score(Load(args.key_scale + key)));
  }
}

// Tokens [first, last) in blocks of `at_once`, which have at most kDotRows heads. Dots of one block
// are made before those of the last are added up, so that neither waits.
template <int kSteps>
void ScoreBlocks(const ScoreArgs& args, int64_t first, int64_t last, int64_t at_once) {
  alignas(64) int32_t dots[2][kDotRows * kKeyGroup + kKeyGroup];
  const int64_t rows = at_once * args.index_heads;
  const KeyTiles<kSteps> keys(args);
  const TileScope tiles(DotShapes(keys.row_bytes, rows));
  const int64_t near = rows < kNearRows ? kNearRows / rows * at_once : at_once;
  Pending pending;
  int parity = 0;
  for (; first < last; first += near) {
    for (int64_t group = 0; group < args.num_groups; ++group) {
      keys.Enter(group);
      for (int64_t token = first; token < first + near && token < last; token += at_once) {
        const int8_t* q =
            static_cast<const int8_t*>(args.q) + token * args.index_heads * keys.row_bytes;
        Dots(keys, group, q, rows, dots[parity]);
        AddUp(args, pending);
        pending = {dots[parity], token, at_once, group};
        parity ^= 1;
      }
    }
  }
  AddUp(args, pending);
}

// A token of more heads.
template <int kSteps>
void ScoreManyHeads(const ScoreArgs& args, int64_t token) {
  alignas(64) int32_t dots[kDotRows * kKeyGroup];
  const int64_t heads = args.index_heads;
  const KeyTiles<kSteps> keys(args);
  const TileScope tiles(DotShapes(keys.row_bytes, heads));
  const int8_t* q = static_cast<const int8_t*>(args.q) + token * heads * keys.row_bytes;
  for (int64_t group = 0; group < args.num_groups; ++group) {
    keys.Enter(group);
    HeadChains chains;
    for (int64_t head = 0; head < heads; head += kDotRows) {
      const int64_t rows = heads - head < kDotRows ? heads - head : kDotRows;
      Dots(keys, group, q + head * keys.row_bytes, rows, dots);
      chains.Add(dots, args.weights + token * heads + head, rows);
    }
    Store(args.scores + token * args.scores_stride + group * kKeyGroup,
          chains.Score(Load(args.key_scale + group * kKeyGroup)));
  }
}

template <int kSteps>
void ScorePage(const ScoreArgs& args) {
  if (args.index_heads > kDotRows) {
    for (int64_t token = 0; token < args.num_tokens; ++token) ScoreManyHeads<kSteps>(args, token);
    return;
  }
  const int64_t at_once = args.index_heads < kTileSide ? kTileSide / args.index_heads : 1;
  const int64_t whole = args.num_tokens / at_once * at_once;
  if (whole > 0) ScoreBlocks<kSteps>(args, 0, whole, at_once);
  if (whole < args.num_tokens) {
    ScoreBlocks<kSteps>(args, whole, args.num_tokens, args.num_tokens - whole);
  }
}

void ScoreByTiles(const ScoreArgs& args) {
  const int64_t bytes = CodeBytes(args.index_dim);
  if (bytes <= kTileCodes) return ScorePage<1>(args);
  if (bytes == 2 * kTileCodes) return ScorePage<2>(args);
  ScorePage<0>(args);
}

}  // namespace
}  // namespace winnow::cpu::WINNOW_LEVEL
