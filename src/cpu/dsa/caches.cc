// Writing the two caches, and the index queries that meet one of them.
#include "cpu/dsa/caches.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "cpu/context.h"
#include "cpu/dsa/dsa_kernels.h"
#include "cpu/dsa/dsa_ops.h"
#include "cpu/dsa/rope.h"
#include "cpu/work.h"
#include "dsa/lightning_indexer.h"
#include "tensor/half.h"

namespace winnow::cpu {
namespace {

bool IsRotated(IndexKeyType type) {
  return type == IndexKeyType::kE4m3 || type == IndexKeyType::kInt8;
}

// dsa::QuantizeIndexVector for the forms that have codes.
float Quantize(const LightningIndexerKernels& kernels, IndexKeyType type, float* x, int64_t size) {
  const float max = kernels.finite_max(x, size);
  if (std::isnan(max)) {
    std::fill_n(x, size, 0.0f);
    return NAN;
  }
  const float scale = dsa::IndexVectorScale(type, max);
  kernels.quantize(type, scale, x, size);
  return scale;
}

// Rotation, then the form of the cache; returns the scale.
float FormIndexVector(const LightningIndexerKernels& kernels, IndexKeyType type,
                      const RopeTable& rope, int64_t position, float* x, int64_t index_dim) {
  ApplyRope(rope, position, x);
  if (!IsRotated(type)) return dsa::QuantizeIndexVector(type, x, index_dim);
  kernels.hadamard(x, index_dim);
  return Quantize(kernels, type, x, index_dim);
}

// The code of an E4M3 number: its bits, rebased, or below 2^-6 its steps of 2^-9.
uint8_t E4m3Code(float number) {
  const uint32_t bits = std::bit_cast<uint32_t>(number);
  const uint32_t magnitude = bits & 0x7fffffff;
  const uint32_t normal = (magnitude >> 20) - (120 << 3);
  const uint32_t steps =
      static_cast<uint32_t>(static_cast<int32_t>(std::bit_cast<float>(magnitude) * 512));
  return static_cast<uint8_t>((bits >> 24 & 0x80) | (magnitude < (121 << 23) ? steps : normal));
}

void StoreBf16(const float* x, int64_t size, uint8_t* out) {
  for (int64_t k = 0; k < size; ++k) {
    const uint16_t value = FloatToBf16(x[k]);
    std::memcpy(out + 2 * k, &value, sizeof(value));
  }
}

// The latent part [C] in blocks of 128 with a scale each, as index vectors have one: codes first,
// then the scales.
void StoreFp8(const LightningIndexerKernels& kernels, float* x, int64_t latent_dim, uint8_t* row) {
  uint8_t* scales = row + latent_dim;
  for (int64_t first = 0; first < latent_dim; first += 128) {
    const int64_t size = std::min<int64_t>(128, latent_dim - first);
    const float scale = Quantize(kernels, IndexKeyType::kE4m3, x + first, size);
    for (int64_t k = first; k < first + size; ++k) row[k] = E4m3Code(x[k]);
    std::memcpy(scales + first / 128 * sizeof(scale), &scale, sizeof(scale));
  }
}

// x [C+R] to a row of the cache; x is spent.
void StoreLatent(const LightningIndexerKernels& kernels, const LatentCacheView& cache, int64_t slot,
                 float* x) {
  uint8_t* row = cache.rows.As<uint8_t>() + slot * cache.row_bytes;
  const int64_t row_dim = cache.latent_dim + cache.rope_dim;
  switch (cache.type) {
    case LatentType::kF32:
      std::memcpy(row, x, static_cast<size_t>(row_dim) * sizeof(float));
      break;
    case LatentType::kBf16:
      StoreBf16(x, row_dim, row);
      break;
    case LatentType::kFp8:
      StoreFp8(kernels, x, cache.latent_dim, row);
      StoreBf16(x + cache.latent_dim, cache.rope_dim, row + cache.row_bytes - 2 * cache.rope_dim);
      break;
  }
}

// Calls body(token, thread) for every token, some tokens a piece.
template <typename Body>
void ForEachToken(CpuContext& context, int64_t num_tokens, const Body& body) {
  const Split split = SplitInto(num_tokens, 4 * context.pool.num_threads(), 8);
  context.ForEach(split.count, [&](int64_t piece, int thread) {
    const int64_t first = split.begin(piece);
    const int64_t last = first + split.length(piece, num_tokens);
    for (int64_t token = first; token < last; ++token) body(token, thread);
  });
}

}  // namespace

uint8_t* IndexPage(const IndexCacheView& cache, int64_t page) {
  return cache.pages.As<uint8_t>() + page * cache.page_bytes;
}

float* IndexScales(const IndexCacheView& cache, int64_t page) {
  if (!IsRotated(cache.type)) return nullptr;
  return reinterpret_cast<float*>(IndexPage(cache, page) +
                                  PaddedIndexDim(cache.index_dim) * cache.page_size);
}

void StoreIndexKey(const IndexCacheView& cache, int64_t slot, const float* x, float scale) {
  const int64_t page = slot / cache.page_size;
  const int64_t offset = slot % cache.page_size;
  const int64_t together = CodesTogether(cache.type);
  // Calls store(j, at) for every dimension and its place among the codes.
  const auto for_each = [&](const auto& store) {
    for (int64_t j = 0; j < PaddedIndexDim(cache.index_dim); j += together) {
      const int64_t at = j * cache.page_size + offset * together;
      for (int64_t i = 0; i < together; ++i) store(j + i, at + i);
    }
  };
  const auto value = [&](int64_t j) { return j < cache.index_dim ? x[j] : 0.0f; };
  uint8_t* codes = IndexPage(cache, page);
  switch (cache.type) {
    case IndexKeyType::kF32:
      for_each([&](int64_t j, int64_t at) { reinterpret_cast<float*>(codes)[at] = value(j); });
      break;
    case IndexKeyType::kBf16:
      for_each([&](int64_t j, int64_t at) {
        reinterpret_cast<uint16_t*>(codes)[at] = FloatToBf16(value(j));
      });
      break;
    case IndexKeyType::kE4m3:
      for_each([&](int64_t j, int64_t at) { codes[at] = E4m3Code(value(j)); });
      break;
    case IndexKeyType::kInt8:
      for_each([&](int64_t j, int64_t at) {
        reinterpret_cast<int8_t*>(codes)[at] = static_cast<int8_t>(value(j));
      });
      break;
  }
  if (float* scales = IndexScales(cache, page)) scales[offset] = scale;
}

void WriteLatent(CpuContext& context, const WriteLatentArgs& args) {
  const int64_t latent_dim = args.cache.latent_dim;
  const int64_t rope_dim = args.cache.rope_dim;
  const int64_t row_dim = latent_dim + rope_dim;
  ForEachToken(context, args.kv_a.dims[0], [&](int64_t token, int thread) {
    float* x = context.scratch.OfThread<float>(thread, row_dim);
    std::copy_n(args.kv_a.As<float>() + token * row_dim, row_dim, x);
    context.kernels.elementwise.add_rms_norm(x, nullptr, args.kv_a_layernorm.As<float>(), args.eps,
                                             x, latent_dim);
    ApplyRope(args.rope, args.positions.As<int32_t>()[token], x + latent_dim);
    StoreLatent(context.kernels.dsa.indexer, args.cache, args.slots.As<int32_t>()[token], x);
  });
}

void WriteIndexKeys(CpuContext& context, const WriteIndexKeysArgs& args) {
  const int64_t index_dim = args.cache.index_dim;
  ForEachToken(context, args.k.dims[0], [&](int64_t token, int thread) {
    float* x = context.scratch.OfThread<float>(thread, index_dim);
    context.kernels.dsa.indexer.layer_norm(args.k.As<float>() + token * index_dim,
                                           args.k_norm_weight.As<float>(),
                                           args.k_norm_bias.As<float>(), args.eps, index_dim, x);
    const float scale = FormIndexVector(context.kernels.dsa.indexer, args.cache.type, args.rope,
                                        args.positions.As<int32_t>()[token], x, index_dim);
    StoreIndexKey(args.cache, args.slots.As<int32_t>()[token], x, scale);
  });
}

// The factors go into a weight one by one, as the reference multiplies: weight * I^-0.5, times the
// scale of the query, times J^-0.5.
void PrepareIndexQuery(CpuContext& context, const PrepareIndexQueryArgs& args) {
  const int64_t index_heads = args.q.dims[1];
  const int64_t index_dim = args.q.dims[2];
  const float head_factor = static_cast<float>(1 / std::sqrt(static_cast<double>(index_heads)));
  const float dim_factor = static_cast<float>(1 / std::sqrt(static_cast<double>(index_dim)));
  ForEachToken(context, args.q.dims[0], [&](int64_t token, int) {
    for (int64_t head = token * index_heads; head < (token + 1) * index_heads; ++head) {
      const float scale = FormIndexVector(context.kernels.dsa.indexer, args.type, args.rope,
                                          args.positions.As<int32_t>()[token],
                                          args.q.As<float>() + head * index_dim, index_dim);
      float& weight = args.weights.As<float>()[head];
      weight = weight * head_factor * scale * dim_factor;
    }
  });
}

}  // namespace winnow::cpu
