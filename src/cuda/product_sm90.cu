// Weights are the rows of a warpgroup product and come straight into registers: a thread reads 16
// bytes of a row at a time, which hold its share of several steps along k once the columns of x are
// permuted to suit. The rows of x are the columns of the product and come by bulk copy.
//
// FewKernel   A block makes 64 rows of the weight by up to 64 of x; its four warpgroups, and those
//             of the other blocks of a cluster, take a slice of the columns each.
// ManyKernel  A block makes 256 rows of the weight by 128 of x; a warpgroup takes 64 rows and all
//             slices one after the other, and keeps the sum of those before in shared memory.
#include <algorithm>

#include "cuda/device.cuh"
#include "cuda/dsa/products_sm90.cuh"
#include "cuda/dsa/sm90.cuh"
#include "cuda/product_sm90.h"
#include "cuda/tensor_codes.cuh"

namespace winnow::cuda {
namespace {

constexpr int kGroupThreads = 128;
constexpr int kGroups = 4;      // warpgroups that multiply
constexpr int kGroupRows = 64;  // of the weight
constexpr int kBlockColumns = 64;
constexpr int kBlockRowBytes = kBlockColumns * 2;
constexpr int kSteps = kBlockColumns / 16;
constexpr int kMaxFewX = 64;
constexpr int kMaxPlainX = 8;  // rows of x that products read as they are
constexpr int kManyX = 128;

// ---- Packing ------------------------------------------------------------------------------------

// Where a thread of a quad finds its four columns of a step of 16 in a block of 64. A load of 16
// bytes gives E4M3 four steps, bfloat16 two; the block's second half has the other two.
template <int kBytes>
__device__ __forceinline__ int ColumnOf(int step, int quad) {
  return kBytes == 1 ? 16 * quad + 4 * step : step / 2 * 32 + 8 * quad + step % 2 * 4;
}

// 16 bytes of block `block` of a row of x: of step `chunk / 2` the columns 0 to 7 or 8 to 15, two
// of each of four threads' four. `from` is where the row begins.
template <int kBytes>
__device__ __forceinline__ uint4 PackChunk(const PackArgs& a, int64_t from, int64_t block,
                                           int chunk, bool gated) {
  uint32_t words[4];
#pragma unroll
  for (int quad = 0; quad < 4; ++quad) {
    const int64_t column =
        block * kBlockColumns + ColumnOf<kBytes>(chunk / 2, quad) + chunk % 2 * 2;
    float2 pair = make_float2(0, 0);
    if (column < a.columns) {  // columns come in eights at least
      pair = *reinterpret_cast<const float2*>(a.x + from + column);
      if (gated) {
        const float2 other = *reinterpret_cast<const float2*>(a.up + from + column);
        pair.x = pair.x / (1.0f + Exp(-pair.x)) * other.x;
        pair.y = pair.y / (1.0f + Exp(-pair.y)) * other.y;
      }
    }
    words[quad] = PackPair(pair.x, pair.y);
  }
  return make_uint4(words[0], words[1], words[2], words[3]);
}

// Grid: x rows by blocks, z the batch.
template <int kBytes, bool kGated>
__global__ void __launch_bounds__(256) PackKernel(PackArgs a) {
  sm90::WaitForPrevious();
  sm90::LetNextBegin();
  const int64_t blocks = (a.columns + kBlockColumns - 1) / kBlockColumns;
  const int64_t index = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  const int chunk = static_cast<int>(index % 8);
  const int64_t block = index / 8 % blocks;
  const int64_t row = index / 8 / blocks;
  if (row >= a.rows) return;
  const int64_t from = a.x_rows ? a.x_rows[row] : row;
  if (from < 0) return;
  uint8_t* out = a.out.data + blockIdx.z * a.out.step + (block * a.out.rows + row) * kBlockRowBytes;
  *reinterpret_cast<uint4*>(out + ((chunk ^ (row & 7)) * 16)) =
      PackChunk<kBytes>(a, blockIdx.z * a.x_step + from * a.x_stride, block, chunk, kGated);
}

// ---- Weights ------------------------------------------------------------------------------------

// What a thread reads of a block: rows r and r + 8 of its warp's sixteen.
template <int kBytes>
struct Raw {
  uint4 part[2][kBytes];
  float scale[2];
};

template <int kBytes>
class WeightReader {
 public:
  // Rows first + [0, 64) of the weight, `last` the last that there is.
  __device__ WeightReader(const Weight& weight, int64_t first, int64_t last)
      : columns_(static_cast<int>(weight.columns)) {
    const int quad = threadIdx.x % 4;
    const int row = threadIdx.x % kGroupThreads / kWarp * 16 + threadIdx.x % kWarp / 4;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int64_t at = min(first + row + 8 * r, last);
      row_[r] = static_cast<const uint8_t*>(weight.data) + at * weight.columns * kBytes + 16 * quad;
      scale_[r] =
          kBytes == 1 && weight.scale ? weight.scale + at / 128 * weight.scale_columns : nullptr;
    }
    column_ = quad * (16 / kBytes);
  }

