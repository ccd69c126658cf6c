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

constexpr int64_t kTileCodes = 64;  // of a row of a tile
constexpr int64_t kDotRows = 64;    // whose dots are made before they are added up

// Tiles: dots of sixteen rows and of the last ones, rows of queries likewise, keys.
constexpr int kDots = 0;
constexpr int kLastDots = 1;
constexpr int kQueries = 2;
constexpr int kLastQueries = 3;
constexpr int kKeys = 4;  // and kKeys + 1

int64_t CodeBytes(int64_t index_dim) { return RoundUp(index_dim, 4); }

// Rows of codes are cut into equal tiles, or fill less than one.
bool ScoresByTiles(IndexKeyType type, int64_t index_dim) {
  const int64_t bytes = CodeBytes(index_dim);
  return ScoresCodes(type, index_dim) && (bytes <= kTileCodes || bytes % kTileCodes == 0);
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

// The dots of some rows with sixteen keys.
struct DotArgs {
  const int8_t* q;
  int64_t row_bytes;
  int64_t num_rows;
  const int32_t* keys;  // of the first four dimensions
  int64_t page_size;
  int32_t* dots;  // [num_rows, 16]

  int64_t steps() const { return row_bytes < kTileCodes ? 1 : row_bytes / kTileCodes; }
  const int32_t* KeysOf(int64_t step) const { return keys + step * (kTileCodes / 4) * page_size; }
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

// Rows of one tile. The keys of up to two steps stay in tiles.
template <int kOut, int kA>
inline __attribute__((always_inline)) void DotsOfTile(const DotArgs& args, const int8_t* q,
                                                      int32_t* dots) {
  ZeroTile<kOut>();
  LoadTile<kA>(q, args.row_bytes);
  AddInt8Tiles<kOut, kA, kKeys>();
  if (args.steps() == 2) {
    LoadTile<kA>(q + kTileCodes, args.row_bytes);
    AddInt8Tiles<kOut, kA, kKeys + 1>();
  }
  if (args.steps() > 2) {
    for (int64_t step = 1; step < args.steps(); ++step) {
      LoadTile<kA>(q + step * kTileCodes, args.row_bytes);
      LoadTile<kKeys + 1>(args.KeysOf(step), args.page_size * 4);
      AddInt8Tiles<kOut, kA, kKeys + 1>();
    }
  }
  StoreTile<kOut>(dots, kTileSide * 4);
}

void Dots(const DotArgs& args) {
  LoadTile<kKeys>(args.keys, args.page_size * 4);
  if (args.steps() == 2) LoadTile<kKeys + 1>(args.KeysOf(1), args.page_size * 4);
  int64_t row = 0;
  for (; row + kTileSide <= args.num_rows; row += kTileSide) {
    DotsOfTile<kDots, kQueries>(args, args.q + row * args.row_bytes, args.dots + row * kTileSide);
  }
  if (row == args.num_rows) return;
  DotsOfTile<kLastDots, kLastQueries>(args, args.q + row * args.row_bytes,
                                      args.dots + row * kTileSide);
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
    const F32x16 sum = WINNOW_LEVEL::Add(WINNOW_LEVEL::Add(of[0], of[1]),
                                         WINNOW_LEVEL::Add(of[2], of[3]));
    return WINNOW_LEVEL::Add(Mul(sum, key_scale), Zero());
  }
};

// Some tokens that have at most kDotRows heads together, or one token, by all keys.
void ScoreTokens(const ScoreArgs& args, int64_t first, int64_t num_tokens) {
  alignas(64) int32_t dots[kDotRows * kKeyGroup];
  const int64_t heads = args.index_heads;
  const int64_t row_bytes = CodeBytes(args.index_dim);
  const int8_t* q = static_cast<const int8_t*>(args.q) + first * heads * row_bytes;
  const float* weights = args.weights + first * heads;
  const int32_t* keys = reinterpret_cast<const int32_t*>(args.page) + args.first_key;
  const TileScope tiles(DotShapes(row_bytes, num_tokens * heads));
  for (int64_t key = 0; key < args.num_groups * kKeyGroup; key += kKeyGroup) {
    const F32x16 scale = Load(args.key_scale + key);
    float* scores = args.scores + first * args.scores_stride + key;
    if (heads > kDotRows) {
      HeadChains chains;
      for (int64_t head = 0; head < heads; head += kDotRows) {
        const int64_t rows = heads - head < kDotRows ? heads - head : kDotRows;
        Dots({q + head * row_bytes, row_bytes, rows, keys + key, args.page_size, dots});
        chains.Add(dots, weights + head, rows);
      }
      Store(scores, chains.Score(scale));
      continue;
    }
    Dots({q, row_bytes, num_tokens * heads, keys + key, args.page_size, dots});
    for (int64_t token = 0; token < num_tokens; ++token) {
      HeadChains chains;
      chains.Add(dots + token * heads * kKeyGroup, weights + token * heads, heads);
      Store(scores + token * args.scores_stride, chains.Score(scale));
    }
  }
}

void ScoreByTiles(const ScoreArgs& args) {
  const int64_t at_once = args.index_heads < kDotRows ? kDotRows / args.index_heads : 1;
  for (int64_t token = 0; token < args.num_tokens; token += at_once) {
    const int64_t left = args.num_tokens - token;
    ScoreTokens(args, token, left < at_once ? left : at_once);
  }
}

}  // namespace
}  // namespace winnow::cpu::WINNOW_LEVEL
