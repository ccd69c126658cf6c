// The draw of tokens: a cluster of blocks for each row, which every warp has its stretch of. Sums
// are of whole numbers, so threads may add in any order (backend/draw_token.h).
//
// A warp copies its stretch to shared memory where that is large enough, since it is read again for
// each pass and the barriers of a cluster empty the cache. To find where the weights of the
// likeliest tokens reach what is kept of them, they are added to bins by exponent, then by digits
// of their ranks; the blocks of a cluster read each other's bins.
#include "backend/draw_token.h"
#include "cuda/context.h"
#include "cuda/cuda_ops.h"
#include "cuda/device.cuh"
#include "cuda/dsa/sm90.cuh"

namespace winnow::cuda {
namespace {

constexpr int kDrawThreads = 512;
constexpr int kDrawWarps = kDrawThreads / kWarp;  // of a block
constexpr int kDrawCluster = 8;
constexpr int kStretches = kDrawWarps * kDrawCluster;  // of a row
constexpr int kDrawLoads = 8;                          // of a lane, at a time
// Few, since blocks read each other's slowly: each of exponents and of digits of ranks.
constexpr int kDrawDigitBits = 8;
constexpr uint32_t kDrawBins = 1 << kDrawDigitBits;
constexpr int kMostCopied =
    96 << 10;  // bytes of a block's logits: two blocks run beside each other
constexpr uint32_t kAllLanes = 0xffffffff;

// A block's own part of what the cluster adds up.
struct DrawWork {
  uint32_t low_bins[2][kDrawBins];  // in turn: others may still read the last ones
  uint32_t high_bins[2][kDrawBins];
  uint64_t mass[kDrawWarps];  // of the run in a warp's stretch, without ties
  uint64_t ties[kDrawWarps];
  uint64_t best[kDrawWarps];
  uint64_t best_of_block;
  uint64_t warp_sums[kDrawWarps];
  uint64_t before;  // what FindBin finds
  uint32_t bin;
  int found_by;  // what FindStretch finds: a warp, or -1
  uint64_t place;
  uint64_t ties_left;
};
static_assert(kDrawBins <= 2 * kDrawThreads && kDrawWarps <= kWarp);

__device__ ulonglong2 LoadPeerPair(const void* shared, uint32_t rank) {
  ulonglong2 pair;
  asm volatile("ld.shared::cluster.v2.u64 {%0, %1}, [%2];"
               : "=l"(pair.x), "=l"(pair.y)
               : "r"(sm90::PeerAddress(sm90::SharedAddress(shared), rank))
               : "memory");
  return pair;
}

__device__ uint64_t LoadPeer64(const void* shared, uint32_t rank) {
  uint64_t value;
  asm volatile("ld.shared::cluster.u64 %0, [%1];"
               : "=l"(value)
               : "r"(sm90::PeerAddress(sm90::SharedAddress(shared), rank))
               : "memory");
  return value;
}
__device__ uint2 LoadPeerPair32(const void* shared, uint32_t rank) {
  uint2 pair;
  asm volatile("ld.shared::cluster.v2.u32 {%0, %1}, [%2];"
               : "=r"(pair.x), "=r"(pair.y)
               : "r"(sm90::PeerAddress(sm90::SharedAddress(shared), rank))
               : "memory");
  return pair;
}

__device__ uint64_t WarpSum(uint64_t value) {
  for (int distance = kWarp / 2; distance > 0; distance /= 2) {
    value += __shfl_xor_sync(kAllLanes, value, distance);
  }
  return value;
}

__device__ uint64_t WarpMax(uint64_t value) {
  for (int distance = kWarp / 2; distance > 0; distance /= 2) {
    const uint64_t other = __shfl_xor_sync(kAllLanes, value, distance);
    value = other > value ? other : value;
  }
  return value;
}

// The sum of the lanes up to this one.
__device__ uint64_t WarpScan(uint64_t value) {
  const int lane = threadIdx.x % kWarp;
  for (int distance = 1; distance < kWarp; distance *= 2) {
    const uint64_t other = __shfl_up_sync(kAllLanes, value, distance);
    if (lane >= distance) value += other;
  }
  return value;
}

// Logits of a warp's stretch of a row of so many.
__host__ __device__ constexpr int StretchOf(int limit) {
  return DivideUp(DivideUp(limit, kStretches), kWarp) * kWarp;
}

// A run of likeliest tokens: those that rank higher, and of those that rank equal the `ties` first.
struct LikelyRun {
  uint32_t rank = kNeverDrawn;
  uint64_t ties = 0;
};

class RowDraw {
 public:
  // `copy` has room for the block's stretches, or is null.
  __device__ RowDraw(DrawWork& work, const float* logits, const DrawRule& rule, int size,
                     float* copy)
      : work_(work),
        rule_(rule),
        block_(sm90::ClusterRank()),
        warp_(static_cast<int>(threadIdx.x) / kWarp),
        lane_(static_cast<int>(threadIdx.x) % kWarp) {
    const int limit = max(min(rule.below, size), 0);
    const int length = StretchOf(limit);
    begin_ = min((static_cast<int>(block_) * kDrawWarps + warp_) * length, limit);
    count_ = min(length, limit - begin_);
    stretch_ = logits + begin_;
    copy_ = copy == nullptr ? nullptr : copy + warp_ * length;
  }

