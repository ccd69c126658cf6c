// What an indexer's selection keeps of dense attention.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/thread_pool.h"
#include "engine/model_runner.h"
#include "eval/attention_mass.h"
#include "model/workspace.h"

namespace winnow::eval {

inline constexpr std::array<IndexKeyType, 4> kIndexKeyTypes = {
    IndexKeyType::kF32, IndexKeyType::kBf16, IndexKeyType::kE4m3, IndexKeyType::kInt8};

// Sums over the audited queries of one layer.
struct LayerRecall {
  int64_t queries = 0;
  double oracle_mass = 0;  // of the index_topk positions with the most mass
  std::array<double, kIndexKeyTypes.size()> mass{};  // kept, for each form of the keys
  std::array<double, kIndexKeyTypes.size()>
      overlap{};  // with the oracle's positions, of index_topk

  void Add(const LayerRecall& other);
};

// Watches one sparse run, from an empty cache on. In each layer it takes the run's own state, forms
// index keys of every type beside the run's, selects with each, and weighs the selections by dense
// attention over the whole context.
class RecallAudit : public StepObserver {
 public:
  // `positions`: the queries, ascending, each with more context than index_topk. The run has at
  // most runner.max_context() tokens. kResourceExhausted where memory ends.
  static Result<std::unique_ptr<RecallAudit>> Create(ModelRunner& runner,
                                                     std::vector<int32_t> positions,
                                                     int num_threads);

  void OnAttention(const Pass& pass, const AttentionState& state) override;
  void OnSelection(int64_t, const SelectionView&) override {}
  void OnHidden(int64_t, const TensorView&) override {}

  const std::vector<LayerRecall>& layers() const { return layers_; }

 private:
  using Selections = std::vector<std::vector<int32_t>>;  // of the step's queries

  explicit RecallAudit(int num_threads) : pool_(num_threads) {}
  void StoreKeys(const Pass& pass, const AttentionState& state);
  void SelectAll(const Pass& pass, const AttentionState& state, std::span<const int32_t> tokens);
  void Weigh(const Pass& pass, const AttentionState& state, std::span<const int32_t> tokens);

  ThreadPool pool_;
  AttentionMass mass_{pool_};
  std::vector<int32_t> positions_;
  std::vector<LayerRecall> layers_;
  std::vector<std::array<IndexCacheView, kIndexKeyTypes.size()>> keys_;  // by layer
  std::vector<DeviceMemory> memory_;
  Workspace workspace_;
  std::array<Selections, kIndexKeyTypes.size()> selected_;  // of the last layer with an indexer
};

// `count` positions drawn from [first, end), ascending; all of them if there are fewer.
std::vector<int32_t> SamplePositions(int64_t first, int64_t end, int64_t count, uint64_t seed);

}  // namespace winnow::eval
