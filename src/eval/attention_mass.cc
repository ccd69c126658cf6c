#include "eval/attention_mass.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

#include "base/check.h"
#include "tensor/half.h"

namespace winnow::eval {
namespace {

constexpr int64_t kLanes = 16;
constexpr int64_t kTileRows = 32;     // read once from memory for all queries and heads
constexpr int64_t kScaleBlock = 128;  // values of an FP8 row that share a scale

void DecodeBf16(const uint8_t* bytes, int64_t count, float* out) {
  for (int64_t k = 0; k < count; ++k) {
    uint16_t bits;
    std::memcpy(&bits, bytes + 2 * k, sizeof(bits));
    out[k] = Bf16ToFloat(bits);
  }
}

// Adds the softmax of `scores` to `mass`, times `weight`; scores are spent.
void AddSoftmax(std::span<float> scores, float weight, std::vector<float>& mass) {
  const float largest = *std::max_element(scores.begin(), scores.end());
  double sum = 0;
  for (float& score : scores) {
    score = std::exp(score - largest);
    sum += score;
  }
  const float factor = static_cast<float>(weight / sum);
  for (size_t s = 0; s < scores.size(); ++s) mass[s] += scores[s] * factor;
}

}  // namespace

float Dot(const float* a, const float* b, int64_t size) {
  float lanes[kLanes] = {};
  int64_t k = 0;
  for (; k + kLanes <= size; k += kLanes) {
    for (int64_t lane = 0; lane < kLanes; ++lane) lanes[lane] += a[k + lane] * b[k + lane];
  }
  for (; k < size; ++k) lanes[0] += a[k] * b[k];
  float sum = 0;
  for (const float lane : lanes) sum += lane;
  return sum;
}

void DecodeLatentRow(const LatentCacheView& cache, int64_t slot, float* out) {
  const uint8_t* row = cache.rows.As<uint8_t>() + slot * cache.row_bytes;
  const int64_t C = cache.latent_dim;
  const int64_t R = cache.rope_dim;
  switch (cache.type) {
    case LatentType::kF32:
      std::memcpy(out, row, static_cast<size_t>(C + R) * sizeof(float));
      return;
    case LatentType::kBf16:
      DecodeBf16(row, C + R, out);
      return;
    case LatentType::kFp8:
      for (int64_t k = 0; k < C; ++k) {
        float scale;
        std::memcpy(&scale, row + C + k / kScaleBlock * 4, sizeof(scale));
        out[k] = E4m3ToFloat(row[k]) * scale;
      }
      DecodeBf16(row + cache.row_bytes - 2 * R, R, out + C);
      return;
  }
}

int64_t SlotOf(const BatchView& batch, int64_t position) {
  const int64_t page = batch.page_table.As<int32_t>()[position / batch.page_size];
  return page * batch.page_size + position % batch.page_size;
}

void AttentionMass(const MassArgs& args) {
  const size_t count = args.queries.size();
  args.scores->resize(count);
  args.mass->resize(count);
  int64_t longest = 0;
  for (size_t i = 0; i < count; ++i) {
    (*args.scores)[i].resize(static_cast<size_t>(args.num_heads * args.contexts[i]));
    longest = std::max(longest, args.contexts[i]);
  }
  for (int64_t tile = 0; tile < longest; tile += kTileRows) {
    for (size_t i = 0; i < count; ++i) {
      const int64_t end = std::min(tile + kTileRows, args.contexts[i]);
      for (int64_t head = 0; head < args.num_heads; ++head) {
        const float* q = args.queries[i] + head * args.dim;
        float* scores = (*args.scores)[i].data() + head * args.contexts[i];
        for (int64_t s = tile; s < end; ++s) {
          scores[s] = args.softmax_scale * Dot(q, args.rows + s * args.dim, args.dim);
        }
      }
    }
  }
  for (size_t i = 0; i < count; ++i) {
    const size_t context = static_cast<size_t>(args.contexts[i]);
    (*args.mass)[i].assign(context, 0.0f);
    for (int64_t head = 0; head < args.num_heads; ++head) {
      AddSoftmax({(*args.scores)[i].data() + static_cast<size_t>(head) * context, context},
                 1.0f / static_cast<float>(args.num_heads), (*args.mass)[i]);
    }
  }
}

std::vector<int32_t> LargestMass(std::span<const float> mass, int64_t count) {
  std::vector<int32_t> positions(mass.size());
  std::iota(positions.begin(), positions.end(), 0);
  if (count >= static_cast<int64_t>(mass.size())) return positions;
  std::nth_element(positions.begin(), positions.begin() + count, positions.end(),
                   [&](int32_t a, int32_t b) {
                     const float left = mass[static_cast<size_t>(a)];
                     const float right = mass[static_cast<size_t>(b)];
                     return left != right ? left > right : a < b;
                   });
  positions.resize(static_cast<size_t>(count));
  std::sort(positions.begin(), positions.end());
  return positions;
}

}  // namespace winnow::eval