  __device__ __forceinline__ void Load(int block, Raw<kBytes>& raw) const {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
#pragma unroll
      for (int h = 0; h < kBytes; ++h) {
        const bool inside = block * kBlockColumns + 32 * h + column_ < columns_;
        raw.part[r][h] = make_uint4(0, 0, 0, 0);
        if (inside) {
          raw.part[r][h] =
              sm90::LoadStreaming(row_[r] + int64_t{block} * (kBlockColumns * kBytes) + 64 * h);
        }
      }
      if constexpr (kBytes == 1) raw.scale[r] = scale_[r] ? __ldg(scale_[r] + block / 2) : 1.0f;
    }
  }

 private:
  const uint8_t* row_[2];
  const float* scale_[2];
  int columns_;
  int column_;
};

// The registers of a block's four steps.
__device__ __forceinline__ void Decode(const Raw<1>& raw, uint32_t (&a)[kSteps][4]) {
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const uint32_t words[4] = {raw.part[r][0].x, raw.part[r][0].y, raw.part[r][0].z,
                               raw.part[r][0].w};
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      a[step][r] = DecodePair(static_cast<uint16_t>(words[step]), raw.scale[r]);
      a[step][2 + r] = DecodePair(static_cast<uint16_t>(words[step] >> 16), raw.scale[r]);
    }
  }
}
__device__ __forceinline__ void Decode(const Raw<2>& raw, uint32_t (&a)[kSteps][4]) {
#pragma unroll
  for (int r = 0; r < 2; ++r) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const uint4 v = raw.part[r][h];
      a[2 * h][r] = v.x;
      a[2 * h][2 + r] = v.y;
      a[2 * h + 1][r] = v.z;
      a[2 * h + 1][2 + r] = v.w;
    }
  }
}

// ---- What both kernels share --------------------------------------------------------------------

struct Problem {
  TensorProduct p;
  int32_t blocks = 0;  // of 64 columns
  int32_t slices = 0;

  __device__ int FirstBlock(int slice) const { return blocks * slice / slices; }
};

// A block's part of the problem.
struct Part {
  Weight weight;
  int64_t first_row;  // of the weight
  int32_t first_x;
  int32_t num_x;
  const uint8_t* x;
  float* out;
};

// False where there is nothing to do.
__device__ __forceinline__ bool FindPart(const TensorProduct& p, int tile_x, Part& part) {
  const int z = blockIdx.z;
  part.first_row = p.first_row + z * p.row_step;
  part.out = p.out + z * p.out_step;
  part.x = p.x.data + z * p.x.step;
  if (p.table == nullptr) {
    part.weight = p.weight;
    part.first_x = blockIdx.y * tile_x;
    part.num_x = min(tile_x, p.num_x - part.first_x);
    return true;
  }
  if (static_cast<int>(blockIdx.y) >= *p.num_tiles) return false;
  const ExpertTile tile = p.tiles[blockIdx.y];
  part.weight = p.table[tile.expert * p.table_stride + z];
  part.x = p.x.data;
  part.first_x = tile.first;
  part.num_x = tile.count;
  return true;
}

