// What operations are measured on: random numbers, the same in every run, in a backend's memory.
//
// A model's weights and caches are larger than any cache of the processor. So that they come from
// memory here too, they lie in pools larger than that, and successive runs of an operation use
// successive parts. A pool repeats a few megabytes of random numbers: what matters is that no byte
// of it was touched lately.
#pragma once

#include <cstdint>
#include <map>
#include <vector>

#include "backend/backend.h"
#include "base/check.h"
#include "bench/kernel_cost.h"

namespace winnow::bench {

// Slots of a page of the caches.
inline constexpr int64_t kPageSlots = 64;

// Numbers that depend on the seed alone (SplitMix64).
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  uint64_t Next();
  float Float();                 // in [-1, 1)
  int64_t Below(int64_t limit);  // in [0, limit)

 private:
  uint64_t state_;
};

// `count` numbers of [0, limit), ascending and different; count ≤ limit.
std::vector<int32_t> DrawAscending(int64_t count, int64_t limit, Random& random);

// `size` out of `pool`, the next part each time.
struct Rotation {
  Rotation(int64_t pool, int64_t size) : size(size), count(pool / size) {
    WINNOW_CHECK(count > 0, "more of a pool wanted than it has");
  }
  int64_t Offset(int64_t turn) const { return turn % count * size; }

  int64_t size;
  int64_t count;
};

// Weights of one stored type.
class WeightPool {
 public:
  WeightPool() = default;
  WeightPool(DType dtype, TensorView values, TensorView scales)
      : dtype_(dtype), values_(values), scales_(scales) {}

  int64_t bytes() const { return values_.bytes(); }
  // The matrix whose values begin at `offset` bytes, a multiple of 64. Scales of blocks are the
  // same few for all; those of groups have a place of their own for each.
  ScaledView At(int64_t offset, int64_t rows, int64_t columns) const;
  // Bytes that such a matrix takes, to the next multiple of 64.
  int64_t Extent(int64_t rows, int64_t columns) const;

 private:
  DType dtype_ = DType::kBF16;
  TensorView values_;  // one-dimensional
  TensorView scales_;  // one-dimensional, or absent
};

// Makes inputs and owns their memory. Everything may end in kResourceExhausted.
class Inputs {
 public:
  // Pools hold at least `pool_bytes`.
  Inputs(Backend& backend, int64_t pool_bytes);

  Backend& backend() const { return backend_; }
  int64_t pool_bytes() const { return pool_bytes_; }

  // Zeros: for what is written.
  Result<TensorView> Make(DType dtype, Dims dims);
  // In [-1, 1).
  Result<TensorView> Floats(Dims dims);
  Result<TensorView> Ints(const std::vector<int32_t>& values, Dims dims);
  // first, first + 1, …
  Result<TensorView> Count(int64_t count, int64_t first);

  // Angles for positions below kPositions.
  static constexpr int64_t kPositions = 4096;
  Result<RopeTable> Rope(int64_t rope_dim);

  // Pools, made when they are first asked for. Weights of BF16, F8_E4M3, I8 or
  // U8; caches of one row or key
  // for each of at least 128 Ki slots.
  Result<WeightPool> Weights(DType dtype);
  Result<IndexCacheView> IndexKeys(IndexKeyType type, int64_t index_dim);
  Result<LatentCacheView> Latents(LatentType type, int64_t latent_dim, int64_t rope_dim);

 private:
  void Fill(const TensorView& floats);
  Result<TensorView> Codes(DType dtype);
  Result<TensorView> Scales(DType dtype, int64_t code_bytes);
  // Repeats the first `pattern` bytes of the tensor to its end.
  void Repeat(const TensorView& tensor, int64_t pattern);
  int64_t NumSlots(int64_t bytes_per_slot) const;

  Backend& backend_;
  int64_t pool_bytes_;
  Random random_{1};
  std::vector<DeviceMemory> memory_;
  std::map<int64_t, RopeTable> ropes_;
  std::map<DType, WeightPool> weights_;
  std::map<IndexKeyType, IndexCacheView> index_keys_;
  std::map<LatentType, LatentCacheView> latents_;
};

}  // namespace winnow::bench