  // All threads of the cluster call it; one of them writes the token.
  __device__ void Draw(int32_t* token) {
    const uint64_t best = FindLikeliest();
    const uint32_t rank = static_cast<uint32_t>(best >> 32);
    const bool none = rank == kNeverDrawn || rank == kInfiniteRank;
    if (none || rule_.IsLikeliest()) {
      if (block_ == 0 && threadIdx.x == 0) {
        *token = none ? -1 : static_cast<int32_t>(~static_cast<uint32_t>(best));
      }
      return;
    }
    largest_ = LogitOf(rank);
    scale_ = ExponentScale(rule_.temperature);
    least_ = LeastMass(rule_.min_p);
    if (rule_.top_k > 0) KeepTopK();
    if (rule_.top_p < 1) KeepTopP();
    WriteToken(token);
  }

 private:
  __device__ double Exponent(float logit) const { return ExponentOf(logit, largest_, scale_); }
  __device__ uint64_t KeptMass(double exponent) const {
    const uint64_t mass = MassOf(exponent);
    return mass >= least_ ? mass : 0;
  }
  __device__ uint64_t MassOfTie() const {
    return run_.rank == kNeverDrawn ? 0 : KeptMass(Exponent(LogitOf(run_.rank)));
  }

  // This lane's logits of the kDrawLoads · 32 from `first` on, NaN beyond the end of the stretch.
  __device__ void Load(int first, float (&here)[kDrawLoads]) const {
#pragma unroll
    for (int i = 0; i < kDrawLoads; ++i) {
      const int at = first + i * kWarp + lane_;
      here[i] = at < count_ ? stretch_[at] : NAN;
    }
  }
  // Calls body(logit, place in the stretch).
  template <typename Body>
  __device__ void ForEach(const Body& body) const {
    for (int first = 0; first < count_; first += kDrawLoads * kWarp) {
      float here[kDrawLoads];
      Load(first, here);
#pragma unroll
      for (int i = 0; i < kDrawLoads; ++i) body(here[i], first + i * kWarp + lane_);
    }
  }

  // The largest rank in the upper half, and below it the complement of its lowest id.
  __device__ uint64_t FindLikeliest() {
    uint64_t best = 0;
    ForEach([&](float logit, int at) {
      const uint64_t here = uint64_t{RankOf(logit)} << 32 | ~static_cast<uint32_t>(begin_ + at);
      best = here > best ? here : best;
      if (copy_ != nullptr && at < count_) copy_[at] = logit;
    });
    if (copy_ != nullptr) stretch_ = copy_;  // a thread reads what it wrote itself
    best = WarpMax(best);
    if (lane_ == 0) work_.best[warp_] = best;
    __syncthreads();
    if (warp_ == 0) {
      best = WarpMax(lane_ < kDrawWarps ? work_.best[lane_] : 0);
      if (lane_ == 0) work_.best_of_block = best;
    }
    sm90::ClusterSync();
    return WarpMax(LoadPeer64(&work_.best_of_block, lane_ % kDrawCluster));
  }

  __device__ void KeepTopK() {
    const uint64_t k = static_cast<uint64_t>(rule_.top_k);
    const Found found =
        FindRun([](double) { return uint64_t{1}; }, 0,
                [k](uint64_t candidates) { return k < candidates ? k : candidates; });
    run_ = {found.rank, found.missing};
  }

  __device__ void KeepTopP() {
    const double share = rule_.top_p;
    const Found found =
        FindRun([this](double exponent) { return KeptMass(exponent); }, run_.ties * MassOfTie(),
                [share](uint64_t total) { return ShareOf(share, total); });
    run_.rank = found.rank;
    const uint64_t mass = MassOfTie();
    run_.ties = (found.missing + mass - 1) / mass;
  }

