// A lane is a chain. A thread makes kM rows of x by kN rows of the weight of its chain, four
// columns of it at a time; the two halves of a warp have the same rows of x. Both come to shared
// memory some parts of the columns ahead: weights as they are stored, of x a chain's four columns
// together.
#include <type_traits>

#include "cuda/device.cuh"
#include "cuda/dsa/sm90.cuh"
#include "cuda/product_tiles.h"

namespace winnow::cuda {
namespace {

constexpr int kSteps = 4;               // columns of a chain at a time
constexpr int kRun = kSteps * kChains;  // columns of all chains at a time

template <DType kType>
using Stored = std::conditional_t<kType == DType::kF32, uint32_t,
                                  std::conditional_t<kType == DType::kF8E4M3, uint8_t, uint16_t>>;

// A tile of x and weights: kM by kN for a thread, kWarpsM by 2 * kWarpsN of those for a block,
// kRuns * kRun columns in each of kStages parts.
template <int kM_, int kN_, int kWarpsM_, int kWarpsN_, int kRuns_, int kStages_>
struct Shape {
  static constexpr int kM = kM_;
  static constexpr int kN = kN_;
  static constexpr int kWarpsM = kWarpsM_;
  static constexpr int kWarps = kWarpsM_ * kWarpsN_;
  static constexpr int kThreads = kWarp * kWarps;
  static constexpr int kRowsOfX = kM_ * kWarpsM_;
  static constexpr int kRows = 2 * kN_ * kWarpsN_;
  static constexpr int kRuns = kRuns_;
  static constexpr int kStages = kStages_;
  static constexpr int kPart = kRuns_ * kRun;  // columns
  static constexpr int kXBytes = kRowsOfX * kPart * 4;
  // Rows of weights are apart so that the halves of a warp use different banks.
  template <DType kType>
  static constexpr int kRowBytes = kPart * sizeof(Stored<kType>) + 16;
  template <DType kType>
  static constexpr int kStageBytes = kXBytes + kRows* kRowBytes<kType>;
  // Of x, a warp's 8 chains of a run of a row each.
  static constexpr int kLoads = kRuns_ * kRowsOfX * 2 / kWarps;
  static_assert(kRuns_ * kRowsOfX * 2 % kWarps == 0 && kPart <= 128);
};

__device__ __forceinline__ void CopyAsync4OrZero(uint32_t shared, const void* global, bool there) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(shared), "l"(global),
               "r"(there ? 4 : 0)
               : "memory");
}

// What stored bits stand for: ReadWeight without its load.
template <DType kType>
__device__ __forceinline__ float Decode(uint32_t bits, float scale, bool round) {
  if constexpr (kType == DType::kF32) return MaybeRound(BitsToFloat(bits), round);
  if constexpr (kType == DType::kBF16) return Bf16ToFloat(bits);
  if constexpr (kType == DType::kF16) return MaybeRound(F16ToFloat(bits), round);
  return MaybeRound(E4m3ToFloat(bits) * scale, round);
}

// Half of a lane's sums go to the lane kDistance away, which has the same half of its own to give;
// where one is left, both lanes get it.
template <int kDistance, int kCount, int kSize>
__device__ __forceinline__ void JoinChains(float (&sums)[kSize]) {
  if constexpr (kDistance > 0 && kCount > 1) {
    const bool upper = threadIdx.x & kDistance;
#pragma unroll
    for (int o = 0; o < kCount / 2; ++o) {
      const float give = upper ? sums[o] : sums[o + kCount / 2];
      const float keep = upper ? sums[o + kCount / 2] : sums[o];
      sums[o] = keep + __shfl_xor_sync(0xffffffff, give, kDistance);
    }
    JoinChains<kDistance / 2, kCount / 2>(sums);
  } else if constexpr (kDistance > 0) {
    sums[0] = sums[0] + __shfl_xor_sync(0xffffffff, sums[0], kDistance);
    JoinChains<kDistance / 2, 1>(sums);
  }
}

// A block's rows of x on their way to shared memory: [runs, rows, chains, steps].
template <typename S>
struct XLoader {
  const float* from[S::kLoads];  // each of a row, at this lane's first column
  uint32_t to[S::kLoads];        // bytes into a part
  int column[S::kLoads];

