#include "model/quantize_rows.h"

#include <array>
#include <atomic>
#include <cstring>
#include <vector>

#include "base/check.h"
#include "base/text.h"
#include "tensor/group_codes.h"
#include "tensor/half.h"

namespace winnow {
namespace {

constexpr int64_t kPieceWeights = 1 << 16;

std::array<float, 256> E4m3Numbers() {
  std::array<float, 256> numbers;
  for (int code = 0; code < 256; ++code) numbers[code] = E4m3ToFloat(static_cast<uint8_t>(code));
  return numbers;
}

void ReadFp8Row(const StoredMatrix& matrix, int64_t row, float* out) {
  static const std::array<float, 256> kNumbers = E4m3Numbers();
  constexpr int64_t kBlock = ScaledView::kBlock;
  const int64_t columns = matrix.columns();
  const int64_t blocks = (columns + kBlock - 1) / kBlock;
  const uint8_t* codes = matrix.value->data + row * columns;
  for (int64_t block = 0; block < blocks; ++block) {
    const float scale = ElementAsFloat(*matrix.scale, row / kBlock * blocks + block);
    const int64_t end = std::min(columns, (block + 1) * kBlock);
    for (int64_t c = block * kBlock; c < end; ++c) out[c] = kNumbers[codes[c]] * scale;
  }
}

void ReadRow(const StoredMatrix& matrix, int64_t row, float* out) {
  if (matrix.scale != nullptr) return ReadFp8Row(matrix, row, out);
  const int64_t columns = matrix.columns();
  for (int64_t c = 0; c < columns; ++c) out[c] = ElementAsFloat(*matrix.value, row * columns + c);
}

}  // namespace

int64_t CodeBytes(WeightType type, int64_t columns) {
  return type == WeightType::kInt4 ? Int4RowBytes(columns) : columns;
}

float ElementAsFloat(const StoredTensor& tensor, int64_t index) {
  if (tensor.dtype == DType::kF32) {
    float value;
    std::memcpy(&value, tensor.data + 4 * index, sizeof(value));
    return value;
  }
  uint16_t bits;
  std::memcpy(&bits, tensor.data + 2 * index, sizeof(bits));
  return tensor.dtype == DType::kBF16 ? Bf16ToFloat(bits) : F16ToFloat(bits);
}

Status QuantizeRows(const StoredMatrix& matrix, WeightType type, int64_t first, int64_t count,
                    uint8_t* codes, uint16_t* scales, ThreadPool& pool) {
  WINNOW_CHECK(type != WeightType::kStored, "nothing to quantize to");
  const int64_t columns = matrix.columns();
  const int64_t piece_rows = std::max<int64_t>(kPieceWeights / columns, 1);
  const auto quantize = type == WeightType::kInt8 ? QuantizeInt8 : QuantizeInt4;
  std::atomic<bool> finite{true};
  pool.ParallelFor((count + piece_rows - 1) / piece_rows, [&](int64_t piece, int) {
    std::vector<float> row(static_cast<size_t>(columns));
    const int64_t end = std::min(count, (piece + 1) * piece_rows);
    for (int64_t r = piece * piece_rows; r < end && finite; ++r) {
      ReadRow(matrix, first + r, row.data());
      if (!quantize(row.data(), columns, codes + r * CodeBytes(type, columns),
                    scales + r * NumCodeGroups(columns))) {
        finite = false;
      }
    }
  });
  if (finite) return OkStatus();
  return Unsupported(
      fmt::format("{}: tensor {} has a weight that is no finite number, expected "
                  "finite ones to make {} of them",
                  matrix.value->file, Quoted(matrix.name), Name(type)));
}

}  // namespace winnow
