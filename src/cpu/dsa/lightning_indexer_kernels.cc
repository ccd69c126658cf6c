// The lightning indexer's inner loops: dots of query heads with sixteen keys a vector, their heads
// added up as they come, and the sieve that lets only better scores through.
//
// Sums are chains over j, so keys are the lanes. A tile of heads by vectors of keys stays in
// registers, its dots become agreements there, and only the four chains over heads leave them. What
// a step along a key adds, and whether keys are decoded beforehand, is the level's affair:
//
//   keys        avx512_bf16, amx                    other levels
//   int8        four codes a step, from the page    two codes a step, as 16-bit integers
//   bf16        two values a step, from the page    one float a step
//   e4m3        decoded to bf16                     one float a step
//   f32         one float a step                    one float a step
//
// On amx most int8 keys go by tiles instead: score_tiles.h. The sieve is in sieve.h, what makes
// codes of vectors in index_vectors.h.
#include "cpu/dsa/dsa_kernels.h"
#include "cpu/dsa/e4m3_bytes.h"
#include "cpu/dsa/index_vectors.h"
#include "cpu/dsa/sieve.h"
#include "cpu/simd.h"

namespace winnow::cpu::WINNOW_LEVEL {
namespace {

// A tile: on AVX2, 6 heads by two registers of keys are 12 of 16; on AVX-512, 16 sums cover the
// time that a product takes. Few heads take more keys instead.
constexpr int64_t kTileHeads = kNative == 16 ? 8 : 6;
constexpr int64_t kTileVectors = kNative == 16 ? 2 : 1;
constexpr int64_t kFewHeads = 4;
constexpr int64_t kFewVectors = kNative == 16 ? 4 : 1;
// Rows of queries that do not pay for decoding keys beforehand.
constexpr int64_t kFewRows = 6;

int64_t RoundUp(int64_t value, int64_t unit) { return (value + unit - 1) / unit * unit; }

// ---- Steps --------------------------------------------------------------------------------------
// What a step along a key and a query adds to the dots of sixteen keys. A query's step is one word
// of 32 bits, a key's is a vector of them; Count steps make a dot, Words words a packed query,
// which Start gets to say what a sum begins with.

struct FloatStep {
  using Word = float;
  using Key = F32x16;
  using Dots = F32x16;
  static int64_t Count(int64_t index_dim) { return RoundUp(index_dim, 2); }
  static int64_t Words(int64_t index_dim) { return Count(index_dim); }
  // In the order of the chain: of each two dimensions the second first.
  static void Pack(const float* q, int64_t index_dim, float* words) {
    for (int64_t step = 0; step < Count(index_dim); ++step) {
      const int64_t j = step ^ 1;
      words[step] = j < index_dim ? q[j] : 0.0f;
    }
  }
  static F32x16 Load(const float* p) { return WINNOW_LEVEL::Load(p); }
  static void Store(float* p, F32x16 key) { WINNOW_LEVEL::Store(p, key); }
  static F32x16 Start(const float*, int64_t) { return Zero(); }
  static F32x16 Add(float query, F32x16 key, F32x16 dots) {
    return Fma(Broadcast(query), key, dots);
  }
  static F32x16 Value(F32x16 dots) { return dots; }
};

#if defined(__AVX512BF16__)

struct Bf16Step {
  using Word = int32_t;
  using Key = I32x16;
  using Dots = F32x16;
  static int64_t Count(int64_t index_dim) { return RoundUp(index_dim, 2) / 2; }
  static int64_t Words(int64_t index_dim) { return Count(index_dim); }
  static void Pack(const float* q, int64_t index_dim, int32_t* words) {
    for (int64_t j = 0; j < index_dim; j += 2) {
      const float pair[2] = {q[j], j + 1 < index_dim ? q[j + 1] : 0.0f};
      uint32_t bits[2];
      memcpy(bits, pair, sizeof(bits));
      *words++ = static_cast<int32_t>(bits[0] >> 16 | (bits[1] & 0xffff0000));
    }
  }
  static I32x16 Load(const int32_t* p) { return LoadInt(p); }
  static F32x16 Start(const int32_t*, int64_t) { return Zero(); }
  static F32x16 Add(int32_t query, I32x16 key, F32x16 dots) {
    return {AddBf16Products(dots.v, key.v, BroadcastInt(query).v)};
  }
  static F32x16 Value(F32x16 dots) { return dots; }
};

// Four codes. The instruction wants one factor without a sign: keys are moved up by 128, and sums
// begin with -128 times the sum of the query's codes, the word after its steps.
struct CodeStep {
  using Word = int32_t;
  using Key = I32x16;
  using Dots = I32x16;
  static int64_t Count(int64_t index_dim) { return RoundUp(index_dim, 4) / 4; }
  static int64_t Words(int64_t index_dim) { return Count(index_dim) + 1; }
  static void Pack(const float* q, int64_t index_dim, int32_t* words) {
    int32_t sum = 0;
    for (int64_t first = 0; first < index_dim; first += 4) {
      uint32_t word = 0;
      for (int64_t j = first; j < first + 4 && j < index_dim; ++j) {
        const auto code = static_cast<int32_t>(q[j]);
        word |= (static_cast<uint32_t>(code) & 0xff) << (8 * (j - first));
        sum += code;
      }
      *words++ = static_cast<int32_t>(word);
    }
    *words = -128 * sum;
  }
  // Step `step` of sixteen keys, of which `fours` holds four dimensions.
  static I32x16 Part(I32x16 fours, int64_t) {
    return Xor(fours, BroadcastInt(static_cast<int32_t>(0x80808080u)));
  }
  static I32x16 Start(const int32_t* query, int64_t steps) { return BroadcastInt(query[steps]); }
  static I32x16 Add(int32_t query, I32x16 key, I32x16 dots) {
    return {AddByteProducts(dots.v, key.v, BroadcastInt(query).v)};
  }
  static F32x16 Value(I32x16 dots) { return ToFloat(dots); }
};
constexpr int64_t kCodeSteps = 1;  // in four dimensions

#else

// Two codes, as 16-bit numbers: the first and third of four dimensions, then the second and fourth.
struct CodeStep {
  using Word = int32_t;
  using Key = I32x16;
  using Dots = I32x16;
  static int64_t Count(int64_t index_dim) { return RoundUp(index_dim, 4) / 2; }
  static int64_t Words(int64_t index_dim) { return Count(index_dim); }
  static void Pack(const float* q, int64_t index_dim, int32_t* words) {
    const auto code = [&](int64_t j) {
      return static_cast<uint32_t>(static_cast<int32_t>(j < index_dim ? q[j] : 0.0f));
    };
    for (int64_t step = 0; step < Count(index_dim); ++step) {
      const int64_t j = step / 2 * 4 + step % 2;
      words[step] = static_cast<int32_t>(code(j + 2) << 16 | (code(j) & 0xffff));
    }
  }
  static I32x16 Load(const int32_t* p) { return LoadInt(p); }
  static void Store(int32_t* p, I32x16 key) { StoreInt(p, key); }
  // Step `step` of sixteen keys, of which `fours` holds four dimensions.
  static I32x16 Part(I32x16 fours, int64_t step) {
    return step % 2 == 0 ? LowBytes(fours) : HighBytes(fours);
  }
  static I32x16 Start(const int32_t*, int64_t) { return BroadcastInt(0); }
  static I32x16 Add(int32_t query, I32x16 key, I32x16 dots) {
    return AddPairs(BroadcastInt(query), key, dots);
  }
  static F32x16 Value(I32x16 dots) { return ToFloat(dots); }
};
constexpr int64_t kCodeSteps = 2;  // in four dimensions

#endif

// ---- Keys ---------------------------------------------------------------------------------------
// Where a tile's keys come from: At(v, step) is a step of group v.

// As Decode leaves them.
template <typename S>
struct DecodedKeys {
  using Step = S;
  const typename S::Word* words;  // [groups, steps, 16]
  int64_t steps;
  DecodedKeys From(int64_t group) const { return {words + group * steps * kKeyGroup, steps}; }
  typename S::Key At(int64_t v, int64_t step) const {
    return S::Load(words + (v * steps + step) * kKeyGroup);
  }
};

// Keys of a page, decoded as they are used. `first` is the place of the first key in dimension 0.
struct PageCodes {
  using Step = CodeStep;
  const int32_t* first;  // four codes a word
  int64_t page_size;
  PageCodes From(int64_t group) const { return {first + group * kKeyGroup, page_size}; }
  I32x16 At(int64_t v, int64_t step) const {
    return CodeStep::Part(LoadInt(first + step / kCodeSteps * page_size + v * kKeyGroup), step);
  }
};
struct PagePairs {
  const int32_t* first;  // two bfloat16 a word
  int64_t page_size;
  PagePairs From(int64_t group) const { return {first + group * kKeyGroup, page_size}; }
#if defined(__AVX512BF16__)
  using Step = Bf16Step;
  I32x16 At(int64_t v, int64_t step) const {
    return LoadInt(first + step * page_size + v * kKeyGroup);
  }
#else
  using Step = FloatStep;
  F32x16 At(int64_t v, int64_t step) const {
    const I32x16 pair = LoadInt(first + step / 2 * page_size + v * kKeyGroup);
    const I32x16 upper = And(pair, BroadcastInt(static_cast<int32_t>(0xffff0000u)));
    return Float(step % 2 == 0 ? upper : ShiftLeft<16>(pair));
  }
#endif
};
template <typename Code, F32x16 (*kLoad)(const Code*)>
struct PageValues {
  using Step = FloatStep;
  const Code* first;
  int64_t page_size;
  PageValues From(int64_t group) const { return {first + group * kKeyGroup, page_size}; }
  F32x16 At(int64_t v, int64_t step) const {
    return kLoad(first + (step ^ 1) * page_size + v * kKeyGroup);
  }
};

template <typename Keys>
void Decode(const Keys& keys, int64_t steps, int64_t num_groups, typename Keys::Step::Word* words) {
  for (int64_t group = 0; group < num_groups; ++group) {
    const Keys here = keys.From(group);
    for (int64_t step = 0; step < steps; ++step) {
      Keys::Step::Store(words, here.At(0, step));
      words += kKeyGroup;
    }
  }
}

// Codes of more dimensions than are exact as integers, to floats.
void DecodeLongCodes(const int8_t* first, int64_t index_dim, int64_t page_size, int64_t num_groups,
                     float* words) {
  for (int64_t key = 0; key < num_groups * kKeyGroup; ++key) {
    float* lane =
        words + key / kKeyGroup * FloatStep::Count(index_dim) * kKeyGroup + key % kKeyGroup;
    for (int64_t step = 0; step < FloatStep::Count(index_dim); ++step) {
      const int64_t j = step ^ 1;
      lane[step * kKeyGroup] = static_cast<float>(first[(j / 4 * page_size + key) * 4 + j % 4]);
    }
  }
}

#if defined(__AVX512BF16__)

struct WordBytes {
  uint8_t at[64];
};
// Which bytes of two registers, low ones and high ones of four dimensions of sixteen keys, make the
// pairs of the dimensions from `dim` on.
constexpr WordBytes MakePairBytes(int dim) {
  WordBytes bytes{};
  for (int key = 0; key < 16; ++key) {
    for (int byte = 0; byte < 4; ++byte) {
      bytes.at[4 * key + byte] =
          static_cast<uint8_t>((dim + byte / 2) * 16 + key + (byte % 2) * 64);
    }
  }
  return bytes;
}
alignas(64) constexpr WordBytes kFirstPair = MakePairBytes(0);
alignas(64) constexpr WordBytes kSecondPair = MakePairBytes(2);

// Planes of codes to pairs of bfloat16, [num_groups, steps, 16] words and a step more where the
// number of steps is odd.
void DecodeE4m3(const uint8_t* first, int64_t steps, int64_t page_size, int64_t num_groups,
                int32_t* words) {
  const __m512i low_bytes[2] = {_mm512_load_si512(kE4m3Bytes.low),
                                _mm512_load_si512(kE4m3Bytes.low + 64)};
  const __m512i high_bytes[2] = {_mm512_load_si512(kE4m3Bytes.high),
                                 _mm512_load_si512(kE4m3Bytes.high + 64)};
  const __m512i pairs[2] = {_mm512_load_si512(kFirstPair.at), _mm512_load_si512(kSecondPair.at)};
  for (int64_t group = 0; group < num_groups; ++group) {
    const uint8_t* plane = first + group * kKeyGroup;
    for (int64_t step = 0; step < steps; step += 2) {
      __m512i codes = _mm512_castsi128_si512(Load16Bytes(plane));
      codes = _mm512_inserti32x4(codes, Load16Bytes(plane + page_size), 1);
      codes = _mm512_inserti32x4(codes, Load16Bytes(plane + 2 * page_size), 2);
      codes = _mm512_inserti32x4(codes, Load16Bytes(plane + 3 * page_size), 3);
      const __m512i low = _mm512_permutex2var_epi8(low_bytes[0], codes, low_bytes[1]);
      const __m512i magnitude = _mm512_permutex2var_epi8(high_bytes[0], codes, high_bytes[1]);
      const __m512i sign = _mm512_and_si512(codes, _mm512_set1_epi8(-128));
      const __m512i high = _mm512_or_si512(magnitude, sign);
      StoreInt(words, {_mm512_permutex2var_epi8(low, pairs[0], high)});
      if (step + 1 < steps) {
        StoreInt(words + kKeyGroup, {_mm512_permutex2var_epi8(low, pairs[1], high)});
      }
      words += (step + 1 < steps ? 2 : 1) * kKeyGroup;
      plane += 4 * page_size;
    }
  }
}

#endif

// ---- Scores -------------------------------------------------------------------------------------

// Adds kHeads heads to the four chains of kV groups of keys. The first head is of chain
// `first_chain`, and of an even number.
template <int kHeads, int kV, typename Keys>
inline __attribute__((always_inline)) void AddHeads(const typename Keys::Step::Word* q,
                                                    int64_t words, const Keys& keys, int64_t steps,
                                                    const float* weights, int64_t first_chain,
                                                    F32x16 (*chains)[kV]) {
  using Step = typename Keys::Step;
  typename Step::Dots sum[kHeads][kV];
  for (int h = 0; h < kHeads; ++h) {
    for (int v = 0; v < kV; ++v) sum[h][v] = Step::Start(q + h * words, steps);
  }
  for (int64_t step = 0; step < steps; ++step) {
    typename Step::Key key[kV];
    for (int v = 0; v < kV; ++v) key[v] = keys.At(v, step);
    for (int h = 0; h < kHeads; ++h) {
      for (int v = 0; v < kV; ++v) sum[h][v] = Step::Add(q[h * words + step], key[v], sum[h][v]);
    }
  }
  for (int h = 0; h < kHeads; ++h) {
    F32x16* chain = chains[(first_chain + h / 2) % 4];
    for (int v = 0; v < kV; ++v) {
      // NaN stays: Max gives its second argument then.
      const F32x16 agreement = Max(Zero(), Step::Value(sum[h][v]));
      chain[v] = Fma(Broadcast(weights[h]), agreement, chain[v]);
    }
  }
}

// The scores of one token for kV groups of keys, kTile heads at a time.
template <int kTile, int kV, typename Keys>
void ScoreToken(const ScoreArgs& args, const Keys& keys, int64_t token, float* scores) {
  using Step = typename Keys::Step;
  const int64_t steps = Step::Count(args.index_dim);
  const int64_t words = Step::Words(args.index_dim);
  const int64_t heads = args.index_heads;
  const auto q = static_cast<const typename Step::Word*>(args.q) + token * heads * words;
  const float* weights = args.weights + token * heads;
  F32x16 chains[4][kV];
  for (int chain = 0; chain < 4; ++chain) {
    for (int v = 0; v < kV; ++v) chains[chain][v] = Zero();
  }
  int64_t head = 0;
  for (; head + kTile <= heads; head += kTile) {
    const int64_t first_chain = kTile % 8 == 0 ? 0 : head / 2;
    AddHeads<kTile, kV>(q + head * words, words, keys, steps, weights + head, first_chain, chains);
  }
  for (; head + 2 <= heads; head += 2) {
    AddHeads<2, kV>(q + head * words, words, keys, steps, weights + head, head / 2, chains);
  }
  if (head < heads) {
    AddHeads<1, kV>(q + head * words, words, keys, steps, weights + head, head / 2, chains);
  }
  for (int v = 0; v < kV; ++v) {
    const F32x16 sum = Add(Add(chains[0][v], chains[1][v]), Add(chains[2][v], chains[3][v]));
    const F32x16 score = Add(Mul(sum, Load(args.key_scale + v * kKeyGroup)), Zero());
    Store(scores + v * kKeyGroup, score);
  }
}

template <int kTile, int kV, typename Keys>
void ScoreStrips(ScoreArgs args, const Keys& keys) {
  int64_t group = 0;
  const float* scales = args.key_scale;
  for (; group + kV <= args.num_groups; group += kV) {
    args.key_scale = scales + group * kKeyGroup;
    for (int64_t token = 0; token < args.num_tokens; ++token) {
      ScoreToken<kTile, kV>(args, keys.From(group), token,
                            args.scores + token * args.scores_stride + group * kKeyGroup);
    }
  }
  for (; group < args.num_groups; ++group) {
    args.key_scale = scales + group * kKeyGroup;
    for (int64_t token = 0; token < args.num_tokens; ++token) {
      ScoreToken<kTile, 1>(args, keys.From(group), token,
                           args.scores + token * args.scores_stride + group * kKeyGroup);
    }
  }
}

template <typename Keys>
void ScoreKeys(const ScoreArgs& args, const Keys& keys) {
  if (args.index_heads <= kFewHeads) return ScoreStrips<kFewHeads, kFewVectors>(args, keys);
  ScoreStrips<kTileHeads, kTileVectors>(args, keys);
}

// Keys that cost something to decode are decoded beforehand where many rows use them.
template <typename Keys>
void ScorePage(const ScoreArgs& args, const Keys& keys) {
  using Step = typename Keys::Step;
  if (args.num_tokens * args.index_heads <= kFewRows) return ScoreKeys(args, keys);
  const int64_t steps = Step::Count(args.index_dim);
  const auto words = static_cast<typename Step::Word*>(args.keys);
  Decode(keys, steps, args.num_groups, words);
  ScoreKeys(args, DecodedKeys<Step>{words, steps});
}

void ScoreByVectors(const ScoreArgs& args) {
  const auto codes = args.page + args.first_key;
  const auto words = reinterpret_cast<const int32_t*>(args.page) + args.first_key;
  switch (args.type) {
    case IndexKeyType::kF32:
      return ScorePage(
          args, PageValues<float, Load>{reinterpret_cast<const float*>(words), args.page_size});
    case IndexKeyType::kInt8:
      if (!ScoresCodes(args.type, args.index_dim)) {
        const auto keys = static_cast<float*>(args.keys);
        DecodeLongCodes(reinterpret_cast<const int8_t*>(words), args.index_dim, args.page_size,
                        args.num_groups, keys);
        return ScoreKeys(args, DecodedKeys<FloatStep>{keys, FloatStep::Count(args.index_dim)});
      }
#if defined(__AVX512BF16__)
      return ScoreKeys(args, PageCodes{words, args.page_size});
    case IndexKeyType::kBf16:
      return ScoreKeys(args, PagePairs{words, args.page_size});
    case IndexKeyType::kE4m3: {
      const auto keys = static_cast<int32_t*>(args.keys);
      const int64_t steps = Bf16Step::Count(args.index_dim);
      DecodeE4m3(codes, steps, args.page_size, args.num_groups, keys);
      return ScoreKeys(args, DecodedKeys<Bf16Step>{keys, steps});
    }
#else
      return ScorePage(args, PageCodes{words, args.page_size});
    case IndexKeyType::kBf16:
      return ScorePage(args, PagePairs{words, args.page_size});
    case IndexKeyType::kE4m3:
      return ScorePage(args, PageValues<uint8_t, LoadE4m3>{codes, args.page_size});
#endif
  }
}

}  // namespace
}  // namespace winnow::cpu::WINNOW_LEVEL

