// What the tests of CPU operations share: random tensors, backends of every kind that must agree,
// and matrices read the plain way.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "cpu/cpu_backend.h"
#include "tensor/half.h"
#include "unit/cpu/other_backend.h"
#include "unit/cpu/sums.h"

namespace winnow::cpu {

// Numbers in [-1, 1] that depend on the seed alone.
inline std::vector<float> RandomFloats(int64_t count, uint32_t seed) {
  std::mt19937 bits(seed);
  std::vector<float> values(count);
  for (float& value : values) value = static_cast<float>(static_cast<int32_t>(bits())) * 0x1p-31f;
  return values;
}
inline std::vector<float> RoundedToBf16(std::vector<float> values) {
  for (float& value : values) value = RoundToBf16(value);
  return values;
}

inline TensorView ViewOf(const std::vector<float>& values, Dims dims) {
  EXPECT_EQ(static_cast<int64_t>(values.size()), dims.count());
  return TensorView(values.data(), DType::kF32, dims);
}
inline TensorView ViewOf(const std::vector<int32_t>& values, Dims dims) {
  EXPECT_EQ(static_cast<int64_t>(values.size()), dims.count());
  return TensorView(values.data(), DType::kI32, dims);
}

inline bool SameBits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

enum class Scales { kNone, kPowersOfTwo, kArbitrary, kHuge, kGroups };

// A stored matrix of random weights.
class Matrix {
 public:
  Matrix() = default;
  Matrix(DType type, int64_t rows, int64_t columns, uint32_t seed, Scales scales = Scales::kNone)
      : type_(type), rows_(rows), columns_(columns), bytes_(rows * RowBytes()) {
    const std::vector<float> values = RandomFloats(rows * columns, seed);
    if (type == DType::kU8) {
      // What fills up the last run of a row is anything: it must not count.
      for (uint8_t& byte : bytes_) byte = static_cast<uint8_t>(seed * 37 + (&byte - &bytes_[0]));
    }
    for (int64_t i = 0; i < rows * columns; ++i) Put(i, values[i]);
    if (scales == Scales::kNone) return;
    if (scales == Scales::kGroups) {
      for (const float scale : RandomFloats(rows * Groups(), seed + 1)) {
        group_scales_.push_back(FloatToBf16(scale / 7));
      }
      return;
    }
    scales_ = RandomFloats(Blocks(rows) * Blocks(columns), seed + 1);
    for (float& scale : scales_) {
      scale = std::fabs(scale) + 0.01f;
      if (scales == Scales::kPowersOfTwo) scale = RoundUpToPowerOfTwo(scale);
      if (scales == Scales::kHuge) scale *= 0x1p110f;
    }
  }

  ScaledView view() const {
    ScaledView view;
    view.value = TensorView(bytes_.data(), type_, {rows_, RowBytes() / SizeOf(type_)});
    if (!group_scales_.empty()) {
      view.scale = TensorView(group_scales_.data(), DType::kBF16, {rows_, Groups()});
      if (type_ == DType::kU8) view.int4_columns = columns_;
    }
    if (!scales_.empty()) {
      view.scale = TensorView(scales_.data(), DType::kF32, {Blocks(rows_), Blocks(columns_)});
    }
    return view;
  }
  // What the element stands for, in the precision.
  float At(int64_t row, int64_t column, bool round) const {
    const int64_t i = row * columns_ + column;
    float value = 0;
    uint16_t half = 0;
    if (type_ == DType::kF32) {
      std::memcpy(&value, &bytes_[4 * i], 4);
    } else if (type_ == DType::kF8E4M3) {
      value = E4m3ToFloat(bytes_[i]);
    } else if (type_ == DType::kI8) {
      value = static_cast<int8_t>(bytes_[i]);
    } else if (type_ == DType::kU8) {
      const uint8_t byte = bytes_[Int4Byte(row, column)];
      value = static_cast<float>((column % 64 < 32 ? byte & 15 : byte >> 4) - 8);
    } else {
      std::memcpy(&half, &bytes_[2 * i], 2);
      value = type_ == DType::kBF16 ? Bf16ToFloat(half) : F16ToFloat(half);
    }
    if (!group_scales_.empty()) {
      value *= Bf16ToFloat(group_scales_[row * Groups() + column / 32]);
    }
    if (!scales_.empty()) value *= scales_[row / 128 * Blocks(columns_) + column / 128];
    return round ? RoundToBf16(value) : value;
  }
  int64_t rows() const { return rows_; }
  int64_t columns() const { return columns_; }

