// The norms, and the draw of tokens, as operations: a row for each piece.
#include "backend/draw_token.h"
#include "cpu/context.h"
#include "cpu/cpu_ops.h"
#include "cpu/work.h"

namespace winnow::cpu {
namespace {

// Rows together of about this many elements make a piece.
constexpr int64_t kElementsAPiece = 8192;

Split SplitRows(int64_t rows, int64_t size) {
  return SplitInto(rows, rows, std::max<int64_t>(1, kElementsAPiece / std::max<int64_t>(1, size)));
}

}  // namespace

void AddRmsNorm(CpuContext& context, const AddRmsNormArgs& args) {
  const int64_t rows = args.hidden.dims[0];
  const int64_t size = args.hidden.dims[1];
  const Split split = SplitRows(rows, size);
  context.ForEach(split.count, [&](int64_t piece, int) {
    for (int64_t row = split.begin(piece); row < std::min(rows, split.begin(piece + 1)); ++row) {
      context.kernels.elementwise.add_rms_norm(
          args.hidden.As<float>() + row * size,
          args.branch ? args.branch.As<float>() + row * size : nullptr,
          args.out ? args.weight.As<float>() : nullptr, args.eps,
          args.out ? args.out.As<float>() + row * size : nullptr, size);
    }
  });
}

void RmsNorm(CpuContext& context, const RmsNormArgs& args) {
  const int64_t rows = args.x.dims[0];
  const int64_t size = args.x.dims[1];
  const Split split = SplitRows(rows, size);
  context.ForEach(split.count, [&](int64_t piece, int) {
    for (int64_t row = split.begin(piece); row < std::min(rows, split.begin(piece + 1)); ++row) {
      context.kernels.elementwise.add_rms_norm(args.x.As<float>() + row * size, nullptr,
                                               args.weight.As<float>(), args.eps,
                                               args.out.As<float>() + row * size, size);
    }
  });
}

void DrawTokens(CpuContext& context, const DrawTokensArgs& args) {
  const int64_t size = args.logits.dims[1];
  const auto* rules = reinterpret_cast<const DrawRule*>(args.rules.As<uint8_t>());
  context.ForEach(args.logits.dims[0], [&](int64_t row, int) {
    const float* logits = args.logits.As<float>() + row * size;
    args.tokens.As<int32_t>()[row] = DrawToken({logits, static_cast<size_t>(size)}, rules[row]);
  });
}

}  // namespace winnow::cpu
