// Random batches for the operations of DSA: several sequences, pages in any order, caches filled by
// the test itself, and what the definitions make of them.
#pragma once

#include <cstdint>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "cpu/cpu_backend.h"
#include "unit/cpu/sums.h"

namespace winnow::cpu {

// The backends that must agree: each instruction set of this machine with this order of sums, on
// one thread and on more, and the other device, if there is one. None where there is no such set.
struct NamedBackend {
  std::string name;
  std::unique_ptr<Backend> backend;
};
std::vector<NamedBackend> AllBackends(Sums sums = Sums::kF32);

// first … last - 1.
std::vector<int32_t> Range(int32_t first, int32_t last);

// Tokens at `positions` of a sequence whose first `length` positions are cached.
struct SequenceSpec {
  int64_t length = 0;
  std::vector<int32_t> positions;
};

// The batch of some sequences, over pages drawn at random.
class PagedBatch {
 public:
  PagedBatch(const std::vector<SequenceSpec>& sequences, int64_t page_size, unsigned seed);

  const BatchView& view() const { return view_; }
  // The tokens [first, first + count) as a batch of their own.
  BatchView Part(int64_t first, int64_t count) const;
  int64_t num_tokens() const { return static_cast<int64_t>(positions_.size()); }
  int64_t num_pages() const { return num_pages_; }
  int32_t position(int64_t token) const { return positions_[token]; }
  int32_t sequence(int64_t token) const { return sequences_[token]; }
  int64_t longest() const { return longest_; }
  int32_t Slot(int64_t sequence, int64_t position) const;

 private:
  std::vector<int32_t> positions_, sequences_, page_table_;
  int64_t page_size_;
  int64_t num_pages_ = 0;
  int64_t max_pages_ = 0;
  int64_t longest_ = 0;
  BatchView view_;
};

// How keys and queries are drawn.
enum class Values {
  kNormal,
  kFew,      // from a handful of values: many equal scores
  kAllSame,  // all scores equal
  kHostile,  // NaN, infinities and zeros among them
  kAllNan,
  kRising,   // each key scores higher than the one before
  kFalling,  // … lower
};

// A problem of SelectTokens with its answer by the definitions.
struct SelectProblem {
  IndexKeyType type = IndexKeyType::kInt8;
  int64_t index_heads = 4;
  int64_t index_dim = 128;
  int64_t topk = 64;
  int64_t page_size = 64;
  Values values = Values::kNormal;
  std::vector<SequenceSpec> sequences;
};

struct Selected {
  std::vector<int32_t> positions, slots, counts;
  bool operator==(const Selected&) const = default;
};

class SelectCase {
 public:
  SelectCase(const SelectProblem& problem, unsigned seed);

  Selected Expected() const;
  // In calls of at most `chunk` tokens.
  Selected Run(Backend& backend, int64_t chunk = 1 << 30) const;

 private:
  float Draw(std::mt19937& random) const;
  void FillKeys(std::mt19937& random);
  int64_t width() const { return std::max<int64_t>(1, std::min(problem_.topk, batch_.longest())); }

  SelectProblem problem_;
  PagedBatch batch_;
  std::vector<float> q_, weights_;
  std::vector<std::vector<float>> keys_;    // of each sequence [length, J]
  std::vector<std::vector<float>> scales_;  // of each sequence [length]
  std::vector<uint8_t> pages_;
  IndexCacheView cache_;
};

// A problem of Attention: sparse when topk is not 0, over random selections.
struct AttentionProblem {
  LatentType type = LatentType::kBf16;
  int64_t num_heads = 6;
  int64_t latent_dim = 512;
  int64_t rope_dim = 64;
  int64_t topk = 0;
  int64_t page_size = 64;
  float softmax_scale = 0.1f;
  float q_size = 1;  // of the queries: larger is a sharper softmax
  std::vector<SequenceSpec> sequences;
};

class AttentionCase {
 public:
  AttentionCase(const AttentionProblem& problem, unsigned seed);

  // Other queries, and other rows of the first sequence from position 0 on, for kBf16.
  void Set(const std::vector<float>& q, const std::vector<std::vector<float>>& rows);

  // The positions selected for a token.
  std::vector<int32_t> Selected(int64_t token) const;

  std::vector<float> Expected() const;
  std::vector<float> Run(Backend& backend, int64_t chunk = 1 << 30) const;
  // The same tokens with every position of their sequences selected.
  std::vector<float> RunWithEverythingSelected(Backend& backend) const;

 private:
  void FillRows(std::mt19937& random);
  std::vector<float> Run(Backend& backend, int64_t chunk, bool sparse, int64_t width,
                         const std::vector<int32_t>& positions, const std::vector<int32_t>& slots,
                         const std::vector<int32_t>& counts) const;
  void SelectRandomly(std::mt19937& random);

  AttentionProblem problem_;
  PagedBatch batch_;
  std::vector<float> q_;
  std::vector<uint8_t> rows_;
  std::vector<float> values_;  // [N, C+R], what the rows stand for
  std::vector<int32_t> positions_, slots_, counts_;
  LatentCacheView cache_;
};

}  // namespace winnow::cpu
