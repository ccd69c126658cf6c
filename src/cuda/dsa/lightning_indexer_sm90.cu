// The lightning indexer on Hopper: keys are the rows of the product, the heads of one or several
// tokens its columns.
//
// ScoreTokensKernel    One warp copies pages into shared memory, sixteen at a time in flight; four
//                      warpgroups take them in turn and multiply them with a token's queries.
// ScoreKeyRangeKernel  Each of two warpgroups holds 256 keys in registers, as four tiles, while the
//                      queries of 32 tokens at a time stream through shared memory, 64 columns a
//                      step. The next tile is multiplied while one's heads are added up.
// ReLU and conversion  A sum s of int8 products, |s| < 2^21, read as a float is s * 2^-149 where it
//                      is positive and a NaN where it is negative, and max(NaN, 0) is 0. Two
//                      instructions a head and key instead of four leave the tensor cores the
//                      bottleneck.
#include <cuda_fp8.h>

#include "cuda/dsa/lightning_indexer_sm90.h"
#include "cuda/dsa/products_sm90.cuh"
#include "cuda/dsa/sm90.cuh"

namespace winnow::cuda {
namespace {

constexpr int kWarp = 32;
constexpr int kGroups = 4;  // warpgroups that multiply
constexpr int kThreads = kGroups * 128 + kWarp;

// Subnormals count here, whatever the compiler is told about them elsewhere.
__device__ __forceinline__ float Agreement(int32_t sum) {
  float relu;
  asm("max.f32 %0, %1, 0f00000000;" : "=f"(relu) : "f"(__int_as_float(sum)));
  return relu;
}
__device__ __forceinline__ float Agreement(float sum) {
  float relu;
  asm("max.f32 %0, %1, 0f00000000;" : "=f"(relu) : "f"(sum));
  return relu;
}
__device__ __forceinline__ float Fma(float a, float b, float c) {
  float d;
  asm("fma.rn.f32 %0, %1, %2, %3;" : "=f"(d) : "f"(a), "f"(b), "f"(c));
  return d;
}
__device__ __forceinline__ float Add(float a, float b) {
  float d;
  asm("add.rn.f32 %0, %1, %2;" : "=f"(d) : "f"(a), "f"(b));
  return d;
}

template <IndexForm kForm>
struct Sums;
template <>
struct Sums<IndexForm::kInt8> {
  using Type = int32_t;
};
template <>
struct Sums<IndexForm::kE4m3> {
  using Type = float;
};

// Where a token's weights are in memory: a chain's in parts of up to four, which stand beside the
// other chains' parts. So four lanes that read a part each read neighbours.
__host__ __device__ constexpr int WeightPlace(int heads, int chain, int index) {
  const int part = heads >= 16 ? 4 : 2;
  return index / part * 4 * part + chain * part + index % part;
}
// Those of chain `quad`, in order.
template <int kHeads>
__device__ __forceinline__ void LoadWeights(const float* weights, int quad, float2* chain) {
  if constexpr (kHeads == 8) {
    chain[0] = reinterpret_cast<const float2*>(weights)[quad];
  } else {
#pragma unroll
    for (int i = 0; i < kHeads / 16; ++i) {
      const float4 part = reinterpret_cast<const float4*>(weights)[4 * i + quad];
      chain[2 * i] = make_float2(part.x, part.y);
      chain[2 * i + 1] = make_float2(part.z, part.w);
    }
  }
}

// A thread's chain for each of its two rows: columns from kFirst on belong to one token. `weights`
// are the thread's of that token.
template <int kHeads, int kFirst, typename Sum, int kSums>
__device__ __forceinline__ void AddHeads(const Sum (&sums)[kSums], const float2* weights,
                                         float (&chain)[2]) {
  chain[0] = chain[1] = 0;
#pragma unroll
  for (int i = 0; i < kHeads / 8; ++i) {
    const float2 weight = weights[i];
    const int at = kFirst / 2 + 4 * i;
    chain[0] = Fma(weight.x, Agreement(sums[at]), chain[0]);
    chain[1] = Fma(weight.x, Agreement(sums[at + 2]), chain[1]);
    chain[0] = Fma(weight.y, Agreement(sums[at + 1]), chain[0]);
    chain[1] = Fma(weight.y, Agreement(sums[at + 3]), chain[1]);
  }
}

// Of four lanes with a chain each for two rows, (chain 0 + chain 1) + (chain 2 + chain 3) of row
// lane % 2; lanes 2 apart have the same. Sums of two commute, so all lanes mean the same bits.
__device__ __forceinline__ float AddFirstPair(const float (&chain)[2], int lane) {
  const bool odd = lane & 1;
  const float other = __shfl_xor_sync(0xffffffff, odd ? chain[0] : chain[1], 1);
  return Add(odd ? chain[1] : chain[0], other);
}

// The scaling taken out, the key's scale put in, -0 to 0. `half` is the root of the unscaling.
__device__ __forceinline__ float Finish(float sum, float half, float key_scale) {
  return fmaf(sum * half * half, key_scale, 0.0f);
}

// ---- Packing ------------------------------------------------------------------------------------

// Grid: a block of 128 threads per token.
__global__ void PackIndexQueriesKernel(const float* q, const float* weights, int heads, int padded,
                                       IndexForm form, uint8_t* packed_q, float* packed_weights,
                                       float* unscale) {
  sm90::WaitForPrevious();
  sm90::LetNextBegin();
  const int64_t token = blockIdx.x;
  const int thread = threadIdx.x;
  for (int chunk = thread; chunk < padded * 8; chunk += blockDim.x) {
    const int head = chunk / 8;
    alignas(16) uint8_t codes[16] = {};
    if (head < heads) {
      const float* values = q + (token * heads + head) * kIndexDim + chunk % 8 * 16;
      for (int j = 0; j < 16; ++j) {
        codes[j] = form == IndexForm::kInt8
                       ? static_cast<uint8_t>(static_cast<int8_t>(__float2int_rn(values[j])))
                       : __nv_cvt_float_to_fp8(values[j], __NV_SATFINITE, __NV_E4M3);
      }
    }
    *reinterpret_cast<uint4*>(packed_q + token * padded * kIndexDim +
                              IndexCodeOffset(head, chunk % 8 * 16)) =
        *reinterpret_cast<const uint4*>(codes);
  }
  // The largest weight becomes 2^100 or 2^101; the power that takes this and the 2^-149 of the sums
  // out again is even, so that its root is a power of two as well.
  int exponent = 0;
  float half = 1;
  if (form == IndexForm::kInt8) {
    uint32_t largest = 0;
    for (int head = 0; head < heads; ++head) {
      const uint32_t bits = __float_as_uint(weights[token * heads + head]) & 0x7fffffff;
      largest = bits > largest ? bits : largest;
    }
    const int biased = static_cast<int>(largest >> 23);
    const int power = biased == 255 ? 99 : (biased == 0 ? 1 : biased) - 127;
    exponent = 100 - power + ((49 + power) & 1);
    half = ldexpf(1.0f, (149 - exponent) / 2);
  }
  if (thread == 0) unscale[token] = half;
  for (int at = thread; at < padded; at += blockDim.x) {
    const int chain = at / 2 % 4;
    const int index = at / 8 * 2 + at % 2;
    const float weight = at < heads ? weights[token * heads + at] : 0;
    packed_weights[token * padded + WeightPlace(padded, chain, index)] = ldexpf(weight, exponent);
  }
}

// ---- Decoding -----------------------------------------------------------------------------------

constexpr int kPageStages = 16;
constexpr int kPageStageBytes = 9216;  // a page, aligned to 1024

struct PageWork {
  uint64_t page_full[kPageStages];
  uint64_t page_empty[kPageStages];
  uint64_t q_full[2];
  uint64_t q_empty[2];
  int64_t total;
  int64_t warp_sums[kThreads / kWarp];
  int first_token;
  int64_t first_page;
};

__device__ __forceinline__ int64_t NumPages(const IndexBatch& batch, int64_t token) {
  const int context = batch.positions[token] + 1;
  return context > batch.topk ? (context + kIndexPageKeys - 1) / kIndexPageKeys : 0;
}

// The sum of `value` over the threads before this one; the sum over all in `total`.
__device__ int64_t SumBefore(int64_t value, PageWork& work, int64_t& total) {
  const int lane = threadIdx.x % kWarp;
  const int warp = threadIdx.x / kWarp;
  int64_t sum = value;
  for (int distance = 1; distance < kWarp; distance *= 2) {
    const int64_t other = __shfl_up_sync(0xffffffff, sum, distance);
    if (lane >= distance) sum += other;
  }
  __syncthreads();
  if (lane == kWarp - 1) work.warp_sums[warp] = sum;
  __syncthreads();
  int64_t before = 0;
  total = 0;
  for (int w = 0; w < kThreads / kWarp; ++w) {
    if (w < warp) before += work.warp_sums[w];
    total += work.warp_sums[w];
  }
  return before + sum - value;
}

// Where this block's share of all pages begins, in `work`; returns how many they are.
__device__ int64_t FindShare(const IndexBatch& batch, PageWork& work) {
  const int64_t mine = threadIdx.x < batch.num_tokens ? NumPages(batch, threadIdx.x) : 0;
  int64_t total;
  const int64_t before_mine = SumBefore(mine, work, total);
  int64_t all = total;
  for (int64_t base = kThreads; base < batch.num_tokens; base += kThreads) {
    const int64_t token = base + threadIdx.x;
    SumBefore(token < batch.num_tokens ? NumPages(batch, token) : 0, work, total);
    all += total;
  }
  const int64_t begin = all * blockIdx.x / gridDim.x;
  const int64_t end = all * (blockIdx.x + 1) / gridDim.x;
  auto offer = [&](int64_t token, int64_t first, int64_t pages) {
    if (begin >= first && begin < first + pages) {
      work.first_token = static_cast<int>(token);
      work.first_page = begin - first;
    }
  };
  offer(threadIdx.x, before_mine, mine);
  if (batch.num_tokens > kThreads) {
    int64_t before = 0;
    for (int64_t base = 0; base < batch.num_tokens; base += kThreads) {
      const int64_t token = base + threadIdx.x;
      const int64_t pages = token < batch.num_tokens ? NumPages(batch, token) : 0;
      const int64_t first = before + SumBefore(pages, work, total);
      offer(token, first, pages);
      before += total;
    }
  }
  __syncthreads();
  return end - begin;
}

// Calls body(token, first page, pages) for each token of a share, in order.
template <typename Body>
__device__ __forceinline__ void ForEachToken(const IndexBatch& batch, int64_t token, int64_t page,
                                             int64_t left, const Body& body) {
  for (; left > 0; ++token, page = 0) {
    const int64_t pages = NumPages(batch, token) - page;
    const int64_t here = pages < left ? pages : left;
    if (here <= 0) continue;
    body(token, page, here);
    left -= here;
  }
}

template <IndexForm kForm, int kHeads>
__global__ __launch_bounds__(kThreads, 1) void ScoreTokensKernel(IndexQueries queries,
                                                                 IndexBatch batch, float* scores,
                                                                 int64_t stride) {
  extern __shared__ __align__(1024) uint8_t shared[];
  constexpr int kQueryBytes = kHeads * kIndexDim;
  uint8_t* pages = shared;
  uint8_t* q = shared + kPageStages * kPageStageBytes;
  PageWork& work = *reinterpret_cast<PageWork*>(q + 2 * kQueryBytes);
  const int warp = threadIdx.x / kWarp;
  const int lane = threadIdx.x % kWarp;
  if (threadIdx.x == 0) {
    for (int stage = 0; stage < kPageStages; ++stage) {
      sm90::BarrierInit(&work.page_full[stage], 1);
      sm90::BarrierInit(&work.page_empty[stage], 128);
    }
    for (int slot = 0; slot < 2; ++slot) {
      sm90::BarrierInit(&work.q_full[slot], 1);
      sm90::BarrierInit(&work.q_empty[slot], kGroups * 128);
    }
    sm90::BarrierInitFence();
  }
  sm90::WaitForPrevious();
  sm90::LetNextBegin();
  const int64_t share = FindShare(batch, work);

  if (warp == kGroups * 4) {  // copies
    int64_t n = 0;
    int segment = 0;
    ForEachToken(batch, work.first_token, work.first_page, share,
                 [&](int64_t token, int64_t page, int64_t count) {
                   const int32_t* table =
                       batch.page_table + batch.sequences[token] * batch.page_table_stride;
                   if (lane == 0) {
                     const int slot = segment & 1;
                     if (segment >= 2)
                       sm90::BarrierWait(&work.q_empty[slot], (segment / 2 - 1) & 1);
                     sm90::BarrierExpect(&work.q_full[slot], kQueryBytes);
                     sm90::BulkCopy(q + slot * kQueryBytes, queries.q + token * kQueryBytes,
                                    kQueryBytes, &work.q_full[slot]);
                   }
                   ++segment;
                   for (int64_t base = 0; base < count; base += kWarp) {
                     const int64_t mine = base + lane;
                     const int32_t number = mine < count ? table[page + mine] : 0;
                     const int here = static_cast<int>(count - base < kWarp ? count - base : kWarp);
                     for (int i = 0; i < here; ++i, ++n) {
                       const int64_t at = __shfl_sync(0xffffffff, number, i);
                       if (lane == 0) {
                         const int stage = static_cast<int>(n % kPageStages);
                         if (n >= kPageStages) {
                           sm90::BarrierWait(&work.page_empty[stage],
                                             static_cast<uint32_t>(n / kPageStages - 1) & 1);
                         }
                         sm90::BarrierExpect(&work.page_full[stage], kIndexPageBytes);
                         sm90::BulkCopy(pages + stage * kPageStageBytes,
                                        batch.pages + at * kIndexPageBytes, kIndexPageBytes,
                                        &work.page_full[stage]);
                       }
                     }
                     __syncwarp();
                   }
                 });
    return;
  }

  const int group = warp / 4;
  const int row = warp % 4 * 16 + lane / 4;
  int64_t n = 0;
  int segment = 0;
  ForEachToken(batch, work.first_token, work.first_page, share,
               [&](int64_t token, int64_t page, int64_t count) {
                 float2 weights[kHeads / 8];
                 LoadWeights<kHeads>(queries.weights + token * kHeads, lane % 4, weights);
                 const float half = queries.unscale[token];
                 const int slot = segment & 1;
                 sm90::BarrierWait(&work.q_full[slot], static_cast<uint32_t>(segment / 2) & 1);
                 const uint64_t b =
                     sm90::SwizzledMatrix(sm90::SharedAddress(q + slot * kQueryBytes), 1024);
                 float* out = scores + token * stride + page * kIndexPageKeys;
                 // Pages n, n + 1, … are this token's; this group takes those that are its number
                 // mod 4.
                 for (int64_t i = (group - n) & (kGroups - 1); i < count; i += kGroups) {
                   const int stage = static_cast<int>((n + i) % kPageStages);
                   uint8_t* keys = pages + stage * kPageStageBytes;
                   sm90::BarrierWait(&work.page_full[stage],
                                     static_cast<uint32_t>((n + i) / kPageStages) & 1);
                   typename Sums<kForm>::Type sums[kHeads / 2];
                   const uint64_t a = sm90::SwizzledMatrix(sm90::SharedAddress(keys), 1024);
                   sm90::ProductFence();
#pragma unroll
                   for (int k = 0; k < 4; ++k)
                     sm90::MultiplyCodes<kHeads>(sums, a + 2 * k, b + 2 * k, k > 0);
                   sm90::ProductCommit();
                   const float scale =
                       reinterpret_cast<const float*>(keys + kIndexCodeBytes)[row + lane % 2 * 8];
                   sm90::ProductWait<0>();
                   sm90::Pin(sums);
                   sm90::BarrierArrive(&work.page_empty[stage]);
                   float chain[2];
                   AddHeads<kHeads, 0>(sums, weights, chain);
                   const float pair = AddFirstPair(chain, lane);
                   const float sum = Add(pair, __shfl_xor_sync(0xffffffff, pair, 2));
                   if (lane % 4 < 2) {
                     out[i * kIndexPageKeys + row + lane % 2 * 8] = Finish(sum, half, scale);
                   }
                 }
                 sm90::BarrierArrive(&work.q_empty[slot]);
                 n += count;
                 ++segment;
               });
}

// ---- Prompts ------------------------------------------------------------------------------------

constexpr int kRangeGroups = 2;  // warpgroups that multiply
constexpr int kTiles = 4;        // of 64 keys, of a warpgroup
constexpr int kGroupKeys = 64 * kTiles;
constexpr int kRangeKeys = kGroupKeys * kRangeGroups;  // keys of a block at a time
constexpr int kRangeTokens = 32;
constexpr int kColumns = 64;  // of a step: the heads of one token or several
constexpr int kQueryStages = 16;
constexpr int kStepBytes = kColumns * kIndexDim;
constexpr int kRangeThreads = (kRangeGroups + 1) * 128;

struct RangeWork {
  uint64_t full[kQueryStages];
  uint64_t empty[kQueryStages];
};

// A unit's tokens, one a lane, and whether they are to be scored.
struct UnitTokens {
  int32_t sequence = -1;
  int32_t position = -1;
};

__device__ __forceinline__ UnitTokens LoadTokens(const IndexBatch& batch, int64_t first, int lane) {
  UnitTokens tokens;
  if (first + lane < batch.num_tokens) {
    tokens.sequence = batch.sequences[first + lane];
    tokens.position = batch.positions[first + lane];
  }
  return tokens;
}

// Calls body(first lane, last lane + 1) for each run of tokens of one sequence that see keys from
// `first_key` on. The same for all warps.
template <typename Body>
__device__ __forceinline__ void ForEachRun(const UnitTokens& tokens, int64_t first_key, int topk,
                                           int lane, const Body& body) {
  const int32_t before = __shfl_up_sync(0xffffffff, tokens.sequence, 1);
  uint32_t starts = __ballot_sync(0xffffffff, lane == 0 || tokens.sequence != before);
  const uint32_t active = __ballot_sync(
      0xffffffff, tokens.sequence >= 0 && tokens.position >= topk && tokens.position >= first_key);
  while (starts != 0) {
    const uint32_t from = starts & (0u - starts);
    starts ^= from;
    const uint32_t next = starts & (0u - starts);
    const uint32_t run = active & (next - 1) & ~(from - 1);  // next == 0: up to the last lane
    if (run != 0) body(__ffs(static_cast<int>(run)) - 1, kWarp - __clz(static_cast<int>(run)));
  }
}

__device__ __forceinline__ void Advance(int& stage, uint32_t& phase) {
  if (++stage == kQueryStages) {
    stage = 0;
    phase ^= 1;
  }
}

// What a warpgroup's registers hold of its keys, and which they are.
struct HeldKeys {
  uint32_t codes[kTiles][4][4];
  float scales[kTiles / 2];  // of the key whose score of two tiles a lane ends up with
  int block = -1;
  int32_t sequence = -1;