// Stages in turn.
template <int kStages>
struct Turn {
  int stage = 0;
  uint32_t phase = 0;

  __device__ __forceinline__ void Advance() {
    if (++stage == kStages) {
      stage = 0;
      phase ^= 1;
    }
  }
};

// Four steps of one block: the stage at `shared` holds kN rows of x.
template <int kN>
__device__ __forceinline__ void MultiplyBlock(float (&sums)[kN / 2], const uint32_t (&a)[kSteps][4],
                                              uint32_t shared, bool is_first) {
  const uint64_t b = sm90::SwizzledMatrix(shared, 1024);
  sm90::ProductFence();
#pragma unroll
  for (int step = 0; step < kSteps; ++step) {
    sm90::MultiplyRows<kN>(sums, a[step], b + 2 * step, step > 0 || !is_first);
  }
  sm90::ProductCommit();
  sm90::ProductWait<0>();
  sm90::Pin(sums);
}

// ---- Few rows -----------------------------------------------------------------------------------

template <int kN>
struct FewShape {
  static constexpr int kStageBytes = kN * kBlockRowBytes;
  static constexpr int kStages = kN <= 16 ? 8 : kN == 32 ? 6 : 4;
  static constexpr int kPitch = kGroupRows + 4;  // floats: quads do not meet in a bank
  static constexpr int kSumBytes = kGroups * kN * kPitch * 4;
  static constexpr int kStageTotal = kGroups * kStages * kStageBytes;
  static constexpr int kSharedBytes =
      (kStageTotal > kSumBytes ? kStageTotal : kSumBytes) + kGroups * kStages * 2 * 8;
};

