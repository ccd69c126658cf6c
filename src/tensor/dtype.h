// The element types of tensors.
#pragma once

#include <cstdint>
#include <string_view>

namespace winnow {

enum class DType { kF32, kBF16, kF16, kF8E4M3, kI8, kU8, kI32, kI64 };

// Bytes of one element.
int64_t SizeOf(DType dtype);

// As safetensors spells it: "F32", "BF16", "F16", "F8_E4M3", "I8", "U8", "I32", "I64".
const char* DTypeName(DType dtype);

// The reverse; false when Winnow has no such type.
bool DTypeFromName(std::string_view name, DType* dtype);

}  // namespace winnow
