// Products with weights. Few tokens are a matter of reading the weights, many one of arithmetic.
#include <memory>

#include "base/check.h"
#include "base/text.h"
#include "bench/kernel_cases.h"

namespace winnow::bench {
namespace {

constexpr DType kTypes[] = {DType::kBF16, DType::kF8E4M3, DType::kI8, DType::kU8};

const char* TypeName(DType dtype) {
  return dtype == DType::kF8E4M3 ? "fp8"
         : dtype == DType::kI8   ? "int8"
         : dtype == DType::kU8   ? "int4"
                                 : "bf16";
}
bool HasGroups(DType dtype) { return dtype == DType::kI8 || dtype == DType::kU8; }

Result<KernelRun> PrepareLinear(Inputs& inputs, int64_t rows, int64_t columns, int64_t tokens,
                                DType dtype) {
  LinearArgs args;
  WINNOW_ASSIGN(const WeightPool pool, inputs.Weights(dtype));
  WINNOW_ASSIGN(args.x, inputs.Floats({tokens, columns}));
  WINNOW_ASSIGN(args.out, inputs.Make(DType::kF32, {tokens, rows}));
  const Rotation parts(pool.bytes(), pool.Extent(rows, columns));
  return KernelRun(
      [&backend = inputs.backend(), args, pool, parts, rows, columns](int64_t turn) mutable {
        args.weight = pool.At(parts.Offset(turn), rows, columns);
        backend.Linear(args);
      });
}

Result<KernelRun> PrepareAbsorb(Inputs& inputs, const ModelShape& shape, int64_t tokens,
                                DType dtype) {
  AbsorbQueryArgs args;
  args.v_head_dim = shape.V;
  WINNOW_ASSIGN(const WeightPool pool, inputs.Weights(dtype));
  WINNOW_ASSIGN(args.q, inputs.Floats({tokens, shape.H, shape.P + shape.R}));
  WINNOW_ASSIGN(args.positions, inputs.Count(tokens, Inputs::kPositions - tokens));
  WINNOW_ASSIGN(args.rope, inputs.Rope(shape.R));
  WINNOW_ASSIGN(args.out, inputs.Make(DType::kF32, {tokens, shape.H, shape.C + shape.R}));
  const int64_t rows = shape.H * (shape.P + shape.V);
  const Rotation parts(pool.bytes(), pool.Extent(rows, shape.C));
  return KernelRun(
      [&backend = inputs.backend(), args, pool, parts, rows, C = shape.C](int64_t turn) mutable {
        args.kv_b_proj = pool.At(parts.Offset(turn), rows, C);
        backend.AbsorbQuery(args);
      });
}

Result<KernelRun> PrepareExpand(Inputs& inputs, const ModelShape& shape, int64_t tokens,
                                DType dtype) {
  ExpandValueArgs args;
  args.qk_nope_head_dim = shape.P;
  WINNOW_ASSIGN(const WeightPool pool, inputs.Weights(dtype));
  WINNOW_ASSIGN(args.attended, inputs.Floats({tokens, shape.H, shape.C}));
  WINNOW_ASSIGN(args.out, inputs.Make(DType::kF32, {tokens, shape.H, shape.V}));
  const int64_t rows = shape.H * (shape.P + shape.V);
  const Rotation parts(pool.bytes(), pool.Extent(rows, shape.C));
  return KernelRun(
      [&backend = inputs.backend(), args, pool, parts, rows, C = shape.C](int64_t turn) mutable {
        args.kv_b_proj = pool.At(parts.Offset(turn), rows, C);
        backend.ExpandValue(args);
      });
}

// The feed-forward block whose three matrices begin at `offset`, one after the other.
FfnWeights BlockAt(const WeightPool& pool, int64_t offset, int64_t width, int64_t hidden_size) {
  const int64_t extent = pool.Extent(width, hidden_size);
  return {.gate_proj = pool.At(offset, width, hidden_size),
          .up_proj = pool.At(offset + extent, width, hidden_size),
          .down_proj = pool.At(offset + 2 * extent, hidden_size, width)};
}

Result<KernelRun> PrepareMoe(Inputs& inputs, const ModelShape& shape, int64_t tokens, DType dtype) {
  const auto& moe = shape.moe;
  MoeArgs args;
  args.num_experts_per_tok = moe.num_experts_per_tok;
  WINNOW_ASSIGN(const WeightPool pool, inputs.Weights(dtype));
  WINNOW_ASSIGN(args.x, inputs.Floats({tokens, shape.D}));
  WINNOW_ASSIGN(args.gate.value, inputs.Floats({moe.E, shape.D}));
  WINNOW_ASSIGN(args.e_score_correction_bias, inputs.Make(DType::kF32, {moe.E}));
  WINNOW_ASSIGN(args.out, inputs.Make(DType::kF32, {tokens, shape.D}));
  const int64_t block = 3 * pool.Extent(moe.F, shape.D);
  const Rotation parts(pool.bytes(), (moe.E + moe.n_shared_experts) * block);
  return KernelRun([&backend = inputs.backend(), args, pool, parts, block, moe, D = shape.D,
                    experts = std::vector<FfnWeights>()](int64_t turn) mutable {
    experts.clear();
    for (int64_t expert = 0; expert < moe.E; ++expert) {
      experts.push_back(BlockAt(pool, parts.Offset(turn) + expert * block, moe.F, D));
    }
    args.experts = experts;
    FfnWeights shared;
    if (moe.n_shared_experts > 0) {
      shared = BlockAt(pool, parts.Offset(turn) + moe.E * block, moe.F * moe.n_shared_experts, D);
      args.shared_experts = &shared;
    }
    backend.Moe(args);
  });
}

}  // namespace

void AddLinearCases(const ModelShape& shape, std::vector<KernelCase>* cases) {
  for (const auto& matrix : shape.products) {
    for (const DType dtype : kTypes) {
      for (const int64_t tokens : {1, 8, 512}) {
        cases->push_back({fmt::format("{}/linear/{}/{}x{}/{}/t{}", shape.name, matrix.name,
                                      matrix.rows, matrix.columns, TypeName(dtype), tokens),
                          LinearCost(tokens, matrix.rows, matrix.columns, dtype),
                          [&matrix, tokens, dtype](Inputs& inputs) {
                            return PrepareLinear(inputs, matrix.rows, matrix.columns, tokens,
                                                 dtype);
                          },
                          HasGroups(dtype)});
      }
    }
  }
}

void AddHeadProductCases(const ModelShape& shape, std::vector<KernelCase>* cases) {
  for (const DType dtype : kTypes) {
    for (const int64_t tokens : {1, 16}) {
      cases->push_back({fmt::format("{}/absorb/{}/t{}", shape.name, TypeName(dtype), tokens),
                        AbsorbCost(shape, tokens, dtype),
                        [&shape, tokens, dtype](Inputs& inputs) {
                          return PrepareAbsorb(inputs, shape, tokens, dtype);
                        },
                        HasGroups(dtype)});
    }
  }
  for (const DType dtype : kTypes) {
    for (const int64_t tokens : {1, 16}) {
      cases->push_back({fmt::format("{}/expand/{}/t{}", shape.name, TypeName(dtype), tokens),
                        ExpandCost(shape, tokens, dtype),
                        [&shape, tokens, dtype](Inputs& inputs) {
                          return PrepareExpand(inputs, shape, tokens, dtype);
                        },
                        HasGroups(dtype)});
    }
  }
}

void AddMoeCases(const ModelShape& shape, std::vector<KernelCase>* cases) {
  for (const DType dtype : {DType::kF8E4M3, DType::kU8}) {
    for (const int64_t tokens : shape.moe.tokens) {
      cases->push_back({fmt::format("{}/moe/{}/t{}", shape.name, TypeName(dtype), tokens),
                        MoeCost(shape, tokens, dtype),
                        [&shape, tokens, dtype](Inputs& inputs) {
                          return PrepareMoe(inputs, shape, tokens, dtype);
                        },
                        HasGroups(dtype)});
    }
  }
}

}  // namespace winnow::bench
