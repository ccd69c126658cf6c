// Token selection by radix: the K-th best score digit by digit, then what is better and, of equal
// scores, the first ones, in the order of their positions. Everything is counted in integers, so
// the order in which threads come does not matter.
//
// Grid: one block for each token. Cost: four passes over a token's scores, which the second-level
// cache holds.
#include "cuda/device.cuh"
#include "cuda/dsa/token_selection.cuh"

namespace winnow::cuda {
namespace {

constexpr int kThreads = 512;
constexpr int kWarps = kThreads / kWarp;
constexpr int kMaxBins = 2048;

// Larger for the better score; 0 for NaN, which is never chosen.
__device__ uint32_t KeyOf(float score) {
  if (isnan(score)) return 0;
  const uint32_t bits = __float_as_uint(score);
  return bits & 0x80000000 ? ~bits : bits | 0x80000000;
}

// A token's candidates: those kept, then those of the segment.
struct Row {
  const uint32_t* kept_keys;
  const int32_t* kept_positions;
  int num_kept;
  const float* scores;
  int first_key;
  int size;

  __device__ uint32_t Key(int i) const {
    return i < num_kept ? kept_keys[i] : KeyOf(scores[i - num_kept]);
  }
  __device__ int Position(int i) const {
    return i < num_kept ? kept_positions[i] : first_key + i - num_kept;
  }
};

struct Shared {
  int bins[kMaxBins];
  int warp_count[kWarps];
  int found_bin;
  int found_left;
};

// The bin that holds the `wanted`-th best (from 1), and how many of it are wanted. bin -1: there
// are fewer. By the first warp; all threads see the result.
__device__ void FindBin(Shared& s, int num_bins, int wanted) {
  if (threadIdx.x < kWarp) {
    const int per_lane = num_bins / kWarp;
    const int top = num_bins - 1 - static_cast<int>(threadIdx.x) * per_lane;
    int mine = 0;
    for (int i = 0; i < per_lane; ++i) mine += s.bins[top - i];
    int before = mine;
    for (int distance = 1; distance < kWarp; distance *= 2) {
      const int other = __shfl_up_sync(0xffffffff, before, distance);
      if (static_cast<int>(threadIdx.x) >= distance) before += other;
    }
    const int total = __shfl_sync(0xffffffff, before, kWarp - 1);
    before -= mine;
    if (total < wanted && threadIdx.x == 0) s.found_bin = -1;
    if (before < wanted && wanted <= before + mine) {
      int bin = top;
      while (before + s.bins[bin] < wanted) before += s.bins[bin--];
      s.found_bin = bin;
      s.found_left = wanted - before;
    }
  }
  __syncthreads();
}

struct Threshold {
  uint32_t key;   // what is better is taken
  int num_equal;  // and so many of those equal, the first ones
};

__device__ Threshold FindThreshold(const Row& row, int topk, Shared& s) {
  uint32_t prefix = 0;
  int wanted = topk;
  int decided = 0;  // bits of prefix
  for (int bits : {11, 11, 10}) {
    const int shift = 32 - decided - bits;
    for (int bin = threadIdx.x; bin < kMaxBins; bin += kThreads) s.bins[bin] = 0;
    __syncthreads();
    for (int i = threadIdx.x; i < row.size; i += kThreads) {
      const uint32_t key = row.Key(i);
      const bool matches = decided == 0 || key >> (32 - decided) == prefix;
      if (key != 0 && matches) atomicAdd(&s.bins[key >> shift & ((1u << bits) - 1)], 1);
    }
    __syncthreads();
    FindBin(s, 1 << bits, wanted);
    if (s.found_bin < 0) return {0, 0};  // fewer than K numbers: all of them
    prefix = prefix << bits | static_cast<uint32_t>(s.found_bin);
    wanted = s.found_left;
    decided += bits;
    __syncthreads();
  }
  return {prefix, wanted};
}

// How many of the block's flags are set before this thread's; *total of all. All threads call it.
__device__ int CountBefore(bool flag, Shared& s, int* total) {
  const unsigned ballot = __ballot_sync(0xffffffff, flag);
  const int warp = threadIdx.x / kWarp;
  __syncthreads();
  if (threadIdx.x % kWarp == 0) s.warp_count[warp] = __popc(ballot);
  __syncthreads();
  int before = __popc(ballot & ((1u << (threadIdx.x % kWarp)) - 1));
  *total = 0;
  for (int other = 0; other < kWarps; ++other) {
    if (other < warp) before += s.warp_count[other];
    *total += s.warp_count[other];
  }
  return before;
}

// Calls take(i, place) for every chosen candidate in order; returns how many were chosen.
template <typename Take>
__device__ int ForEachChosen(const Row& row, Threshold threshold, Shared& s, Take take) {
  int chosen = 0;
  int equal_seen = 0;
  for (int base = 0; base < row.size; base += kThreads) {
    const int i = base + threadIdx.x;
    const uint32_t key = i < row.size ? row.Key(i) : 0;
    int num_equal;
    int num_taken;
    const bool equal = key != 0 && key == threshold.key;
    const int rank = equal_seen + CountBefore(equal, s, &num_equal);
    const bool taken = key > threshold.key || (equal && rank < threshold.num_equal);
    const int place = chosen + CountBefore(taken, s, &num_taken);
    if (taken) take(i, place);
    equal_seen += num_equal;
    chosen += num_taken;
  }
  return chosen;
}

__device__ int SlotOf(const SelectArgs& a, int64_t token, int position) {
  const int64_t sequence = a.sequences[token];
  const int page = a.page_table[sequence * a.max_pages + position / a.page_size];
  return page * a.page_size + position % a.page_size;
}

__device__ void WriteChosen(const SelectArgs& a, int64_t token, int place, int position) {
  if (place >= a.width) return;
  a.out_positions[token * a.width + place] = position;
  a.out_slots[token * a.width + place] = SlotOf(a, token, position);
}

__device__ void Finish(const SelectArgs& a, int64_t token, int count) {
  for (int place = count + threadIdx.x; place < a.width; place += kThreads) {
    a.out_positions[token * a.width + place] = -1;
    a.out_slots[token * a.width + place] = -1;
  }
  if (threadIdx.x == 0) a.out_counts[token] = count;
}

__global__ void __launch_bounds__(kThreads) SelectKernel(SelectArgs a) {
  __shared__ Shared s;
  const int64_t token = blockIdx.x;
  const int candidates = a.positions[token] + 1;
  if (candidates <= a.topk) {
    if (!a.last) {
      if (threadIdx.x == 0) a.kept_out.counts[token] = 0;
      return;
    }
    for (int position = threadIdx.x; position < candidates; position += kThreads) {
      WriteChosen(a, token, position, position);
    }
    return Finish(a, token, candidates);
  }
  Row row;
  row.num_kept = a.kept_in.counts ? a.kept_in.counts[token] : 0;
  row.kept_keys = a.kept_in.keys + token * a.kept_stride;
  row.kept_positions = a.kept_in.positions + token * a.kept_stride;
  row.scores = a.scores + token * a.stride;
  row.first_key = a.first_key;
  row.size = row.num_kept + max(0, min(a.num_keys, candidates - a.first_key));
  const Threshold threshold = FindThreshold(row, a.topk, s);
  if (a.last) {
    const int count = ForEachChosen(row, threshold, s, [&](int i, int place) {
      WriteChosen(a, token, place, row.Position(i));
    });
    return Finish(a, token, count);
  }
  const int count = ForEachChosen(row, threshold, s, [&](int i, int place) {
    a.kept_out.keys[token * a.kept_stride + place] = row.Key(i);
    a.kept_out.positions[token * a.kept_stride + place] = row.Position(i);
  });
  if (threadIdx.x == 0) a.kept_out.counts[token] = count;
}

}  // namespace

void LaunchSelect(const SelectArgs& args, int64_t tokens, cudaStream_t stream) {
  SelectKernel<<<static_cast<unsigned>(tokens), kThreads, 0, stream>>>(args);
}

}  // namespace winnow::cuda