 private:
  static int64_t Blocks(int64_t extent) { return (extent + 127) / 128; }
  int64_t Groups() const { return (columns_ + 31) / 32; }
  int64_t RowBytes() const {
    return type_ == DType::kU8 ? (columns_ + 63) / 64 * 32 : columns_ * SizeOf(type_);
  }
  // Where the code of four bits lies.
  int64_t Int4Byte(int64_t row, int64_t column) const {
    return row * RowBytes() + column / 64 * 32 + column % 32;
  }
  void Put(int64_t i, float value) {
    if (type_ == DType::kF32) {
      std::memcpy(&bytes_[4 * i], &value, 4);
    } else if (type_ == DType::kF8E4M3) {
      bytes_[i] = FloatToE4m3(value * 400);
    } else if (type_ == DType::kI8) {
      bytes_[i] = static_cast<uint8_t>(static_cast<int8_t>(std::lround(value * 127)));
    } else if (type_ == DType::kU8) {
      const int code = std::min(static_cast<int>((value + 1) * 8), 15);
      const int64_t column = i % columns_;
      uint8_t& byte = bytes_[Int4Byte(i / columns_, column)];
      byte =
          static_cast<uint8_t>(column % 64 < 32 ? (byte & 0xf0) | code : (byte & 15) | code << 4);
    } else if (type_ == DType::kBF16) {
      const uint16_t bits = FloatToBf16(value);
      std::memcpy(&bytes_[2 * i], &bits, 2);
    } else {
      // Any finite half: sign, an exponent below 1, mantissa.
      uint32_t bits;
      std::memcpy(&bits, &value, 4);
      const uint16_t half = static_cast<uint16_t>((bits >> 16 & 0x8000) | (bits >> 7 & 0x3bff));
      std::memcpy(&bytes_[2 * i], &half, 2);
    }
  }

  DType type_ = DType::kF32;
  int64_t rows_ = 0;
  int64_t columns_ = 0;
  std::vector<uint8_t> bytes_;
  std::vector<float> scales_;
  std::vector<uint16_t> group_scales_;
};

// Every kind of stored matrix.
struct Storage {
  DType type;
  Scales scales;
};
inline constexpr Storage kStorages[] = {
    {DType::kF32, Scales::kNone},           {DType::kBF16, Scales::kNone},
    {DType::kF16, Scales::kNone},           {DType::kF8E4M3, Scales::kNone},
    {DType::kF8E4M3, Scales::kPowersOfTwo}, {DType::kF8E4M3, Scales::kArbitrary},
    {DType::kI8, Scales::kGroups},          {DType::kU8, Scales::kGroups},
};

// Whether a backend multiplies with weights of such scales.
inline bool Reads(const Backend& backend, Scales scales) {
  return scales != Scales::kGroups || backend.reads_group_codes();
}

inline std::vector<InstructionSet> SupportedSets() {
  std::vector<InstructionSet> sets;
  for (const InstructionSet set : kInstructionSets) {
    if (IsSupported(set)) sets.push_back(set);
  }
  return sets;
}

// Backends that must give equal bits: every instruction set of this machine with this order, its
// best with 1, 2 and 3 threads, and the other device, if there is one that reads weights like
// these. None where the machine has no such set.
inline std::vector<std::unique_ptr<Backend>> EqualBackends(Sums sums,
                                                           Scales scales = Scales::kNone) {
  const std::vector<InstructionSet> sets = SetsWith(sums);
  std::vector<std::unique_ptr<Backend>> backends;
  for (const InstructionSet set : sets) {
    for (int threads : {1, 2, 3}) {
      if (threads != 1 && set != sets.back()) continue;
      backends.push_back(CreateCpuBackend(
          {.num_threads = threads, .precision = PrecisionOf(sums), .instruction_set = set}));
    }
  }
  if (sums == Sums::kTiles) return backends;
  auto other = MakeOtherBackend(PrecisionOf(sums));
  if (other && Reads(*other, scales)) backends.push_back(std::move(other));
  return backends;
}

}  // namespace winnow::cpu
