// What an operation must at least do: arithmetic and bytes, counted from its shapes, and how that
// compares with what a machine can do. Shape letters: backend/ops.h; S is the length of the
// context, and T tokens are its last T.
//
// A multiply-add counts as two operations. Only matrix products count: what a softmax, a top-k or
// the decoding of a format costs is overhead. Bytes count each input that must be read and each
// output once, in the form they lie in memory, however often a kernel touches them.
#pragma once

#include <cstdint>
#include <span>

#include "backend/backend.h"

namespace winnow::bench {

// The shapes of one model.
struct ModelShape {
  const char* name = "";
  int64_t D = 0, H = 0, Q = 0, C = 0, R = 0, P = 0, V = 0, I = 0, J = 0, K = 0;
  int64_t contexts[3] = {};
  struct {
    const char* name = "";
    int64_t rows = 0, columns = 0;
  } products[2];  // of one token by weights
  struct {
    int64_t E = 0;                    // experts present
    int64_t num_experts_per_tok = 0;  // chosen of them for each token
    int64_t F = 0;                    // width of each
    int64_t n_shared_experts = 0;     // of the same width, always taken
    int64_t tokens[3] = {};           // batches to measure
  } moe;
};
inline constexpr ModelShape kV32 = {
    .name = "v32",
    .D = 7168,
    .H = 128,
    .Q = 1536,
    .C = 512,
    .R = 64,
    .P = 128,
    .V = 128,
    .I = 64,
    .J = 128,
    .K = 2048,
    .contexts = {4096, 32768, 131072},
    // A third and two sevenths of their rows: enough for any number of threads, and of bytes that
    // seven runs are soon over.
    .products = {{"q_b_proj", 8192, 1536}, {"o_proj", 2048, 16384}},
    // The eight of 256 that one token chooses, without the router's other rows.
    .moe = {.E = 8, .num_experts_per_tok = 8, .F = 2048, .tokens = {1, 8, 32}},
};
inline constexpr ModelShape kNano = {
    .name = "nano",
    .D = 384,
    .H = 6,
    .Q = 256,
    .C = 512,
    .R = 64,
    .P = 64,
    .V = 128,
    .I = 4,
    .J = 128,
    .K = 256,
    .contexts = {1024, 8192, 32768},
    .products = {{"q_b_proj", 768, 256}, {"lm_head", 8192, 384}},
    .moe =
        {.E = 8, .num_experts_per_tok = 2, .F = 256, .n_shared_experts = 1, .tokens = {1, 8, 128}},
};

struct KernelCost {
  double ops = 0;
  double bytes = 0;
  bool int8 = false;  // the products are of bytes, exact
};

// Pairs of a token and a row of its context up to itself: the sum of S - T + 1 … S.
int64_t CausalPairs(int64_t tokens, int64_t context);
// Bytes of a stored [rows, columns] matrix, scales included.
int64_t WeightBytes(int64_t rows, int64_t columns, DType dtype);

// ops   2 I J for each causal pair
// bytes S keys, queries [T, I, J] and weights [T, I] f32, and the selection of K a token
KernelCost SelectCost(const ModelShape& shape, int64_t tokens, int64_t context, IndexKeyType type);
// ops   2 H (2C + R) for each of K rows a token
// bytes min(T K, S) rows, their slots, q [T, H, C+R] and out [T, H, C] f32
KernelCost SparseAttentionCost(const ModelShape& shape, int64_t tokens, int64_t context,
                               LatentType type);
// ops   2 H (2C + R) for each causal pair
// bytes S rows, q and out as above
KernelCost DenseAttentionCost(const ModelShape& shape, int64_t tokens, int64_t context,
                              LatentType type);
// ops   2 T N K
// bytes the weight [N, K], x [T, K] and out [T, N] f32
KernelCost LinearCost(int64_t tokens, int64_t rows, int64_t columns, DType dtype);
// ops   2 T H P C
// bytes the first P rows of each head of kv_b_proj, q [T, H, P+R] and out [T, H, C+R] f32
KernelCost AbsorbCost(const ModelShape& shape, int64_t tokens, DType dtype);
// ops   2 T H C V
// bytes the last V rows of each head of kv_b_proj, attended [T, H, C] and out [T, H, V] f32
KernelCost ExpandCost(const ModelShape& shape, int64_t tokens, DType dtype);
// ops   2 T E D of the router and 6 T D F for each expert that a token takes
// bytes router, x and out [T, D] f32, shared experts, and the routed experts that are chosen at
// all:
//       E (1 - (1 - k/E)^T) when each token draws k of E
KernelCost MoeCost(const ModelShape& shape, int64_t tokens, DType dtype);

// The ceiling that an operation comes up against, and how near.
struct Bound {
  const char* name = "";  // "f32", "bf16", "int8" or "memory"
  double share = 0;       // of the ceiling; 1 is all that the machine can do
};
// Products of bytes are held against the roof for them; all others against that for bfloat16 where
// the backend has one, and else against that for f32.
Bound HoldAgainst(const KernelCost& cost, const Roofs& roofs, double seconds);

}  // namespace winnow::bench
