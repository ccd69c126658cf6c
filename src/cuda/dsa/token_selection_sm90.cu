// Token selection on a GPU: a radix selection, by a cluster of blocks for a row of scores or by one
// block for a running selection and the next range of scores.
//
// Scores become unsigned keys that order like them, 0 for NaN. Each block holds a stretch of the
// row, in order; a histogram of 2,048 bins of the keys' next bits is added up over the cluster, and
// every block finds the bin in which the K-th best lies. At the end each block marks its keys in a
// bitmap, and the places of the marks come from prefix sums: positions come out ascending without a
// sort.
#include "cuda/dsa/sm90.cuh"
#include "cuda/dsa/token_selection_sm90.h"

namespace winnow::cuda {
namespace {

constexpr int kWarp = 32;
constexpr int kBins = 2048;
constexpr int kPageKeys = 64;
constexpr int kDigits = 3;

__device__ __forceinline__ uint32_t OrderedKey(float score) {
  const uint32_t bits = __float_as_uint(score);
  if ((bits & 0x7fffffff) > 0x7f800000) return 0;
  return bits & 0x80000000 ? ~bits : bits | 0x80000000;
}

template <int kThreads, int kCluster>
struct alignas(16) SelectWork {
  uint32_t bins[kBins];                      // this block's histogram
  uint32_t total[kCluster > 1 ? kBins : 1];  // the cluster's, where there is one
  uint32_t warp_sums[2][kThreads / kWarp];
  uint32_t counts[2][kCluster];  // of every block: keys above the threshold, keys equal to it
  uint32_t bin;
  uint32_t above;
  uint32_t in_bin;
};

// What is chosen: keys above `threshold`, and the first `equal` of those that are the threshold.
struct Threshold {
  uint32_t key = 0;
  uint32_t equal = 0;
};

template <int kThreads, int kCluster>
class Selector {
 public:
  using Work = SelectWork<kThreads, kCluster>;
  static constexpr int kWarps = kThreads / kWarp;

  __device__ Selector(Work& work, uint32_t rank) : work_(work), rank_(rank) {}

  // The threshold of the cluster's `topk` best keys; key(i) for i < count gives this block's.
  template <typename Key>
  __device__ Threshold Find(int count, uint32_t topk, const Key& key) {
    uint32_t prefix = 0;  // the bits found so far, and how many are still to be found
    int bits = 32;
    uint32_t left = topk;
    for (int digit = 0; digit < kDigits; ++digit) {
      const int digit_bits = digit == kDigits - 1 ? 10 : 11;
      const int shift = bits - digit_bits;
      Clear();
      for (int i = threadIdx.x; i < count; i += kThreads) {
        const uint32_t k = key(i);
        const bool same = bits == 32 || (k >> (bits & 31)) == prefix;
        if (k != 0 && same) atomicAdd(&work_.bins[(k >> shift) & (kBins - 1)], 1);
      }
      const uint32_t* bins = AddUp();
      if (!FindBin(bins, left)) return {0, 0};  // all numbers: fewer than topk there are
      left -= work_.above;
      prefix = (prefix << digit_bits) | work_.bin;
      bits = shift;
      // The whole bin, or of equal keys some.
      if (work_.in_bin == left) return {(prefix << bits) - 1, 0};
    }
    return {prefix, left};
  }

