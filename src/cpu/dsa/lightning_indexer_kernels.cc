// The lightning indexer's inner loops: keys of a cache page to floats, dots of query heads with
// sixteen keys a vector, and the sieve that lets only better scores through.
//
// Sums are chains over j, so keys are the lanes. A tile of 6 rows of q (a row is one head of one
// token) by kVectors vectors of keys stays in registers: on AVX2, 12 accumulators, 2 registers of
// keys and a broadcast are 15 of 16, and 8 loads feed 12 multiply-adds. Codes of int8 are
// multiplied two dimensions at a time as 16-bit integers, in the same tiles.
#include "cpu/dsa/dsa_kernels.h"
#include "cpu/simd.h"

namespace winnow::cpu::WINNOW_LEVEL {
namespace {

constexpr int kRows = 6;
constexpr int kVectors = kNative == 16 ? 4 : 1;

// ---- Keys ---------------------------------------------------------------------------------------
// A page holds codes [J, page_size] and then, for the short types, a scale for each key.

template <typename Code, F32x16 (*kLoad)(const Code*)>
void DecodeValues(const uint8_t* page, int64_t index_dim, int64_t page_size, int64_t first_key,
                  int64_t num_groups, float* keys) {
  for (int64_t group = 0; group < num_groups; ++group) {
    const Code* codes = reinterpret_cast<const Code*>(page) + first_key + group * kKeyGroup;
    for (int64_t j = 0; j < index_dim; ++j) {
      Store(keys, kLoad(codes + j * page_size));
      keys += kKeyGroup;
    }
  }
}

// Pair `pair` of sixteen keys from `codes` on. Where the last dimension has no partner it is its
// own: the query's code there is 0.
I32x16 LoadCodePair(const int8_t* codes, int64_t index_dim, int64_t page_size, int64_t pair) {
  const int64_t partner = 2 * pair + 1 < index_dim ? 2 * pair + 1 : 2 * pair;
  return InterleaveI8(codes + 2 * pair * page_size, codes + partner * page_size);
}

void DecodeCodePairs(const int8_t* codes, int64_t index_dim, int64_t page_size, int64_t num_groups,
                     int32_t* pairs) {
  for (int64_t group = 0; group < num_groups; ++group) {
    for (int64_t pair = 0; pair < CodePairs(index_dim); ++pair) {
      StoreInt(pairs, LoadCodePair(codes + group * kKeyGroup, index_dim, page_size, pair));
      pairs += kKeyGroup;
    }
  }
}

void DecodeKeys(IndexKeyType type, const uint8_t* page, int64_t index_dim, int64_t page_size,
                int64_t first_key, int64_t num_groups, void* keys) {
  const auto values = static_cast<float*>(keys);
  const auto codes = reinterpret_cast<const int8_t*>(page) + first_key;
  if (ScoresCodes(type, index_dim)) {
    return DecodeCodePairs(codes, index_dim, page_size, num_groups, static_cast<int32_t*>(keys));
  }
  switch (type) {
    case IndexKeyType::kF32:
      return DecodeValues<float, Load>(page, index_dim, page_size, first_key, num_groups, values);
    case IndexKeyType::kBf16:
      return DecodeValues<uint16_t, LoadBf16>(page, index_dim, page_size, first_key, num_groups,
                                              values);
    case IndexKeyType::kE4m3:
      return DecodeValues<uint8_t, LoadE4m3>(page, index_dim, page_size, first_key, num_groups,
                                             values);
    case IndexKeyType::kInt8:
      return DecodeValues<int8_t, LoadI8AsFloat>(page, index_dim, page_size, first_key, num_groups,
                                                 values);
  }
}

void PackCodes(const float* q, int64_t rows, int64_t index_dim, int32_t* pairs) {
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t j = 0; j < index_dim; j += 2) {
      const auto first = static_cast<uint16_t>(static_cast<int16_t>(q[j]));
      const auto second = static_cast<int32_t>(j + 1 < index_dim ? q[j + 1] : 0.0f);
      *pairs++ = static_cast<int32_t>(static_cast<uint32_t>(second) << 16 | first);
    }
    q += index_dim;
  }
}

// ---- Scores -------------------------------------------------------------------------------------

// What a step along a key and a query adds to the dots of sixteen keys.
struct ValueStep {
  using Query = float;
  using Dots = F32x16;
  static int64_t Count(int64_t index_dim) { return index_dim; }
  static F32x16 Start() { return Zero(); }
  static F32x16 Add(float query, F32x16 key, F32x16 dots) {
    return Fma(Broadcast(query), key, dots);
  }
  static F32x16 Value(F32x16 dots) { return dots; }
};
struct CodeStep {
  using Query = int32_t;
  using Dots = I32x16;
  static int64_t Count(int64_t index_dim) { return CodePairs(index_dim); }
  static I32x16 Start() { return BroadcastInt(0); }
  static I32x16 Add(int32_t query, I32x16 key, I32x16 dots) {
    return AddPairs(BroadcastInt(query), key, dots);
  }
  static F32x16 Value(I32x16 dots) { return ToFloat(dots); }
};

