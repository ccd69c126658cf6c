#include "bench/inputs.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/check.h"
#include "tensor/group_codes.h"
#include "tensor/half.h"

namespace winnow::bench {
namespace {

constexpr int64_t kPatternBytes = int64_t{4} << 20;
constexpr int64_t kMinSlots = 131072;
constexpr int64_t kNumScales = 8192;
constexpr int64_t kRowsAtOnce = 4096;  // written to a cache in one call
// Keys repeat beyond the longest context only: equal scores would be another task for a top-k.
constexpr int64_t kDistinctKeys = kMinSlots;
constexpr int64_t kDistinctRows = 16384;

int64_t RoundUp(int64_t value, int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

// Room for the largest case of kernel_cases.cc: of FP8 and int4, eight experts of DeepSeek-V3.2.
int64_t MinWeightBytes(DType dtype) {
  return int64_t{dtype == DType::kF8E4M3 ? 352 : dtype == DType::kU8 ? 176 : 128} << 20;
}

// Bytes of codes that share a scale.
int64_t GroupBytes(DType dtype) { return dtype == DType::kU8 ? kCodeGroup / 2 : kCodeGroup; }

}  // namespace

uint64_t Random::Next() {
  uint64_t z = state_ += 0x9e3779b97f4a7c15u;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

float Random::Float() { return static_cast<float>(static_cast<int64_t>(Next()) >> 40) * 0x1p-23f; }

int64_t Random::Below(int64_t limit) {
  return static_cast<int64_t>((Next() >> 32) * static_cast<uint64_t>(limit) >> 32);
}

std::vector<int32_t> DrawAscending(int64_t count, int64_t limit, Random& random) {
  WINNOW_CHECK(count <= limit && limit <= INT32_MAX, "more numbers drawn than there are");
  std::vector<int32_t> drawn;
  drawn.reserve(static_cast<size_t>(count));
  for (int64_t number = 0; count > 0; ++number) {
    // Each number is taken with the share that is still wanted of those that are left.
    if (random.Below(limit - number) >= count) continue;
    drawn.push_back(static_cast<int32_t>(number));
    --count;
  }
  return drawn;
}

ScaledView WeightPool::At(int64_t offset, int64_t rows, int64_t columns) const {
  WINNOW_CHECK(offset % 64 == 0 && offset + Extent(rows, columns) <= bytes(),
               "a matrix beyond its pool");
  ScaledView weight;
  weight.value = TensorView(values_.As<uint8_t>() + offset, dtype_, {rows, columns});
  if (dtype_ == DType::kF8E4M3) {
    const int64_t block = ScaledView::kBlock;
    weight.scale = TensorView(scales_.data, DType::kF32,
                              {RoundUp(rows, block) / block, RoundUp(columns, block) / block});
    WINNOW_CHECK(weight.scale.dims.count() <= scales_.dims.count(), "a matrix beyond its scales");
  } else if (scales_) {
    WINNOW_CHECK(columns % kInt4Run == 0, "rows whose scales would not lie beside their codes");
    if (dtype_ == DType::kU8) weight.int4_columns = columns;
    weight.value.dims = {rows, dtype_ == DType::kU8 ? Int4RowBytes(columns) : columns};
    weight.scale = TensorView(scales_.As<uint8_t>() + offset / GroupBytes(dtype_) * 2, DType::kBF16,
                              {rows, NumCodeGroups(columns)});
  }
  return weight;
}

int64_t WeightPool::Extent(int64_t rows, int64_t columns) const {
  const int64_t row = dtype_ == DType::kU8 ? Int4RowBytes(columns) : columns * SizeOf(dtype_);
  return RoundUp(rows * row, 64);
}

Inputs::Inputs(Backend& backend, int64_t pool_bytes)
    : backend_(backend), pool_bytes_(RoundUp(pool_bytes, kPatternBytes)) {}

Result<TensorView> Inputs::Make(DType dtype, Dims dims) {
  TensorView tensor(static_cast<void*>(nullptr), dtype, dims);
  WINNOW_ASSIGN(DeviceMemory memory, backend_.Allocate(tensor.bytes()));
  tensor.data = memory.get();
  memory_.push_back(std::move(memory));
  return tensor;
}

void Inputs::Fill(const TensorView& tensor) {
  std::vector<float> values(static_cast<size_t>(tensor.dims.count()));
  for (float& value : values) value = random_.Float();
  backend_.CopyToDevice(tensor.data, values.data(), tensor.bytes());
}

Result<TensorView> Inputs::Floats(Dims dims) {
  WINNOW_ASSIGN(TensorView tensor, Make(DType::kF32, dims));
  Fill(tensor);
  return tensor;
}

Result<TensorView> Inputs::Ints(const std::vector<int32_t>& values, Dims dims) {
  WINNOW_CHECK(static_cast<int64_t>(values.size()) == dims.count(), "values of another shape");
  WINNOW_ASSIGN(TensorView tensor, Make(DType::kI32, dims));
  backend_.CopyToDevice(tensor.data, values.data(), tensor.bytes());
  return tensor;
}

Result<TensorView> Inputs::Count(int64_t count, int64_t first) {
  std::vector<int32_t> values;
  for (int64_t i = 0; i < count; ++i) values.push_back(static_cast<int32_t>(first + i));
  return Ints(values, {count});
}

void Inputs::Repeat(const TensorView& tensor, int64_t pattern) {
  uint8_t* data = static_cast<uint8_t*>(tensor.data);
  for (int64_t done = pattern; done < tensor.bytes(); done += pattern) {
    backend_.Copy(data + done, data, std::min(pattern, tensor.bytes() - done));
  }
}

Result<RopeTable> Inputs::Rope(int64_t rope_dim) {
  const auto known = ropes_.find(rope_dim);
  if (known != ropes_.end()) return known->second;
  const int64_t pairs = rope_dim / 2;
  std::vector<float> rows;
  for (int64_t position = 0; position < kPositions; ++position) {
    for (double (*function)(double) :
         {static_cast<double (*)(double)>(std::cos), static_cast<double (*)(double)>(std::sin)}) {
      for (int64_t pair = 0; pair < pairs; ++pair) {
        const double exponent = -static_cast<double>(pair) / static_cast<double>(pairs);
        const double angle = static_cast<double>(position) * std::pow(10000.0, exponent);
        rows.push_back(static_cast<float>(function(angle)));
      }
    }
  }
  RopeTable rope;
  WINNOW_ASSIGN(rope.cos_sin, Make(DType::kF32, {kPositions, 2, pairs}));
  backend_.CopyToDevice(rope.cos_sin.data, rows.data(), rope.cos_sin.bytes());
  ropes_[rope_dim] = rope;
  return rope;
}

// Random bytes are weights of every type but BF16 and F8_E4M3, of which some are no numbers.
Result<TensorView> Inputs::Codes(DType dtype) {
  std::vector<uint8_t> pattern;
  pattern.reserve(kPatternBytes);
  while (static_cast<int64_t>(pattern.size()) < kPatternBytes) {
    if (dtype == DType::kF8E4M3) {
      pattern.push_back(FloatToE4m3(random_.Float() * 448));
    } else if (dtype == DType::kBF16) {
      const uint16_t bits = FloatToBf16(random_.Float());
      pattern.push_back(static_cast<uint8_t>(bits));
      pattern.push_back(static_cast<uint8_t>(bits >> 8));
    } else {
      pattern.push_back(static_cast<uint8_t>(random_.Below(256)));
    }
  }
  const int64_t bytes = RoundUp(std::max(pool_bytes_, MinWeightBytes(dtype)), kPatternBytes);
  WINNOW_ASSIGN(TensorView values, Make(DType::kU8, {bytes}));
  backend_.CopyToDevice(values.data, pattern.data(), kPatternBytes);
  Repeat(values, kPatternBytes);
  return values;
}

// The factors of blocks, as many as the largest matrix has, or of the groups of all codes.
Result<TensorView> Inputs::Scales(DType dtype, int64_t code_bytes) {
  std::vector<float> factors(kNumScales);
  for (float& factor : factors) factor = (random_.Float() + 2) * 0x1p-10f;
  if (dtype == DType::kF8E4M3) {
    WINNOW_ASSIGN(TensorView scales, Make(DType::kF32, {kNumScales}));
    backend_.CopyToDevice(scales.data, factors.data(), scales.bytes());
    return scales;
  }
  std::vector<uint16_t> rounded;
  for (const float factor : factors) rounded.push_back(FloatToBf16(factor));
  WINNOW_ASSIGN(TensorView scales, Make(DType::kU8, {code_bytes / GroupBytes(dtype) * 2}));
  backend_.CopyToDevice(scales.data, rounded.data(), 2 * kNumScales);
  Repeat(scales, 2 * kNumScales);
  return scales;
}

Result<WeightPool> Inputs::Weights(DType dtype) {
  const auto known = weights_.find(dtype);
  if (known != weights_.end()) return known->second;
  WINNOW_ASSIGN(const TensorView values, Codes(dtype));
  TensorView scales;
  if (dtype != DType::kBF16) {
    WINNOW_ASSIGN(scales, Scales(dtype, values.bytes()));
  }
  weights_[dtype] = WeightPool(dtype, values, scales);
  return weights_[dtype];
}

int64_t Inputs::NumSlots(int64_t bytes_per_slot) const {
  return RoundUp(std::max(pool_bytes_ / bytes_per_slot, kMinSlots), kPageSlots);
}

Result<IndexCacheView> Inputs::IndexKeys(IndexKeyType type, int64_t index_dim) {
  const auto known = index_keys_.find(type);
  if (known != index_keys_.end()) {
    WINNOW_CHECK(known->second.index_dim == index_dim, "index keys of two sizes");
    return known->second;
  }
  IndexCacheView cache;
  cache.type = type;
  cache.index_dim = index_dim;
  cache.page_size = kPageSlots;
  cache.page_bytes = IndexPageBytes(type, index_dim, kPageSlots);
  const int64_t num_pages = NumSlots(cache.page_bytes / kPageSlots) / kPageSlots;
  WINNOW_ASSIGN(cache.pages, Make(DType::kU8, {num_pages, cache.page_bytes}));

  WriteIndexKeysArgs args;
  args.cache = cache;
  args.eps = 1e-6f;
  WINNOW_ASSIGN(args.k_norm_weight, Floats({index_dim}));
  WINNOW_ASSIGN(args.k_norm_bias, Floats({index_dim}));
  WINNOW_ASSIGN(args.positions, Count(kRowsAtOnce, 0));
  WINNOW_ASSIGN(args.rope, Rope(std::min<int64_t>(64, index_dim)));
  WINNOW_ASSIGN(args.k, Floats({kRowsAtOnce, index_dim}));
  WINNOW_ASSIGN(const TensorView slots, Count(kDistinctKeys, 0));
  for (int64_t first = 0; first < kDistinctKeys; first += kRowsAtOnce) {
    if (first > 0) Fill(args.k);
    args.slots = slots.Rows(first, kRowsAtOnce);
    backend_.WriteIndexKeys(args);
  }
  Repeat(cache.pages, kDistinctKeys / kPageSlots * cache.page_bytes);
  index_keys_[type] = cache;
  return cache;
}

Result<LatentCacheView> Inputs::Latents(LatentType type, int64_t latent_dim, int64_t rope_dim) {
  const auto known = latents_.find(type);
  if (known != latents_.end()) {
    WINNOW_CHECK(known->second.latent_dim == latent_dim && known->second.rope_dim == rope_dim,
                 "latent rows of two sizes");
    return known->second;
  }
  LatentCacheView cache;
  cache.type = type;
  cache.latent_dim = latent_dim;
  cache.rope_dim = rope_dim;
  cache.row_bytes = LatentRowBytes(type, latent_dim, rope_dim);
  WINNOW_ASSIGN(cache.rows, Make(DType::kU8, {NumSlots(cache.row_bytes), cache.row_bytes}));

  WriteLatentArgs args;
  args.cache = cache;
  args.eps = 1e-6f;
  WINNOW_ASSIGN(args.kv_a_layernorm, Floats({latent_dim}));
  WINNOW_ASSIGN(args.positions, Count(kRowsAtOnce, 0));
  WINNOW_ASSIGN(args.rope, Rope(rope_dim));
  WINNOW_ASSIGN(args.kv_a, Floats({kRowsAtOnce, latent_dim + rope_dim}));
  WINNOW_ASSIGN(const TensorView slots, Count(kDistinctRows, 0));
  for (int64_t first = 0; first < kDistinctRows; first += kRowsAtOnce) {
    if (first > 0) Fill(args.kv_a);
    args.slots = slots.Rows(first, kRowsAtOnce);
    backend_.WriteLatent(args);
  }
  Repeat(cache.rows, kDistinctRows * cache.row_bytes);
  latents_[type] = cache;
  return cache;
}

}  // namespace winnow::bench
