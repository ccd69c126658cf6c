// The paged cache of a model: for each layer latent rows, and index keys where the layer has an
// indexer.
//
// A page is a run of kPageSize slots. Sequences own pages and address rows by slot = page *
// kPageSize + offset; who owns what is the engine's business (engine/page_pool.h).
#pragma once

#include <optional>
#include <vector>

#include "backend/backend.h"
#include "model/config.h"

namespace winnow {

constexpr int64_t kPageSize = 64;

// Pages that hold the rows of so many tokens.
constexpr int64_t PagesFor(int64_t tokens) { return (tokens + kPageSize - 1) / kPageSize; }

struct LayerCache {
  LatentCacheView latent;
  std::optional<IndexCacheView> index_keys;  // none: the layer has no indexer
};

struct KvCacheOptions {
  LatentType latent = LatentType::kBf16;
  IndexKeyType index_keys = IndexKeyType::kInt8;
  bool with_index_keys = true;  // false when attention is dense: nobody reads them
  int64_t num_pages = 0;
};

// Bytes that one page takes over all layers.
struct PageBytes {
  int64_t latent = 0;
  int64_t index_keys = 0;
  int64_t total() const { return latent + index_keys; }
};
PageBytes CachePageBytes(const ModelConfig& config, const KvCacheOptions& options);

class KvCache {
 public:
  // kResourceExhausted, with the plan in numbers, when the backend has not enough memory.
  static Result<KvCache> Create(const ModelConfig& config, const KvCacheOptions& options,
                                Backend& backend);

  const LayerCache& layer(int64_t index) const { return layers_[static_cast<size_t>(index)]; }
  int64_t num_pages() const { return num_pages_; }
  int64_t bytes() const { return bytes_; }

 private:
  std::vector<LayerCache> layers_;
  std::vector<DeviceMemory> memory_;
  int64_t num_pages_ = 0;
  int64_t bytes_ = 0;
};

}  // namespace winnow
