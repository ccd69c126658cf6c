#include "bench/kernel_cost.h"

#include <cmath>

#include "base/check.h"
#include "tensor/group_codes.h"

namespace winnow::bench {
namespace {

constexpr double kF32 = 4;
constexpr double kI32 = 4;

double AttentionIo(const ModelShape& s, int64_t tokens) {
  return static_cast<double>(tokens * s.H * (s.C + s.R + s.C)) * kF32;
}

double AttentionOps(const ModelShape& s, int64_t pairs) {
  return 2.0 * static_cast<double>(pairs * s.H * (2 * s.C + s.R));
}

}  // namespace

int64_t CausalPairs(int64_t tokens, int64_t context) {
  return tokens * (context - tokens) + tokens * (tokens + 1) / 2;
}

int64_t WeightBytes(int64_t rows, int64_t columns, DType dtype) {
  if (dtype == DType::kU8) return rows * (Int4RowBytes(columns) + 2 * NumCodeGroups(columns));
  const int64_t values = rows * columns * SizeOf(dtype);
  if (dtype == DType::kI8) return values + rows * 2 * NumCodeGroups(columns);
  if (dtype != DType::kF8E4M3) return values;
  const auto blocks = [](int64_t extent) {
    return (extent + ScaledView::kBlock - 1) / ScaledView::kBlock;
  };
  return values + blocks(rows) * blocks(columns) * 4;
}

KernelCost SelectCost(const ModelShape& s, int64_t tokens, int64_t context, IndexKeyType type) {
  const double pairs = static_cast<double>(CausalPairs(tokens, context));
  const double keys = static_cast<double>(IndexPageBytes(type, s.J, context));
  const double queries = static_cast<double>(tokens * s.I * (s.J + 1)) * kF32;
  const double selection = static_cast<double>(tokens * (2 * s.K + 1)) * kI32;
  return {.ops = pairs * 2.0 * static_cast<double>(s.I * s.J),
          .bytes = keys + queries + selection,
          .int8 = type == IndexKeyType::kInt8};
}

KernelCost SparseAttentionCost(const ModelShape& s, int64_t tokens, int64_t context,
                               LatentType type) {
  const int64_t pairs = tokens * s.K;
  const int64_t row_bytes = LatentRowBytes(type, s.C, s.R);
  return {.ops = AttentionOps(s, pairs),
          .bytes = static_cast<double>(std::min(pairs, context) * row_bytes) +
                   static_cast<double>(pairs) * kI32 + AttentionIo(s, tokens)};
}

KernelCost DenseAttentionCost(const ModelShape& s, int64_t tokens, int64_t context,
                              LatentType type) {
  return {.ops = AttentionOps(s, CausalPairs(tokens, context)),
          .bytes = static_cast<double>(context * LatentRowBytes(type, s.C, s.R)) +
                   AttentionIo(s, tokens)};
}

KernelCost LinearCost(int64_t tokens, int64_t rows, int64_t columns, DType dtype) {
  return {.ops = 2.0 * static_cast<double>(tokens * rows * columns),
          .bytes = static_cast<double>(WeightBytes(rows, columns, dtype)) +
                   static_cast<double>(tokens * (rows + columns)) * kF32};
}

KernelCost AbsorbCost(const ModelShape& s, int64_t tokens, DType dtype) {
  return {.ops = 2.0 * static_cast<double>(tokens * s.H * s.P * s.C),
          .bytes = static_cast<double>(WeightBytes(s.H * s.P, s.C, dtype)) +
                   static_cast<double>(tokens * s.H * (s.P + s.R + s.C + s.R)) * kF32};
}

KernelCost ExpandCost(const ModelShape& s, int64_t tokens, DType dtype) {
  return {.ops = 2.0 * static_cast<double>(tokens * s.H * s.C * s.V),
          .bytes = static_cast<double>(WeightBytes(s.H * s.V, s.C, dtype)) +
                   static_cast<double>(tokens * s.H * (s.C + s.V)) * kF32};
}

KernelCost MoeCost(const ModelShape& s, int64_t tokens, DType dtype) {
  const double experts = static_cast<double>(s.moe.E);
  const double taken = static_cast<double>(s.moe.num_experts_per_tok);
  const double shared = static_cast<double>(s.moe.n_shared_experts);
  const double chosen = experts * (1 - std::pow(1 - taken / experts, static_cast<double>(tokens)));
  const double expert_bytes =
      static_cast<double>(2 * WeightBytes(s.moe.F, s.D, dtype) + WeightBytes(s.D, s.moe.F, dtype));
  return {.ops = static_cast<double>(tokens * s.D) *
                 (2 * experts + (taken + shared) * 6.0 * static_cast<double>(s.moe.F)),
          .bytes = static_cast<double>(s.moe.E * s.D + 2 * tokens * s.D) * kF32 +
                   (chosen + shared) * expert_bytes};
}

Bound HoldAgainst(const KernelCost& cost, const Roofs& roofs, double seconds) {
  WINNOW_CHECK(
      roofs.flops_f32 > 0 && roofs.ops_int8 > 0 && roofs.read_bytes_per_second > 0 && seconds > 0,
      "a share of nothing");
  const bool bf16 = roofs.flops_bf16 > 0;
  Bound arithmetic = {cost.int8 ? "int8" : (bf16 ? "bf16" : "f32"),
                      cost.int8 ? roofs.ops_int8 : (bf16 ? roofs.flops_bf16 : roofs.flops_f32)};
  arithmetic.share = cost.ops / arithmetic.share / seconds;
  const Bound memory = {"memory", cost.bytes / roofs.read_bytes_per_second / seconds};
  return memory.share > arithmetic.share ? memory : arithmetic;
}

}  // namespace winnow::bench
