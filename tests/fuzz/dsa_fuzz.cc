// Differential: bytes become a batch of SelectTokens and one of Attention, and every instruction
// set, number of threads and cut of the batch must give what the definitions give. The first bytes
// choose the shape, the rest become keys, queries and weights bit by bit, so that NaN, infinities,
// zeros of both signs and subnormals come up by themselves.
#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "base/check.h"
#include "base/thread_pool.h"
#include "cpu/cpu_backend.h"
#include "cpu/dsa/caches.h"
#include "dsa/lightning_indexer.h"
#include "dsa/sparse_attention.h"
#include "dsa/token_selection.h"
#include "tensor/half.h"

namespace winnow {
namespace {

// Bytes by demand, going round when they are used up, so that short inputs make large problems.
class Bytes {
 public:
  Bytes(const uint8_t* data, size_t size) : data_(data), size_(size) {}
  uint8_t Next() {
    if (size_ == 0) return 0;
    const uint8_t byte = static_cast<uint8_t>(data_[at_ % size_] + 31 * (at_ / size_));
    ++at_;
    return byte;
  }
  int64_t Between(int64_t low, int64_t high) {
    const int64_t value = Next() * 256 + Next();
    return low + value % (high - low + 1);
  }
  // Mostly small steps, so that scores tie; now and then any float at all.
  float NextFloat() {
    const uint8_t kind = Next();
    if (kind < 250) return static_cast<float>(static_cast<int8_t>(kind)) / 16;
    uint32_t bits = 0;
    for (int byte = 0; byte < 4; ++byte) bits = bits << 8 | Next();
    float value;
    std::memcpy(&value, &bits, sizeof(value));
    return value;
  }

 private:
  const uint8_t* data_;
  size_t size_;
  size_t at_ = 0;
};

std::vector<std::unique_ptr<Backend>> MakeBackends() {
  std::vector<std::unique_ptr<Backend>> backends;
  for (const cpu::InstructionSet set : cpu::kInstructionSets) {
    if (!cpu::IsSupported(set)) continue;
    for (int threads : {1, 2}) {
      backends.push_back(cpu::CreateCpuBackend({.num_threads = threads, .instruction_set = set}));
    }
  }
  return backends;
}

const std::vector<std::unique_ptr<Backend>>& Backends() {
  static const auto* backends = new std::vector<std::unique_ptr<Backend>>(MakeBackends());
  return *backends;
}

// One sequence over pages in reverse, and the tokens of a batch.
struct Batch {
  int64_t page_size = 0;
  int64_t length = 0;
  std::vector<int32_t> page_table, positions, sequences;