// Grid: x rows of the weight by the blocks of a cluster, y tiles of x, z the batch.
template <int kBytes, int kN>
__global__ void __launch_bounds__(kGroups* kGroupThreads, 1)
    FewKernel(const __grid_constant__ Problem problem) {
  using Shape = FewShape<kN>;
  constexpr int kStages = Shape::kStages;
  constexpr int kAhead = 4 / kBytes;  // blocks on their way to registers
  extern __shared__ __align__(1024) uint8_t shared[];
  const TensorProduct& p = problem.p;
  const int group = threadIdx.x / kGroupThreads;
  const int lane = threadIdx.x % kWarp;
  const bool leads = threadIdx.x % kGroupThreads == 0;
  const int cluster = problem.slices / kGroups;
  const int rank = static_cast<int>(blockIdx.x) % cluster;
  const int row0 = static_cast<int>(blockIdx.x) / cluster * kGroupRows;
  const int slice = rank * kGroups + group;
  const int first = problem.FirstBlock(slice);
  const int last = problem.FirstBlock(slice + 1);
  uint64_t* full = reinterpret_cast<uint64_t*>(shared + Shape::kSharedBytes) -
                   kGroups * kStages * 2 + group * kStages * 2;
  uint64_t* empty = full + kStages;
  if (leads) {
    for (int stage = 0; stage < kStages; ++stage) {
      sm90::BarrierInit(&full[stage], 1);
      sm90::BarrierInit(&empty[stage], 4);
    }
    sm90::BarrierInitFence();
  }
  __syncthreads();
  const bool grouped = p.table != nullptr;
  if (grouped) sm90::WaitForPrevious();
  Part part;
  // The blocks of a cluster agree on this.
  if (!FindPart(p, kN, part)) return;
  const WeightReader<kBytes> weights(part.weight, part.first_row + row0,
                                     part.first_row + p.num_rows - 1);
  Raw<kBytes> raw[kAhead];
#pragma unroll
  for (int i = 0; i < kAhead; ++i) {
    if (first + i < last) weights.Load(first + i, raw[i]);
  }
  // Weights are there before anything runs; x is not.
  if (!grouped) sm90::WaitForPrevious();
  sm90::LetNextBegin();

  uint8_t* stages = shared + group * kStages * Shape::kStageBytes;
  // The slice of a row of x that no one has packed fits in the stages: this group does.
  const bool packs = kN == kMaxPlainX && p.plain.x != nullptr;
  if (packs) {
    for (int i = threadIdx.x % kGroupThreads; i < (last - first) * kN * 8; i += kGroupThreads) {
      const int row = i / 8 % kN;
      const int chunk = i % 8;
      if (row >= part.num_x) continue;  // what comes of the others is thrown away
      const int block = i / 8 / kN;
      sm90::StoreShared16(
          sm90::SharedAddress(stages + block * Shape::kStageBytes + row * kBlockRowBytes +
                              (chunk ^ row) * 16),
          PackChunk<kBytes>(p.plain, blockIdx.z * p.plain.x_step + row * p.plain.x_stride,
                            first + block, chunk, p.plain.up != nullptr));
    }
    sm90::NamedBarrier(1 + group, kGroupThreads);
    sm90::FenceProxyAsync();
  }
  auto fill = [&](int block, int stage) {
    sm90::BarrierExpect(&full[stage], Shape::kStageBytes);
    sm90::BulkCopy(stages + stage * Shape::kStageBytes,
                   part.x + (int64_t{block} * p.x.rows + part.first_x) * kBlockRowBytes,
                   Shape::kStageBytes, &full[stage]);
  };
  if (leads && !packs) {
    for (int i = 0; i < kStages && first + i < last; ++i) fill(first + i, i);
  }
  float sums[kN / 2];
#pragma unroll
  for (int i = 0; i < kN / 2; ++i) sums[i] = 0;
  Turn<kStages> turn;
  for (int base = first; base < last; base += kAhead) {
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      const int block = base + i;
      if (block >= last) break;
      uint32_t a[kSteps][4];
      Decode(raw[i], a);
      if (block + kAhead < last) weights.Load(block + kAhead, raw[i]);
      if (!packs) sm90::BarrierWait(&full[turn.stage], turn.phase);
      MultiplyBlock<kN>(sums, a, sm90::SharedAddress(stages + turn.stage * Shape::kStageBytes),
                        block == first);
      __syncwarp();
      if (lane == 0) sm90::BarrierArrive(&empty[turn.stage]);
      if (leads && block + kStages < last) {
        sm90::BarrierWait(&empty[turn.stage], turn.phase);
        fill(block + kStages, turn.stage);
      }
      turn.Advance();
    }
  }

  __syncthreads();                                    // nobody reads stages any more
  float* partial = reinterpret_cast<float*>(shared);  // [groups, kN, kPitch]
  {
    const int row = threadIdx.x % kGroupThreads / kWarp * 16 + lane / 4;
    float* mine = partial + group * kN * Shape::kPitch + lane % 4 * 2 * Shape::kPitch + row;
#pragma unroll
    for (int i = 0; i < kN / 2; ++i) {
      mine[(i / 4 * 8 + i % 2) * Shape::kPitch + i / 2 % 2 * 8] = sums[i];
    }
  }
  if (cluster > 1) {
    sm90::ClusterSync();
  } else {
    __syncthreads();
  }
  const int rows = kGroupRows / cluster;  // that this block adds up
  for (int i = threadIdx.x; i < rows * part.num_x; i += kGroups * kGroupThreads) {
    const int row = rank * rows + i % rows;
    const int m = i / rows;
    float total = 0;
    for (int block = 0; block < cluster; ++block) {
      const uint32_t at = sm90::SharedAddress(partial + m * Shape::kPitch + row);
      const uint32_t from = cluster > 1 ? sm90::PeerAddress(at, block) : at;
#pragma unroll
      for (int g = 0; g < kGroups; ++g) {
        const uint32_t there = from + g * kN * Shape::kPitch * 4;
        total = total + (cluster > 1 ? __uint_as_float(sm90::LoadPeer(there))
                                     : sm90::LoadSharedFloat(there));
      }
    }
    if (row0 + row >= p.num_rows) continue;
    if (p.bias) total = total + p.bias[part.first_row + row0 + row];
    part.out[int64_t{part.first_x + m} * p.out_stride + row0 + row] = total;
  }
  if (cluster > 1) sm90::ClusterSync();  // nobody leaves while others read its sums
}

