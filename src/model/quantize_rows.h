// Stored matrices quantized: rows read as floats, and their codes (tensor/group_codes.h).
#pragma once

#include <cstdint>
#include <string>

#include "base/thread_pool.h"
#include "model/safetensors.h"
#include "winnow/types.h"

namespace winnow {

// A matrix in its file, checked: F32, BF16, F16, or F8_E4M3 with the scales of its blocks.
struct StoredMatrix {
  std::string name;
  const StoredTensor* value = nullptr;
  const StoredTensor* scale = nullptr;  // of F8_E4M3, F32, BF16 or F16; else none

  int64_t rows() const { return value->shape[0]; }
  int64_t columns() const { return value->shape[1]; }
};

// Bytes of the codes of a row, for kInt8 or kInt4.
int64_t CodeBytes(WeightType type, int64_t columns);

// Element `index` of an F32, BF16 or F16 tensor, wherever its data lies.
float ElementAsFloat(const StoredTensor& tensor, int64_t index);

// Rows [first, first + count): `codes` [count, CodeBytes], `scales` [count, NumCodeGroups].
// kUnsupported, naming file and tensor, where a weight is no finite number.
Status QuantizeRows(const StoredMatrix& matrix, WeightType type, int64_t first, int64_t count,
                    uint8_t* codes, uint16_t* scales, ThreadPool& pool);

}  // namespace winnow