  // Calls write(place, i) for this block's chosen keys: ascending in i, and over the cluster by
  // rank. `marks` holds two words for each 32 keys. Returns how many the cluster chose.
  template <typename Key, typename Write>
  __device__ uint32_t Place(int count, Threshold threshold, uint2* marks, const Key& key,
                            const Write& write) {
    const int words = (count + kWarp - 1) / kWarp;
    const int warp = threadIdx.x / kWarp;
    const int lane = threadIdx.x % kWarp;
    for (int word = warp; word < words; word += kWarps) {
      const int i = word * kWarp + lane;
      const uint32_t k = i < count ? key(i) : 0;
      const uint32_t above = __ballot_sync(0xffffffff, k > threshold.key);
      const uint32_t equal = __ballot_sync(0xffffffff, k != 0 && k == threshold.key);
      if (lane == 0) marks[word] = make_uint2(above, equal);
    }
    __syncthreads();
    uint2 mine = make_uint2(0, 0);
    for (int word = threadIdx.x; word < words; word += kThreads) {
      mine.x += static_cast<uint32_t>(__popc(marks[word].x));
      mine.y += static_cast<uint32_t>(__popc(marks[word].y));
    }
    uint2 sum;
    SumBefore(mine, sum);
    uint2 before = make_uint2(0, 0);  // in blocks of lower rank
    uint2 all = sum;
    if constexpr (kCluster > 1) {
      if (threadIdx.x < kCluster) {
        const uint32_t at = sm90::SharedAddress(&work_.counts[0][rank_]);
        sm90::StorePeer(sm90::PeerAddress(at, threadIdx.x), sum.x);
        sm90::StorePeer(sm90::PeerAddress(at + kCluster * 4, threadIdx.x), sum.y);
      }
      sm90::ClusterSync();
      all = make_uint2(0, 0);
      for (uint32_t block = 0; block < kCluster; ++block) {
        const uint2 counts = make_uint2(work_.counts[0][block], work_.counts[1][block]);
        if (block < rank_) before = make_uint2(before.x + counts.x, before.y + counts.y);
        all = make_uint2(all.x + counts.x, all.y + counts.y);
      }
    }
    // Words in order, kThreads at a time; a place counts the chosen before it.
    for (int base = 0; base < words; base += kThreads) {
      const int word = base + static_cast<int>(threadIdx.x);
      const uint2 mark = word < words ? marks[word] : make_uint2(0, 0);
      const uint2 here =
          make_uint2(static_cast<uint32_t>(__popc(mark.x)), static_cast<uint32_t>(__popc(mark.y)));
      uint2 total;
      const uint2 first = SumBefore(here, total);
      const uint32_t equal_before = before.y + first.y;
      const uint32_t take =
          equal_before >= threshold.equal ? 0 : min(threshold.equal - equal_before, here.y);
      uint32_t chosen = mark.x;
      uint32_t equal = mark.y;
      for (uint32_t t = 0; t < take; ++t) {
        const uint32_t lowest = equal & (0u - equal);
        chosen |= lowest;
        equal ^= lowest;
      }
      if (word < words) {
        marks[word] = make_uint2(chosen, before.x + first.x + min(equal_before, threshold.equal));
      }
      before = make_uint2(before.x + total.x, before.y + total.y);
    }
    __syncthreads();
    for (int word = warp; word < words; word += kWarps) {
      const uint2 mark = marks[word];
      if ((mark.x >> lane) & 1) {
        write(mark.y + static_cast<uint32_t>(__popc(mark.x & ((1u << lane) - 1))),
              word * kWarp + lane);
      }
    }
    return all.x + min(all.y, threshold.equal);
  }

 private:
  __device__ void Clear() {
    for (int bin = threadIdx.x; bin < kBins; bin += kThreads) work_.bins[bin] = 0;
    __syncthreads();
  }

  // The cluster's histogram, once all blocks have counted. A block adds up its share of the bins
  // and tells the others.
  __device__ const uint32_t* AddUp() {
    if constexpr (kCluster == 1) {
      __syncthreads();
      return work_.bins;
    } else {
      sm90::ClusterSync();
      constexpr int kShare = kBins / kCluster;
      for (int i = threadIdx.x; i < kShare; i += kThreads) {
        const int bin = static_cast<int>(rank_) * kShare + i;
        const uint32_t from = sm90::SharedAddress(&work_.bins[bin]);
        const uint32_t to = sm90::SharedAddress(&work_.total[bin]);
        uint32_t parts[kCluster];
#pragma unroll
        for (int block = 0; block < kCluster; ++block) {
          parts[block] = sm90::LoadPeer(sm90::PeerAddress(from, block));
        }
        uint32_t sum = 0;
#pragma unroll
        for (int block = 0; block < kCluster; ++block) sum += parts[block];
#pragma unroll
        for (int block = 0; block < kCluster; ++block) {
          sm90::StorePeer(sm90::PeerAddress(to, block), sum);
        }
      }
      sm90::ClusterSync();
      return work_.total;
    }
  }