// ---- Many rows ----------------------------------------------------------------------------------

struct ManyShape {
  static constexpr int kStageBytes = kManyX * kBlockRowBytes;
  static constexpr int kStages = 6;
  static constexpr int kTotalBytes = kGroups * kGroupRows * kManyX * 4;
  static constexpr int kSharedBytes = kTotalBytes + kStages * kStageBytes + 2 * kStages * 8;
  static_assert(kSharedBytes <= 232448);
};
constexpr int kManyRows = kGroups * kGroupRows;
// Blocks of lead that one warpgroup may have before the one that sends for x waits for the others.
constexpr int kLag = 2;

// Grid: x tiles of the weight's rows, y tiles of x, z the batch.
template <int kBytes>
__global__ void __launch_bounds__(kGroups* kGroupThreads, 1)
    ManyKernel(const __grid_constant__ Problem problem) {
  using Shape = ManyShape;
  constexpr int kN = kManyX;
  extern __shared__ __align__(1024) uint8_t shared[];
  const TensorProduct& p = problem.p;
  const int group = threadIdx.x / kGroupThreads;
  const int lane = threadIdx.x % kWarp;
  const int row0 = static_cast<int>(blockIdx.x) * kManyRows;
  uint8_t* stages = shared;
  float* totals = reinterpret_cast<float*>(shared + Shape::kStages * Shape::kStageBytes);
  uint64_t* full = reinterpret_cast<uint64_t*>(shared + Shape::kSharedBytes) - 2 * Shape::kStages;
  uint64_t* empty = full + Shape::kStages;
  const int groups = min(kGroups, (p.num_rows - row0 + kGroupRows - 1) / kGroupRows);
  if (threadIdx.x == 0) {
    for (int stage = 0; stage < Shape::kStages; ++stage) {
      sm90::BarrierInit(&full[stage], 1);
      sm90::BarrierInit(&empty[stage], groups * 4);
    }
    sm90::BarrierInitFence();
  }
  __syncthreads();
  sm90::WaitForPrevious();
  sm90::LetNextBegin();
  Part part;
  if (group >= groups || !FindPart(p, kN, part)) return;
  auto fill = [&](int block, int stage) {
    sm90::BarrierExpect(&full[stage], Shape::kStageBytes);
    sm90::BulkCopy(stages + stage * Shape::kStageBytes,
                   part.x + (int64_t{block} * p.x.rows + part.first_x) * kBlockRowBytes,
                   Shape::kStageBytes, &full[stage]);
  };
  if (threadIdx.x == 0) {
    for (int i = 0; i < Shape::kStages && i < problem.blocks; ++i) fill(i, i);
  }
  Turn<Shape::kStages> turn;
  Turn<Shape::kStages> refill;

  const WeightReader<kBytes> weights(part.weight, part.first_row + row0 + group * kGroupRows,
                                     part.first_row + p.num_rows - 1);
  Raw<kBytes> raw;
  weights.Load(0, raw);
  float sums[kN / 2];
  float* total = totals + group * kGroupRows * kN + threadIdx.x % kGroupThreads;
  for (int slice = 0; slice < problem.slices; ++slice) {
    const int first = problem.FirstBlock(slice);
    const int last = problem.FirstBlock(slice + 1);
    if (first == last) continue;  // nothing to add
    for (int block = first; block < last; ++block) {
      uint32_t a[kSteps][4];
      Decode(raw, a);
      if (block + 1 < problem.blocks) weights.Load(block + 1, raw);
      sm90::BarrierWait(&full[turn.stage], turn.phase);
      MultiplyBlock<kN>(sums, a, sm90::SharedAddress(stages + turn.stage * Shape::kStageBytes),
                        block == first);
      __syncwarp();
      if (lane == 0) sm90::BarrierArrive(&empty[turn.stage]);
      turn.Advance();
      if (threadIdx.x == 0 && block >= kLag && block - kLag + Shape::kStages < problem.blocks) {
        sm90::BarrierWait(&empty[refill.stage], refill.phase);
        fill(block - kLag + Shape::kStages, refill.stage);
        refill.Advance();
      }
    }
    const bool is_first = first == 0;
    const bool is_last = last == problem.blocks;
#pragma unroll
    for (int i = 0; i < kN / 2; ++i) {
      float* at = total + i * kGroupThreads;
      sums[i] = (is_first ? 0.0f : *at) + sums[i];
      if (!is_last) *at = sums[i];
    }
  }

  const int row = row0 + group * kGroupRows + threadIdx.x % kGroupThreads / kWarp * 16 + lane / 4;
  float bias[2] = {0, 0};
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    if (p.bias && row + 8 * r < p.num_rows) bias[r] = p.bias[part.first_row + row + 8 * r];
  }
