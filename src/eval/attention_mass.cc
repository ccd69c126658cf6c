#include "eval/attention_mass.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

#include "tensor/half.h"

namespace winnow::eval {
namespace {

constexpr int64_t kLanes = 16;
constexpr int64_t kTileRows = 32;     // read once from memory for all queries and heads
constexpr int64_t kTogether = 8;      // queries that share the rows they read
constexpr int64_t kScaleBlock = 128;  // values of an FP8 row that share a scale

void DecodeBf16(const uint8_t* bytes, int64_t count, float* out) {
  for (int64_t k = 0; k < count; ++k) {
    uint16_t bits;
    std::memcpy(&bits, bytes + 2 * k, sizeof(bits));
    out[k] = Bf16ToFloat(bits);
  }
}

struct Query {
  const float* q;             // [H, dim]
  int64_t context;            // rows it sees
  std::vector<float> scores;  // [H, context]
};

// Fills in the scores of all heads; each of the `rows` is read from memory once for all queries.
void ScoreRows(std::vector<Query>& queries, int64_t num_heads, int64_t dim, float scale,
               const float* rows) {
  for (Query& query : queries) query.scores.resize(static_cast<size_t>(num_heads * query.context));
  const int64_t longest = queries.back().context;
  for (int64_t tile = 0; tile < longest; tile += kTileRows) {
    for (Query& query : queries) {
      const int64_t end = std::min(tile + kTileRows, query.context);
      for (int64_t head = 0; head < num_heads; ++head) {
        const float* q = query.q + head * dim;
        float* scores = query.scores.data() + head * query.context;
        for (int64_t s = tile; s < end; ++s) scores[s] = scale * Dot(q, rows + s * dim, dim);
      }
    }
  }
}

// The mean over heads of the softmax of their scores, which are spent.
std::vector<float> MeanSoftmax(Query& query, int64_t num_heads) {
  const size_t context = static_cast<size_t>(query.context);
  std::vector<float> mass(context, 0.0f);
  for (int64_t head = 0; head < num_heads; ++head) {
    const std::span<float> scores(query.scores.data() + head * query.context, context);
    const float largest = *std::max_element(scores.begin(), scores.end());
    double sum = 0;
    for (float& score : scores) {
      score = std::exp(score - largest);
      sum += score;
    }
    const float factor = static_cast<float>(1.0f / static_cast<float>(num_heads) / sum);
    for (size_t s = 0; s < context; ++s) mass[s] += scores[s] * factor;
  }
  return mass;
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

void AttentionMass::ForEach(const Pass& pass, const AttentionState& state,
                            std::span<const int32_t> tokens,
                            const std::function<void(size_t, std::span<const float>)>& body) {
  const int32_t* positions = pass.batch.positions.As<int32_t>();
  const int64_t dim = state.latent.latent_dim + state.latent.rope_dim;
  const int64_t longest = int64_t{positions[tokens.back()]} + 1;
  rows_.resize(static_cast<size_t>(longest * dim));
  pool_.ParallelFor(longest, [&](int64_t position, int) {
    DecodeLatentRow(state.latent, SlotOf(pass.batch, position), rows_.data() + position * dim);
  });
  // Few tokens are spread over the threads, many are grouped.
  const int64_t count = static_cast<int64_t>(tokens.size());
  const int64_t threads = pool_.num_threads();
  const int64_t together = std::min(kTogether, (count + threads - 1) / threads);
  pool_.ParallelFor((count + together - 1) / together, [&](int64_t piece, int) {
    const int64_t first = piece * together;
    std::vector<Query> queries;
    for (int64_t i = first; i < std::min(count, first + together); ++i) {
      const int32_t token = tokens[static_cast<size_t>(i)];
      queries.push_back({state.q.Rows(token, 1).As<float>(), int64_t{positions[token]} + 1, {}});
    }
    ScoreRows(queries, state.q.dims[1], dim, pass.softmax_scale, rows_.data());
    for (size_t i = 0; i < queries.size(); ++i) {
      body(static_cast<size_t>(first) + i, MeanSoftmax(queries[i], state.q.dims[1]));
    }
  });
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