  // As in backend/draw_token.cc.
  struct Found {
    uint32_t rank = kNeverDrawn;
    uint64_t missing = 0;
  };
  template <typename Weigh, typename Needed>
  __device__ Found FindRun(const Weigh& weigh, uint64_t of_ties, const Needed& needed_of) {
    RankRange range = {run_.rank + 1, RankOf(largest_)};
    const auto exponent_bin = [](uint32_t, double exponent) { return BinOf(exponent, kDrawBins); };
    Fill(range, weigh, exponent_bin, of_ties);
    uint64_t before = 0;
    const uint64_t needed = FindBin(before, needed_of);
    const uint32_t bin = work_.bin;
    before = work_.before;
    if (bin == kDrawBins - 1) return {};
    range = FindRanks(bin);
    while (range.lowest < range.highest) {
      const int width = 32 - __clz(range.highest - range.lowest);
      const int shift = width > kDrawDigitBits ? width - kDrawDigitBits : 0;
      const auto digit = [&](uint32_t rank, double) { return (range.highest - rank) >> shift; };
      Fill({max(range.lowest, run_.rank + 1), range.highest}, weigh, digit,
           range.Holds(run_.rank) ? of_ties : 0);
      FindBin(before, [needed](uint64_t) { return needed; });
      before = work_.before;
      range.highest -= work_.bin << shift;
      range.lowest = max(range.lowest, range.highest - ((1u << shift) - 1));
    }
    return {range.lowest, needed - before};
  }

  // The ranks of a bin: half a warp looks for each end, at sixteen ranks at a time.
  __device__ RankRange FindRanks(uint32_t bin) const {
    constexpr int kHalf = kWarp / 2;
    const int half = lane_ / kHalf;
    uint32_t in = kNoFiniteRank;
    uint32_t out = RankOf(largest_) + 1;
    while (__any_sync(kAllLanes, in + 1 < out)) {
      const uint32_t step = (out - in) / (kHalf + 1) + 1;
      const uint32_t rank = in + (lane_ % kHalf + 1) * step;
      const bool inside = rank < out && BinOf(Exponent(LogitOf(rank)), kDrawBins) >=
                                            bin + static_cast<uint32_t>(half);
      const uint32_t both = __ballot_sync(kAllLanes, inside);
      in += __popc(both >> half * kHalf & 0xffff) * step;
      out = min(out, in + step);
    }
    return {__shfl_sync(kAllLanes, in, kHalf) + 1, __shfl_sync(kAllLanes, in, 0)};
  }

  // Fills the block's next bins with the weights of its tokens that rank within `range`; block 0
  // adds `of_ties` for those at the end of the run. A thread's tokens that follow each other in one
  // bin are added at once: where nearly all are in one, threads would wait for each other.
  template <typename Weigh, typename BinOfToken>
  __device__ void Fill(const RankRange& range, const Weigh& weigh, const BinOfToken& bin_of,
                       uint64_t of_ties) {
    turn_ ^= 1;
    for (int bin = threadIdx.x; bin < static_cast<int>(kDrawBins); bin += kDrawThreads) {
      work_.low_bins[turn_][bin] = 0;
      work_.high_bins[turn_][bin] = 0;
    }
    __syncthreads();
    uint32_t last = 0;
    uint64_t sum = 0;
    const auto add = [&](uint32_t bin, uint64_t weight) {
      if (bin != last) {
        if (sum > 0) AddTo(last, sum);
        sum = 0;
        last = bin;
      }
      sum += weight;
    };
    ForEach([&](float logit, int) {
      const uint32_t rank = RankOf(logit);
      if (!range.Holds(rank)) return;
      const double exponent = Exponent(logit);
      const uint64_t weight = weigh(exponent);
      if (weight > 0) add(bin_of(rank, exponent), weight);
    });
    if (of_ties > 0 && block_ == 0 && threadIdx.x == 0) {
      add(bin_of(run_.rank, Exponent(LogitOf(run_.rank))), of_ties);
    }
    if (sum > 0) AddTo(last, sum);
    sm90::ClusterSync();
  }
  // In halves, whose additions are one instruction each: who makes the lower one overflow carries.
  __device__ void AddTo(uint32_t bin, uint64_t weight) {
    const uint32_t low = static_cast<uint32_t>(weight);
    const uint32_t before = atomicAdd(&work_.low_bins[turn_][bin], low);
    const uint32_t high = static_cast<uint32_t>(weight >> 32) + (before + low < low ? 1 : 0);
    if (high > 0) atomicAdd(&work_.high_bins[turn_][bin], high);
  }