  explicit Batch(Bytes& bytes) {
    page_size = 16 * bytes.Between(1, 6);
    length = bytes.Between(1, 160);
    for (int64_t page = num_pages(); page-- > 0;) page_table.push_back(static_cast<int32_t>(page));
    const int64_t num_tokens = bytes.Between(1, 14);
    for (int64_t token = 0; token < num_tokens; ++token) {
      positions.push_back(static_cast<int32_t>(bytes.Between(0, length - 1)));
      sequences.push_back(0);
    }
  }
  int64_t num_pages() const { return (length + page_size - 1) / page_size; }
  int64_t num_tokens() const { return static_cast<int64_t>(positions.size()); }
  int32_t Slot(int64_t position) const {
    return static_cast<int32_t>(page_table[position / page_size] * page_size +
                                position % page_size);
  }
  BatchView Part(int64_t first, int64_t count) const {
    BatchView view;
    view.page_size = page_size;
    view.page_table = {page_table.data(), DType::kI32, {1, num_pages()}};
    view.positions = {positions.data() + first, DType::kI32, {count}};
    view.sequences = {sequences.data() + first, DType::kI32, {count}};
    return view;
  }
};

void CheckSelection(Bytes& bytes) {
  const Batch batch(bytes);
  const auto type = static_cast<IndexKeyType>(bytes.Next() % 4);
  const int64_t heads = bytes.Between(1, 9);
  const int64_t dim = int64_t{1} << bytes.Between(0, 6);
  const int64_t topk = bytes.Between(1, batch.length + 2);
  const int64_t T = batch.num_tokens();

  const int64_t page_bytes = IndexPageBytes(type, dim, batch.page_size);
  std::vector<uint8_t> pages(batch.num_pages() * page_bytes, 0xff);
  const IndexCacheView cache = {
      .type = type,
      .index_dim = dim,
      .page_size = batch.page_size,
      .page_bytes = page_bytes,
      .pages = {pages.data(), DType::kU8, {batch.num_pages(), page_bytes}}};
  const FlushSubnormals flush;
  std::vector<float> keys(batch.length * dim), scales(batch.length);
  for (int64_t position = 0; position < batch.length; ++position) {
    float* key = keys.data() + position * dim;
    for (int64_t j = 0; j < dim; ++j) key[j] = bytes.NextFloat();
    scales[position] = dsa::QuantizeIndexVector(type, key, dim);
    cpu::StoreIndexKey(cache, batch.Slot(position), key, scales[position]);
  }
  std::vector<float> q(T * heads * dim), weights(T * heads);
  for (float& value : q) value = bytes.NextFloat();
  for (int64_t head = 0; head < T * heads; ++head) {
    dsa::QuantizeIndexVector(type, q.data() + head * dim, dim);
  }
  for (float& value : weights) value = bytes.NextFloat();

  std::vector<float> scores(T * batch.length);
  dsa::LightningIndexerReference({.q = {q.data(), DType::kF32, {T, heads, dim}},
                                  .weights = {weights.data(), DType::kF32, {T, heads}},
                                  .keys = {keys.data(), DType::kF32, {batch.length, dim}},
                                  .key_scale = {scales.data(), DType::kF32, {batch.length}},
                                  .scores = {scores.data(), DType::kF32, {T, batch.length}}});
  std::vector<int32_t> candidates = batch.positions;
  for (int32_t& count : candidates) ++count;
  std::vector<int32_t> expected(T * topk), expected_counts(T);
  dsa::TokenSelectionReference({.scores = {scores.data(), DType::kF32, {T, batch.length}},
                                .candidates = {candidates.data(), DType::kI32, {T}},
                                .positions = {expected.data(), DType::kI32, {T, topk}},
                                .counts = {expected_counts.data(), DType::kI32, {T}}});

  const int64_t chunk = bytes.Between(1, T);
  for (const std::unique_ptr<Backend>& backend : Backends()) {
    std::vector<int32_t> positions(T * topk, 77), slots(T * topk, 77), counts(T, 77);
    for (int64_t first = 0; first < T; first += chunk) {
      const int64_t count = std::min(chunk, T - first);
      backend->SelectTokens(
          {.q = TensorView(q.data(), DType::kF32, {T, heads, dim}).Rows(first, count),
           .weights = TensorView(weights.data(), DType::kF32, {T, heads}).Rows(first, count),
           .cache = cache,
           .batch = batch.Part(first, count),
           .topk = topk,
           .selection = {
               .positions = TensorView(positions.data(), DType::kI32, {T, topk}).Rows(first, count),
               .slots = TensorView(slots.data(), DType::kI32, {T, topk}).Rows(first, count),
               .counts = TensorView(counts.data(), DType::kI32, {T}).Rows(first, count)}});
    }
    WINNOW_CHECK(counts == expected_counts, backend->Describe() + ": other counts");
    WINNOW_CHECK(positions == expected, backend->Describe() + ": other positions");
    for (int64_t k = 0; k < T * topk; ++k) {
      WINNOW_CHECK(slots[k] == (positions[k] < 0 ? -1 : batch.Slot(positions[k])),
                   backend->Describe() + ": other slots");
    }
  }
}

// Values are small here, so that the definition's doubles bound the error.
void CheckAttention(Bytes& bytes) {
  const Batch batch(bytes);
  const int64_t heads = bytes.Between(1, 70);
  const int64_t latent_dim = bytes.Between(1, 80);
  const int64_t rope_dim = 2 * bytes.Between(0, 10);
  const int64_t row_dim = latent_dim + rope_dim;
  const int64_t T = batch.num_tokens();
  const int64_t num_rows = batch.num_pages() * batch.page_size;
  std::vector<float> rows(num_rows * row_dim), q(T * heads * row_dim);
  for (float& value : rows) value = static_cast<float>(static_cast<int8_t>(bytes.Next())) / 64;
  for (float& value : q) value = static_cast<float>(static_cast<int8_t>(bytes.Next())) / 64;
  std::vector<int32_t> slots(T * batch.length, -1), counts;
  for (int64_t token = 0; token < T; ++token) {
    counts.push_back(batch.positions[token] + 1);
    for (int32_t k = 0; k < counts.back(); ++k) slots[token * batch.length + k] = batch.Slot(k);
  }
  std::vector<float> expected(T * heads * latent_dim);
  const TensorView q_view(q.data(), DType::kF32, {T, heads, row_dim});
  const TensorView slots_view(slots.data(), DType::kI32, {T, batch.length});
  dsa::SparseAttentionReference({.q = q_view,
                                 .kv = {rows.data(), DType::kF32, {num_rows, row_dim}},
                                 .slots = slots_view,
                                 .out = {expected.data(), DType::kF32, {T, heads, latent_dim}},
                                 .softmax_scale = 0.125f});
  const LatentCacheView cache = {.type = LatentType::kF32,
                                 .latent_dim = latent_dim,
                                 .rope_dim = rope_dim,
                                 .row_bytes = row_dim * 4,
                                 .rows = {rows.data(), DType::kU8, {num_rows, row_dim * 4}}};
  const int64_t chunk = bytes.Between(1, T);
  std::vector<float> first_out;
  for (const std::unique_ptr<Backend>& backend : Backends()) {
    for (bool dense : {false, true}) {
      std::vector<float> out(T * heads * latent_dim, 77.0f);
      for (int64_t first = 0; first < T; first += chunk) {
        const int64_t count = std::min(chunk, T - first);
        SelectionView selection;
        if (!dense) {
          selection = {.positions = slots_view.Rows(first, count),
                       .slots = slots_view.Rows(first, count),
                       .counts = TensorView(counts.data(), DType::kI32, {T}).Rows(first, count)};
        }
        backend->Attention(
            {.q = q_view.Rows(first, count),
             .cache = cache,
             .selection = selection,
             .batch = batch.Part(first, count),
             .softmax_scale = 0.125f,
             .out =
                 TensorView(out.data(), DType::kF32, {T, heads, latent_dim}).Rows(first, count)});
      }
      if (first_out.empty()) {
        first_out = out;
        for (size_t k = 0; k < out.size(); ++k) {
          WINNOW_CHECK(std::fabs(out[k] - expected[k]) < 1e-4f, "far from the definition");
        }
      }
      WINNOW_CHECK(std::memcmp(out.data(), first_out.data(), out.size() * sizeof(float)) == 0,
                   backend->Describe() + ": other bits");
    }
  }
}

}  // namespace
}  // namespace winnow

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  winnow::Bytes bytes(data, size);
  if (bytes.Next() % 2 == 0) {
    winnow::CheckSelection(bytes);
  } else {
    winnow::CheckAttention(bytes);
  }
  return 0;
}