  // The highest bin with which `wanted` keys are reached, into the work; false where they are not.
  __device__ bool FindBin(const uint32_t* bins, uint32_t wanted) {
    constexpr int kEach = kBins / kThreads;
    const int top = kBins - 1 - static_cast<int>(threadIdx.x) * kEach;
    uint2 sum = make_uint2(0, 0);
    uint32_t here[kEach];
#pragma unroll
    for (int i = 0; i < kEach; ++i) sum.x += here[i] = bins[top - i];
    uint2 total;
    uint32_t above = SumBefore(sum, total).x;
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      if (above < wanted && wanted <= above + here[i]) {
        work_.bin = static_cast<uint32_t>(top - i);
        work_.above = above;
        work_.in_bin = here[i];
      }
      above += here[i];
    }
    __syncthreads();
    return total.x >= wanted;
  }

  // Sums over the threads before this one, and over all.
  __device__ uint2 SumBefore(uint2 value, uint2& total) {
    const int lane = threadIdx.x % kWarp;
    const int warp = threadIdx.x / kWarp;
    uint2 sum = value;
#pragma unroll
    for (int distance = 1; distance < kWarp; distance *= 2) {
      const uint32_t x = __shfl_up_sync(0xffffffff, sum.x, distance);
      const uint32_t y = __shfl_up_sync(0xffffffff, sum.y, distance);
      if (lane >= distance) sum = make_uint2(sum.x + x, sum.y + y);
    }
    __syncthreads();
    if (lane == kWarp - 1) {
      work_.warp_sums[0][warp] = sum.x;
      work_.warp_sums[1][warp] = sum.y;
    }
    __syncthreads();
    // Each warp adds up the warps' sums for itself.
    uint2 of_warp = make_uint2(0, 0);
    if (lane < kWarps) of_warp = make_uint2(work_.warp_sums[0][lane], work_.warp_sums[1][lane]);
    const uint2 before = make_uint2(__reduce_add_sync(0xffffffff, lane < warp ? of_warp.x : 0),
                                    __reduce_add_sync(0xffffffff, lane < warp ? of_warp.y : 0));
    total = make_uint2(__reduce_add_sync(0xffffffff, of_warp.x),
                       __reduce_add_sync(0xffffffff, of_warp.y));
    return make_uint2(before.x + sum.x - value.x, before.y + sum.y - value.y);
  }

  Work& work_;
  const uint32_t rank_;
};

// Where a token's results go.
struct TokenOutput {
  int32_t* positions;
  int32_t* slots;
  const int32_t* pages;

  __device__ TokenOutput(const SelectionBatch& batch, int64_t token)
      : positions(batch.out_positions + token * batch.width),
        slots(batch.out_slots + token * batch.width),
        pages(batch.page_table + batch.sequences[token] * batch.page_table_stride) {}

