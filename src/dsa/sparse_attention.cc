// Sparse attention as it is defined: part 3 of DSA in plain loops with double sums.
#include "dsa/sparse_attention.h"

#include <algorithm>
#include <cmath>
#include <vector>

namespace winnow::dsa {
namespace {

// One head of one token: `out` [C] becomes the softmax-weighted mean of the latent parts of `rows`.
void Attend(const float* q, const std::vector<const float*>& rows, int64_t row_dim,
            double softmax_scale, float* out, int64_t latent_dim) {
  std::fill_n(out, latent_dim, 0.0f);
  if (rows.empty()) return;
  std::vector<double> weights;
  for (const float* row : rows) {
    double dot = 0;
    for (int64_t i = 0; i < row_dim; ++i) dot += static_cast<double>(q[i]) * row[i];
    weights.push_back(dot * softmax_scale);
  }
  const double max = *std::max_element(weights.begin(), weights.end());
  double total = 0;
  for (double& weight : weights) total += weight = std::exp(weight - max);
  for (int64_t i = 0; i < latent_dim; ++i) {
    double sum = 0;
    for (size_t row = 0; row < rows.size(); ++row) sum += weights[row] * rows[row][i];
    out[i] = static_cast<float>(sum / total);
  }
}

}  // namespace

void SparseAttentionReference(const SparseAttentionArgs& args) {
  const int64_t num_heads = args.q.dims[1];
  const int64_t row_dim = args.q.dims[2];
  const int64_t topk = args.slots.dims[1];
  const int64_t latent_dim = args.out.dims[2];
  for (int64_t token = 0; token < args.q.dims[0]; ++token) {
    std::vector<const float*> rows;
    const int32_t* slots = args.slots.As<int32_t>() + token * topk;
    for (int64_t i = 0; i < topk && slots[i] >= 0; ++i) {
      rows.push_back(args.kv.As<float>() + slots[i] * row_dim);
    }
    for (int64_t head = 0; head < num_heads; ++head) {
      const int64_t row = token * num_heads + head;
      Attend(args.q.As<float>() + row * row_dim, rows, row_dim, args.softmax_scale,
             args.out.As<float>() + row * latent_dim, latent_dim);
    }
  }
}

}  // namespace winnow::dsa