  __device__ __forceinline__ XLoader(const Product& p, int first_m) {
    const int warp = threadIdx.x / kWarp;
    const int lane = threadIdx.x % kWarp;
#pragma unroll
    for (int i = 0; i < S::kLoads; ++i) {
      const int unit = warp + i * S::kWarps;
      const int chain = unit % 2 * 8 + lane % 8;
      const int m = unit / 2 % S::kRowsOfX;
      const int run = unit / 2 / S::kRowsOfX;
      const int known = min(first_m + m, p.num_x - 1);
      const int64_t row = p.x_rows ? p.x_rows[known] : int64_t{known};
      column[i] = run * kRun + lane / 8 * kChains + chain;
      from[i] = p.x + blockIdx.z * p.x_step + row * p.x_stride;
      to[i] = ((run * S::kRowsOfX + m) * kRun + chain * kSteps + lane / 8) * 4;
    }
  }
  __device__ __forceinline__ void Load(int first, int columns, uint32_t part) const {
#pragma unroll
    for (int i = 0; i < S::kLoads; ++i) {
      const int k = first + column[i];
      CopyAsync4OrZero(part + to[i], from[i] + min(k, columns - 1), k < columns);
    }
  }
  // What this thread has brought, rounded to bfloat16.
  __device__ __forceinline__ void Round(uint8_t* part) const {
#pragma unroll
    for (int i = 0; i < S::kLoads; ++i) {
      float& x = *reinterpret_cast<float*>(part + to[i]);
      x = RoundToBf16(x);
    }
  }
};

// Rows [first_n, first_n + kRows) of the weight, from column `first` on; past the last row or
// column there is anything, or zeros.
template <DType kType, typename S>
__device__ __forceinline__ void LoadWeights(const Product& p, int64_t first_row, int first_n,
                                            int first, bool aligned, uint8_t* part) {
  using Number = Stored<kType>;
  const int columns = static_cast<int>(p.weight.columns);
  const Number* data = static_cast<const Number*>(p.weight.data) + first_row * columns + first;
  const auto row_of = [&](int n) { return int64_t{min(first_n + n, p.num_rows - 1)} * columns; };
  if (aligned) {
    constexpr int kTogether = 16 / sizeof(Number);
    constexpr int kChunks = S::kPart / kTogether;
    const uint32_t to = sm90::SharedAddress(part);
#pragma unroll
    for (int base = 0; base < S::kRows * kChunks; base += S::kThreads) {
      const int i = base + threadIdx.x;
      if (S::kRows * kChunks % S::kThreads != 0 && i >= S::kRows * kChunks) break;
      const int k = i % kChunks * kTogether;
      const bool there = first + k < columns;
      sm90::CopyAsync16OrZero(to + i / kChunks * S::template kRowBytes<kType> + i % kChunks * 16,
                              data + row_of(i / kChunks) + (there ? k : 0), there);
    }
    return;
  }
  for (int i = threadIdx.x; i < S::kRows * S::kPart; i += S::kThreads) {
    const int n = i / S::kPart;
    const int k = i % S::kPart;
    reinterpret_cast<Number*>(part + n * S::template kRowBytes<kType>)[k] =
        first + k < columns ? data[row_of(n) + k] : Number{0};
  }
}

