#include "dsa_problem.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>

#include "base/thread_pool.h"
#include "cpu/dsa/caches.h"
#include "dsa/lightning_indexer.h"
#include "dsa/sparse_attention.h"
#include "dsa/token_selection.h"
#include "tensor/half.h"
#include "unit/cpu/other_backend.h"

namespace winnow::cpu {

std::vector<NamedBackend> AllBackends(Sums sums) {
  std::vector<NamedBackend> backends;
  for (const InstructionSet set : SetsWith(sums)) {
    for (int threads : {1, 3}) {
      backends.push_back(
          {std::string(InstructionSetName(set)) + ", " + std::to_string(threads) + " threads",
           CreateCpuBackend(
               {.num_threads = threads, .precision = PrecisionOf(sums), .instruction_set = set})});
    }
  }
  if (sums == Sums::kTiles) return backends;
  if (auto other = MakeOtherBackend(PrecisionOf(sums))) {
    const std::string name = other->Describe();
    backends.push_back({name, std::move(other)});
  }
  return backends;
}

std::vector<int32_t> Range(int32_t first, int32_t last) {
  std::vector<int32_t> positions;
  for (int32_t position = first; position < last; ++position) positions.push_back(position);
  return positions;
}

PagedBatch::PagedBatch(const std::vector<SequenceSpec>& sequences, int64_t page_size, unsigned seed)
    : page_size_(page_size) {
  for (const SequenceSpec& spec : sequences) {
    const int64_t pages = (spec.length + page_size - 1) / page_size;
    max_pages_ = std::max(max_pages_, pages);
    num_pages_ += pages;
    longest_ = std::max(longest_, spec.length);
  }
  num_pages_ += 2;  // pages of nobody
  std::vector<int32_t> pages(num_pages_);
  std::iota(pages.begin(), pages.end(), 0);
  std::shuffle(pages.begin(), pages.end(), std::mt19937(seed));
  page_table_.assign(sequences.size() * max_pages_, -1);
  for (size_t sequence = 0; sequence < sequences.size(); ++sequence) {
    for (int64_t page = 0; page * page_size < sequences[sequence].length; ++page) {
      page_table_[sequence * max_pages_ + page] = pages.back();
      pages.pop_back();
    }
    for (int32_t position : sequences[sequence].positions) {
      positions_.push_back(position);
      sequences_.push_back(static_cast<int32_t>(sequence));
    }
  }
  view_.page_size = page_size;
  view_.page_table = {
      page_table_.data(), DType::kI32, {static_cast<int64_t>(sequences.size()), max_pages_}};
  view_.positions = {positions_.data(), DType::kI32, {num_tokens()}};
  view_.sequences = {sequences_.data(), DType::kI32, {num_tokens()}};
}

BatchView PagedBatch::Part(int64_t first, int64_t count) const {
  BatchView part = view_;
  part.positions = view_.positions.Rows(first, count);
  part.sequences = view_.sequences.Rows(first, count);
  return part;
}

int32_t PagedBatch::Slot(int64_t sequence, int64_t position) const {
  return static_cast<int32_t>(page_table_[sequence * max_pages_ + position / page_size_] *
                                  page_size_ +
                              position % page_size_);
}

// ---- Selection ----------------------------------------------------------------------------------

namespace {

bool ScoresInOrder(Values values) {
  return values == Values::kAllSame || values == Values::kRising || values == Values::kFalling;
}

}  // namespace

SelectCase::SelectCase(const SelectProblem& problem, unsigned seed)
    : problem_(problem), batch_(problem.sequences, problem.page_size, seed) {
  const FlushSubnormals flush;
  std::mt19937 random(seed);
  const int64_t page_bytes = IndexPageBytes(problem.type, problem.index_dim, problem.page_size);
  pages_.assign(batch_.num_pages() * page_bytes, 0xff);  // NaN wherever nobody writes
  cache_ = {.type = problem.type,
            .index_dim = problem.index_dim,
            .page_size = problem.page_size,
            .page_bytes = page_bytes,
            .pages = {pages_.data(), DType::kU8, {batch_.num_pages(), page_bytes}}};
  FillKeys(random);
  q_.resize(batch_.num_tokens() * problem.index_heads * problem.index_dim);
  for (float& value : q_) value = Draw(random);
  for (size_t first = 0; first < q_.size(); first += problem.index_dim) {
    dsa::QuantizeIndexVector(problem.type, q_.data() + first, problem.index_dim);
  }
  weights_.resize(batch_.num_tokens() * problem.index_heads);
  std::normal_distribution<float> normal;
  for (float& weight : weights_) {
    weight = normal(random);
    if (problem.values == Values::kFew) weight = std::round(weight);
    if (ScoresInOrder(problem.values)) weight = 1;
  }
}

float SelectCase::Draw(std::mt19937& random) const {
  std::normal_distribution<float> normal;
  switch (problem_.values) {
    case Values::kNormal:
      return normal(random);
    case Values::kFew:
      return random() % 8 == 0 ? static_cast<float>(random() % 3) - 1 : 0.0f;
    case Values::kAllSame:
    case Values::kRising:
    case Values::kFalling:
      return 1;
    case Values::kHostile: {
      const unsigned kind = random() % 2000;
      if (kind == 0) return NAN;
      if (kind == 1) return INFINITY;
      if (kind == 2) return -INFINITY;
      if (kind < 20) return 3e38f;
      return kind < 500 ? -0.0f : normal(random);
    }
    case Values::kAllNan:
      return NAN;
  }
  return 0;
}

void SelectCase::FillKeys(std::mt19937& random) {
  for (size_t sequence = 0; sequence < problem_.sequences.size(); ++sequence) {
    const int64_t length = problem_.sequences[sequence].length;
    std::vector<float>& keys = keys_.emplace_back(length * problem_.index_dim);
    std::vector<float>& scales = scales_.emplace_back(length);
    for (float& value : keys) value = Draw(random);
    for (int64_t position = 0; position < length; ++position) {
      float* key = keys.data() + position * problem_.index_dim;
      if (problem_.values == Values::kRising) std::fill_n(key, problem_.index_dim, position + 1);
      if (problem_.values == Values::kFalling) {
        std::fill_n(key, problem_.index_dim, length - position);
      }
      scales[position] = dsa::QuantizeIndexVector(problem_.type, key, problem_.index_dim);
      StoreIndexKey(cache_, batch_.Slot(static_cast<int64_t>(sequence), position), key,
                    scales[position]);
    }
  }
}

Selected SelectCase::Expected() const {
  const FlushSubnormals flush;
  Selected expected;
  expected.positions.assign(batch_.num_tokens() * width(), -1);
  expected.slots = expected.positions;
  expected.counts.assign(batch_.num_tokens(), 0);
  for (int64_t token = 0; token < batch_.num_tokens(); ++token) {
    const int64_t sequence = batch_.sequence(token);
    const int64_t length = problem_.sequences[sequence].length;
    const int64_t heads = problem_.index_heads;
    std::vector<float> scores(length);
    dsa::LightningIndexerReference(
        {.q = {q_.data() + token * heads * problem_.index_dim,
               DType::kF32,
               {1, heads, problem_.index_dim}},
         .weights = {weights_.data() + token * heads, DType::kF32, {1, heads}},
         .keys = {keys_[sequence].data(), DType::kF32, {length, problem_.index_dim}},
         .key_scale = {scales_[sequence].data(), DType::kF32, {length}},
         .scores = {scores.data(), DType::kF32, {1, length}}});
    int32_t candidates = batch_.position(token) + 1;
    const int64_t topk = std::min<int64_t>(problem_.topk, length);
    std::vector<int32_t> positions(topk);
    int32_t& count = expected.counts[token];
    dsa::TokenSelectionReference({.scores = {scores.data(), DType::kF32, {1, length}},
                                  .candidates = {&candidates, DType::kI32, {1}},
                                  .positions = {positions.data(), DType::kI32, {1, topk}},
                                  .counts = {&count, DType::kI32, {1}}});
    for (int32_t k = 0; k < count; ++k) {
      expected.positions[token * width() + k] = positions[k];
      expected.slots[token * width() + k] = batch_.Slot(sequence, positions[k]);
    }
  }
  return expected;
}

Selected SelectCase::Run(Backend& backend, int64_t chunk) const {
  const int64_t num_tokens = batch_.num_tokens();
  Selected selected;
  selected.positions.assign(num_tokens * width(), 77);
  selected.slots = selected.positions;
  selected.counts.assign(num_tokens, 77);
  const TensorView q(q_.data(), DType::kF32,
                     {num_tokens, problem_.index_heads, problem_.index_dim});
  const TensorView weights(weights_.data(), DType::kF32, {num_tokens, problem_.index_heads});
  const TensorView positions(selected.positions.data(), DType::kI32, {num_tokens, width()});
  const TensorView slots(selected.slots.data(), DType::kI32, {num_tokens, width()});
  const TensorView counts(selected.counts.data(), DType::kI32, {num_tokens});
  for (int64_t first = 0; first < num_tokens; first += chunk) {
    const int64_t count = std::min(chunk, num_tokens - first);
    backend.SelectTokens({.q = q.Rows(first, count),
                          .weights = weights.Rows(first, count),
                          .cache = cache_,
                          .batch = batch_.Part(first, count),
                          .topk = problem_.topk,
                          .selection = {.positions = positions.Rows(first, count),
                                        .slots = slots.Rows(first, count),
                                        .counts = counts.Rows(first, count)}});
  }
  return selected;
}

// ---- Attention ----------------------------------------------------------------------------------

AttentionCase::AttentionCase(const AttentionProblem& problem, unsigned seed)
    : problem_(problem), batch_(problem.sequences, problem.page_size, seed) {
  std::mt19937 random(seed);
  FillRows(random);
  std::normal_distribution<float> normal(0, problem.q_size);
  q_.resize(batch_.num_tokens() * problem.num_heads * (problem.latent_dim + problem.rope_dim));
  for (float& value : q_) value = normal(random);
  if (problem.topk > 0) SelectRandomly(random);
}

void AttentionCase::FillRows(std::mt19937& random) {
  const int64_t latent_dim = problem_.latent_dim;
  const int64_t rope_dim = problem_.rope_dim;
  const int64_t row_bytes = LatentRowBytes(problem_.type, latent_dim, rope_dim);
  const int64_t num_rows = batch_.num_pages() * problem_.page_size;
  rows_.resize(num_rows * row_bytes);
  values_.resize(num_rows * (latent_dim + rope_dim));
  cache_ = {.type = problem_.type,
            .latent_dim = latent_dim,
            .rope_dim = rope_dim,
            .row_bytes = row_bytes,
            .rows = {rows_.data(), DType::kU8, {num_rows, row_bytes}}};
  std::normal_distribution<float> normal;
  for (int64_t row = 0; row < num_rows; ++row) {
    uint8_t* bytes = rows_.data() + row * row_bytes;
    float* values = values_.data() + row * (latent_dim + rope_dim);
    if (problem_.type == LatentType::kFp8) {
      const int64_t blocks = (latent_dim + 127) / 128;
      std::vector<float> scales(blocks);
      for (float& scale : scales) scale = std::ldexp(1.0f, -static_cast<int>(random() % 4) - 6);
      std::memcpy(bytes + latent_dim, scales.data(), blocks * 4);
      for (int64_t c = 0; c < latent_dim; ++c) {
        do bytes[c] = static_cast<uint8_t>(random());
        while ((bytes[c] & 0x7f) == 0x7f);
        values[c] = E4m3ToFloat(bytes[c]) * scales[c / 128];
      }
      bytes += latent_dim + blocks * 4;
      values += latent_dim;
    }
    const int64_t rest = problem_.type == LatentType::kFp8 ? rope_dim : latent_dim + rope_dim;
    for (int64_t k = 0; k < rest; ++k) {
      const float value = normal(random);
      const uint16_t rounded = FloatToBf16(value);
      if (problem_.type == LatentType::kF32) {
        values[k] = value;
        std::memcpy(bytes + 4 * k, &value, 4);
      } else {
        values[k] = Bf16ToFloat(rounded);
        std::memcpy(bytes + 2 * k, &rounded, 2);
      }
    }
  }
}

void AttentionCase::Set(const std::vector<float>& q, const std::vector<std::vector<float>>& rows) {
  q_ = q;
  for (size_t position = 0; position < rows.size(); ++position) {
    uint8_t* row = rows_.data() + batch_.Slot(0, static_cast<int64_t>(position)) * cache_.row_bytes;
    for (size_t k = 0; k < rows[position].size(); ++k) {
      const uint16_t value = FloatToBf16(rows[position][k]);
      std::memcpy(row + 2 * k, &value, sizeof(value));
    }
  }
}

void AttentionCase::SelectRandomly(std::mt19937& random) {
  positions_.assign(batch_.num_tokens() * problem_.topk, -1);
  slots_ = positions_;
  for (int64_t token = 0; token < batch_.num_tokens(); ++token) {
    std::vector<int32_t> chosen(batch_.position(token) + 1);
    std::iota(chosen.begin(), chosen.end(), 0);
    std::shuffle(chosen.begin(), chosen.end(), random);
    if (static_cast<int64_t>(chosen.size()) > problem_.topk) chosen.resize(problem_.topk);
    if (random() % 5 == 0) chosen.resize(random() % (chosen.size() + 1));  // also none
    std::sort(chosen.begin(), chosen.end());
    counts_.push_back(static_cast<int32_t>(chosen.size()));
    for (size_t k = 0; k < chosen.size(); ++k) {
      positions_[token * problem_.topk + k] = chosen[k];
      slots_[token * problem_.topk + k] = batch_.Slot(batch_.sequence(token), chosen[k]);
    }
  }
}

std::vector<int32_t> AttentionCase::Selected(int64_t token) const {
  const auto first = positions_.begin() + token * problem_.topk;
  return {first, first + counts_[token]};
}

std::vector<float> AttentionCase::Expected() const {
  const int64_t row_dim = problem_.latent_dim + problem_.rope_dim;
  std::vector<float> out(batch_.num_tokens() * problem_.num_heads * problem_.latent_dim);
  for (int64_t token = 0; token < batch_.num_tokens(); ++token) {
    std::vector<int32_t> slots;
    if (problem_.topk > 0) {
      slots.assign(slots_.begin() + token * problem_.topk,
                   slots_.begin() + (token + 1) * problem_.topk);
    } else {
      for (int32_t position = 0; position <= batch_.position(token); ++position) {
        slots.push_back(batch_.Slot(batch_.sequence(token), position));
      }
    }
    const int64_t heads = problem_.num_heads;
    dsa::SparseAttentionReference(
        {.q = {q_.data() + token * heads * row_dim, DType::kF32, {1, heads, row_dim}},
         .kv = {values_.data(),
                DType::kF32,
                {static_cast<int64_t>(values_.size()) / row_dim, row_dim}},
         .slots = {slots.data(), DType::kI32, {1, static_cast<int64_t>(slots.size())}},
         .out = {out.data() + token * heads * problem_.latent_dim,
                 DType::kF32,
                 {1, heads, problem_.latent_dim}},
         .softmax_scale = problem_.softmax_scale});
  }
  return out;
}

std::vector<float> AttentionCase::Run(Backend& backend, int64_t chunk) const {
  return Run(backend, chunk, problem_.topk > 0, problem_.topk, positions_, slots_, counts_);
}

std::vector<float> AttentionCase::RunWithEverythingSelected(Backend& backend) const {
  const int64_t width = batch_.longest();
  std::vector<int32_t> positions(batch_.num_tokens() * width, -1);
  std::vector<int32_t> slots = positions;
  std::vector<int32_t> counts;
  for (int64_t token = 0; token < batch_.num_tokens(); ++token) {
    counts.push_back(batch_.position(token) + 1);
    for (int32_t k = 0; k < counts.back(); ++k) {
      positions[token * width + k] = k;
      slots[token * width + k] = batch_.Slot(batch_.sequence(token), k);
    }
  }
  return Run(backend, 1 << 30, true, width, positions, slots, counts);
}

std::vector<float> AttentionCase::Run(Backend& backend, int64_t chunk, bool sparse, int64_t width,
                                      const std::vector<int32_t>& positions,
                                      const std::vector<int32_t>& slots,
                                      const std::vector<int32_t>& counts) const {
  const int64_t num_tokens = batch_.num_tokens();
  const int64_t row_dim = problem_.latent_dim + problem_.rope_dim;
  std::vector<float> result(num_tokens * problem_.num_heads * problem_.latent_dim, 77.0f);
  const TensorView q(q_.data(), DType::kF32, {num_tokens, problem_.num_heads, row_dim});
  const TensorView out(result.data(), DType::kF32,
                       {num_tokens, problem_.num_heads, problem_.latent_dim});
  for (int64_t first = 0; first < num_tokens; first += chunk) {
    const int64_t count = std::min(chunk, num_tokens - first);
    SelectionView selection;
    if (sparse) {
      selection.positions =
          TensorView(positions.data(), DType::kI32, {num_tokens, width}).Rows(first, count);
      selection.slots =
          TensorView(slots.data(), DType::kI32, {num_tokens, width}).Rows(first, count);
      selection.counts = TensorView(counts.data(), DType::kI32, {num_tokens}).Rows(first, count);
    }
    backend.Attention({.q = q.Rows(first, count),
                       .cache = cache_,
                       .selection = selection,
                       .batch = batch_.Part(first, count),
                       .softmax_scale = problem_.softmax_scale,
                       .out = out.Rows(first, count)});
  }
  return result;
}

}  // namespace winnow::cpu