  // Keys of block `number` of the range from `first_key` on; of no use past position `last`, where
  // there may be no page: any serves.
  __device__ __forceinline__ void Load(const IndexBatch& batch, int32_t of_sequence, int number,
                                       int first_key, int32_t last, int row, int quad) {
    if (block == number && sequence == of_sequence) return;
    const int32_t* table = batch.page_table + of_sequence * batch.page_table_stride;
    auto page = [&](int tile) {
      const int key = first_key + tile * kIndexPageKeys;
      return batch.pages + int64_t{table[key <= last ? key / kIndexPageKeys : 0]} * kIndexPageBytes;
    };
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
      const uint8_t* at = page(tile);
#pragma unroll
      for (int i = 0; i < 16; ++i) {
        codes[tile][i / 4][i % 4] = *reinterpret_cast<const uint32_t*>(
            at + IndexCodeOffset(row + i % 2 * 8, i / 4 * 32 + i / 2 % 2 * 16 + 4 * quad));
      }
      if (tile % 2 == quad / 2) {
        scales[tile / 2] = reinterpret_cast<const float*>(at + kIndexCodeBytes)[row + quad % 2 * 8];
      }
    }
    sequence = of_sequence;
    block = first_key + (kTiles - 1) * kIndexPageKeys <= last ? number : -1;
  }
};

template <IndexForm kForm, int kHeads>
__global__ __launch_bounds__(kRangeThreads,
                             1) void ScoreKeyRangeKernel(IndexQueries queries, IndexBatch batch,
                                                         int64_t first_key, int64_t num_keys,
                                                         float* scores, int64_t stride) {
  extern __shared__ __align__(1024) uint8_t shared[];
  constexpr int kTokens = kColumns / kHeads;  // of a step
  uint8_t* q = shared;
  float* q_weights = reinterpret_cast<float*>(shared + kQueryStages * kStepBytes);
  RangeWork& work = *reinterpret_cast<RangeWork*>(q_weights + kQueryStages * kColumns);
  const int warp = threadIdx.x / kWarp;
  const int lane = threadIdx.x % kWarp;
  if (threadIdx.x == 0) {
    for (int stage = 0; stage < kQueryStages; ++stage) {
      sm90::BarrierInit(&work.full[stage], 1);
      sm90::BarrierInit(&work.empty[stage], kRangeGroups * 128);
    }
    sm90::BarrierInitFence();
  }
  __syncthreads();
  sm90::WaitForPrevious();
  sm90::LetNextBegin();

  const int chunks = static_cast<int>((batch.num_tokens + kRangeTokens - 1) / kRangeTokens);
  const int64_t units = (num_keys / kRangeKeys) * chunks;
  const int begin = static_cast<int>(units * blockIdx.x / gridDim.x);
  const int end = static_cast<int>(units * (blockIdx.x + 1) / gridDim.x);
  int stage = 0;
  uint32_t phase = 0;
  UnitTokens tokens;
  if (begin < end) tokens = LoadTokens(batch, begin % chunks * kRangeTokens, lane);

  if (warp >= kRangeGroups * 4) {  // copies
    asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
    if (warp > kRangeGroups * 4) return;
    for (int unit = begin; unit < end; ++unit) {
      const int token0 = unit % chunks * kRangeTokens;
      const int key0 = static_cast<int>(first_key) + unit / chunks * kRangeKeys;
      UnitTokens next;
      if (unit + 1 < end) next = LoadTokens(batch, (unit + 1) % chunks * kRangeTokens, lane);
      ForEachRun(tokens, key0, batch.topk, lane, [&](int from, int to) {
        for (int at = from; at < to; at += kTokens) {
          if (lane == 0) {
            const int64_t token = token0 + at;
            sm90::BarrierWait(&work.empty[stage], phase ^ 1);  // the first time at once
            sm90::BarrierExpect(&work.full[stage], kStepBytes + kColumns * sizeof(float));
            sm90::BulkCopy(q + stage * kStepBytes, queries.q + token * kHeads * kIndexDim,
                           kStepBytes, &work.full[stage]);
            sm90::BulkCopy(q_weights + stage * kColumns, queries.weights + token * kHeads,
                           kColumns * sizeof(float), &work.full[stage]);
          }
          Advance(stage, phase);
        }
        __syncwarp();
      });
      tokens = next;
    }
    return;
  }

  asm volatile("setmaxnreg.inc.sync.aligned.u32 232;");
  using Sum = typename Sums<kForm>::Type;
  const int group = warp / 4;
  const int row = warp % 4 * 16 + lane / 4;
  const int quad = lane % 4;
  HeldKeys keys;
  Sum sums[2][kColumns / 2];  // of a tile, and of the next one
  auto multiply = [&](Sum(&out)[kColumns / 2], const uint32_t(&tile)[4][4], int at) {
    const uint64_t b = sm90::SwizzledMatrix(sm90::SharedAddress(q + at * kStepBytes), 1024);
    sm90::ProductFence();
#pragma unroll
    for (int k = 0; k < 4; ++k) sm90::MultiplyCodes<kColumns>(out, tile[k], b + 2 * k, k > 0);
    sm90::ProductCommit();
  };
  for (int unit = begin; unit < end; ++unit) {
    const int token0 = unit % chunks * kRangeTokens;
    const int block = unit / chunks;
    const int key0 = static_cast<int>(first_key) + block * kRangeKeys;
    UnitTokens next;
    if (unit + 1 < end) next = LoadTokens(batch, (unit + 1) % chunks * kRangeTokens, lane);
    ForEachRun(tokens, key0, batch.topk, lane, [&](int from, int to) {
      keys.Load(batch, __shfl_sync(0xffffffff, tokens.sequence, from), block,
                key0 + group * kGroupKeys, __shfl_sync(0xffffffff, tokens.position, to - 1), row,
                quad);
      // Of two tiles' scores, a lane ends up with tile quad / 2, row quad % 2.
      float* out = scores + token0 * stride + block * kRangeKeys + group * kGroupKeys +
                   quad / 2 * 64 + row + quad % 2 * 8;
      const float* unscale = queries.unscale + token0;
      for (int at = from; at < to; at += kTokens) {
        float half[kTokens];
#pragma unroll
        for (int t = 0; t < kTokens; ++t) half[t] = unscale[at + t];
        sm90::BarrierWait(&work.full[stage], phase);
        multiply(sums[0], keys.codes[0], stage);
        float2 weights[kColumns / 8];
#pragma unroll
        for (int t = 0; t < kTokens; ++t) {
          LoadWeights<kHeads>(q_weights + stage * kColumns + t * kHeads, quad,
                              weights + t * (kHeads / 8));
        }
        float first[kTokens];  // of two tiles, the first's sums of two chains
#pragma unroll
        for (int tile = 0; tile < kTiles; ++tile) {
          if (tile + 1 < kTiles) {
            multiply(sums[(tile + 1) % 2], keys.codes[tile + 1], stage);
            sm90::ProductWait<1>();
          } else {
            sm90::ProductWait<0>();
            // Every lane for itself, at no cost: racecheck does not follow a warp's lanes to one
            // that arrives for all.
            sm90::BarrierArrive(&work.empty[stage]);
          }
          sm90::Pin(sums[tile % 2]);
          auto add_heads = [&]<int kToken>() {
            float chain[2];
            AddHeads<kHeads, kToken * kHeads>(sums[tile % 2], weights + kToken * (kHeads / 8),
                                              chain);
            const float pair = AddFirstPair(chain, lane);
            if (tile % 2 == 0) {
              first[kToken] = pair;
              return;
            }
            const bool upper = quad >= 2;
            const float other = __shfl_xor_sync(0xffffffff, upper ? first[kToken] : pair, 2);
            const int token = at + kToken;
            if (token < to) {
              out[token * stride + (tile - 1) * 64] = Finish(
                  Add(upper ? pair : first[kToken], other), half[kToken], keys.scales[tile / 2]);
            }
          };
          [&]<int... kToken>(std::integer_sequence<int, kToken...>) {
            (add_heads.template operator()<kToken>(), ...);
          }
          (std::make_integer_sequence<int, kTokens>());
        }
        Advance(stage, phase);
      }
    });
    tokens = next;
  }
}

template <IndexForm kForm, int kHeads>
cudaError_t LaunchScoreTokens(const IndexQueries& queries, const IndexBatch& batch, float* scores,
                              int64_t stride, int multiprocessors, cudaStream_t stream) {
  const int shared_bytes =
      kPageStages * kPageStageBytes + 2 * kHeads * kIndexDim + static_cast<int>(sizeof(PageWork));
  return sm90::LaunchOverlapping(ScoreTokensKernel<kForm, kHeads>,
                                 {.grid = dim3(static_cast<unsigned>(multiprocessors)),
                                  .threads = kThreads,
                                  .shared_bytes = shared_bytes,
                                  .stream = stream},
                                 queries, batch, scores, stride);
}

template <IndexForm kForm, int kHeads>
cudaError_t LaunchScoreKeyRange(const IndexQueries& queries, const IndexBatch& batch,
                                int64_t first_key, int64_t num_keys, float* scores, int64_t stride,
                                int multiprocessors, cudaStream_t stream) {
  const int shared_bytes =
      kQueryStages * (kStepBytes + kColumns * static_cast<int>(sizeof(float))) +
      static_cast<int>(sizeof(RangeWork));
  return sm90::LaunchOverlapping(ScoreKeyRangeKernel<kForm, kHeads>,
                                 {.grid = dim3(static_cast<unsigned>(multiprocessors)),
                                  .threads = kRangeThreads,
                                  .shared_bytes = shared_bytes,
                                  .stream = stream},
                                 queries, batch, first_key, num_keys, scores, stride);
}

// Calls launch.operator()<form, heads>().
template <typename Call>
cudaError_t Dispatch(const IndexQueries& queries, const Call& call) {
  auto with_heads = [&]<IndexForm kForm>() {
    switch (queries.heads) {
      case 8:
        return call.template operator()<kForm, 8>();
      case 16:
        return call.template operator()<kForm, 16>();
      case 32:
        return call.template operator()<kForm, 32>();
      case 64:
        return call.template operator()<kForm, 64>();
      default:
        return cudaErrorInvalidValue;
    }
  };
  return queries.form == IndexForm::kInt8 ? with_heads.template operator()<IndexForm::kInt8>()
                                          : with_heads.template operator()<IndexForm::kE4m3>();
}

}  // namespace

