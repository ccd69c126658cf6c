// Attention over chosen cache rows on Hopper's tensor cores, part 3 of DSA, for C = 512 and R = 64.
//
// A cluster of 2, 4 or 8 blocks takes a token and 64 of its heads. Tiles of 64 rows, counted along
// the token's list, go to its blocks in turn: a block scores its tiles, hands weights and columns
// round, and sums a share of the columns of the result over all tiles.
//
// The list is cut into chunks of 2,048 rows, or eight longer ones where it has more than 16,384.
// Each is summed by itself, and the sums are added in the order of the list. Few tokens' chunks go
// to clusters side by side, and a second kernel adds them up; otherwise one cluster takes them one
// after the other. Few tokens of one chunk each go two_step_attention_sm90.cu's way, spread over
// the whole machine. Whatever is done by whom, each number is made by the same operations in the
// same order, so tokens can be spread to fill the machine without changing a bit.
//
// Numerics  bf16 products, f32 sums on tensor cores; weights 2^(score * log2 e - m), rounded to
//           bf16, m the multiple of 64 next to the largest of sixteen exponents; both products and
//           the sum of the weights take the rounded ones. Joining tiles, and chunks, multiplies by
//           powers of two. Infinite scores and NaN as in the definition; so finite ones of 1.4
//           million, where m ends, and more: -infinity below, and NaN above.
// Empty     a token without rows gets zeros.
// Cost      per token reads K rows once for each 64 heads; 2 * H * (2C + R) operations a row.
// Memory    280 KiB for each 64 heads of a token, at most 8.75 MiB; where a token may read more
// than
//           2,048 rows, 144 KiB for each chunk of them, at most 72 MiB.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace winnow::cuda {

// Whether rows are of that kind.
constexpr bool IsRowAttentionShape(int64_t latent_dim, int64_t rope_dim) {
  return latent_dim == 512 && rope_dim == 64;
}

enum class RowForm { kBf16, kFp8 };  // 1,152 and 656 bytes

struct RowAttentionArgs {
  RowForm form = RowForm::kBf16;
  const void* q = nullptr;  // [T, H, 576] bf16, aligned to 16 bytes
  int64_t num_tokens = 0;
  int num_heads = 0;              // H
  const uint8_t* rows = nullptr;  // [N, row bytes], aligned to 16 bytes
  // The rows of a token: slots [T, width] and counts [T], or where slots is null every row of its
  // sequence up to its position.
  const int32_t* slots = nullptr;
  const int32_t* counts = nullptr;
  int64_t width = 0;
  const int32_t* positions = nullptr;   // [T]
  const int32_t* sequences = nullptr;   // [T]
  const int32_t* page_table = nullptr;  // [B, page_table_stride], pages of 64
  int64_t page_table_stride = 0;
  float softmax_scale = 0;  // above 0
  void* out = nullptr;      // [T, H, 512] f32, or bf16
  bool out_bf16 = false;
  bool round_out = false;        // f32 out, rounded to bfloat16
  void* partial_sums = nullptr;  // RowAttentionBytes, aligned to 16 bytes
};

// Bytes of working memory for up to so many tokens of up to so many rows each: the width of their
// lists, or what the pages of a row of the table hold.
int64_t RowAttentionBytes(int64_t num_tokens, int num_heads, int64_t most_rows);

cudaError_t RowAttention(const RowAttentionArgs& args, cudaStream_t stream);

}  // namespace winnow::cuda