// Grid: x tiles of x, y tiles of the weight's rows, z the batch: tiles of x meet the same weights
// while those are in the cache.
template <DType kType, typename S>
__global__ void __launch_bounds__(S::kThreads, 512 / S::kThreads)
    TileKernel(const __grid_constant__ Product p, bool aligned) {
  constexpr int kM = S::kM;
  constexpr int kN = S::kN;
  constexpr int kStageBytes = S::template kStageBytes<kType>;
  constexpr int kRowBytes = S::template kRowBytes<kType>;
  extern __shared__ __align__(16) uint8_t shared[];
  const int lane = threadIdx.x % kChains;
  const int warp = threadIdx.x / kWarp;
  const int m0 = warp % S::kWarpsM * kM;
  const int n0 = (warp / S::kWarpsM * 2 + threadIdx.x / kChains % 2) * kN;
  const int first_m = static_cast<int>(blockIdx.x) * S::kRowsOfX;
  const int first_n = static_cast<int>(blockIdx.y) * S::kRows;
  const int columns = static_cast<int>(p.weight.columns);
  const int parts = DivideUp(columns, S::kPart);
  const int64_t first_row = p.first_row + int64_t{blockIdx.z} * p.row_step;
  sm90::WaitForPrevious();
  sm90::LetNextBegin();
  const XLoader<S> loader(p, first_m);
  const auto load = [&](int part) {
    if (part < parts) {
      uint8_t* at = shared + part % S::kStages * kStageBytes;
      loader.Load(part * S::kPart, columns, sm90::SharedAddress(at));
      LoadWeights<kType, S>(p, first_row, first_n, part * S::kPart, aligned, at + S::kXBytes);
    }
    sm90::CopyAsyncCommit();
  };
  float scale[kN];
  float next_scale[kN];
  const auto load_scales = [&](int part) {
    if constexpr (kType == DType::kF8E4M3) {
#pragma unroll
      for (int n = 0; n < kN; ++n) {
        const int64_t row = first_row + min(first_n + n0 + n, p.num_rows - 1);
        next_scale[n] =
            p.weight.scale && part < parts
                ? __ldg(p.weight.scale + row / 128 * p.weight.scale_columns + part * S::kPart / 128)
                : 1.0f;
      }
    }
  };
#pragma unroll
  for (int part = 0; part < S::kStages - 1; ++part) load(part);
  load_scales(0);
  float sums[kM * kN];
#pragma unroll
  for (float& sum : sums) sum = 0;
  for (int part = 0; part < parts; ++part) {
    uint8_t* at = shared + part % S::kStages * kStageBytes;
    sm90::CopyAsyncWait<S::kStages - 2>();
    if (p.round) loader.Round(at);
    __syncthreads();
    load(part + S::kStages - 1);
    if constexpr (kType == DType::kF8E4M3) {
#pragma unroll
      for (int n = 0; n < kN; ++n) scale[n] = next_scale[n];
      load_scales(part + 1);
    }
#pragma unroll
    for (int run = 0; run < S::kRuns; ++run) {
      float w[kN][kSteps];
#pragma unroll
      for (int n = 0; n < kN; ++n) {
        const auto* row =
            reinterpret_cast<const Stored<kType>*>(at + S::kXBytes + (n0 + n) * kRowBytes);
#pragma unroll
        for (int s = 0; s < kSteps; ++s) {
          w[n][s] = Decode<kType>(row[run * kRun + s * kChains + lane], scale[n], p.round);
        }
      }
      const float4* x_rows =
          reinterpret_cast<const float4*>(at) + (run * S::kRowsOfX + m0) * kChains + lane;
#pragma unroll
      for (int m = 0; m < kM; ++m) {
        const float4 x = x_rows[m * kChains];
#pragma unroll
        for (int n = 0; n < kN; ++n) {
          float& sum = sums[m * kN + n];
          sum = fmaf(x.x, w[n][0], sum);
          sum = fmaf(x.y, w[n][1], sum);
          sum = fmaf(x.z, w[n][2], sum);
          sum = fmaf(x.w, w[n][3], sum);
        }
      }
    }
  }

  JoinChains<8, kM * kN>(sums);
  // Sum o is row o / kN of x and o mod kN of the weight: a lane has the kLeft from its own on.
  constexpr int kLeft = kM * kN >= kChains ? kM * kN / kChains : 1;
  constexpr int kLanes = kM * kN >= kChains ? 1 : kChains / (kM * kN);  // that have the same
  if (lane % kLanes != 0) return;
#pragma unroll
  for (int i = 0; i < kLeft; ++i) {
    const int o = lane / kLanes * kLeft + i;
    const int m = first_m + m0 + o / kN;
    const int n = first_n + n0 + o % kN;
    if (m >= p.num_x || n >= p.num_rows) continue;
    float sum = sums[i];
    if (p.bias) sum = sum + p.bias[first_row + n];
    p.out[blockIdx.z * p.out_step + int64_t{m} * p.out_stride + n] = sum;
  }
}

template <typename S>
int64_t Blocks(const Product& p) {
  return int64_t{DivideUp(p.num_rows, S::kRows)} * DivideUp(p.num_x, S::kRowsOfX) * p.batch;
}

template <DType kType, typename S>
cudaError_t LaunchOf(const Product& p, cudaStream_t stream) {
  const bool aligned = reinterpret_cast<uintptr_t>(p.weight.data) % 16 == 0 &&
                       p.weight.columns * sizeof(Stored<kType>) % 16 == 0;
  return sm90::LaunchOverlapping(
      TileKernel<kType, S>,
      {.grid = dim3(static_cast<unsigned>(DivideUp(p.num_x, S::kRowsOfX)),
                    static_cast<unsigned>(DivideUp(p.num_rows, S::kRows)),
                    static_cast<unsigned>(p.batch)),
       .threads = S::kThreads,
       .shared_bytes = S::kStages * S::template kStageBytes<kType>,
       .stream = stream},
      p, aligned);
}

template <typename S>
cudaError_t Launch(const Product& p, cudaStream_t stream) {
  switch (p.weight.type) {
    case DType::kF32:
      return LaunchOf<DType::kF32, S>(p, stream);
    case DType::kBF16:
      return LaunchOf<DType::kBF16, S>(p, stream);
    case DType::kF16:
      return LaunchOf<DType::kF16, S>(p, stream);
    default:
      return LaunchOf<DType::kF8E4M3, S>(p, stream);
  }
}

using Tile8 = Shape<8, 4, 1, 8, 2, 3>;
using Tile16 = Shape<16, 4, 1, 8, 1, 4>;
using SmallTile = Shape<4, 1, 1, 4, 2, 6>;

}  // namespace

// The small tile where the others leave half of the processors without a block.
cudaError_t RunTiledProduct(const Product& p, int multiprocessors, cudaStream_t stream) {
  const auto fills = [&](int64_t blocks) { return 2 * blocks >= multiprocessors; };
  if (p.num_x <= 8 && fills(Blocks<Tile8>(p))) return Launch<Tile8>(p, stream);
  if (p.num_x > 8 && fills(Blocks<Tile16>(p))) return Launch<Tile16>(p, stream);
  return Launch<SmallTile>(p, stream);
}

}  // namespace winnow::cuda
