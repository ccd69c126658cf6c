#include "winnow/types.h"

#include <array>
#include <utility>

namespace winnow {
namespace {

template <typename T, size_t N>
using Names = std::array<std::pair<T, const char*>, N>;

constexpr Names<Precision, 2> kPrecisions = {
    {{Precision::kF32, "f32"}, {Precision::kBf16, "bf16"}}};
constexpr Names<WeightType, 3> kWeightTypes = {
    {{WeightType::kStored, "stored"}, {WeightType::kInt8, "int8"}, {WeightType::kInt4, "int4"}}};
constexpr Names<LatentType, 3> kLatentTypes = {
    {{LatentType::kF32, "f32"}, {LatentType::kBf16, "bf16"}, {LatentType::kFp8, "fp8"}}};
constexpr Names<IndexKeyType, 4> kIndexKeyTypes = {{{IndexKeyType::kF32, "f32"},
                                                    {IndexKeyType::kBf16, "bf16"},
                                                    {IndexKeyType::kE4m3, "e4m3"},
                                                    {IndexKeyType::kInt8, "int8"}}};
constexpr Names<AttentionMode, 2> kAttentionModes = {
    {{AttentionMode::kSparse, "sparse"}, {AttentionMode::kDense, "dense"}}};

template <typename T, size_t N>
const char* Find(const Names<T, N>& names, T value) {
  for (const auto& [candidate, name] : names) {
    if (candidate == value) return name;
  }
  return "unknown";
}

template <typename T, size_t N>
std::optional<T> Parse(const Names<T, N>& names, std::string_view text) {
  for (const auto& [value, name] : names) {
    if (text == name) return value;
  }
  return std::nullopt;
}

}  // namespace

const char* Name(Precision value) { return Find(kPrecisions, value); }
const char* Name(WeightType value) { return Find(kWeightTypes, value); }
const char* Name(LatentType value) { return Find(kLatentTypes, value); }
const char* Name(IndexKeyType value) { return Find(kIndexKeyTypes, value); }
const char* Name(AttentionMode value) { return Find(kAttentionModes, value); }
std::optional<Precision> ParsePrecision(std::string_view name) { return Parse(kPrecisions, name); }
std::optional<WeightType> ParseWeightType(std::string_view name) {
  return Parse(kWeightTypes, name);
}
std::optional<LatentType> ParseLatentType(std::string_view name) {
  return Parse(kLatentTypes, name);
}
std::optional<IndexKeyType> ParseIndexKeyType(std::string_view name) {
  return Parse(kIndexKeyTypes, name);
}
std::optional<AttentionMode> ParseAttentionMode(std::string_view name) {
  return Parse(kAttentionModes, name);
}

}  // namespace winnow