cudaError_t PackIndexQueries(const float* q, const float* weights, int64_t num_tokens, int heads,
                             IndexForm form, uint8_t* packed_q, float* packed_weights,
                             float* unscale, cudaStream_t stream) {
  return sm90::LaunchOverlapping(
      PackIndexQueriesKernel,
      {.grid = dim3(static_cast<unsigned>(num_tokens)), .threads = 128, .stream = stream}, q,
      weights, heads, PaddedIndexHeads(heads), form, packed_q, packed_weights, unscale);
}

cudaError_t ScoreTokens(const IndexQueries& queries, const IndexBatch& batch, float* scores,
                        int64_t stride, int multiprocessors, cudaStream_t stream) {
  return Dispatch(queries, [&]<IndexForm kForm, int kHeads>() {
    return LaunchScoreTokens<kForm, kHeads>(queries, batch, scores, stride, multiprocessors,
                                            stream);
  });
}

cudaError_t ScoreKeyRange(const IndexQueries& queries, const IndexBatch& batch, int64_t first_key,
                          int64_t num_keys, float* scores, int64_t stride, int multiprocessors,
                          cudaStream_t stream) {
  return Dispatch(queries, [&]<IndexForm kForm, int kHeads>() {
    return LaunchScoreKeyRange<kForm, kHeads>(queries, batch, first_key, num_keys, scores, stride,
                                              multiprocessors, stream);
  });
}

}  // namespace winnow::cuda