  // Puts the bin of the cluster's bins in which `before` and their sums reach what is needed of
  // their total into work_.bin, and what comes before it into work_.before. Returns the need.
  template <typename Needed>
  __device__ uint64_t FindBin(uint64_t before, const Needed& needed_of) {
    const int first = 2 * static_cast<int>(threadIdx.x);
    ulonglong2 sums = make_ulonglong2(0, 0);
    if (first < static_cast<int>(kDrawBins)) {
#pragma unroll
      for (uint32_t block = 0; block < kDrawCluster; ++block) {
        const uint2 low = LoadPeerPair32(&work_.low_bins[turn_][first], block);
        const uint2 high = LoadPeerPair32(&work_.high_bins[turn_][first], block);
        sums.x += uint64_t{high.x} << 32 | low.x;
        sums.y += uint64_t{high.y} << 32 | low.y;
      }
    }
    const uint64_t pair_sum = sums.x + sums.y;
    const uint64_t in_warp = WarpScan(pair_sum);
    if (lane_ == kWarp - 1) work_.warp_sums[warp_] = in_warp;
    __syncthreads();
    const uint64_t of_warp = lane_ < kDrawWarps ? work_.warp_sums[lane_] : 0;
    const uint64_t warps = WarpScan(of_warp);
    const uint64_t needed = needed_of(__shfl_sync(kAllLanes, warps, kDrawWarps - 1));
    const uint64_t to_warp = __shfl_sync(kAllLanes, warps - of_warp, warp_);
    const uint64_t start = before + to_warp + in_warp - pair_sum;
    if (start < needed && needed <= start + pair_sum) {
      const bool second = start + sums.x < needed;
      work_.bin = static_cast<uint32_t>(first) + (second ? 1 : 0);
      work_.before = second ? start + sums.x : start;
    }
    __syncthreads();
    return needed;
  }

  // The warp walks in whose stretch's mass the place is.
  __device__ void WriteToken(int32_t* token) {
    const uint64_t mass_of_tie = MassOfTie();
    SumStretch();
    sm90::ClusterSync();
    if (warp_ == 0) FindStretch(mass_of_tie);
    __syncthreads();
    if (work_.found_by == warp_) Walk(work_.place, work_.ties_left, mass_of_tie, token);
  }

  // By the masses and ties of all stretches, for this block: which of its warps has the place,
  // where in its mass, and how many of its ties are kept.
  __device__ void FindStretch(uint64_t mass_of_tie) {
    uint64_t mass[kStretches / kWarp];
    uint64_t ties[kStretches / kWarp];
    LoadStretches(work_.mass, mass);
    LoadStretches(work_.ties, ties);
    // The first ties are kept: as many as there are before a stretch are gone for it.
    const uint64_t lane_ties = Sum(ties);
    uint64_t gone = WarpScan(lane_ties) - lane_ties;
    for (int i = 0; i < kStretches / kWarp; ++i) {
      const uint64_t left = run_.ties > gone ? run_.ties - gone : 0;
      gone += ties[i];
      ties[i] = ties[i] < left ? ties[i] : left;
      mass[i] += ties[i] * mass_of_tie;
    }
    const uint64_t lane_mass = Sum(mass);
    const uint64_t up_to = WarpScan(lane_mass);
    const uint64_t place = __umul64hi(rule_.random, __shfl_sync(kAllLanes, up_to, kWarp - 1));
    uint64_t start = up_to - lane_mass;
    if (lane_ == 0) work_.found_by = -1;
    __syncwarp();
    for (int i = 0; i < kStretches / kWarp; ++i) {
      const int warp = lane_ * (kStretches / kWarp) + i - static_cast<int>(block_) * kDrawWarps;
      const bool here = place >= start && place - start < mass[i];
      if (here && warp >= 0 && warp < kDrawWarps) {
        work_.found_by = warp;
        work_.place = place - start;
        work_.ties_left = ties[i];
      }
      start += mass[i];
    }
  }

  __device__ void SumStretch() {
    uint64_t mass = 0;
    uint64_t ties = 0;
    ForEach([&](float logit, int) {
      const uint32_t rank = RankOf(logit);
      if (rank > run_.rank) mass += KeptMass(Exponent(logit));
      if (rank == run_.rank && run_.ties > 0) ++ties;
    });
    mass = WarpSum(mass);
    ties = WarpSum(ties);
    if (lane_ == 0) work_.mass[warp_] = mass;
    if (lane_ == 0) work_.ties[warp_] = ties;
  }