#if defined(__AMX_INT8__)
#include "cpu/dsa/score_tiles.h"
#endif

namespace winnow::cpu::WINNOW_LEVEL {
namespace {

void Score(const ScoreArgs& args) {
#if defined(__AMX_INT8__)
  if (ScoresByTiles(args.type, args.num_tokens * args.index_heads, args.index_dim)) {
    return ScoreByTiles(args);
  }
#endif
  ScoreByVectors(args);
}

// ---- Queries ------------------------------------------------------------------------------------

template <typename Step>
int64_t PackRows(const float* q, int64_t rows, int64_t index_dim, void* words) {
  auto next = static_cast<typename Step::Word*>(words);
  for (int64_t row = 0; row < rows; ++row) {
    Step::Pack(q + row * index_dim, index_dim, next);
    next += Step::Words(index_dim);
  }
  return rows * Step::Words(index_dim);
}

int64_t PackQueries(IndexKeyType type, const float* q, int64_t rows, int64_t index_dim,
                    void* words) {
#if defined(__AMX_INT8__)
  if (ScoresByTiles(type, rows, index_dim)) {
    return PackCodes(q, rows, index_dim, static_cast<int8_t*>(words));
  }
#endif
  if (ScoresCodes(type, index_dim)) return PackRows<CodeStep>(q, rows, index_dim, words);
#if defined(__AVX512BF16__)
  if (type == IndexKeyType::kBf16 || type == IndexKeyType::kE4m3) {
    return PackRows<Bf16Step>(q, rows, index_dim, words);
  }
#endif
  return PackRows<FloatStep>(q, rows, index_dim, words);
}

}  // namespace

extern const LightningIndexerKernels kLightningIndexerKernels = {
    PackQueries, Score,     Filter,   Keep,      CountFrom,
    FindRange,   LayerNorm, Hadamard, FiniteMax, Quantize};

}  // namespace winnow::cpu::WINNOW_LEVEL