// Where a tile's keys come from: At(v, step) is a step of group v.
struct DecodedValues {
  using Step = ValueStep;
  const float* keys;
  int64_t steps;
  DecodedValues From(int64_t group) const { return {keys + group * steps * kKeyGroup, steps}; }
  F32x16 At(int64_t v, int64_t j) const { return Load(keys + (v * steps + j) * kKeyGroup); }
};
struct DecodedCodes {
  using Step = CodeStep;
  const int32_t* keys;
  int64_t steps;
  DecodedCodes From(int64_t group) const { return {keys + group * steps * kKeyGroup, steps}; }
  I32x16 At(int64_t v, int64_t pair) const {
    return LoadInt(keys + (v * steps + pair) * kKeyGroup);
  }
};
template <typename Code, F32x16 (*kLoad)(const Code*)>
struct PageValues {
  using Step = ValueStep;
  const Code* codes;
  int64_t page_size;
  PageValues From(int64_t group) const { return {codes + group * kKeyGroup, page_size}; }
  F32x16 At(int64_t v, int64_t j) const { return kLoad(codes + j * page_size + v * kKeyGroup); }
};
struct PageCodes {
  using Step = CodeStep;
  const int8_t* codes;
  int64_t page_size;
  int64_t index_dim;
  PageCodes From(int64_t group) const { return {codes + group * kKeyGroup, page_size, index_dim}; }
  I32x16 At(int64_t v, int64_t pair) const {
    return LoadCodePair(codes + v * kKeyGroup, index_dim, page_size, pair);
  }
};

// dots[r, v] = q[r] · keys of group v, for kR rows and kV groups.
template <int kR, int kV, typename Keys>
void DotTile(const typename Keys::Step::Query* q, const Keys& keys, int64_t steps, float* dots) {
  using Step = typename Keys::Step;
  typename Step::Dots sum[kR][kV];
  for (int r = 0; r < kR; ++r) {
    for (int v = 0; v < kV; ++v) sum[r][v] = Step::Start();
  }
  for (int64_t j = 0; j < steps; ++j) {
    typename Step::Dots key[kV];
    for (int v = 0; v < kV; ++v) key[v] = keys.At(v, j);
    for (int r = 0; r < kR; ++r) {
      for (int v = 0; v < kV; ++v) sum[r][v] = Step::Add(q[r * steps + j], key[v], sum[r][v]);
    }
  }
  for (int r = 0; r < kR; ++r) {
    for (int v = 0; v < kV; ++v) Store(dots + (r * kV + v) * kKeyGroup, Step::Value(sum[r][v]));
  }
}

template <int kV, typename Keys>
void DotRows(const typename Keys::Step::Query* q, int64_t num_rows, const Keys& keys, int64_t steps,
             float* dots) {
  int64_t row = 0;
  for (; row + kRows <= num_rows; row += kRows) {
    DotTile<kRows, kV>(q + row * steps, keys, steps, dots + row * kV * kKeyGroup);
  }
  q += row * steps;
  dots += row * kV * kKeyGroup;
  switch (num_rows - row) {
    case 1:
      return DotTile<1, kV>(q, keys, steps, dots);
    case 2:
      return DotTile<2, kV>(q, keys, steps, dots);
    case 3:
      return DotTile<3, kV>(q, keys, steps, dots);
    case 4:
      return DotTile<4, kV>(q, keys, steps, dots);
    case 5:
      return DotTile<5, kV>(q, keys, steps, dots);
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
  DotRows<kV>(static_cast<const typename Keys::Step::Query*>(args.q),
              args.num_tokens * args.index_heads, keys.From(group),
              Keys::Step::Count(args.index_dim), args.dots);
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

void Score(const ScoreArgs& args) {
  if (ScoresCodes(args.type, args.index_dim)) {
    return ScoreKeys(
        args, DecodedCodes{static_cast<const int32_t*>(args.keys), CodePairs(args.index_dim)});
  }
  ScoreKeys(args, DecodedValues{static_cast<const float*>(args.keys), args.index_dim});
}

template <typename Code, F32x16 (*kLoad)(const Code*)>
void ScoreValues(const uint8_t* page, int64_t page_size, int64_t first_key, const ScoreArgs& args) {
  const Code* codes = reinterpret_cast<const Code*>(page) + first_key;
  ScoreKeys(args, PageValues<Code, kLoad>{codes, page_size});
}

void ScorePage(const uint8_t* page, int64_t page_size, int64_t first_key, const ScoreArgs& args) {
  if (ScoresCodes(args.type, args.index_dim)) {
    const auto codes = reinterpret_cast<const int8_t*>(page) + first_key;
    return ScoreKeys(args, PageCodes{codes, page_size, args.index_dim});
  }
  switch (args.type) {
    case IndexKeyType::kF32:
      return ScoreValues<float, Load>(page, page_size, first_key, args);
    case IndexKeyType::kBf16:
      return ScoreValues<uint16_t, LoadBf16>(page, page_size, first_key, args);
    case IndexKeyType::kE4m3:
      return ScoreValues<uint8_t, LoadE4m3>(page, page_size, first_key, args);
    case IndexKeyType::kInt8:
      return ScoreValues<int8_t, LoadI8AsFloat>(page, page_size, first_key, args);
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

extern const LightningIndexerKernels kLightningIndexerKernels = {PackCodes, DecodeKeys, Score,
                                                                 ScorePage, Filter};

}  // namespace winnow::cpu::WINNOW_LEVEL