  // A lane's share of all stretches' sums, in order.
  __device__ void LoadStretches(const uint64_t* of_block,
                                uint64_t (&sums)[kStretches / kWarp]) const {
    const int first = lane_ * (kStretches / kWarp);
    for (int i = 0; i < kStretches / kWarp; i += 2) {
      const ulonglong2 pair =
          LoadPeerPair(&of_block[(first + i) % kDrawWarps], (first + i) / kDrawWarps);
      sums[i] = pair.x;
      sums[i + 1] = pair.y;
    }
  }
  __device__ static uint64_t Sum(const uint64_t (&values)[kStretches / kWarp]) {
    uint64_t sum = 0;
    for (const uint64_t value : values) sum += value;
    return sum;
  }

  // Writes the token of the stretch in whose mass `place` is; its first `ties` ties are kept.
  __device__ void Walk(uint64_t place, uint64_t ties, uint64_t mass_of_tie, int32_t* token) const {
    for (int first = 0; first < count_; first += kDrawLoads * kWarp) {
      float here[kDrawLoads];
      uint64_t mass[kDrawLoads];
      uint64_t sum[kDrawLoads];
      Load(first, here);
#pragma unroll
      for (int i = 0; i < kDrawLoads; ++i) {
        const uint32_t rank = RankOf(here[i]);
        const bool tie = rank == run_.rank && rank != kNeverDrawn;
        const uint32_t all_ties = __ballot_sync(kAllLanes, tie);
        const uint64_t earlier = __popc(all_ties & ((1u << lane_) - 1));
        mass[i] = rank > run_.rank ? KeptMass(Exponent(here[i])) : 0;
        if (tie && earlier < ties) mass[i] = mass_of_tie;
        const uint64_t count = __popc(all_ties);
        ties -= count < ties ? count : ties;
      }
#pragma unroll
      for (int i = 0; i < kDrawLoads; ++i) sum[i] = WarpSum(mass[i]);
#pragma unroll
      for (int i = 0; i < kDrawLoads; ++i) {
        if (place < sum[i]) {
          const uint64_t up_to = WarpScan(mass[i]);
          if (place < up_to && place >= up_to - mass[i]) {
            *token = begin_ + first + i * kWarp + lane_;
          }
          return;
        }
        place -= sum[i];
      }
    }
  }

  DrawWork& work_;
  const float* stretch_;  // the warp's
  float* copy_;
  const DrawRule rule_;
  const uint32_t block_;
  const int warp_;
  const int lane_;
  int begin_;  // the first id of the stretch
  int count_;
  int turn_ = 0;
  float largest_ = 0;
  double scale_ = 0;
  uint64_t least_ = 0;
  LikelyRun run_;
};

// Grid: a cluster for each row. Shared memory for its copy, where it `copies`.
__global__ void __launch_bounds__(kDrawThreads, 2)
    DrawKernel(const float* logits, const DrawRule* rules, int32_t* tokens, int size, bool copies) {
  extern __shared__ float copy[];
  __shared__ alignas(16) DrawWork work;
  sm90::WaitForPrevious();
  sm90::LetNextBegin();
  const int64_t row = blockIdx.x / kDrawCluster;
  RowDraw(work, logits + row * size, rules[row], size, copies ? copy : nullptr).Draw(tokens + row);
  sm90::ClusterSync();  // nobody reads from a block that is gone
}

}  // namespace

void DrawTokens(CudaContext& context, const DrawTokensArgs& args) {
  const int64_t rows = args.logits.dims[0];
  const int size = static_cast<int>(args.logits.dims[1]);
  if (rows == 0) return;
  const int64_t bytes = int64_t{StretchOf(size)} * kDrawWarps * int64_t{sizeof(float)};
  const bool copies = bytes <= kMostCopied;
  context.Check(sm90::LaunchOverlapping(DrawKernel,
                                        {.grid = dim3(static_cast<unsigned>(rows * kDrawCluster)),
                                         .threads = kDrawThreads,
                                         .shared_bytes = copies ? static_cast<int>(bytes) : 0,
                                         .cluster = kDrawCluster,
                                         .stream = context.stream},
                                        args.logits.As<float>(),
                                        reinterpret_cast<const DrawRule*>(args.rules.As<uint8_t>()),
                                        args.tokens.As<int32_t>(), size, copies),
                "DrawTokens");
}

}  // namespace winnow::cuda
