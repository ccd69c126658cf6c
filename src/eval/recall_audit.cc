#include <algorithm>
#include <random>

#include "base/check.h"
#include "eval/recall.h"

namespace winnow::eval {
namespace {

constexpr int64_t kMaxQueries = 64;  // of one step that are selected for at a time

// What SelectTokens of a few queries and WriteIndexKeys of a chunk take, with their views.
int64_t ScratchBytes(const ModelConfig& config, int64_t chunk, int64_t width) {
  const auto tensor = [](int64_t elements) { return Workspace::Padded(elements * 4); };
  const int64_t I = config.index_n_heads;
  const int64_t J = config.index_head_dim;
  const int64_t select = tensor(kMaxQueries * config.hidden_size) +
                         tensor(kMaxQueries * config.q_lora_rank) + tensor(kMaxQueries * I * J) +
                         tensor(kMaxQueries * I) + 2 * tensor(kMaxQueries * width) +
                         3 * tensor(kMaxQueries);
  return std::max(tensor(chunk * J), select);
}

}  // namespace

void LayerRecall::Add(const LayerRecall& other) {
  queries += other.queries;
  oracle_mass += other.oracle_mass;
  for (size_t type = 0; type < kIndexKeyTypes.size(); ++type) {
    mass[type] += other.mass[type];
    overlap[type] += other.overlap[type];
  }
}

Result<std::unique_ptr<RecallAudit>> RecallAudit::Create(ModelRunner& runner,
                                                         std::vector<int32_t> positions,
                                                         int num_threads) {
  const ModelConfig& config = runner.config();
  std::unique_ptr<RecallAudit> audit(new RecallAudit(num_threads));
  audit->positions_ = std::move(positions);
  audit->layers_.resize(static_cast<size_t>(config.num_hidden_layers));
  audit->keys_.resize(audit->layers_.size());
  const int64_t pages = (runner.max_context() + kPageSize - 1) / kPageSize;
  for (size_t layer = 0; layer < audit->layers_.size(); ++layer) {
    if (config.indexer_types[layer] != IndexerType::kFull) continue;
    for (size_t type = 0; type < kIndexKeyTypes.size(); ++type) {
      IndexCacheView& view = audit->keys_[layer][type];
      view.type = kIndexKeyTypes[type];
      view.index_dim = config.index_head_dim;
      view.page_size = kPageSize;
      view.page_bytes = IndexPageBytes(view.type, view.index_dim, kPageSize);
      WINNOW_ASSIGN(DeviceMemory memory, runner.backend().Allocate(pages * view.page_bytes));
      view.pages = TensorView(memory.get(), DType::kU8, {pages, view.page_bytes});
      audit->memory_.push_back(std::move(memory));
    }
  }
  const int64_t width = std::min(config.index_topk, runner.max_context());
  const int64_t chunk = std::min(runner.chunk(), runner.max_context());
  WINNOW_ASSIGN(audit->workspace_,
                Workspace::Create(ScratchBytes(config, chunk, width), runner.backend()));
  return audit;
}

void RecallAudit::OnAttention(const Pass& pass, const AttentionState& state) {
  if (state.indexer != nullptr) StoreKeys(pass, state);
  const int32_t* positions = pass.batch.positions.As<int32_t>();
  std::vector<int32_t> tokens;
  for (int64_t token = 0; token < pass.num_tokens(); ++token) {
    if (std::binary_search(positions_.begin(), positions_.end(), positions[token])) {
      tokens.push_back(static_cast<int32_t>(token));
    }
  }
  if (tokens.empty()) return;
  if (state.indexer != nullptr) SelectAll(pass, state, tokens);
  Weigh(pass, state, tokens);
}

void RecallAudit::StoreKeys(const Pass& pass, const AttentionState& state) {
  for (const IndexCacheView& cache : keys_[static_cast<size_t>(state.layer)]) {
    Workspace::Scope scope(workspace_);
    Pass own{pass.ops,   pass.config, workspace_,      pass.cache,
             pass.batch, pass.rope,   pass.index_rope, pass.softmax_scale};
    WriteIndexKeys(own, *state.indexer, cache, state.x);
  }
}

// Selects for the queries among the step's tokens, as the layer would with each form of the keys.
void RecallAudit::SelectAll(const Pass& pass, const AttentionState& state,
                            std::span<const int32_t> tokens) {
  const int64_t width =
      std::min(pass.config.index_topk, pass.batch.page_table.dims[1] * pass.batch.page_size);
  for (size_t type = 0; type < kIndexKeyTypes.size(); ++type) {
    selected_[type].clear();
    for (size_t first = 0; first < tokens.size(); first += kMaxQueries) {
      const std::span<const int32_t> some =
          tokens.subspan(first, std::min<size_t>(kMaxQueries, tokens.size() - first));
      const int64_t n = static_cast<int64_t>(some.size());
      Workspace::Scope scope(workspace_);
      Pass own{pass.ops,   pass.config, workspace_,      pass.cache,
               pass.batch, pass.rope,   pass.index_rope, pass.softmax_scale};
      own.num_scored = n;
      own.batch.positions = workspace_.New(DType::kI32, {n});
      own.batch.sequences = workspace_.New(DType::kI32, {n});
      own.selection.counts = workspace_.New(DType::kI32, {n});
      own.selection.positions = workspace_.New(DType::kI32, {n, width});
      own.selection.slots = workspace_.New(DType::kI32, {n, width});
      const TensorView x = own.New({n, state.x.dims[1]});
      const TensorView q_latent = own.New({n, state.q_latent.dims[1]});
      for (int64_t i = 0; i < n; ++i) {
        const int32_t token = some[static_cast<size_t>(i)];
        own.batch.positions.As<int32_t>()[i] = pass.batch.positions.As<int32_t>()[token];
        own.batch.sequences.As<int32_t>()[i] = 0;
        pass.ops.Copy(x.Rows(i, 1).data, state.x.Rows(token, 1).data, x.Rows(i, 1).bytes());
        pass.ops.Copy(q_latent.Rows(i, 1).data, state.q_latent.Rows(token, 1).data,
                      q_latent.Rows(i, 1).bytes());
      }
      SelectTokens(own, *state.indexer, keys_[static_cast<size_t>(state.layer)][type], x, q_latent);
      for (int64_t i = 0; i < n; ++i) {
        const int32_t* row = own.selection.positions.Rows(i, 1).As<int32_t>();
        selected_[type].emplace_back(row, row + own.selection.counts.As<int32_t>()[i]);
      }
    }
  }
}

void RecallAudit::Weigh(const Pass& pass, const AttentionState& state,
                        std::span<const int32_t> tokens) {
  const int64_t topk = pass.config.index_topk;
  std::vector<LayerRecall> found(tokens.size());
  mass_.ForEach(pass, state, tokens, [&](size_t query, std::span<const float> mass) {
    const auto kept = [&](const std::vector<int32_t>& selection) {
      double sum = 0;
      for (const int32_t position : selection) sum += mass[static_cast<size_t>(position)];
      return sum;
    };
    LayerRecall& recall = found[query];
    const std::vector<int32_t> oracle = LargestMass(mass, topk);
    recall.queries = 1;
    recall.oracle_mass = kept(oracle);
    for (size_t type = 0; type < kIndexKeyTypes.size(); ++type) {
      const std::vector<int32_t>& selection = selected_[type][query];
      std::vector<int32_t> both;
      std::set_intersection(selection.begin(), selection.end(), oracle.begin(), oracle.end(),
                            std::back_inserter(both));
      recall.mass[type] = kept(selection);
      recall.overlap[type] = static_cast<double>(both.size()) / static_cast<double>(topk);
    }
  });
  for (const LayerRecall& recall : found) layers_[static_cast<size_t>(state.layer)].Add(recall);
}

std::vector<int32_t> SamplePositions(int64_t first, int64_t end, int64_t count, uint64_t seed) {
  std::vector<int32_t> chosen;
  std::mt19937_64 random(seed);
  // Each position is taken with the probability that leaves exactly `count` in the end.
  for (int64_t position = first; position < end; ++position) {
    const uint64_t left = static_cast<uint64_t>(end - position);
    const uint64_t wanted = static_cast<uint64_t>(count) - chosen.size();
    if (random() % left < wanted) chosen.push_back(static_cast<int32_t>(position));
  }
  return chosen;
}

}  // namespace winnow::eval