  __device__ __forceinline__ void Write(uint32_t place, int32_t position) const {
    positions[place] = position;
    slots[place] = pages[position / kPageKeys] * kPageKeys + position % kPageKeys;
  }
  // The places from `count` on.
  __device__ __forceinline__ void Fill(int64_t count, int64_t width, int thread,
                                       int threads) const {
    for (int64_t place = count + thread; place < width; place += threads) {
      positions[place] = -1;
      slots[place] = -1;
    }
  }
};

// A token with no more candidates than it keeps.
__device__ void KeepAll(const SelectionBatch& batch, int64_t token, int thread, int threads) {
  const TokenOutput output(batch, token);
  const int32_t count = batch.positions[token] + 1;
  for (int32_t position = thread; position < count; position += threads) {
    output.Write(static_cast<uint32_t>(position), position);
  }
  output.Fill(count, batch.width, thread, threads);
  if (thread == 0) batch.out_counts[token] = count;
}

constexpr int kRowThreads = 1024;
constexpr int64_t kRowKeys = 49152;  // that a block can hold in shared memory
constexpr int kMaxCluster = 8;
constexpr int64_t kFewKeys = 4096;  // not worth another block

template <int kCluster>
__global__ __launch_bounds__(kRowThreads, 1) void SelectFromRowsKernel(SelectionBatch batch,
                                                                       const float* scores,
                                                                       int64_t stride, int held) {
  extern __shared__ __align__(16) uint8_t shared[];
  using RowSelector = Selector<kRowThreads, kCluster>;
  typename RowSelector::Work& work = *reinterpret_cast<typename RowSelector::Work*>(shared);
  uint32_t* keys = reinterpret_cast<uint32_t*>(shared + sizeof(typename RowSelector::Work));
  uint2* marks = reinterpret_cast<uint2*>(keys + held);
  const uint32_t rank = kCluster > 1 ? sm90::ClusterRank() : 0;
  const int64_t token = blockIdx.x / kCluster;
  sm90::WaitForPrevious();
  sm90::LetNextBegin();
  const int context = batch.positions[token] + 1;
  const int thread = static_cast<int>(rank * kRowThreads + threadIdx.x);
  if (context <= batch.topk) {
    KeepAll(batch, token, thread, kCluster * kRowThreads);
    return;
  }
  // Stretches of a multiple of 128 keys, so that words of marks and 16-byte loads do not straddle.
  const int stretch = (context + kCluster * 128 - 1) / (kCluster * 128) * 128;
  const int first = min(static_cast<int>(rank) * stretch, context);
  const int count = min(stretch, context - first);
  const float* row = scores + token * stride + first;
  RowSelector selector(work, rank);
  Threshold threshold;
  uint32_t chosen;
  const TokenOutput output(batch, token);
  auto write = [&](uint32_t place, int i) { output.Write(place, first + i); };
  auto select = [&](const auto& key) {
    threshold = selector.Find(count, static_cast<uint32_t>(batch.topk), key);
    chosen = selector.Place(count, threshold, marks, key, write);
  };
  if (count <= held && stretch <= held) {
    for (int i = static_cast<int>(threadIdx.x) * 4; i < count; i += kRowThreads * 4) {
      const float4 four = *reinterpret_cast<const float4*>(row + i);  // rows are padded to 64
      *reinterpret_cast<uint4*>(keys + i) = make_uint4(OrderedKey(four.x), OrderedKey(four.y),
                                                       OrderedKey(four.z), OrderedKey(four.w));
    }
    select([&](int i) { return keys[i]; });
  } else {
    select([&](int i) { return OrderedKey(row[i]); });
  }
  output.Fill(chosen, batch.width, thread, kCluster * kRowThreads);
  if (thread == 0) batch.out_counts[token] = static_cast<int32_t>(chosen);
  // Nobody leaves while others may still write to its shared memory.
  if constexpr (kCluster > 1) sm90::ClusterSync();
}

constexpr int kRangeThreads = 512;

__global__ __launch_bounds__(kRangeThreads) void SelectFromRangeKernel(
    SelectionBatch batch, RunningSelection running, const float* scores, int64_t stride,
    int first_key, int num_keys, bool last) {
  extern __shared__ __align__(16) uint8_t shared[];
  using RangeSelector = Selector<kRangeThreads, 1>;
  RangeSelector::Work& work = *reinterpret_cast<RangeSelector::Work*>(shared);
  uint32_t* keys = reinterpret_cast<uint32_t*>(shared + sizeof(RangeSelector::Work));
  int32_t* positions = reinterpret_cast<int32_t*>(keys + batch.topk + num_keys);
  uint2* marks = reinterpret_cast<uint2*>(positions + batch.topk);
  const int64_t token = blockIdx.x;
  const int thread = static_cast<int>(threadIdx.x);
  sm90::WaitForPrevious();
  sm90::LetNextBegin();
  const int context = batch.positions[token] + 1;
  if (context <= batch.topk) {
    if (last) KeepAll(batch, token, thread, kRangeThreads);
    return;
  }
  const int visible = min(num_keys, context - first_key);
  if (visible <= 0 && !last) return;
  uint32_t* best_keys = running.keys + token * batch.topk;
  int32_t* best_positions = running.positions + token * batch.topk;
  const int kept = first_key == 0 ? 0 : running.counts[token];
  const float* row = scores + token * stride;
  for (int i = thread; i < kept; i += kRangeThreads) {
    keys[i] = best_keys[i];
    positions[i] = best_positions[i];
  }
  const int added = max(visible, 0);
  // With K candidates already, a later key must beat the worst of them: 0 counts as NaN, never
  // chosen.
  uint32_t worst = 0;
  if (kept == batch.topk) {
    uint32_t lowest = 0xffffffff;
    for (int i = thread; i < kept; i += kRangeThreads) lowest = min(lowest, keys[i]);
    lowest = __reduce_min_sync(0xffffffff, lowest);
    if (thread % kWarp == 0) work.warp_sums[0][thread / kWarp] = lowest;
    __syncthreads();
    worst = 0xffffffff;
    for (int w = 0; w < kRangeThreads / kWarp; ++w) worst = min(worst, work.warp_sums[0][w]);
  }
  for (int i = thread; i < added; i += kRangeThreads) {
    const uint32_t key = OrderedKey(row[i]);
    keys[kept + i] = key > worst ? key : 0;
  }
  __syncthreads();
  const int count = kept + added;
  auto key = [&](int i) { return keys[i]; };
  RangeSelector selector(work, 0);
  const Threshold threshold = selector.Find(count, static_cast<uint32_t>(batch.topk), key);
  auto position = [&](int i) { return i < kept ? positions[i] : first_key + i - kept; };
  if (last) {
    const TokenOutput output(batch, token);
    const uint32_t chosen =
        selector.Place(count, threshold, marks, key,
                       [&](uint32_t place, int i) { output.Write(place, position(i)); });
    output.Fill(chosen, batch.width, thread, kRangeThreads);
    if (thread == 0) batch.out_counts[token] = static_cast<int32_t>(chosen);
  } else {
    const uint32_t chosen =
        selector.Place(count, threshold, marks, key, [&](uint32_t place, int i) {
          best_keys[place] = keys[i];
          best_positions[place] = position(i);
        });
    if (thread == 0) running.counts[token] = static_cast<int32_t>(chosen);
  }
}

// `stretch`: keys of a block of the longest row.
template <int kCluster>
cudaError_t LaunchRows(const SelectionBatch& batch, const float* scores, int64_t stride,
                       int64_t stretch, cudaStream_t stream) {
  const int held = static_cast<int>(stretch <= kRowKeys ? stretch : 0);
  const int64_t shared_bytes =
      static_cast<int64_t>(sizeof(SelectWork<kRowThreads, kCluster>)) + held * 4 + stretch / 4;
  return sm90::LaunchOverlapping(SelectFromRowsKernel<kCluster>,
                                 {.grid = dim3(static_cast<unsigned>(batch.num_tokens * kCluster)),
                                  .threads = kRowThreads,
                                  .shared_bytes = static_cast<int>(shared_bytes),
                                  .cluster = kCluster,
                                  .stream = stream},
                                 batch, scores, stride, held);
}

}  // namespace

