#include "model/kv_cache.h"

#include "base/check.h"
#include "base/text.h"

namespace winnow {
namespace {

bool HasIndexKeys(const ModelConfig& config, const KvCacheOptions& options, int64_t layer) {
  return options.with_index_keys &&
         config.indexer_types[static_cast<size_t>(layer)] == IndexerType::kFull;
}

LatentCacheView LatentLayout(const ModelConfig& config, const KvCacheOptions& options) {
  LatentCacheView view;
  view.type = options.latent;
  view.latent_dim = config.kv_lora_rank;
  view.rope_dim = config.qk_rope_head_dim;
  view.row_bytes = LatentRowBytes(options.latent, view.latent_dim, view.rope_dim);
  return view;
}

IndexCacheView IndexLayout(const ModelConfig& config, const KvCacheOptions& options) {
  IndexCacheView view;
  view.type = options.index_keys;
  view.index_dim = config.index_head_dim;
  view.page_size = kPageSize;
  view.page_bytes = IndexPageBytes(options.index_keys, view.index_dim, kPageSize);
  return view;
}

}  // namespace

PageBytes CachePageBytes(const ModelConfig& config, const KvCacheOptions& options) {
  PageBytes bytes;
  for (int64_t layer = 0; layer < config.num_hidden_layers; ++layer) {
    bytes.latent += kPageSize * LatentLayout(config, options).row_bytes;
    if (HasIndexKeys(config, options, layer)) {
      bytes.index_keys += IndexLayout(config, options).page_bytes;
    }
  }
  return bytes;
}

Result<KvCache> KvCache::Create(const ModelConfig& config, const KvCacheOptions& options,
                                Backend& backend) {
  KvCache cache;
  cache.num_pages_ = options.num_pages;
  for (int64_t index = 0; index < config.num_hidden_layers; ++index) {
    LayerCache layer{LatentLayout(config, options), std::nullopt};
    const int64_t slots = options.num_pages * kPageSize;
    WINNOW_ASSIGN(DeviceMemory rows, backend.Allocate(slots * layer.latent.row_bytes));
    layer.latent.rows = TensorView(rows.get(), DType::kU8, {slots, layer.latent.row_bytes});
    cache.bytes_ += layer.latent.rows.bytes();
    cache.memory_.push_back(std::move(rows));
    if (HasIndexKeys(config, options, index)) {
      IndexCacheView keys = IndexLayout(config, options);
      WINNOW_ASSIGN(DeviceMemory pages, backend.Allocate(options.num_pages * keys.page_bytes));
      keys.pages = TensorView(pages.get(), DType::kU8, {options.num_pages, keys.page_bytes});
      cache.bytes_ += keys.pages.bytes();
      cache.memory_.push_back(std::move(pages));
      layer.index_keys = keys;
    }
    cache.layers_.push_back(layer);
  }
  return cache;
}

}  // namespace winnow
