// Runs of the small models of tests/golden, watched from inside.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <string>
#include <vector>

#include "engine/model_runner.h"
#include "eval/attention_mass.h"

namespace winnow::eval {

inline std::unique_ptr<ModelRunner> LoadSmall(const std::string& name, EngineOptions options,
                                              int64_t chunk) {
  options.model_dir = std::string(WINNOW_SOURCE_DIR) + "/tests/golden/" + name;
  options.max_context = 256;
  options.num_threads = 2;
  options.chunk = chunk;
  return ModelRunner::Load(options).value();
}

inline std::vector<int32_t> SomeTokens(int64_t count) {
  std::vector<int32_t> tokens;
  uint32_t state = 99;
  for (int64_t token = 0; token < count; ++token) {
    state = state * 1664525u + 1013904223u;
    tokens.push_back(static_cast<int32_t>((state >> 8) % 90));
  }
  return tokens;
}

// Every logit, from an empty cache.
inline std::vector<float> RunAll(ModelRunner& runner, const std::vector<int32_t>& tokens,
                                 StepObserver* observer, SelectionPolicy* policy = nullptr) {
  const size_t vocab = static_cast<size_t>(runner.config().vocab_size);
  std::vector<float> logits(tokens.size() * vocab);
  runner.Clear();
  const size_t chunk = static_cast<size_t>(runner.chunk());
  for (size_t first = 0; first < tokens.size(); first += chunk) {
    const size_t count = std::min(chunk, tokens.size() - first);
    const auto counts = runner.Step(std::span(tokens).subspan(first, count), LogitRows::kAll,
                                    logits.data() + first * vocab, observer, policy);
    EXPECT_TRUE(counts.ok());
  }
  return logits;
}

// What each layer selected, and the true attention of each token in doubles, straight from the
// definition and a cache of f32 rows.
class Recorder : public StepObserver {
 public:
  using Places = std::map<std::pair<int64_t, int64_t>, std::vector<int32_t>>;  // layer, position
  using Masses = std::map<std::pair<int64_t, int64_t>, std::vector<double>>;

  void OnAttention(const Pass& pass, const AttentionState& state) override {
    const int64_t heads = state.q.dims[1];
    const int64_t dim = state.q.dims[2];
    for (int64_t token = 0; token < pass.num_tokens(); ++token) {
      const int64_t position = pass.batch.positions.As<int32_t>()[token];
      std::vector<double>& mean = mass[{state.layer, position}];
      mean.assign(static_cast<size_t>(position) + 1, 0.0);
      for (int64_t head = 0; head < heads; ++head) {
        std::vector<double> weights;
        double total = 0;
        for (int64_t s = 0; s <= position; ++s) {
          const int64_t page = pass.batch.page_table.As<int32_t>()[s / 64];
          const float* row = reinterpret_cast<const float*>(
              state.latent.rows.As<uint8_t>() + (page * 64 + s % 64) * state.latent.row_bytes);
          const float* q = state.q.As<float>() + (token * heads + head) * dim;
          double dot = 0;
          for (int64_t k = 0; k < dim; ++k) dot += static_cast<double>(q[k]) * row[k];
          weights.push_back(std::exp(dot * pass.softmax_scale));
          total += weights.back();
        }
        for (size_t s = 0; s < weights.size(); ++s) {
          mean[s] += weights[s] / total / static_cast<double>(heads);
        }
      }
    }
    positions_ = pass.batch.positions;
  }
  void OnSelection(int64_t layer, const SelectionView& selection) override {
    if (!selection.positions) return;
    for (int64_t token = 0; token < selection.positions.dims[0]; ++token) {
      const int32_t* row = selection.positions.Rows(token, 1).As<int32_t>();
      selected[{layer, positions_.As<int32_t>()[token]}].assign(
          row, row + selection.counts.As<int32_t>()[token]);
    }
  }
  void OnHidden(int64_t, const TensorView&) override {}

  Places selected;  // of layers with an indexer
  Masses mass;

 private:
  TensorView positions_;
};

// The `count` positions of the most mass, in plain terms.
inline std::vector<int32_t> Best(const std::vector<double>& mass, int64_t count) {
  std::vector<int32_t> order(mass.size());
  for (size_t s = 0; s < order.size(); ++s) order[s] = static_cast<int32_t>(s);
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
    return mass[static_cast<size_t>(a)] > mass[static_cast<size_t>(b)];
  });
  order.resize(static_cast<size_t>(std::min<int64_t>(count, static_cast<int64_t>(order.size()))));
  std::sort(order.begin(), order.end());
  return order;
}

}  // namespace winnow::eval