cudaError_t SelectFromRows(const SelectionBatch& batch, const float* scores, int64_t stride,
                           int multiprocessors, cudaStream_t stream) {
  int cluster = 1;
  auto stretch = [&] { return (stride + cluster * 128 - 1) / (cluster * 128) * 128; };
  while (cluster < kMaxCluster &&
         (stretch() > kRowKeys ||
          (stretch() > kFewKeys && 2 * cluster * batch.num_tokens <= multiprocessors))) {
    cluster *= 2;
  }
  switch (cluster) {
    case 1:
      return LaunchRows<1>(batch, scores, stride, stretch(), stream);
    case 2:
      return LaunchRows<2>(batch, scores, stride, stretch(), stream);
    case 4:
      return LaunchRows<4>(batch, scores, stride, stretch(), stream);
    default:
      return LaunchRows<8>(batch, scores, stride, stretch(), stream);
  }
}

cudaError_t SelectFromRange(const SelectionBatch& batch, const RunningSelection& running,
                            const float* scores, int64_t stride, int64_t first_key,
                            int64_t num_keys, bool last, cudaStream_t stream) {
  const int64_t keys = batch.topk + num_keys;
  const int64_t shared_bytes = static_cast<int64_t>(sizeof(SelectWork<kRangeThreads, 1>)) +
                               keys * 4 + batch.topk * 4 + (keys + kWarp) / kWarp * 8 + 16;
  return sm90::LaunchOverlapping(SelectFromRangeKernel,
                                 {.grid = dim3(static_cast<unsigned>(batch.num_tokens)),
                                  .threads = kRangeThreads,
                                  .shared_bytes = static_cast<int>(shared_bytes),
                                  .stream = stream},
                                 batch, running, scores, stride, first_key, num_keys, last);
}

}  // namespace winnow::cuda
