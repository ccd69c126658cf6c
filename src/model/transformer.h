// The forward pass: a batch of tokens in, logits out. Written once, against Backend.
//
// attention.cc and ffn.cc hold the two halves of a layer.
#pragma once

#include <functional>
#include <vector>

#include "backend/backend.h"
#include "model/batch.h"
#include "model/kv_cache.h"
#include "model/recorded_steps.h"
#include "model/rope.h"
#include "model/weights.h"
#include "model/workspace.h"

namespace winnow {

struct TransformerOptions {
  AttentionMode attention = AttentionMode::kSparse;
  int64_t max_tokens = 512;     // of one step
  int64_t max_sequences = 1;    // of one step
  int64_t max_context = 0;      // positions
  int64_t max_logit_rows = 64;  // rows that go through the head at a time; a step may ask for more
};

// What a step did, for receipts; counts are over all layers unless said otherwise.
struct StepCounts {
  int64_t attention_rows_read = 0;
  int64_t attention_rows_dense = 0;
  int64_t index_keys_scored = 0;
  int64_t last_rows_read = 0;  // by the step's last token, in one layer
};

struct Pass;

// A layer just before its selection is made: what the indexer and attention are about to work with.
struct AttentionState {
  int64_t layer = 0;
  const IndexerWeights* indexer = nullptr;  // null: the layer has none
  TensorView x;                             // [T, D] f32, the normed stream
  TensorView q_latent;                      // [T, Q] f32
  TensorView q;                             // [T, H, C+R] f32, absorbed
  LatentCacheView latent;                   // the rows of the step's tokens are written
};

// Watches a step from inside; for tests, audits and verification. Views are valid during the call.
class StepObserver {
 public:
  virtual ~StepObserver() = default;
  // Every layer, before OnSelection. `pass.ops` may be used, its workspace and selection may not.
  virtual void OnAttention(const Pass&, const AttentionState&) {}
  // What layer `layer`, which has an indexer, selected for the step's tokens. Absent views mean
  // that every token reads its whole context.
  virtual void OnSelection(int64_t layer, const SelectionView& selection) = 0;
  // The residual stream after layer `layer`: [T, D] f32.
  virtual void OnHidden(int64_t layer, const TensorView& hidden) = 0;
};

// Chooses in place of the indexers what tokens read; for comparisons. Backends of host memory only.
class SelectionPolicy {
 public:
  virtual ~SelectionPolicy() = default;
  // Fills the selection of layer `state.layer`, indexer or not, as SelectTokens would: positions
  // ascending, their slots, -1 in the places left over, and counts, at most index_topk for a token.
  // Not called while no token of the step has more context than index_topk. Rows of all earlier
  // tokens are in the cache.
  virtual void Select(const Pass& pass, const AttentionState& state,
                      const SelectionView& selection) = 0;
};

// Everything one forward pass needs, as its functions hand it around.
struct Pass {
  Backend& ops;
  const ModelConfig& config;
  Workspace& workspace;
  const KvCache& cache;
  BatchView batch;
  RopeTable rope;        // of the attention heads
  RopeTable index_rope;  // of the indexer
  float softmax_scale = 0;
  bool select = false;  // some token has more context than index_topk
  // The tokens that have, and those between them: what the indexer's queries are made for.
  int64_t first_scored = 0;
  int64_t num_scored = 0;
  SelectionView selection;  // of the last layer with an indexer; absent unless `select`
  StepObserver* observer = nullptr;
  SelectionPolicy* policy = nullptr;

  int64_t num_tokens() const { return batch.num_tokens(); }
  TensorView New(Dims dims) { return workspace.New(DType::kF32, dims); }
};

// What a layer's indexer does. First it stores the index keys of the step's tokens in `cache`:
// later tokens score them, also those of a context that is still too short to be scored. Then parts
// 1 and 2 of DSA: pass.selection becomes the best index_topk of each token's context. `x` [T, D] is
// the normed stream, `q_latent` [T, Q] the query's latent.
void WriteIndexKeys(Pass& pass, const IndexerWeights& indexer, const IndexCacheView& cache,
                    TensorView x);
void SelectTokens(Pass& pass, const IndexerWeights& indexer, const IndexCacheView& cache,
                  TensorView x, TensorView q_latent);

// The two halves of a layer: from the normed stream `x` to the `branch` that is added to it, [T, D]
// f32.
void SelfAttention(Pass& pass, const AttentionWeights& weights, int64_t layer, TensorView x,
                   TensorView branch);
void FeedForward(Pass& pass, const LayerWeights& weights, TensorView x, TensorView branch);

// Runs steps over one set of weights. Not thread-safe: the engine thread owns it.
class Transformer {
 public:
  // `config`, `weights` and `backend` outlive it. Takes the memory of every later step.
  static Result<Transformer> Create(const ModelConfig& config, const Weights& weights,
                                    const TransformerOptions& options, Backend& backend);

  // Runs the tokens through all layers, adding their rows to `cache`, and writes what is wanted of
  // batch.logit_rows to `results`. `observer` and `policy` may be null; a policy rules sparse
  // attention only. kCorrupt if the checkpoint changed under it; nothing computed is then to be
  // trusted.
  Result<StepCounts> Forward(const Batch& batch, const KvCache& cache, const StepResults& results,
                             StepObserver* observer = nullptr, SelectionPolicy* policy = nullptr);

  // Bytes of scratch that a step of options.max_tokens needs.
  static int64_t WorkspaceBytes(const ModelConfig& config, const TransformerOptions& options);
  // Bytes of host memory that it holds itself.
  static int64_t HostBytes(const ModelConfig& config, const TransformerOptions& options);
  // What the backend's own working memory depends on.
  static StepShape ShapeOfSteps(const ModelConfig& config, const TransformerOptions& options,
                                IndexKeyType index_keys);

 private:
  Transformer() = default;
  int64_t PageTableWidth(const Batch& batch, bool select, bool recorded) const;
  struct Uploaded {
    BatchView batch;
    TensorView draws;  // [logit rows, sizeof(DrawRule)] u8
  };
  Uploaded Upload(const Batch& batch, int64_t width);
  void ExtendRope(int64_t positions);
  void FindScored(const Batch& batch, bool recorded, Pass& pass) const;
  // The residual stream, what a half layer reads of it, and what it adds to it: [T, D] f32.
  struct Stream {
    TensorView hidden;
    TensorView normed;
    TensorView branch;
  };
  void RunLayers(Pass& pass, const Stream& stream);
  void ReadLogits(Pass& pass, TensorView normed, const Batch& batch, TensorView draws,
                  const StepResults& results);
  StepCounts Count(const Batch& batch, bool scored) const;

  const ModelConfig* config_ = nullptr;
  const Weights* weights_ = nullptr;
  Backend* backend_ = nullptr;
  TransformerOptions options_;
  Workspace workspace_;
  DeviceMemory rope_memory_;
  TensorView rope_rows_;  // [max_context, 2, R/2] f32
  int64_t rope_filled_ = 0;
  RopeRowMaker rope_maker_;
  std::vector<float> new_rope_rows_;
  std::vector<int32_t> upload_;  // what Upload sends
  RecordedSteps recorded_;
};

}  // namespace winnow
