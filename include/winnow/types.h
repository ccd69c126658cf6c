// What users of Winnow choose and say, as far as all layers share it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace winnow {

// What products of activations with weights read of both: floats, or the same rounded to bfloat16.
// Sums and everything between products are f32 in both, and so are the products that decide: the
// router's, the index weights' and the logits'.
enum class Precision { kF32, kBf16 };

// What a model's weights are held as. kStored: as their files have them. kInt8, kInt4: the matrices
// of its layers as integers of 8 or 4 bits with a scale for each 32 of a row, but for those that
// docs/weights.md names.
enum class WeightType { kStored, kInt8, kInt4 };

// How the latent rows of the KV cache are kept. kFp8 is FlashMLA's row: E4M3 codes with a
// power-of-two scale for each 128 of them, then bfloat16 rotary values (656 bytes in DeepSeek-V3.2
// and GLM-5).
enum class LatentType { kF32, kBf16, kFp8 };

// How index keys are kept in the cache. Queries are brought to the same form before they meet the
// keys.
//   kF32   as computed
//   kBf16  rounded to bfloat16
//   kE4m3  Hadamard-rotated, then E4M3 codes with one power-of-two scale a vector (the official
//   form) kInt8  Hadamard-rotated, then integers in [-127, 127] with one scale a vector. Their
//   products
//          and sums are exact integers below 2^24, so scores are equal on every machine
enum class IndexKeyType { kF32, kBf16, kE4m3, kInt8 };

// kSparse: DeepSeek Sparse Attention, as the model was trained. kDense: every token reads every
// earlier one, for comparison.
enum class AttentionMode { kSparse, kDense };

// Their names on the command line and in reports: "f32", "bf16", "stored", "int8", "int4", "fp8",
// "e4m3", "sparse", "dense".
const char* Name(Precision value);
const char* Name(WeightType value);
const char* Name(LatentType value);
const char* Name(IndexKeyType value);
const char* Name(AttentionMode value);
std::optional<Precision> ParsePrecision(std::string_view name);
std::optional<WeightType> ParseWeightType(std::string_view name);
std::optional<LatentType> ParseLatentType(std::string_view name);
std::optional<IndexKeyType> ParseIndexKeyType(std::string_view name);
std::optional<AttentionMode> ParseAttentionMode(std::string_view name);

// A call of a tool by an assistant. Formats match results to calls by order; ids are not rendered.
struct ToolCall {
  std::string id;
  std::string name;
  std::string arguments;  // the text of a JSON object
};

// A piece of a call of a tool. The first piece of a call carries its name; the arguments of all its
// pieces, joined, are the text of a JSON object.
struct ToolCallPiece {
  int64_t index = 0;  // of the call in the answer
  std::string name;
  std::string arguments;
};

}  // namespace winnow
