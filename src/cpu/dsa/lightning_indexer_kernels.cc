// The lightning indexer's inner loops: keys of a cache page to floats, dots of query heads with
// sixteen keys a vector, and the sieve that lets only better scores through.
//
// Sums are chains over j, so keys are the lanes. A tile of 6 rows of q (a row is one head of one
// token) by kVectors vectors of keys stays in registers: on AVX2, 12 accumulators, 2 registers of
// keys and a broadcast are 15 of 16, and 8 loads feed 12 multiply-adds.
#include "cpu/dsa/dsa_kernels.h"
#include "cpu/simd.h"

namespace winnow::cpu::WINNOW_LEVEL {
namespace {

constexpr int kRows = 6;
constexpr int kVectors = kNative == 16 ? 4 : 1;

// ---- Keys ---------------------------------------------------------------------------------------
// A page holds codes [J, page_size] and then, for the short types, a scale for each key.

template <typename Code, F32x16 (*kLoad)(const Code*)>
void DecodeCodes(const uint8_t* page, int64_t index_dim, int64_t page_size, int64_t first_key,
                 int64_t num_groups, float* keys) {
  for (int64_t group = 0; group < num_groups; ++group) {
    const Code* codes = reinterpret_cast<const Code*>(page) + first_key + group * kKeyGroup;
    for (int64_t j = 0; j < index_dim; ++j) {
      Store(keys, kLoad(codes + j * page_size));
      keys += kKeyGroup;
    }
  }
}

void DecodeKeys(IndexKeyType type, const uint8_t* page, int64_t index_dim, int64_t page_size,
                int64_t first_key, int64_t num_groups, float* keys) {
  switch (type) {
    case IndexKeyType::kF32:
      return DecodeCodes<float, Load>(page, index_dim, page_size, first_key, num_groups, keys);
    case IndexKeyType::kBf16:
      return DecodeCodes<uint16_t, LoadBf16>(page, index_dim, page_size, first_key, num_groups,
                                             keys);
    case IndexKeyType::kE4m3:
      return DecodeCodes<uint8_t, LoadE4m3>(page, index_dim, page_size, first_key, num_groups,
                                            keys);
    case IndexKeyType::kInt8:
      return DecodeCodes<int8_t, LoadI8AsFloat>(page, index_dim, page_size, first_key, num_groups,
                                                keys);
  }
}

// ---- Scores -------------------------------------------------------------------------------------

// Where a tile's keys come from: At(v, j) is dimension j of group v.
struct DecodedKeys {
  const float* keys;
  int64_t index_dim;
  DecodedKeys From(int64_t group) const {
    return {keys + group * index_dim * kKeyGroup, index_dim};
  }
  F32x16 At(int64_t v, int64_t j) const { return Load(keys + (v * index_dim + j) * kKeyGroup); }
};
template <typename Code, F32x16 (*kLoad)(const Code*)>
struct PageKeys {
  const Code* codes;
  int64_t page_size;
  PageKeys From(int64_t group) const { return {codes + group * kKeyGroup, page_size}; }
  F32x16 At(int64_t v, int64_t j) const { return kLoad(codes + j * page_size + v * kKeyGroup); }
};

// dots[r, v] = q[r] · keys of group v, for kR rows and kV groups.
template <int kR, int kV, typename Keys>
void DotTile(const float* q, const Keys& keys, int64_t index_dim, float* dots) {
  F32x16 sum[kR][kV];
  for (int r = 0; r < kR; ++r) {
    for (int v = 0; v < kV; ++v) sum[r][v] = Zero();
  }
  for (int64_t j = 0; j < index_dim; ++j) {
    F32x16 key[kV];
    for (int v = 0; v < kV; ++v) key[v] = keys.At(v, j);
    for (int r = 0; r < kR; ++r) {
      const F32x16 here = Broadcast(q[r * index_dim + j]);
      for (int v = 0; v < kV; ++v) sum[r][v] = Fma(here, key[v], sum[r][v]);
    }
  }
  for (int r = 0; r < kR; ++r) {
    for (int v = 0; v < kV; ++v) Store(dots + (r * kV + v) * kKeyGroup, sum[r][v]);
  }
}

template <int kV, typename Keys>
void DotRows(const float* q, int64_t num_rows, const Keys& keys, int64_t index_dim, float* dots) {
  int64_t row = 0;
  for (; row + kRows <= num_rows; row += kRows) {
    DotTile<kRows, kV>(q + row * index_dim, keys, index_dim, dots + row * kV * kKeyGroup);
  }
  q += row * index_dim;
  dots += row * kV * kKeyGroup;
  switch (num_rows - row) {
    case 1:
      return DotTile<1, kV>(q, keys, index_dim, dots);
    case 2:
      return DotTile<2, kV>(q, keys, index_dim, dots);
    case 3:
      return DotTile<3, kV>(q, keys, index_dim, dots);
    case 4:
      return DotTile<4, kV>(q, keys, index_dim, dots);
    case 5:
      return DotTile<5, kV>(q, keys, index_dim, dots);
    default:
      return;
  }
}

// Adds the heads of one token for sixteen keys.
template <int kV>
F32x16 AddHeads(const float* dots, const float* weights, int64_t index_heads) {
  F32x16 chain[4] = {Zero(), Zero(), Zero(), Zero()};
  for (int64_t head = 0; head < index_heads; head += 8) {
    const int64_t end = head + 8 < index_heads ? head + 8 : index_heads;
    for (int64_t h = head; h < end; ++h) {
      // NaN stays: Max gives its second argument then.
      const F32x16 agreement = Max(Zero(), Load(dots + h * kV * kKeyGroup));
      F32x16& sum = chain[(h - head) / 2];
      sum = Fma(Broadcast(weights[h]), agreement, sum);
    }
  }
  return Add(Add(chain[0], chain[1]), Add(chain[2], chain[3]));
}

template <int kV, typename Keys>
void ScoreGroups(const ScoreArgs& args, const Keys& keys, int64_t group) {
  DotRows<kV>(args.q, args.num_tokens * args.index_heads, keys.From(group), args.index_dim,
              args.dots);
  for (int64_t token = 0; token < args.num_tokens; ++token) {
    const float* dots = args.dots + token * args.index_heads * kV * kKeyGroup;
    const float* weights = args.weights + token * args.index_heads;
    for (int64_t v = 0; v < kV; ++v) {
      const int64_t key = (group + v) * kKeyGroup;
      const F32x16 sum = AddHeads<kV>(dots + v * kKeyGroup, weights, args.index_heads);
      const F32x16 score = Add(Mul(sum, Load(args.key_scale + key)), Zero());
      Store(args.scores + token * args.scores_stride + key, score);
    }
  }
}

template <typename Keys>
void ScoreKeys(const ScoreArgs& args, const Keys& keys) {
  int64_t group = 0;
  for (; group + kVectors <= args.num_groups; group += kVectors) {
    ScoreGroups<kVectors>(args, keys, group);
  }
  for (; group < args.num_groups; ++group) ScoreGroups<1>(args, keys, group);
}

void Score(const ScoreArgs& args) { ScoreKeys(args, DecodedKeys{args.keys, args.index_dim}); }

template <typename Code, F32x16 (*kLoad)(const Code*)>
void ScoreCodes(const uint8_t* page, int64_t page_size, int64_t first_key, const ScoreArgs& args) {
  const Code* codes = reinterpret_cast<const Code*>(page) + first_key;
  ScoreKeys(args, PageKeys<Code, kLoad>{codes, page_size});
}

void ScorePage(IndexKeyType type, const uint8_t* page, int64_t page_size, int64_t first_key,
               const ScoreArgs& args) {
  switch (type) {
    case IndexKeyType::kF32:
      return ScoreCodes<float, Load>(page, page_size, first_key, args);
    case IndexKeyType::kBf16:
      return ScoreCodes<uint16_t, LoadBf16>(page, page_size, first_key, args);
    case IndexKeyType::kE4m3:
      return ScoreCodes<uint8_t, LoadE4m3>(page, page_size, first_key, args);
    case IndexKeyType::kInt8:
      return ScoreCodes<int8_t, LoadI8AsFloat>(page, page_size, first_key, args);
  }
}

// ---- The sieve ----------------------------------------------------------------------------------

// Maps floats but NaN to integers of the same order.
uint32_t Ordered(float score) {
  uint32_t bits;
  memcpy(&bits, &score, sizeof(bits));
  return bits & 0x80000000 ? ~bits : bits | 0x80000000;
}

int64_t Filter(const float* scores, int64_t num_scores, int32_t first_position,
               const float* threshold, Candidate* out) {
  int64_t count = 0;
  for (int64_t s = 0; s < num_scores; s += kLanes) {
    const int64_t lanes = num_scores - s < kLanes ? num_scores - s : kLanes;
    const F32x16 score = LoadPartial(scores + s, lanes);
    Mask16 mask = threshold ? Less(Broadcast(*threshold), score) : Equal(score, score);
    mask &= (Mask16{1} << lanes) - 1;
    for (; mask != 0; mask &= mask - 1) {
      const int64_t index = s + __builtin_ctz(mask);
      const uint32_t position = static_cast<uint32_t>(first_position + index);
      out[count++] = uint64_t{Ordered(scores[index])} << 32 | static_cast<uint32_t>(~position);
    }
  }
  return count;
}

}  // namespace

extern const LightningIndexerKernels kLightningIndexerKernels = {DecodeKeys, Score, ScorePage,
                                                                 Filter};

}  // namespace winnow::cpu::WINNOW_LEVEL
