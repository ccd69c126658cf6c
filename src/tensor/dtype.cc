#include "tensor/dtype.h"

namespace winnow {
namespace {

struct Row {
  DType dtype;
  const char* name;
  int64_t size;
};

constexpr Row kRows[] = {{DType::kF32, "F32", 4}, {DType::kBF16, "BF16", 2},
                         {DType::kF16, "F16", 2}, {DType::kF8E4M3, "F8_E4M3", 1},
                         {DType::kI8, "I8", 1},   {DType::kU8, "U8", 1},
                         {DType::kI32, "I32", 4}, {DType::kI64, "I64", 8}};

}  // namespace

int64_t SizeOf(DType dtype) { return kRows[static_cast<int>(dtype)].size; }
const char* DTypeName(DType dtype) { return kRows[static_cast<int>(dtype)].name; }

bool DTypeFromName(std::string_view name, DType* dtype) {
  for (const Row& row : kRows) {
    if (name == row.name) {
      *dtype = row.dtype;
      return true;
    }
  }
  return false;
}

}  // namespace winnow
