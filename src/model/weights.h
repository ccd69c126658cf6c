// The weights of a model, by layer, named as in the checkpoint.
//
// Matrices stay in the mapped files in the type they are stored in, unless they are quantized as
// they are loaded; vectors (norms, biases) are small and become f32 of our own. A matrix that does
// not lie on its type's alignment is copied.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "backend/ops.h"
#include "model/config.h"
#include "model/quantize_rows.h"
#include "model/safetensors.h"
#include "tensor/tensor.h"

namespace winnow {

class Backend;

struct IndexerWeights {
  ScaledView wq_b;           // [I*J, Q]
  ScaledView wk;             // [J, D]
  TensorView k_norm_weight;  // [J] f32
  TensorView k_norm_bias;    // [J] f32
  ScaledView weights_proj;   // [I, D]
};

struct AttentionWeights {
  ScaledView q_a_proj;            // [Q, D]
  TensorView q_a_proj_bias;       // [Q] f32, absent unless attention_bias
  TensorView q_a_layernorm;       // [Q] f32
  ScaledView q_b_proj;            // [H*(P+R), Q]
  ScaledView kv_a_proj_with_mqa;  // [C+R, D]
  TensorView kv_a_proj_bias;      // [C+R] f32, absent unless attention_bias
  TensorView kv_a_layernorm;      // [C] f32
  ScaledView kv_b_proj;           // [H*(P+V), C]
  ScaledView o_proj;              // [D, H*V]
  TensorView o_proj_bias;         // [D] f32, absent unless attention_bias
  std::optional<IndexerWeights>
      indexer;  // none: the layer keeps the selection of the last one that has
};

struct MoeWeights {
  ScaledView gate;                     // [E, D]
  TensorView e_score_correction_bias;  // [E] f32
  std::vector<FfnWeights> experts;     // E
  std::optional<FfnWeights> shared_experts;
};

struct LayerWeights {
  TensorView input_layernorm;  // [D] f32
  AttentionWeights self_attn;
  TensorView post_attention_layernorm;  // [D] f32
  std::optional<FfnWeights> mlp;        // exactly one of mlp and moe
  std::optional<MoeWeights> moe;
};

// What is held how, for `winnow inspect`.
struct StorageSummary {
  struct Row {
    std::string dtype;  // as in the files; "int8" and "int4" of codes with the scales of groups
    int64_t tensors = 0;
    int64_t parameters = 0;
    int64_t bytes = 0;
  };
  std::vector<Row> rows;        // by type, scales not counted as parameters
  int64_t stored_bytes = 0;     // of tensors that are read as they are stored
  int64_t quantized_bytes = 0;  // of those that are quantized at load
};

// A tensor of the model in its files, and what becomes of it.
struct PlannedTensor {
  std::string name;
  const StoredTensor* value = nullptr;
  std::string scale_name;               // of the tensor below
  const StoredTensor* scale = nullptr;  // of F8_E4M3, I8 and U8
  WeightType as = WeightType::kStored;  // else a matrix that is quantized
};

// A checkpoint whose tensors are checked and whose data is not yet read.
struct CheckedCheckpoint {
  std::unique_ptr<TensorDirectory> directory;
  std::vector<PlannedTensor> tensors;  // each that the model uses, once
  StorageSummary storage;
};

struct LoadOptions {
  WeightType weights = WeightType::kStored;
  int num_threads = 0;                   // that quantize; 0: one for each core
  std::function<void(double)> progress;  // gets a fraction in [0, 1]; may be empty
};

class Weights {
 public:
  // Maps the checkpoint in `model_dir` and checks every tensor against `config` before anything is
  // allocated: missing, superfluous and misshapen ones, types Winnow cannot read, and scales that
  // do not fit are refused by name. Tensors of the multi-token-prediction layers are passed over.
  // Corrects config->indexer_types by the tensors present if config.json does not state them.
  // Refuses to quantize what is quantized to something else, or is no finite number.
  static Result<Weights> Load(const std::string& model_dir, ModelConfig* config,
                              const LoadOptions& options = {});

  // The checks of Load alone.
  static Result<CheckedCheckpoint> Check(const std::string& model_dir, ModelConfig* config,
                                         WeightType weights = WeightType::kStored);

  // For a backend with memory of its own: copies every tensor there, once; from then on the views
  // are the device's. kResourceExhausted when they do not fit. `progress` as in Load.
  Status MoveTo(Backend& backend, const std::function<void(double)>& progress = {});

  ScaledView embed_tokens;  // [vocab_size, D]
  std::vector<LayerWeights> layers;
  TensorView norm;     // [D] f32
  ScaledView lm_head;  // [vocab_size, D]

  const StorageSummary& storage() const { return storage_; }
  int64_t file_bytes() const { return directory_->file_bytes(); }
  Status CheckIntact() const { return directory_->CheckIntact(); }

 private:
  std::unique_ptr<TensorDirectory> directory_;
  std::vector<HostBuffer> owned_;
  std::shared_ptr<void> device_memory_;
  StorageSummary storage_;
};

}  // namespace winnow
