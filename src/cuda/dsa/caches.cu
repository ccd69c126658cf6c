// Writing the two caches, and the index queries that meet one of them: a block of threads for each
// vector, which waits in shared memory. Numbers are made in the order of cpu/dsa/caches.cc and
// dsa/lightning_indexer.cc.
#include <cmath>

#include "base/check.h"
#include "cuda/context.h"
#include "cuda/device.cuh"
#include "cuda/dsa/dsa_ops.h"
#include "cuda/dsa/index_layout.h"
#include "cuda/dsa/sm90.cuh"

namespace winnow::cuda {
namespace {

constexpr int kThreads = 128;

struct Rope {
  const float* cos_sin;  // [positions, 2, pairs]
  int32_t pairs;
  bool half_split;
};

// Turns x [2 * pairs] in place. All threads call it.
__device__ void Turn(const Rope& rope, int64_t position, float* x) {
  const float* cosines = rope.cos_sin + position * 2 * rope.pairs;
  for (int pair = threadIdx.x; pair < rope.pairs; pair += kThreads) {
    float& first = rope.half_split ? x[pair] : x[2 * pair];
    float& second = rope.half_split ? x[pair + rope.pairs] : x[2 * pair + 1];
    const float cosine = cosines[pair];
    const float sine = cosines[rope.pairs + pair];
    const float turned = first * cosine - second * sine;
    second = first * sine + second * cosine;
    first = turned;
  }
  __syncthreads();
}

// Sixteen chains of additions of term(k), k < size, added 8, 4, 2, 1 apart; in every thread.
template <typename Term>
__device__ float SumTerms(int size, float* shared, Term term) {
  if (threadIdx.x < kWarp) {
    float chain = 0;
#pragma unroll 8
    for (int k = threadIdx.x % kChains; k < size; k += kChains) chain = chain + term(k);
    const float sum = SumChains(chain);
    if (threadIdx.x == 0) *shared = sum;
  }
  __syncthreads();
  const float sum = *shared;
  __syncthreads();
  return sum;
}

__device__ void Hadamard(float* x, int size) {
  for (int distance = 1; distance < size; distance *= 2) {
    for (int pair = threadIdx.x; pair < size / 2; pair += kThreads) {
      const int j = pair / distance * 2 * distance + pair % distance;
      const float low = x[j];
      const float high = x[j + distance];
      x[j] = low + high;
      x[j + distance] = low - high;
    }
    __syncthreads();
  }
  const float norm = static_cast<float>(1 / sqrt(static_cast<double>(size)));
  for (int j = threadIdx.x; j < size; j += kThreads) x[j] = x[j] * norm;
  __syncthreads();
}

// The largest magnitude of x [size], or NaN when one of its values is NaN or infinite.
__device__ float FiniteMax(const float* x, int size, uint32_t* shared) {
  uint32_t max = 0;
  for (int j = threadIdx.x; j < size; j += kThreads) {
    max = ::max(max, __float_as_uint(x[j]) & 0x7fffffff);
  }
  max = BlockMax(max, shared);
  return max < 0x7f800000 ? BitsToFloat(max) : NAN;
}

__device__ float RoundToSteps(float x, float step) {
  const float big = 0x1.8p23f * step;
  return (x + big) - big;
}
__device__ float RoundToE4m3(float x) {
  const uint32_t exponent = __float_as_uint(x) & 0x7f800000;
  const float power = BitsToFloat(::max(exponent, 121u << 23));
  return copysignf(RoundToSteps(fabsf(x), power / 8), x);
}
__device__ float RoundUpToPowerOfTwo(float value) {
  uint32_t bits = __float_as_uint(value);
  if (bits & 0x7fffff) bits = (bits & 0x7f800000) + 0x800000;
  return BitsToFloat(bits);
}
__device__ float Clamp(float x, float limit) {
  x = x < -limit ? -limit : x;
  return limit < x ? limit : x;
}

// Brings x [size] to the form of `type` in place, codes as floats, and returns its scale.
__device__ float Quantize(IndexKeyType type, float* x, int size, uint32_t* shared) {
  if (!IsRotated(type)) {
    if (type == IndexKeyType::kBf16) {
      for (int j = threadIdx.x; j < size; j += kThreads) x[j] = RoundToBf16(x[j]);
      __syncthreads();
    }
    return 1;
  }
  const float max = FiniteMax(x, size, shared);
  float scale;
  if (isnan(max)) {
    for (int j = threadIdx.x; j < size; j += kThreads) x[j] = 0;
    scale = NAN;
  } else if (type == IndexKeyType::kE4m3) {
    scale = RoundUpToPowerOfTwo((max < 1e-4f ? 1e-4f : max) * (1.0f / 448));
    for (int j = threadIdx.x; j < size; j += kThreads) {
      x[j] = RoundToE4m3(Clamp(x[j] / scale, 448.0f));
    }
  } else {
    scale = max / 127;
    const float divisor = scale > 0 ? scale : INFINITY;
    for (int j = threadIdx.x; j < size; j += kThreads) {
      x[j] = RoundToSteps(Clamp(x[j] / divisor, 127.0f), 1);
    }
  }
  __syncthreads();
  return scale;
}

// The code of an E4M3 number: its bits, rebased, or below 2^-6 its steps of 2^-9.
__device__ uint8_t E4m3Code(float number) {
  const uint32_t bits = __float_as_uint(number);
  const uint32_t magnitude = bits & 0x7fffffff;
  const uint32_t normal = (magnitude >> 20) - (120 << 3);
  const uint32_t steps = static_cast<uint32_t>(static_cast<int32_t>(BitsToFloat(magnitude) * 512));
  return static_cast<uint8_t>((bits >> 24 & 0x80) | (magnitude < (121 << 23) ? steps : normal));
}

// Rotation, then the form of the cache; returns the scale.
__device__ float FormIndexVector(IndexKeyType type, const Rope& rope, int64_t position, float* x,
                                 int size, uint32_t* shared) {
  Turn(rope, position, x);
  if (IsRotated(type)) Hadamard(x, size);
  return Quantize(type, x, size, shared);
}

// ---- Latent rows --------------------------------------------------------------------------------

struct LatentArgs {
  const float* kv_a;  // [T, C+R]
  const float* weight;
  float eps;
  const int32_t* positions;
  const int32_t* slots;
  Rope rope;
  LatentType type;
  int32_t latent_dim;
  int32_t rope_dim;
  int64_t row_bytes;
  uint8_t* rows;
};

__device__ void StoreBf16(const float* x, int size, uint8_t* out) {
  for (int k = threadIdx.x; k < size; k += kThreads) {
    const uint32_t value = FloatToBf16(x[k]);
    out[2 * k] = static_cast<uint8_t>(value);
    out[2 * k + 1] = static_cast<uint8_t>(value >> 8);
  }
}

__device__ void StoreFloat(float value, uint8_t* out) {
  const uint32_t bits = __float_as_uint(value);
  for (int byte = 0; byte < 4; ++byte) out[byte] = static_cast<uint8_t>(bits >> (8 * byte));
}

// Codes in blocks of 128 with a scale each: codes first, then the scales.
__device__ void StoreFp8(float* x, int latent_dim, uint8_t* row, uint32_t* shared) {
  for (int first = 0; first < latent_dim; first += 128) {
    const int size = min(128, latent_dim - first);
    const float scale = Quantize(IndexKeyType::kE4m3, x + first, size, shared);
    for (int k = first + threadIdx.x; k < first + size; k += kThreads) row[k] = E4m3Code(x[k]);
    if (threadIdx.x == 0) StoreFloat(scale, row + latent_dim + first / 128 * 4);
    __syncthreads();
  }
}

// Grid: one block for each token. Shared memory: C+R floats.
__global__ void __launch_bounds__(kThreads) WriteLatentKernel(LatentArgs a) {
  extern __shared__ float x[];
  __shared__ uint32_t reduced[kWarp];
  __shared__ float sum;
  sm90::WaitForPrevious();
  sm90::LetNextBegin();
  const int64_t token = blockIdx.x;
  const int row_dim = a.latent_dim + a.rope_dim;
  for (int k = threadIdx.x; k < row_dim; k += kThreads) x[k] = a.kv_a[token * row_dim + k];
  __syncthreads();
  if (threadIdx.x < kWarp) {
    float chain = 0;
#pragma unroll 8
    for (int k = threadIdx.x % kChains; k < a.latent_dim; k += kChains) {
      chain = fmaf(x[k], x[k], chain);
    }
    const float squares = SumChains(chain);
    if (threadIdx.x == 0) sum = squares;
  }
  __syncthreads();
  const float scale = 1.0f / sqrtf(sum / static_cast<float>(a.latent_dim) + a.eps);
  for (int k = threadIdx.x; k < a.latent_dim; k += kThreads) {
    x[k] = x[k] * scale * a.weight[k];
  }
  __syncthreads();
  Turn(a.rope, a.positions[token], x + a.latent_dim);
  uint8_t* row = a.rows + a.slots[token] * a.row_bytes;
  switch (a.type) {
    case LatentType::kF32:
      for (int k = threadIdx.x; k < row_dim; k += kThreads) StoreFloat(x[k], row + 4 * k);
      break;
    case LatentType::kBf16:
      StoreBf16(x, row_dim, row);
      break;
    case LatentType::kFp8:
      StoreFp8(x, a.latent_dim, row, reduced);
      StoreBf16(x + a.latent_dim, a.rope_dim, row + a.row_bytes - 2 * a.rope_dim);
      break;
  }
}

// ---- Index keys and queries ---------------------------------------------------------------------

struct KeyArgs {
  const float* k;  // [T, J]
  const float* weight;
  const float* bias;
  float eps;
  const int32_t* positions;
  const int32_t* slots;
  Rope rope;
  IndexKeyType type;
  int32_t index_dim;
  int32_t page_size;
  int64_t page_bytes;
  uint8_t* pages;
};

// Grid: one block for each token. Shared memory: J floats.
__global__ void __launch_bounds__(kThreads) WriteKeysKernel(KeyArgs a) {
  extern __shared__ float x[];
  __shared__ uint32_t reduced[kWarp];
  __shared__ float sum;
  sm90::WaitForPrevious();
  sm90::LetNextBegin();
  const int64_t token = blockIdx.x;
  const int size = a.index_dim;
  for (int j = threadIdx.x; j < size; j += kThreads) x[j] = a.k[token * size + j];
  __syncthreads();
  const float count = static_cast<float>(size);
  const float mean = SumTerms(size, &sum, [&](int j) { return x[j]; }) / count;
  const float variance =
      SumTerms(size, &sum, [&](int j) { return (x[j] - mean) * (x[j] - mean); }) / count;
  const float inverse = 1.0f / sqrtf(variance + a.eps);
  for (int j = threadIdx.x; j < size; j += kThreads) {
    x[j] = (x[j] - mean) * inverse * a.weight[j] + a.bias[j];
  }
  __syncthreads();
  const float scale = FormIndexVector(a.type, a.rope, a.positions[token], x, size, reduced);
  const int slot = a.slots[token];
  uint8_t* page = a.pages + slot / a.page_size * a.page_bytes;
  const int offset = slot % a.page_size;
  for (int j = threadIdx.x; j < size; j += kThreads) {
    const int64_t at = CodePlace(a.type, size, offset, j);
    switch (a.type) {
      case IndexKeyType::kF32:
        reinterpret_cast<float*>(page)[at] = x[j];
        break;
      case IndexKeyType::kBf16:
        reinterpret_cast<uint16_t*>(page)[at] = static_cast<uint16_t>(FloatToBf16(x[j]));
        break;
      case IndexKeyType::kE4m3:
        page[at] = E4m3Code(x[j]);
        break;
      case IndexKeyType::kInt8:
        page[at] = static_cast<uint8_t>(static_cast<int8_t>(x[j]));
        break;
    }
  }
  if (IsRotated(a.type) && threadIdx.x == 0) {
    reinterpret_cast<float*>(page + a.page_bytes)[offset - a.page_size] = scale;
  }
}

struct QueryArgs {
  float* q;        // [T, I, J]
  float* weights;  // [T, I]
  const int32_t* positions;
  Rope rope;
  IndexKeyType type;
  int32_t index_heads;
  int32_t index_dim;
  float head_factor;
  float dim_factor;
};

// Grid: one block for each head of each token. Shared memory: J floats.
__global__ void __launch_bounds__(kThreads) PrepareQueryKernel(QueryArgs a) {
  extern __shared__ float x[];
  __shared__ uint32_t reduced[kWarp];
  sm90::WaitForPrevious();
  sm90::LetNextBegin();
  const int64_t head = blockIdx.x;
  float* q = a.q + head * a.index_dim;
  for (int j = threadIdx.x; j < a.index_dim; j += kThreads) x[j] = q[j];
  __syncthreads();
  const float scale =
      FormIndexVector(a.type, a.rope, a.positions[head / a.index_heads], x, a.index_dim, reduced);
  for (int j = threadIdx.x; j < a.index_dim; j += kThreads) q[j] = x[j];
  if (threadIdx.x == 0) {
    a.weights[head] = a.weights[head] * a.head_factor * scale * a.dim_factor;
  }
}

Rope ViewOf(const RopeTable& rope) {
  return {rope.cos_sin.As<float>(), static_cast<int32_t>(rope.cos_sin.dims[2]), rope.half_split};
}

// A block for each of `vectors`, which has room for `size` floats.
template <typename Args>
void Run(CudaContext& context, void (*kernel)(Args), int64_t vectors, int64_t size,
         const Args& args, const char* what) {
  context.Check(sm90::LaunchOverlapping(kernel,
                                        {.grid = dim3(static_cast<unsigned>(vectors)),
                                         .threads = kThreads,
                                         .shared_bytes = static_cast<int>(size * sizeof(float)),
                                         .stream = context.stream},
                                        args),
                what);
}

// Whether a vector of `size` floats fits in shared memory; if not, that is remembered.
bool Fits(CudaContext& context, int64_t size, const char* what) {
  constexpr int64_t kMax = 12000;  // of the 48 KiB that every kernel may use
  if (size <= kMax) return true;
  context.Fail(Unsupported("cuda: " + std::string(what) + ": vectors of " + std::to_string(size) +
                           " elements, expected at most " + std::to_string(kMax)));
  return false;
}

}  // namespace

void WriteLatent(CudaContext& context, const WriteLatentArgs& args) {
  const int64_t tokens = args.kv_a.dims[0];
  const int64_t row_dim = args.cache.latent_dim + args.cache.rope_dim;
  if (tokens == 0 || !Fits(context, row_dim, "WriteLatent")) return;
  const LatentArgs kernel = {.kv_a = args.kv_a.As<float>(),
                             .weight = args.kv_a_layernorm.As<float>(),
                             .eps = args.eps,
                             .positions = args.positions.As<int32_t>(),
                             .slots = args.slots.As<int32_t>(),
                             .rope = ViewOf(args.rope),
                             .type = args.cache.type,
                             .latent_dim = static_cast<int32_t>(args.cache.latent_dim),
                             .rope_dim = static_cast<int32_t>(args.cache.rope_dim),
                             .row_bytes = args.cache.row_bytes,
                             .rows = args.cache.rows.As<uint8_t>()};
  Run(context, WriteLatentKernel, tokens, row_dim, kernel, "WriteLatent");
}

void WriteIndexKeys(CudaContext& context, const WriteIndexKeysArgs& args) {
  const int64_t tokens = args.k.dims[0];
  const int64_t index_dim = args.cache.index_dim;
  if (tokens == 0 || !Fits(context, index_dim, "WriteIndexKeys")) return;
  const KeyArgs kernel = {.k = args.k.As<float>(),
                          .weight = args.k_norm_weight.As<float>(),
                          .bias = args.k_norm_bias.As<float>(),
                          .eps = args.eps,
                          .positions = args.positions.As<int32_t>(),
                          .slots = args.slots.As<int32_t>(),
                          .rope = ViewOf(args.rope),
                          .type = args.cache.type,
                          .index_dim = static_cast<int32_t>(index_dim),
                          .page_size = static_cast<int32_t>(args.cache.page_size),
                          .page_bytes = args.cache.page_bytes,
                          .pages = args.cache.pages.As<uint8_t>()};
  Run(context, WriteKeysKernel, tokens, index_dim, kernel, "WriteIndexKeys");
}

void PrepareIndexQuery(CudaContext& context, const PrepareIndexQueryArgs& args) {
  const int64_t heads = args.q.dims[1];
  const int64_t index_dim = args.q.dims[2];
  const int64_t vectors = args.q.dims[0] * heads;
  if (vectors == 0 || !Fits(context, index_dim, "PrepareIndexQuery")) return;
  const QueryArgs kernel = {
      .q = args.q.As<float>(),
      .weights = args.weights.As<float>(),
      .positions = args.positions.As<int32_t>(),
      .rope = ViewOf(args.rope),
      .type = args.type,
      .index_heads = static_cast<int32_t>(heads),
      .index_dim = static_cast<int32_t>(index_dim),
      .head_factor = static_cast<float>(1 / std::sqrt(static_cast<double>(heads))),
      .dim_factor = static_cast<float>(1 / std::sqrt(static_cast<double>(index_dim)))};
  Run(context, PrepareQueryKernel, vectors, index_dim, kernel, "PrepareIndexQuery");
}

}  // namespace winnow::cuda
