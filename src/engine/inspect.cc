// Inspect: what a model is and what running it takes, from its headers.
#include "base/check.h"
#include "base/text.h"
#include "engine/backends.h"
#include "engine/cost.h"
#include "engine/step_memory.h"
#include "model/kv_cache.h"
#include "model/transformer.h"
#include "model/weights.h"
#include "winnow/winnow.h"

namespace winnow {
namespace {

std::string RopeText(const RopeConfig& rope) {
  if (!rope.yarn) return fmt::format("theta {}", rope.rope_theta);
  return fmt::format("theta {}, YaRN x{} of {} positions", rope.rope_theta, rope.factor,
                     rope.original_max_position_embeddings);
}

std::string IndexerText(const ModelConfig& config) {
  int64_t full = 0;
  for (const IndexerType type : config.indexer_types) full += type == IndexerType::kFull ? 1 : 0;
  return fmt::format(
      "{} heads of {}, keeps {} tokens; {} of {} layers have their own, {} rotation",
      config.index_n_heads, config.index_head_dim, config.index_topk, full,
      config.num_hidden_layers,
      config.index_rope_layout == RopeLayout::kHalfSplit ? "half-split" : "interleaved");
}

std::string ExpertText(const ModelConfig& config) {
  int64_t layers = 0;
  for (const bool moe : config.moe_layers) layers += moe ? 1 : 0;
  if (layers == 0) return "none";
  return fmt::format(
      "{} of {} layers: {} experts of {}, {} a token and {} shared; {} groups, {} kept", layers,
      config.num_hidden_layers, config.n_routed_experts, config.moe_intermediate_size,
      config.num_experts_per_tok, config.n_shared_experts, config.n_group, config.topk_group);
}

std::vector<ModelReport::Fact> Architecture(const ModelConfig& c) {
  return {
      {"model_type", c.model_type},
      {"layers", fmt::format("{}, hidden size {}", c.num_hidden_layers, c.hidden_size)},
      {"attention",
       fmt::format("{} heads, latent {} + {} rotary, query latent {}, nope {}, value {}",
                   c.num_attention_heads, c.kv_lora_rank, c.qk_rope_head_dim, c.q_lora_rank,
                   c.qk_nope_head_dim, c.v_head_dim)},
      {"indexer", IndexerText(c)},
      {"feed-forward", fmt::format("width {}", c.intermediate_size)},
      {"experts", ExpertText(c)},
      {"positions", fmt::format("{}, {}", c.max_position_embeddings, RopeText(c.rope))},
      {"vocabulary", fmt::format("{}", c.vocab_size)},
  };
}

// Positions at which costs are shown: doublings up to the context.
std::vector<int64_t> Frontiers(int64_t context) {
  std::vector<int64_t> positions;
  for (int64_t position = 1024; position < context; position *= 2) positions.push_back(position);
  positions.push_back(context);
  return positions;
}

Status CheckInspectOptions(const InspectOptions& options, const ModelConfig& config) {
  if (options.context < 0 || options.context > config.max_position_embeddings) {
    return InvalidArgument(
        fmt::format("context: {}, expected at most {}, the max_position_embeddings of config.json",
                    options.context, config.max_position_embeddings));
  }
  if (options.batch < 1 || options.batch > 1'000'000) {
    return InvalidArgument(fmt::format("batch: {}, expected 1 to 1000000", options.batch));
  }
  if (options.chunk < 1 || options.chunk > (1 << 16)) {
    return InvalidArgument(fmt::format("chunk: {}, expected 1 to 65536", options.chunk));
  }
  return OkStatus();
}

}  // namespace

Result<ModelReport> Inspect(const std::string& model_dir, const InspectOptions& options) {
  WINNOW_ASSIGN(ModelConfig config, LoadModelConfig(model_dir));
  WINNOW_TRY(CheckInspectOptions(options, config));
  WINNOW_ASSIGN(const CheckedCheckpoint checkpoint,
                Weights::Check(model_dir, &config, options.weights));
  const StorageSummary& storage = checkpoint.storage;
  const int64_t context = options.context > 0 ? options.context : config.max_position_embeddings;

  KvCacheOptions cache;
  cache.latent = options.kv_cache;
  cache.index_keys = options.index_keys;
  cache.num_pages = PagesFor(context) * options.batch;
  const PageBytes page = CachePageBytes(config, cache);

  TransformerOptions transformer;
  transformer.max_sequences = options.batch;
  transformer.max_context = context;
  EngineOptions engine;
  engine.backend = options.backend;
  engine.device = options.device;
  engine.num_threads = options.num_threads;
  engine.precision = options.precision;
  WINNOW_ASSIGN(const std::unique_ptr<Backend> backend, CreateBackend(engine));
  WINNOW_ASSIGN(const StepPlan plan,
                PlanSteps(config, transformer, options.index_keys, options.chunk,
                          cache.num_pages * kPageSize, options.workspace_bytes, *backend));
  const StepMemory& step = plan.memory;

  ModelReport report;
  report.architecture = Architecture(config);
  const ParameterCount parameters = CountParameters(config);
  report.parameters = parameters.total;
  report.active_parameters = parameters.active;
  for (const StorageSummary::Row& row : storage.rows) {
    report.storage.push_back({row.dtype, row.tensors, row.parameters, row.bytes});
  }
  report.memory = {
      {backend->shares_host_memory() ? "weights, mapped from their files"
                                     : "weights, copied from their files",
       storage.quantized_bytes > 0 ? storage.stored_bytes : checkpoint.directory->file_bytes()},
      {fmt::format("latent cache, {}", Name(options.kv_cache)), page.latent * cache.num_pages},
      {fmt::format("index key cache, {}", Name(options.index_keys)),
       page.index_keys * cache.num_pages},
      {"rotary table", context * config.qk_rope_head_dim * 4},
      {fmt::format("step of {} tokens: activations", plan.transformer.max_tokens),
       step.activations},
      {"step: scores and candidates of the selection", step.selection},
      {"step: other scratch, of experts and products", step.scratch - step.selection},
      {"step: logits", step.logits},
      {"step: batch and page tables", step.batch},
  };
  if (storage.quantized_bytes > 0) {
    report.memory.insert(
        report.memory.begin() + 1,
        {fmt::format("weights, quantized to {}", Name(options.weights)), storage.quantized_bytes});
  }
  report.linear_flops = LinearFlops(config);
  for (const int64_t position : Frontiers(context)) {
    const AttentionCost cost = CostAtPosition(config, cache, position);
    report.costs.push_back({position, cost.dense_flops, cost.sparse_flops, cost.indexer_flops,
                            cost.dense_bytes, cost.sparse_bytes, cost.indexer_bytes});
  }
  return report;
}

}  // namespace winnow
