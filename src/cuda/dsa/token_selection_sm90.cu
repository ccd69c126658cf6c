// Token selection on a GPU: a radix selection, by a cluster of blocks for a row of scores or by one
// block for a running selection and the next range of scores.
//
// Scores become unsigned keys that order like them, 0 for NaN. Each block holds a stretch of the
// row, in order; a histogram of 2,048 bins of the keys' next bits is added up over the cluster, and
// every block finds the bin in which the K-th best lies. At the end each block marks its keys in a
// bitmap, and the places of the marks come from prefix sums: positions come out ascending without a
// sort.
//
// Of a range of scores only those above the K-th best of some range before are candidates. They
// collect in a list, which is cut to the K best when it is full: seldom, the more keys came before.
#include "cuda/dsa/sm90.cuh"
#include "cuda/dsa/token_selection_sm90.h"

namespace winnow::cuda {
namespace {

constexpr int kWarp = 32;
constexpr int kDigitBits = 11;
constexpr int kBins = 1 << kDigitBits;
constexpr int kPageKeys = 64;

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

  // The threshold of the cluster's `topk` best keys; key(i) for i < count gives this block's. All
  // that count are among 2^bits from `low` on.
  template <typename Key>
  __device__ Threshold Find(int count, uint32_t topk, const Key& key, uint32_t low = 1,
                            int bits = 32) {
    uint32_t left = topk;  // to be found
    while (bits > 0) {
      const int shift = bits > kDigitBits ? bits - kDigitBits : 0;
      const uint32_t bins_here = 1u << (bits - shift);
      Clear();
      for (int i = threadIdx.x; i < count; i += kThreads) {
        const uint32_t k = key(i);
        const uint32_t bin = (k - low) >> shift;
        if (k >= low && bin < bins_here) atomicAdd(&work_.bins[bin], 1);
      }
      const uint32_t* bins = AddUp();
      if (!FindBin(bins, left)) return {0, 0};  // all numbers: fewer than topk there are
      left -= work_.above;
      low += work_.bin << shift;
      bits = shift;
      // The whole bin, or of equal keys some.
      if (work_.in_bin == left) return {low - 1, 0};
    }
    return {low, left};
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

  // The largest of all threads' values.
  __device__ uint32_t Max(uint32_t value) {
    value = __reduce_max_sync(0xffffffff, value);
    __syncthreads();
    if (threadIdx.x % kWarp == 0) work_.warp_sums[0][threadIdx.x / kWarp] = value;
    __syncthreads();
    const int lane = threadIdx.x % kWarp;
    return __reduce_max_sync(0xffffffff, lane < kWarps ? work_.warp_sums[0][lane] : 0);
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

constexpr int kRangeThreads = 256;
constexpr int kChunk = 4 * kRangeThreads;  // keys
constexpr int kChunks = 4;                 // of a part
constexpr int kParts = static_cast<int>(kMaxRange) / (kChunks * kChunk);

// What a thread has of a part of a range: of each chunk four neighbours' keys.
struct PartKeys {
  uint4 chunks[kChunks];

  __device__ __forceinline__ void Load(const float* row, int count) {
#pragma unroll
    for (int chunk = 0; chunk < kChunks; ++chunk) {
      const int first = chunk * kChunk + static_cast<int>(threadIdx.x) * 4;
      float4 four = make_float4(0, 0, 0, 0);
      if (first < count) four = *reinterpret_cast<const float4*>(row + first);
      chunks[chunk] = make_uint4(
          first < count ? OrderedKey(four.x) : 0, first + 1 < count ? OrderedKey(four.y) : 0,
          first + 2 < count ? OrderedKey(four.z) : 0, first + 3 < count ? OrderedKey(four.w) : 0);
    }
  }
  __device__ __forceinline__ uint4 Chunk(int chunk) const {
    return chunk < 2 ? chunk == 0 ? chunks[0] : chunks[1] : chunk == 2 ? chunks[2] : chunks[3];
  }
};

__device__ __forceinline__ uint32_t CountAbove(uint4 keys, uint32_t worst) {
  return static_cast<uint32_t>(keys.x > worst) + (keys.y > worst) + (keys.z > worst) +
         (keys.w > worst);
}

// A token's candidates and what is done with them, by all threads of a block together.
class CandidateList {
 public:
  using RangeSelector = Selector<kRangeThreads, 1>;

  // `keys` and `positions` [room] hold `count` of them, and all to come are above `worst`.
  __device__ CandidateList(uint8_t* shared, int room, uint32_t topk, uint32_t* keys,
                           int32_t* positions, uint32_t count, uint32_t worst)
      : selector_(*reinterpret_cast<RangeSelector::Work*>(shared), 0),
        marks_(reinterpret_cast<uint2*>(shared + sizeof(RangeSelector::Work))),
        keys_here_(reinterpret_cast<uint32_t*>(marks_ + Words(room))),
        positions_here_(reinterpret_cast<int32_t*>(keys_here_ + room + kChunk)),
        room_(static_cast<uint32_t>(room)),
        topk_(topk),
        keys_(keys),
        positions_(positions),
        count_(count),
        worst_(worst) {}
  // For the first range, which is chosen from as it is; or a list and a chunk that may be too much.
  static int64_t SharedBytes(int64_t room) {
    const int64_t lists = (room + kChunk) * 8;
    return static_cast<int64_t>(sizeof(RangeSelector::Work)) + Words(room) * 8 +
           (lists > kMaxRange * 4 ? lists : kMaxRange * 4);
  }

  __device__ uint32_t count() const { return count_; }
  __device__ uint32_t worst() const { return worst_; }

  // Chooses from the keys of the first range; write(place, key, position).
  template <typename Write>
  __device__ void TakeFirst(const float* row, int count, const Write& write) {
    for (int i = static_cast<int>(threadIdx.x) * 4; i < count; i += kChunk) {
      const float4 four = *reinterpret_cast<const float4*>(row + i);  // rows are padded to 64
      *reinterpret_cast<uint4*>(keys_here_ + i) = make_uint4(
          OrderedKey(four.x), OrderedKey(four.y), OrderedKey(four.z), OrderedKey(four.w));
    }
    const Threshold threshold = selector_.Find(count, topk_, KeyHere());
    count_ = selector_.Place(count, threshold, marks_, KeyHere(),
                             [&](uint32_t place, int i) { write(place, keys_here_[i], i); });
    worst_ = threshold.key;
  }
  __device__ void TakeFirst(const float* row, int count) {
    TakeFirst(row, count, [&](uint32_t place, uint32_t key, int position) {
      keys_[place] = key;
      positions_[place] = position;
    });
  }

  // Takes what is above the worst.
  __device__ void Take(const PartKeys& part, int first_key) {
    uint32_t above[kChunks];
#pragma unroll
    for (int chunk = 0; chunk < kChunks; ++chunk) {
      above[chunk] = CountAbove(part.chunks[chunk], worst_);
    }
    static_assert(kChunks == 4);
    uint2 total;  // of each chunk, sixteen bits
    const uint2 before = selector_.SumBefore(
        make_uint2(above[0] | above[1] << 16, above[2] | above[3] << 16), total);
    const uint32_t of_chunk[] = {total.x & 0xffff, total.x >> 16, total.y & 0xffff, total.y >> 16};
    const uint32_t before_chunk[] = {before.x & 0xffff, before.x >> 16, before.y & 0xffff,
                                     before.y >> 16};
    const int first = first_key + static_cast<int>(threadIdx.x) * 4;
    if (count_ + of_chunk[0] + of_chunk[1] + of_chunk[2] + of_chunk[3] <= room_) {
#pragma unroll
      for (int chunk = 0; chunk < kChunks; ++chunk) {
        Add(part.chunks[chunk], first + chunk * kChunk, count_ + before_chunk[chunk], keys_,
            positions_);
        count_ += of_chunk[chunk];
      }
      return;
    }
#pragma unroll 1
    for (int chunk = 0; chunk < kChunks; ++chunk) {
      TakeChunk(part.Chunk(chunk), first + chunk * kChunk);
    }
  }

  // Chooses from the list; write(place, position).
  template <typename Write>
  __device__ uint32_t Finish(const Write& write) {
    const Threshold threshold = FindIn(count_);
    return selector_.Place(static_cast<int>(count_), threshold, marks_, KeyHere(),
                           [&](uint32_t place, int i) { write(place, positions_here_[i]); });
  }

 private:
  static __host__ __device__ int Words(int64_t room) {
    const int64_t keys = room + kChunk > kMaxRange ? room + kChunk : kMaxRange;
    return static_cast<int>((keys + kWarp - 1) / kWarp);
  }
  struct KeyAt {
    const uint32_t* keys;
    __device__ __forceinline__ uint32_t operator()(int i) const { return keys[i]; }
  };
  __device__ KeyAt KeyHere() const { return {keys_here_}; }

  // Four keys where they are above the worst.
  __device__ void Add(uint4 four, int position, uint32_t place, uint32_t* keys,
                      int32_t* positions) const {
    const uint32_t each[4] = {four.x, four.y, four.z, four.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (each[i] <= worst_) continue;
      keys[place] = each[i];
      positions[place++] = position + i;
    }
  }

  // The threshold of `count` keys: the list, which comes into shared memory, and what stands there
  // behind it.
  __device__ Threshold FindIn(uint32_t count) {
    __syncthreads();
    const uint32_t low = max(worst_, 1u);  // some of the list may be as bad
    uint32_t most = low;
    for (uint32_t i = threadIdx.x; i < count; i += kRangeThreads) {
      if (i < count_) {
        keys_here_[i] = keys_[i];
        positions_here_[i] = positions_[i];
      }
      most = max(most, keys_here_[i]);
    }
    most = selector_.Max(most);
    // From the worst to the best: that spreads them over many bins.
    const int bits = max(32 - __clz(static_cast<int>(most - low)), 1);
    return selector_.Find(static_cast<int>(count), topk_, KeyHere(), low, bits);
  }

  // A chunk's keys, after which the list may have to be cut to the K best.
  __device__ void TakeChunk(uint4 four, int position) {
    uint2 total;
    const uint32_t before = selector_.SumBefore(make_uint2(CountAbove(four, worst_), 0), total).x;
    const uint32_t all = count_ + total.x;
    const bool fits = all <= room_;
    Add(four, position, count_ + before, fits ? keys_ : keys_here_,
        fits ? positions_ : positions_here_);
    if (fits) {
      count_ = all;
      return;
    }
    const Threshold threshold = FindIn(all);
    count_ = selector_.Place(static_cast<int>(all), threshold, marks_, KeyHere(),
                             [&](uint32_t place, int i) {
                               keys_[place] = keys_here_[i];
                               positions_[place] = positions_here_[i];
                             });
    worst_ = threshold.key;
  }

  RangeSelector selector_;
  uint2* const marks_;
  uint32_t* const keys_here_;
  int32_t* const positions_here_;
  const uint32_t room_;
  const uint32_t topk_;
  uint32_t* const keys_;
  int32_t* const positions_;
  uint32_t count_;
  uint32_t worst_;
};

__global__ __launch_bounds__(kRangeThreads,
                             4) void SelectFromRangeKernel(SelectionBatch batch,
                                                           RunningSelection running, int room,
                                                           const float* scores, int64_t stride,
                                                           int first_key, int num_keys, bool last) {
  extern __shared__ __align__(16) uint8_t shared[];
  const int64_t token = blockIdx.x;
  const int thread = static_cast<int>(threadIdx.x);
  sm90::WaitForPrevious();
  sm90::LetNextBegin();
  const int context = batch.positions[token] + 1;
  if (context <= batch.topk) {
    if (last) KeepAll(batch, token, thread, kRangeThreads);
    return;
  }
  const int visible = max(min(num_keys, context - first_key), 0);
  if (visible == 0 && !last) return;
  const float* row = scores + token * stride;
  const bool first = first_key == 0;
  CandidateList list(shared, room, static_cast<uint32_t>(batch.topk), running.keys + token * room,
                     running.positions + token * room, first ? 0 : running.counts[token],
                     first ? 0 : running.worst[token]);
  const TokenOutput output(batch, token);
  uint32_t chosen = 0;
  if (first && last) {
    list.TakeFirst(row, visible,
                   [&](uint32_t place, uint32_t, int position) { output.Write(place, position); });
    chosen = list.count();
  } else if (first) {
    list.TakeFirst(row, visible);
  } else {
    PartKeys parts[kParts];
#pragma unroll
    for (int part = 0; part < kParts; ++part) {
      parts[part].Load(row + part * kChunks * kChunk, visible - part * kChunks * kChunk);
    }
#pragma unroll
    for (int part = 0; part < kParts; ++part) {
      list.Take(parts[part], first_key + part * kChunks * kChunk);
    }
    if (last) {
      chosen = list.Finish([&](uint32_t place, int position) { output.Write(place, position); });
    }
  }
  if (last) {
    output.Fill(chosen, batch.width, thread, kRangeThreads);
    if (thread == 0) batch.out_counts[token] = static_cast<int32_t>(chosen);
  } else if (thread == 0) {
    running.counts[token] = list.count();
    running.worst[token] = list.worst();
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
  const int64_t room = RunningRoom(batch.topk);
  return sm90::LaunchOverlapping(
      SelectFromRangeKernel,
      {.grid = dim3(static_cast<unsigned>(batch.num_tokens)),
       .threads = kRangeThreads,
       .shared_bytes = static_cast<int>(CandidateList::SharedBytes(room)),
       .stream = stream},
      batch, running, room, scores, stride, first_key, num_keys, last);
}

}  // namespace winnow::cuda