#pragma unroll
  for (int i = 0; i < kN / 2; ++i) {
    const int r = i / 2 % 2;
    const int m = i / 4 * 8 + lane % 4 * 2 + i % 2;
    if (m >= part.num_x || row + 8 * r >= p.num_rows) continue;
    const float value = p.bias ? sums[i] + bias[r] : sums[i];
    part.out[int64_t{part.first_x + m} * p.out_stride + row + 8 * r] = value;
  }
}

// ---- Launches -----------------------------------------------------------------------------------

// Multiprocessors of the card that cuts are chosen for: an order of sums may not depend on the
// card.
constexpr int64_t kProcessors = 132;

// As many slices as give most processors a block when x has few rows. It depends on the weight
// alone. Experts are many.
int SlicesOf(const TensorProduct& p, int blocks) {
  if (p.table) return kGroups;
  const int64_t tiles = DivideUp<int64_t>(p.num_rows, kGroupRows) * p.batch;
  int cluster = 1;
  while (cluster < 4 && 2 * cluster * tiles <= kProcessors && blocks >= 4 * kGroups * cluster) {
    cluster *= 2;
  }
  return kGroups * cluster;
}

// Whether ManyKernel has blocks for half of the processors' time at least.
bool Fills(int64_t blocks) { return 2 * blocks > DivideUp(blocks, kProcessors) * kProcessors; }

template <int kBytes, int kN>
cudaError_t LaunchFew(const Problem& problem, cudaStream_t stream) {
  const TensorProduct& p = problem.p;
  const int cluster = problem.slices / kGroups;
  const unsigned tiles =
      static_cast<unsigned>(p.table ? p.max_tiles : DivideUp<int32_t>(p.num_x, kN));
  return sm90::LaunchOverlapping(
      FewKernel<kBytes, kN>,
      {.grid = dim3(static_cast<unsigned>(DivideUp(p.num_rows, kGroupRows) * cluster), tiles,
                    static_cast<unsigned>(p.batch)),
       .threads = kGroups * kGroupThreads,
       .shared_bytes = FewShape<kN>::kSharedBytes,
       .cluster = cluster,
       .stream = stream},
      problem);
}

template <int kBytes>
cudaError_t Launch(const Problem& problem, cudaStream_t stream) {
  const TensorProduct& p = problem.p;
  const int rows = p.table ? p.tile_rows : p.num_x;
  if (rows <= 8) return LaunchFew<kBytes, 8>(problem, stream);
  if (rows <= 16) return LaunchFew<kBytes, 16>(problem, stream);
  if (rows <= 32) return LaunchFew<kBytes, 32>(problem, stream);
  const int64_t tiles = p.table ? p.max_tiles : DivideUp<int32_t>(p.num_x, kManyX);
  // More rows of x, too: where there are not enough of them for ManyKernel to fill the card.
  const bool fills = p.table || Fills(DivideUp(p.num_rows, kManyRows) * tiles * p.batch);
  if (rows <= kMaxFewX || !fills) return LaunchFew<kBytes, kMaxFewX>(problem, stream);
  return sm90::LaunchOverlapping(
      ManyKernel<kBytes>,
      {.grid = dim3(static_cast<unsigned>(DivideUp(p.num_rows, kManyRows)),
                    static_cast<unsigned>(tiles), static_cast<unsigned>(p.batch)),
       .threads = kGroups * kGroupThreads,
       .shared_bytes = ManyShape::kSharedBytes,
       .stream = stream},
      problem);
}

template <int kBytes>
cudaError_t LaunchPack(const PackArgs& args, cudaStream_t stream) {
  const int64_t chunks = args.rows * DivideUp<int64_t>(args.columns, kBlockColumns) * 8;
  const sm90::Launch launch = {.grid = dim3(static_cast<unsigned>(DivideUp<int64_t>(chunks, 256)),
                                            1, static_cast<unsigned>(args.batch)),
                               .threads = 256,
                               .stream = stream};
  return args.up ? sm90::LaunchOverlapping(PackKernel<kBytes, true>, launch, args)
                 : sm90::LaunchOverlapping(PackKernel<kBytes, false>, launch, args);
}

}  // namespace

bool HasTensorProduct(const Weight& weight) {
  const int64_t bytes = weight.type == DType::kF8E4M3 ? 1 : weight.type == DType::kBF16 ? 2 : 0;
  return bytes != 0 && weight.columns > 0 && weight.columns * bytes % 16 == 0 &&
         reinterpret_cast<uintptr_t>(weight.data) % 16 == 0;
}

int64_t PackedBytes(int64_t rows, int64_t columns, int64_t batch) {
  const int64_t blocks = DivideUp<int64_t>(columns, kBlockColumns);
  return batch * blocks * PackedRowCount(rows) * kBlockRowBytes + kManyX * kBlockRowBytes;
}

bool ReadsPlainRows(const TensorProduct& p) {
  const int blocks = static_cast<int>(DivideUp<int64_t>(p.weight.columns, kBlockColumns));
  return p.table == nullptr && p.num_x <= kMaxPlainX &&
         DivideUp(blocks, SlicesOf(p, blocks)) <= FewShape<kMaxPlainX>::kStages;
}

cudaError_t PackRows(const PackArgs& args, cudaStream_t stream) {
  if (args.rows == 0 || args.batch == 0) return cudaSuccess;
  return args.weight == DType::kBF16 ? LaunchPack<2>(args, stream) : LaunchPack<1>(args, stream);
}

cudaError_t RunTensorProduct(const TensorProduct& product, cudaStream_t stream) {
  if ((product.table ? product.max_tiles : product.num_x) == 0 || product.num_rows == 0 ||
      product.batch == 0) {
    return cudaSuccess;
  }
  Problem problem;
  problem.p = product;
  problem.blocks = static_cast<int32_t>(DivideUp<int64_t>(product.weight.columns, kBlockColumns));
  problem.slices = SlicesOf(product, problem.blocks);
  return product.weight.type == DType::kBF16 ? Launch<2>(problem, stream)
                                             : Launch<1>(problem, stream);
}

}  // namespace winnow::cuda
