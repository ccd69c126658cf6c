// The kernels of DSA for Hopper on their own: checks them against definitions on the host, then
// times them at the shapes of docs/benchmarks.md, which says how to build it. Needs a GPU and
// nothing else.
//
//   dsa_sm90 check [indexer|selection|attention]   checks, or some; status 1 when one fails
//   dsa_sm90 time [WORDS…]                         times what has one of the words in its name
#include <cuda_runtime.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <functional>
#include <limits>
#include <numeric>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "cuda/dsa/lightning_indexer_sm90.h"
#include "cuda/dsa/sparse_attention_sm90.h"
#include "cuda/dsa/token_selection_sm90.h"
#include "device.h"

namespace {

using namespace winnow::cuda;

int multiprocessors = 0;
int failures = 0;
std::mt19937_64 generator(20260101);

void Report(const std::string& name, bool ok, const std::string& detail) {
  std::printf("%s %s %s\n", ok ? "ok  " : "FAIL", name.c_str(), detail.c_str());
  std::fflush(stdout);
  failures += !ok;
}

float Uniform(float low, float high) {
  return std::uniform_real_distribution<float>(low, high)(generator);
}
float Normal() { return std::normal_distribution<float>()(generator); }

uint16_t ToBf16(float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  return static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}
float FromBf16(uint16_t x) { return std::bit_cast<float>(uint32_t{x} << 16); }
float FromE4m3(uint8_t code) {
  const int exponent = code >> 3 & 15;
  const float magnitude = exponent == 0
                              ? std::ldexp(static_cast<float>(code & 7), -9)
                              : std::ldexp(1.0f + static_cast<float>(code & 7) / 8, exponent - 7);
  return code & 0x80 ? -magnitude : magnitude;
}

template <typename Body>
void Parallel(int64_t count, const Body& body) {
  const int threads = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  std::vector<std::thread> pool;
  for (int t = 0; t < threads; ++t) {
    pool.emplace_back([&, t] {
      for (int64_t i = t; i < count; i += threads) body(i);
    });
  }
  for (std::thread& thread : pool) thread.join();
}

// ---- A paged cache of index keys and the tokens that look at it ---------------------------------

struct Batch {
  std::vector<int32_t> positions, sequences, page_table;
  int64_t table_stride = 0;
  int64_t num_pages = 0;

  // contexts[t]: candidates of token t; of_sequence[t]: whose they are.
  Batch(const std::vector<int>& contexts, const std::vector<int>& of_sequence) {
    const int sequences_count = *std::max_element(of_sequence.begin(), of_sequence.end()) + 1;
    const int longest = *std::max_element(contexts.begin(), contexts.end());
    table_stride = (longest + 63) / 64;
    num_pages = sequences_count * table_stride;
    page_table.resize(static_cast<size_t>(num_pages));
    std::iota(page_table.begin(), page_table.end(), 0);
    std::shuffle(page_table.begin(), page_table.end(), generator);
    for (size_t t = 0; t < contexts.size(); ++t) {
      positions.push_back(contexts[t] - 1);
      sequences.push_back(of_sequence[t]);
    }
  }
  int64_t Slot(int64_t token, int64_t position) const {
    return page_table[static_cast<size_t>(sequences[static_cast<size_t>(token)] * table_stride +
                                          position / 64)] *
               64 +
           position % 64;
  }
  int64_t tokens() const { return static_cast<int64_t>(positions.size()); }
};

float ScoreOf(const float* q, const float* weights, const int8_t* key, float key_scale, int heads) {
  float chain[4] = {0, 0, 0, 0};
  for (int head = 0; head < heads; ++head) {
    int32_t sum = 0;
    for (int j = 0; j < kIndexDim; ++j)
      sum += static_cast<int32_t>(q[head * kIndexDim + j]) * key[j];
    chain[head / 2 % 4] =
        std::fma(weights[head], std::max(0.0f, static_cast<float>(sum)), chain[head / 2 % 4]);
  }
  const float sum = (chain[0] + chain[1]) + (chain[2] + chain[3]);
  return sum * key_scale + 0.0f;
}

std::vector<int32_t> SelectOnHost(const float* scores, int candidates, int topk) {
  std::vector<int32_t> chosen(static_cast<size_t>(candidates));
  std::iota(chosen.begin(), chosen.end(), 0);
  if (candidates <= topk) return chosen;
  std::erase_if(chosen, [&](int32_t p) { return std::isnan(scores[p]); });
  std::stable_sort(chosen.begin(), chosen.end(),
                   [&](int32_t a, int32_t b) { return scores[a] > scores[b]; });
  if (static_cast<int>(chosen.size()) > topk) chosen.resize(static_cast<size_t>(topk));
  std::sort(chosen.begin(), chosen.end());
  return chosen;
}

// Whether outputs are what the host selects from `scores` [T, stride].
std::string CompareSelection(const Batch& batch, const std::vector<float>& scores, int64_t stride,
                             int topk, int64_t width, const std::vector<int32_t>& positions,
                             const std::vector<int32_t>& slots,
                             const std::vector<int32_t>& counts) {
  for (int64_t t = 0; t < batch.tokens(); ++t) {
    const std::vector<int32_t> expected =
        SelectOnHost(scores.data() + t * stride, batch.positions[static_cast<size_t>(t)] + 1, topk);
    if (counts[static_cast<size_t>(t)] != static_cast<int32_t>(expected.size())) {
      return "token " + std::to_string(t) + ": count " +
             std::to_string(counts[static_cast<size_t>(t)]) + ", expected " +
             std::to_string(expected.size());
    }
    for (int64_t k = 0; k < width; ++k) {
      const bool there = k < static_cast<int64_t>(expected.size());
      const int32_t position = there ? expected[static_cast<size_t>(k)] : -1;
      const int32_t slot = there ? static_cast<int32_t>(batch.Slot(t, position)) : -1;
      const size_t at = static_cast<size_t>(t * width + k);
      if (positions[at] != position || slots[at] != slot) {
        return "token " + std::to_string(t) + " place " + std::to_string(k) + ": " +
               std::to_string(positions[at]) + ", expected " + std::to_string(position);
      }
    }
  }
  return "";
}

struct DeviceBatch {
  Device<int32_t> positions, sequences, page_table;
  explicit DeviceBatch(const Batch& b)
      : positions(b.positions), sequences(b.sequences), page_table(b.page_table) {}
};

SelectionBatch MakeSelection(const Batch& batch, const DeviceBatch& device, int topk, int64_t width,
                             int32_t* positions, int32_t* slots, int32_t* counts) {
  return {.num_tokens = batch.tokens(),
          .positions = device.positions.get(),
          .sequences = device.sequences.get(),
          .page_table = device.page_table.get(),
          .page_table_stride = batch.table_stride,
          .topk = topk,
          .out_positions = positions,
          .out_slots = slots,
          .out_counts = counts,
          .width = width};
}

// What a selection from ranges keeps between them.
struct Candidates {
  Device<uint32_t> keys, counts, worst;
  Device<int32_t> positions;

  Candidates(int64_t tokens, int64_t topk)
      : keys(static_cast<size_t>(tokens * RunningRoom(topk))),
        counts(static_cast<size_t>(tokens)),
        worst(static_cast<size_t>(tokens)),
        positions(static_cast<size_t>(tokens * RunningRoom(topk))) {}
  RunningSelection Running() const {
    return {keys.get(), positions.get(), counts.get(), worst.get()};
  }
};

// Both ways of scoring and selecting, against the host.
void CheckIndexer(const std::string& name, const std::vector<int>& contexts,
                  const std::vector<int>& of_sequence, int heads, int topk) {
  const Batch batch(contexts, of_sequence);
  const int64_t tokens = batch.tokens();
  const int padded = PaddedIndexHeads(heads);
  std::vector<float> q(static_cast<size_t>(tokens * heads * kIndexDim));
  for (float& x : q) x = static_cast<float>(static_cast<int>(generator() % 255) - 127);
  std::vector<float> weights(static_cast<size_t>(tokens * heads));
  for (float& w : weights) w = Normal() * std::exp2(Uniform(-12, 3));
  if (tokens > 2) weights[static_cast<size_t>(heads)] = 0;
  std::vector<uint8_t> pages(static_cast<size_t>(batch.num_pages * kIndexPageBytes));
  std::vector<int8_t> keys(static_cast<size_t>(batch.num_pages * 64 * kIndexDim));
  std::vector<float> scales(static_cast<size_t>(batch.num_pages * 64));
  for (int64_t slot = 0; slot < batch.num_pages * 64; ++slot) {
    for (int j = 0; j < kIndexDim; ++j) {
      int8_t code = static_cast<int8_t>(static_cast<int>(generator() % 255) - 127);
      if (slot % 11 == 3) code = 127;  // the largest sums
      keys[static_cast<size_t>(slot * kIndexDim + j)] = code;
      pages[static_cast<size_t>(slot / 64 * kIndexPageBytes +
                                IndexCodeOffset(static_cast<int>(slot % 64), j))] =
          static_cast<uint8_t>(code);
    }
    float scale = std::exp2(Uniform(-9, -3));
    if (slot % 97 == 5) scale = NAN;
    if (slot % 89 == 7) scale = 0;
    scales[static_cast<size_t>(slot)] = scale;
    std::memcpy(pages.data() + slot / 64 * kIndexPageBytes + kIndexCodeBytes + slot % 64 * 4,
                &scale, 4);
  }
  const int longest = *std::max_element(contexts.begin(), contexts.end());
  const int64_t stride = (longest + 255) / 256 * 256;
  std::vector<float> expected(static_cast<size_t>(tokens * stride), 0);
  Parallel(tokens, [&](int64_t t) {
    for (int64_t s = 0; s < contexts[static_cast<size_t>(t)]; ++s) {
      const int64_t slot = batch.Slot(t, s);
      expected[static_cast<size_t>(t * stride + s)] =
          ScoreOf(q.data() + t * heads * kIndexDim, weights.data() + t * heads,
                  keys.data() + slot * kIndexDim, scales[static_cast<size_t>(slot)], heads);
    }
  });
  const DeviceBatch device(batch);
  const Device<float> d_q(q), d_weights(weights);
  const Device<uint8_t> d_pages(pages);
  const int64_t room = PaddedIndexTokens(tokens);
  const Device<uint8_t> packed(static_cast<size_t>(room * padded * kIndexDim));
  const Device<float> packed_weights(static_cast<size_t>(room * padded));
  const Device<float> unscale(static_cast<size_t>(room));
  MUST(PackIndexQueries(d_q.get(), d_weights.get(), tokens, heads, IndexForm::kInt8, packed.get(),
                        packed_weights.get(), unscale.get(), nullptr));
  const IndexQueries queries{IndexForm::kInt8, padded, packed.get(), packed_weights.get(),
                             unscale.get()};
  const IndexBatch index{tokens,
                         device.positions.get(),
                         device.sequences.get(),
                         device.page_table.get(),
                         batch.table_stride,
                         d_pages.get(),
                         topk};
  const int64_t width = std::min(topk, longest) + 3;
  auto compare_scores = [&](const std::vector<float>& scores, int64_t first, int64_t last,
                            int64_t scores_stride) -> std::string {
    for (int64_t t = 0; t < tokens; ++t) {
      if (contexts[static_cast<size_t>(t)] <= topk) continue;
      for (int64_t s = first; s < std::min<int64_t>(last, contexts[static_cast<size_t>(t)]); ++s) {
        const float a = scores[static_cast<size_t>(t * scores_stride + s - first)];
        const float b = expected[static_cast<size_t>(t * stride + s)];
        if (std::isnan(a) && std::isnan(b)) continue;
        if (std::bit_cast<uint32_t>(a) != std::bit_cast<uint32_t>(b)) {
          return "token " + std::to_string(t) + " key " + std::to_string(s) + ": " +
                 std::to_string(a) + ", expected " + std::to_string(b);
        }
      }
    }
    return "";
  };
  {
    const Device<float> scores(static_cast<size_t>(tokens * stride));
    const Device<int32_t> positions(static_cast<size_t>(tokens * width)),
        slots(static_cast<size_t>(tokens * width)), counts(static_cast<size_t>(tokens));
    MUST(ScoreTokens(queries, index, scores.get(), stride, multiprocessors, nullptr));
    MUST(SelectFromRows(
        MakeSelection(batch, device, topk, width, positions.get(), slots.get(), counts.get()),
        scores.get(), stride, multiprocessors, nullptr));
    MUST(cudaDeviceSynchronize());
    std::string wrong = compare_scores(scores.Host(), 0, stride, stride);
    Report("scores_by_token/" + name, wrong.empty(), wrong);
    wrong = CompareSelection(batch, expected, stride, topk, width, positions.Host(), slots.Host(),
                             counts.Host());
    Report("selection_from_rows/" + name, wrong.empty(), wrong);
  }
  {
    const int64_t range = 512;
    const Device<float> scores(static_cast<size_t>(tokens * range));
    const Device<int32_t> positions(static_cast<size_t>(tokens * width)),
        slots(static_cast<size_t>(tokens * width)), counts(static_cast<size_t>(tokens));
    const Candidates candidates(tokens, topk);
    std::string wrong;
    for (int64_t first = 0; first < stride; first += range) {
      MUST(ScoreKeyRange(queries, index, first, range, scores.get(), range, multiprocessors,
                         nullptr));
      MUST(SelectFromRange(
          MakeSelection(batch, device, topk, width, positions.get(), slots.get(), counts.get()),
          candidates.Running(), scores.get(), range, first, range, first + range >= stride,
          nullptr));
      MUST(cudaDeviceSynchronize());
      if (wrong.empty()) wrong = compare_scores(scores.Host(), first, first + range, range);
    }
    Report("scores_by_range/" + name, wrong.empty(), wrong);
    wrong = CompareSelection(batch, expected, stride, topk, width, positions.Host(), slots.Host(),
                             counts.Host());
    Report("selection_from_ranges/" + name, wrong.empty(), wrong);
  }
}

void CheckSelection(const std::string& name, int candidates, int topk,
                    const std::function<float(int, int)>& score) {
  const int tokens = 5;
  std::vector<int> contexts, of_sequence;
  for (int t = 0; t < tokens; ++t) {
    contexts.push_back(std::max(1, candidates - t));
    of_sequence.push_back(t % 2);
  }
  const Batch batch(contexts, of_sequence);
  const DeviceBatch device(batch);
  const int64_t stride = (candidates + 63) / 64 * 64;
  std::vector<float> scores(static_cast<size_t>(tokens * stride));
  for (int t = 0; t < tokens; ++t) {
    for (int s = 0; s < stride; ++s) scores[static_cast<size_t>(t * stride + s)] = score(t, s);
  }
  const int64_t width = std::min(topk, candidates);
  const Device<float> d_scores(scores);
  const Device<int32_t> positions(static_cast<size_t>(tokens * width)),
      slots(static_cast<size_t>(tokens * width)), counts(static_cast<size_t>(tokens));
  MUST(SelectFromRows(
      MakeSelection(batch, device, topk, width, positions.get(), slots.get(), counts.get()),
      d_scores.get(), stride, multiprocessors, nullptr));
  MUST(cudaDeviceSynchronize());
  std::string wrong = CompareSelection(batch, scores, stride, topk, width, positions.Host(),
                                       slots.Host(), counts.Host());
  const std::string what = name + "/n" + std::to_string(candidates) + "_k" + std::to_string(topk);
  Report("selection/" + what, wrong.empty(), wrong);

  const Candidates running(tokens, topk);
  for (int64_t first = 0; first < stride; first += kMaxRange) {
    MUST(SelectFromRange(
        MakeSelection(batch, device, topk, width, positions.get(), slots.get(), counts.get()),
        running.Running(), d_scores.get() + first, stride, first,
        std::min(kMaxRange, stride - first), first + kMaxRange >= stride, nullptr));
  }
  MUST(cudaDeviceSynchronize());
  wrong = CompareSelection(batch, scores, stride, topk, width, positions.Host(), slots.Host(),
                           counts.Host());
  Report("selection_by_ranges/" + what, wrong.empty(), wrong);
}

// ---- Attention ----------------------------------------------------------------------------------

struct Rows {
  std::vector<uint8_t> bytes;
  std::vector<float> values;  // [N, 576]
};

Rows MakeRows(RowForm form, int64_t count) {
  Rows rows;
  const int64_t row_bytes = form == RowForm::kFp8 ? 656 : 1152;
  rows.bytes.resize(static_cast<size_t>(count * row_bytes));
  rows.values.resize(static_cast<size_t>(count * 576));
  for (int64_t n = 0; n < count; ++n) {
    uint8_t* row = rows.bytes.data() + n * row_bytes;
    float* values = rows.values.data() + n * 576;
    if (form == RowForm::kFp8) {
      for (int block = 0; block < 4; ++block) {
        const int power = n % 50 == 7 && block == 2 ? 9 : static_cast<int>(generator() % 3) - 7;
        const float scale = std::ldexp(1.0f, n % 50 == 7 && block == 2 ? power : power);
        std::memcpy(row + 512 + 4 * block, &scale, 4);
        for (int j = 0; j < 128; ++j) {
          uint8_t code = static_cast<uint8_t>(generator());
          if ((code & 0x7f) == 0x7f) code ^= 1;
          if (power > 0) code &= 0x87;  // subnormal codes under a scale above 2^7
          row[block * 128 + j] = code;
          values[block * 128 + j] = FromE4m3(code) * scale;
        }
      }
    }
    for (int j = form == RowForm::kFp8 ? 512 : 0; j < 576; ++j) {
      const uint16_t value = ToBf16(Normal());
      std::memcpy(row + (form == RowForm::kFp8 ? 528 + (j - 512) * 2 : j * 2), &value, 2);
      values[j] = FromBf16(value);
    }
  }
  return rows;
}

struct AttentionCase {
  RowForm form = RowForm::kBf16;
  const Rows* rows = nullptr;
  int heads = 0;
  std::vector<uint16_t> q;      // [T, heads, 576]
  std::vector<int32_t> counts;  // [T]
  std::vector<int32_t> slots;   // [T, width]
  int width = 0;
  float scale = 0.05f;
  const Batch* dense = nullptr;  // tokens read all rows of their sequence; these are `slots` too
};

std::vector<float> Attend(const AttentionCase& c, int64_t tokens) {
  const Device<uint8_t> d_rows(c.rows->bytes);
  const Device<uint16_t> d_q(c.q);
  const Device<int32_t> d_slots(c.slots), d_counts(c.counts);
  const Device<float> out(static_cast<size_t>(tokens * c.heads * 512));
  RowAttentionArgs args;
  args.form = c.form;
  args.q = d_q.get();
  args.num_tokens = tokens;
  args.num_heads = c.heads;
  args.rows = d_rows.get();
  args.softmax_scale = c.scale;
  args.out = out.get();
  const Device<uint8_t> partial_sums(static_cast<size_t>(RowAttentionBytes(
      tokens, c.heads, c.dense != nullptr ? c.dense->table_stride * 64 : c.width)));
  args.partial_sums = partial_sums.get();
  if (c.dense != nullptr) {
    const DeviceBatch batch(*c.dense);
    args.positions = batch.positions.get();
    args.sequences = batch.sequences.get();
    args.page_table = batch.page_table.get();
    args.page_table_stride = c.dense->table_stride;
    MUST(RowAttention(args, nullptr));
    MUST(cudaDeviceSynchronize());
    return out.Host();
  }
  args.slots = d_slots.get();
  args.counts = d_counts.get();
  args.width = c.width;
  MUST(RowAttention(args, nullptr));
  MUST(cudaDeviceSynchronize());
  return out.Host();
}

// The definition, for one head of one token: [512].
std::vector<double> AttendOnHost(const AttentionCase& c, int64_t token, int head) {
  const int count = c.counts[static_cast<size_t>(token)];
  auto row = [&](int i) {
    return c.rows->values.data() + int64_t{c.slots[static_cast<size_t>(token * c.width + i)]} * 576;
  };
  const uint16_t* query = c.q.data() + (token * c.heads + head) * 576;
  std::vector<double> weights(static_cast<size_t>(count));
  double max = -std::numeric_limits<double>::infinity();
  for (int i = 0; i < count; ++i) {
    double dot = 0;
    for (int j = 0; j < 576; ++j) dot += static_cast<double>(FromBf16(query[j])) * row(i)[j];
    weights[static_cast<size_t>(i)] = dot * static_cast<double>(c.scale);
    max = std::max(max, weights[static_cast<size_t>(i)]);
  }
  double total = 0;
  for (double& w : weights) total += w = std::exp(w - max);
  std::vector<double> out(512, 0);
  for (int i = 0; i < count; ++i) {
    for (size_t v = 0; v < 512; ++v) {
      out[v] += weights[static_cast<size_t>(i)] * static_cast<double>(row(i)[v]) / total;
    }
  }
  return out;
}

// Relative to the size of a token's results; NaN has to be where the definition has it.
void CompareAttention(const std::string& name, const AttentionCase& c,
                      const std::vector<float>& result) {
  const int64_t tokens = static_cast<int64_t>(c.counts.size());
  std::vector<double> error(static_cast<size_t>(tokens), 0), norm(static_cast<size_t>(tokens), 0);
  Parallel(tokens, [&](int64_t t) {
    for (int head = 0; head < c.heads; ++head) {
      const std::vector<double> wanted = AttendOnHost(c, t, head);
      for (size_t v = 0; v < 512; ++v) {
        const double got = result[static_cast<size_t>(t * c.heads + head) * 512 + v];
        if (std::isnan(got) && std::isnan(wanted[v])) continue;
        error[static_cast<size_t>(t)] += (got - wanted[v]) * (got - wanted[v]);
        norm[static_cast<size_t>(t)] += wanted[v] * wanted[v];
      }
    }
  });
  double worst = 0;
  for (size_t t = 0; t < error.size(); ++t) {
    const double relative = norm[t] > 0 ? std::sqrt(error[t] / norm[t]) : std::sqrt(error[t]);
    if (!(relative <= worst)) worst = relative;  // NaN too
  }
  char text[64];
  std::snprintf(text, sizeof(text), "relative error %.2e", worst);
  Report(name, worst < 4e-3, text);
}

// The first tokens give the same bits whoever else is there: numbers that make different grids.
void CompareBatches(const std::string& name, const AttentionCase& c, const std::vector<float>& all,
                    const std::vector<int>& batches) {
  std::string wrong;
  for (const int tokens : batches) {
    const std::vector<float> some = Attend(c, tokens);
    const size_t shared = std::min(some.size(), all.size());
    if (std::memcmp(some.data(), all.data(), shared * sizeof(float)) != 0) {
      wrong += " " + std::to_string(tokens);
    }
  }
  Report(name, wrong.empty(), wrong);
}

// Lists of these lengths, and random ones up to `width`.
void CheckChosenRows(const std::string& name, RowForm form, const Rows& rows, int heads,
                     const std::vector<int32_t>& lengths, int width,
                     const std::vector<int>& batches, float scale = 0.05f) {
  AttentionCase c = {.form = form, .rows = &rows, .heads = heads, .width = width, .scale = scale};
  c.counts = lengths;
  const size_t few = c.counts.size();
  const size_t many = static_cast<size_t>(batches.back());
  while (c.counts.size() < many) {
    c.counts.push_back(static_cast<int32_t>(generator() % static_cast<unsigned>(width + 1)));
  }
  c.slots.assign(c.counts.size() * static_cast<size_t>(c.width), -1);
  for (size_t t = 0; t < c.counts.size(); ++t) {
    for (int i = 0; i < c.counts[t]; ++i) {
      c.slots[t * static_cast<size_t>(c.width) + static_cast<size_t>(i)] =
          static_cast<int32_t>(generator() % 3000);
    }
  }
  c.q.resize(c.counts.size() * static_cast<size_t>(heads) * 576);
  for (uint16_t& x : c.q) x = ToBf16(Normal());
  const std::vector<float> result = Attend(c, static_cast<int64_t>(few));
  CompareBatches(name + "/equal_bits_in_any_batch", c, result, batches);
  c.counts.resize(few);
  CompareAttention(name + "/few", c, result);
}

// Every row of a sequence, by its pages.
void CheckDense(const std::string& name, RowForm form, int heads, const std::vector<int>& lengths,
                const std::vector<int>& batches) {
  std::vector<int> contexts = lengths, of_sequence = {0, 1, 1, 1, 2};
  const size_t few = contexts.size();
  const int longest = *std::max_element(contexts.begin(), contexts.end());
  while (static_cast<int>(contexts.size()) < batches.back()) {
    contexts.push_back(longest - 99 + static_cast<int>(contexts.size() % 100));
    of_sequence.push_back(3);
  }
  const Batch batch(contexts, of_sequence);
  const Rows rows = MakeRows(form, batch.num_pages * 64);
  AttentionCase c = {.form = form, .rows = &rows, .heads = heads, .dense = &batch};
  c.width = static_cast<int>(batch.table_stride * 64);
  c.counts = {contexts.begin(), contexts.end()};
  c.slots.assign(c.counts.size() * static_cast<size_t>(c.width), -1);
  for (int64_t t = 0; t < batch.tokens(); ++t) {
    for (int i = 0; i < contexts[static_cast<size_t>(t)]; ++i) {
      c.slots[static_cast<size_t>(t * c.width + i)] = static_cast<int32_t>(batch.Slot(t, i));
    }
  }
  c.q.resize(c.counts.size() * static_cast<size_t>(heads) * 576);
  for (uint16_t& x : c.q) x = ToBf16(Normal());
  const std::vector<float> result = Attend(c, static_cast<int64_t>(few));
  CompareBatches(name + "/equal_bits_in_any_batch", c, result, batches);
  c.dense = nullptr;
  CompareBatches(name + "/equal_bits_as_chosen", c, result, {5, batches.back()});
  c.counts.resize(few);
  CompareAttention(name + "/few", c, result);
}

// Scores of some size that differ by a little, exactly: 2^20 + 2k times the scale. Then infinite
// ones and NaN, which come from the last rotary column, at either end of lists of up to `most`.
void CheckLargeScores(const std::string& name, RowForm form, int most) {
  Rows rows = MakeRows(form, most + 60);
  const int row_bytes = form == RowForm::kFp8 ? 656 : 1152;
  auto set = [&](int row, int rotary, float value) {
    const uint16_t bits = ToBf16(value);
    std::memcpy(rows.bytes.data() + (row + 1) * row_bytes - (64 - rotary) * 2, &bits, 2);
    rows.values[static_cast<size_t>(row * 576 + 512 + rotary)] = value;
  };
  for (int row = 0; row < most + 60; ++row) {
    set(row, 0, 1024);
    set(row, 1, static_cast<float>(static_cast<int>(generator() % 33) - 16));
    set(row, 63, 0);
  }
  set(most, 63, INFINITY);
  set(most + 1, 63, -INFINITY);
  set(most + 2, 63, NAN);
  const int heads = 64;
  AttentionCase c = {.form = form, .rows = &rows, .heads = heads, .width = most};
  auto add = [&](std::vector<int32_t> list) {
    c.counts.push_back(static_cast<int32_t>(list.size()));
    list.resize(static_cast<size_t>(c.width), -1);
    c.slots.insert(c.slots.end(), list.begin(), list.end());
  };
  const std::vector<std::vector<int32_t>> lists = {
      {}, {most}, {most + 1}, {most + 2}, {most, most + 1}};
  for (const int count : {1, 100, most - 1}) {
    for (std::vector<int32_t> list : lists) {
      const int more = static_cast<int>(list.size());
      for (int i = 0; i < count && i < most - more; ++i) list.push_back(i);
      if (count == most - 1) add(list);
      std::reverse(list.begin(), list.end());
      add(list);
    }
  }
  // Nothing but weights of 0, once and for the first half of a list.
  add({most + 1});
  std::vector<int32_t> half(static_cast<size_t>(most / 2), most + 1);
  for (int i = 0; i < most / 2; ++i) half.push_back(i);
  add(half);
  for (const float size : {1.0f, 2e4f, -2e4f, 1e6f, -1e6f}) {
    c.q.assign(c.counts.size() * static_cast<size_t>(heads) * 576, 0);
    for (size_t at = 0; at < c.q.size(); at += 576) {
      c.q[at + 512] = ToBf16(size < 0 ? -1024.0f : 1024.0f);
      c.q[at + 513] = ToBf16(static_cast<float>(at / 576 % 5) * 16);
      c.q[at + 575] = ToBf16(1);
    }
    c.scale = std::fabs(size) * 0x1p-20f;
    const std::vector<float> result = Attend(c, static_cast<int64_t>(c.counts.size()));
    const std::string what = name + "/scores_of_" + std::to_string(static_cast<int>(size));
    CompareAttention(what, c, result);
    CompareBatches(what + "/equal_bits_in_any_batch", c, result, {1, 5, 12});
  }
}

void CheckAttentionForms() {
  const std::vector<int32_t> short_lists = {0, 1, 63, 64, 65, 128, 200, 699, 700};
  // Around the ends of chunks.
  const std::vector<int32_t> long_lists = {5000, 0, 1, 2047, 2048, 2049, 4095, 4096, 4097};
  for (const RowForm form : {RowForm::kBf16, RowForm::kFp8}) {
    const std::string prefix = form == RowForm::kFp8 ? "attention/fp8" : "attention/bf16";
    const Rows rows = MakeRows(form, 3000);
    for (const int heads : {6, 16, 64, 128, 192}) {
      const std::string name = prefix + "/h" + std::to_string(heads);
      CheckChosenRows(name, form, rows, heads, short_lists, 700, {1, 3, 12, 24, 48, 140});
    }
    // Of one chunk, around the ends of tiles that are summed together; of scores so far apart that
    // few weights are relative to the same power.
    const std::vector<int32_t> whole_lists = {2048, 1, 256, 257, 1984, 1985, 2047, 0, 320};
    CheckChosenRows(prefix + "/whole/h128", form, rows, 128, whole_lists, 2048,
                    {1, 2, 3, 8, 9, 16, 40});
    CheckChosenRows(prefix + "/far_apart/h64", form, rows, 64, whole_lists, 2048,
                    {1, 4, 16, 32, 40}, 3.0f);
    for (const int heads : {6, 128}) {
      const std::string with_heads = "/h" + std::to_string(heads);
      CheckChosenRows(prefix + "/chunks" + with_heads, form, rows, heads, long_lists, 5056,
                      {1, 3, 8, 32, 128, 600});
      CheckDense(prefix + "/dense" + with_heads, form, heads, {700, 1, 64, 65, 699},
                 {1, 3, 40, 105});
      CheckDense(prefix + "/dense_chunks" + with_heads, form, heads, {5100, 1, 2048, 2049, 4096},
                 {1, 3, 8, 40, 105, 300});
    }
    CheckDense(prefix + "/dense_long/h6", form, 6, {17000, 1, 2049, 16385, 16384}, {1, 3, 40});
    CheckLargeScores(prefix, form, 640);
    CheckLargeScores(prefix + "/chunks", form, 4500);
  }
}

void CheckIndexers() {
  CheckIndexer("one_i64", {5000}, {0}, 64, 100);
  CheckIndexer("short_i64", {1, 63, 64, 65, 100, 101, 128, 129}, {0, 1, 2, 3, 4, 5, 6, 7}, 64, 100);
  CheckIndexer("few_i4", {3000, 700, 257, 256}, {0, 1, 2, 1}, 4, 256);
  CheckIndexer("few_i32", {1500, 700}, {0, 1}, 32, 64);
  CheckIndexer("few_i16", {900, 1024, 1025}, {0, 1, 1}, 16, 64);
  {
    std::vector<int> contexts, of_sequence;  // two prompts and some decoding between them
    for (int t = 0; t < 37; ++t) contexts.push_back(900 + t), of_sequence.push_back(0);
    for (int t = 0; t < 5; ++t) contexts.push_back(40 + 300 * t), of_sequence.push_back(t + 1);
    for (int t = 0; t < 50; ++t) contexts.push_back(1 + 30 * t), of_sequence.push_back(6);
    CheckIndexer("mixed_i64", contexts, of_sequence, 64, 128);
    CheckIndexer("mixed_i4", contexts, of_sequence, 4, 256);
    CheckIndexer("mixed_i20", contexts, of_sequence, 20, 1);
  }
}

void CheckSelections() {
  for (const int n : {1, 2047, 2048, 2049, 5000, 32768, 131072, 400000}) {
    const int k = 2048;
    CheckSelection("random", n, k, [](int, int) { return Normal(); });
    CheckSelection("equal", n, k, [](int, int) { return 0.0f; });
    CheckSelection("plateau", n, k, [](int, int s) { return s % 50 == 0 ? Uniform(0, 1) : 0.0f; });
    CheckSelection("concentrated", n, k, [](int, int) { return Uniform(1.0f, 1.0001f); });
    CheckSelection("infinite", n, k, [](int t, int s) {
      return (s + t) % 3 == 0 ? -INFINITY : (s % 1000 == 1 ? INFINITY : -Uniform(0, 1));
    });
    CheckSelection("nan", n, k, [](int, int s) { return s % 100 < 99 ? NAN : Normal(); });
    CheckSelection("ascending", n, k, [](int, int s) { return static_cast<float>(s); });
  }
}

// ---- Timing -------------------------------------------------------------------------------------

__global__ void FillKernel(uint32_t* words, int64_t count, uint32_t seed, int what) {
  for (int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; i < count;
       i += int64_t{gridDim.x} * blockDim.x) {
    uint32_t x =
        static_cast<uint32_t>(i) * 2654435761u ^ seed ^ static_cast<uint32_t>(i >> 32) * 40503u;
    x ^= x >> 16, x *= 0x85ebca6bu, x ^= x >> 13, x *= 0xc2b2ae35u, x ^= x >> 16;
    uint32_t y = x;
    if (what == 1) {  // pages of int8 keys: codes, then scales
      if (i % (kIndexPageBytes / 4) >= kIndexCodeBytes / 4) y = 0x3a000000u | (x & 0x7fffffu);
    } else if (what == 2) {  // FP8 rows of 656 bytes
      const int at = static_cast<int>(i % 164);
      if (at >= 128 && at < 132)
        y = 0x3c000000u;  // 2^-7
      else if (at >= 132)
        y = (x & 0x807f807fu) | 0x3f003f00u;
      else
        y = x & 0xb7b7b7b7u;
    } else if (what == 3) {  // bf16 in ±1
      y = (x & 0x80ff80ffu) | 0x3e003e00u;
    } else if (what == 4) {  // f32 weights
      y = (x & 0x80ffffffu) | 0x3b000000u;
    } else if (what == 5) {
      y = 0x3f800000u;
    }
    words[i] = y;
  }
}
void Fill(void* data, int64_t bytes, uint32_t seed, int what) {
  FillKernel<<<1024, 256>>>(static_cast<uint32_t*>(data), bytes / 4, seed, what);
  MUST(cudaGetLastError());
}

uint8_t* flush = nullptr;
constexpr size_t kFlushBytes = 256u << 20;

struct Times {
  double cold, graph, low, high;
};

// `work(set, stream)`: cold is a launch after the cache was overwritten; graph is a graph of ten
// launches that take turns among the sets. Microseconds a launch, medians.
Times Time(int sets, int repeats, const std::function<void(int, cudaStream_t)>& work) {
  cudaStream_t stream;
  MUST(cudaStreamCreate(&stream));
  cudaEvent_t begin, end;
  MUST(cudaEventCreate(&begin));
  MUST(cudaEventCreate(&end));
  std::vector<double> cold, hot;
  float ms = 0;
  for (int i = 0; i < 3 + repeats; ++i) {
    MUST(cudaMemsetAsync(flush, i, kFlushBytes, stream));
    MUST(cudaEventRecord(begin, stream));
    work(i % sets, stream);
    MUST(cudaEventRecord(end, stream));
    MUST(cudaEventSynchronize(end));
    MUST(cudaEventElapsedTime(&ms, begin, end));
    if (i >= 3) cold.push_back(ms * 1e3);
  }
  cudaGraph_t graph;
  cudaGraphExec_t run;
  MUST(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  for (int i = 0; i < 10; ++i) work(i % sets, stream);
  MUST(cudaStreamEndCapture(stream, &graph));
  MUST(cudaGraphInstantiate(&run, graph, 0));
  for (int i = 0; i < 3 + repeats; ++i) {
    MUST(cudaEventRecord(begin, stream));
    MUST(cudaGraphLaunch(run, stream));
    MUST(cudaEventRecord(end, stream));
    MUST(cudaEventSynchronize(end));
    MUST(cudaEventElapsedTime(&ms, begin, end));
    if (i >= 3) hot.push_back(ms * 1e2);
  }
  MUST(cudaGraphExecDestroy(run));
  MUST(cudaGraphDestroy(graph));
  MUST(cudaEventDestroy(begin));
  MUST(cudaEventDestroy(end));
  MUST(cudaStreamDestroy(stream));
  std::sort(cold.begin(), cold.end());
  std::sort(hot.begin(), hot.end());
  return {cold[cold.size() / 2], hot[hot.size() / 2], hot[hot.size() / 10],
          hot[hot.size() * 9 / 10]};
}

std::vector<std::string> words;
bool Wanted(const std::string& name) {
  if (words.empty()) return true;
  return std::any_of(words.begin(), words.end(),
                     [&](const std::string& w) { return name.find(w) != std::string::npos; });
}

// flops and bytes: of one launch.
void Bench(const std::string& name, int sets, double flops, double bytes,
           const std::function<void(int, cudaStream_t)>& work, int repeats = 15) {
  if (!Wanted(name)) return;
  const Times t = Time(sets, repeats, work);
  std::printf("%-52s cold %8.1f  graph %8.1f [%.1f, %.1f] us  %7.1f TFLOP/s  %6.2f TB/s\n",
              name.c_str(), t.cold, t.graph, t.low, t.high, flops / t.graph / 1e6,
              bytes / t.graph / 1e6);
  std::fflush(stdout);
}

// One layer of V3.2: `tokens` tokens a set, `sets` sets, each token of its own sequence (decoding)
// or all of one sequence (a prompt's last tokens).
void BenchShape(bool prompt, int tokens, int context, int heads) {
  constexpr int kHeads = 64;
  constexpr int kTopk = 2048;
  const int sequences = prompt ? 1 : std::max(tokens, context >= 131072 ? 8 : 32);
  const int sets = prompt ? 1 : std::max(1, sequences / tokens);
  const std::string shape = (prompt ? std::string("/prefill/t") : std::string("/decode/b")) +
                            std::to_string(tokens) + "_s" + std::to_string(context);
  if (!Wanted("indexer" + shape) && !Wanted("indexer_e4m3" + shape) &&
      !Wanted("selection" + shape) && !Wanted("attention" + shape) &&
      !Wanted("attention_fp8" + shape) && !Wanted("dense" + shape) &&
      !Wanted("dense_fp8" + shape) && !Wanted("chain" + shape)) {
    return;
  }
  const int64_t table_stride = context / 64;
  const int64_t slots_total = int64_t{sequences} * context;
  std::vector<int32_t> table(static_cast<size_t>(sequences * table_stride));
  std::iota(table.begin(), table.end(), 0);
  std::shuffle(table.begin(), table.end(), generator);
  std::vector<int32_t> positions, sequence_of;
  double pairs = 0;
  for (int s = 0; s < sets * tokens; ++s) {
    positions.push_back(prompt ? context - tokens + s : context - 1);
    sequence_of.push_back(prompt ? 0 : s);
    if (s < tokens) pairs += positions.back() + 1 > kTopk ? positions.back() + 1 : 0;
  }
  const int64_t all = int64_t{sets} * tokens;
  const Device<int32_t> d_table(table), d_positions(positions), d_sequences(sequence_of);
  const Device<uint8_t> pages(static_cast<size_t>(slots_total / 64 * kIndexPageBytes));
  Fill(pages.get(), slots_total / 64 * kIndexPageBytes, 1, 1);
  const int64_t room = PaddedIndexTokens(all);
  const Device<uint8_t> q(static_cast<size_t>(room * kHeads * kIndexDim));
  const Device<float> weights(static_cast<size_t>(room * kHeads)),
      unscale(static_cast<size_t>(room));
  Fill(q.get(), room * kHeads * kIndexDim, 2, 0);
  Fill(weights.get(), room * kHeads * 4, 3, 4);
  {  // scaled as PackIndexQueries does it
    std::vector<float> w = weights.Host();
    for (float& x : w) x = std::ldexp(x, 108);
    MUST(cudaMemcpy(weights.get(), w.data(), w.size() * 4, cudaMemcpyHostToDevice));
    const std::vector<float> u(static_cast<size_t>(room), std::ldexp(1.0f, 20));
    MUST(cudaMemcpy(unscale.get(), u.data(), u.size() * 4, cudaMemcpyHostToDevice));
  }
  const int64_t range = prompt ? kMaxRange : 0;
  const int64_t stride = prompt ? range : context;
  const Device<float> scores(static_cast<size_t>(tokens * stride));
  const Device<int32_t> out_positions(static_cast<size_t>(tokens) * kTopk),
      out_slots(static_cast<size_t>(tokens) * kTopk), out_counts(static_cast<size_t>(tokens));
  const Candidates candidates(prompt ? tokens : 0, kTopk);
  IndexForm index_form = IndexForm::kInt8;
  auto queries = [&](int set) {
    const int64_t first = int64_t{set} * tokens;
    return IndexQueries{index_form, kHeads, q.get() + first * kHeads * kIndexDim,
                        weights.get() + first * kHeads, unscale.get() + first};
  };
  auto index = [&](int set) {
    const int64_t first = int64_t{set} * tokens;
    return IndexBatch{tokens,
                      d_positions.get() + first,
                      d_sequences.get() + first,
                      d_table.get(),
                      table_stride,
                      pages.get(),
                      kTopk};
  };
  auto selection = [&](int set) {
    const int64_t first = int64_t{set} * tokens;
    return SelectionBatch{tokens,
                          d_positions.get() + first,
                          d_sequences.get() + first,
                          d_table.get(),
                          table_stride,
                          kTopk,
                          out_positions.get(),
                          out_slots.get(),
                          out_counts.get(),
                          kTopk};
  };
  auto score = [&](int set, cudaStream_t stream) {
    if (!prompt) {
      MUST(ScoreTokens(queries(set), index(set), scores.get(), stride, multiprocessors, stream));
      return;
    }
    for (int64_t first = 0; first < context; first += range) {
      MUST(ScoreKeyRange(queries(set), index(set), first, std::min<int64_t>(range, context - first),
                         scores.get(), stride, multiprocessors, stream));
    }
  };
  auto select = [&](int set, cudaStream_t stream) {
    if (!prompt) {
      MUST(SelectFromRows(selection(set), scores.get(), stride, multiprocessors, stream));
      return;
    }
    for (int64_t first = 0; first < context; first += range) {
      MUST(SelectFromRange(selection(set), candidates.Running(), scores.get(), stride, first,
                           std::min<int64_t>(range, context - first), first + range >= context,
                           stream));
    }
  };
  auto score_and_select = [&](int set, cudaStream_t stream) {
    if (!prompt) {
      score(set, stream);
      select(set, stream);
      return;
    }
    for (int64_t first = 0; first < context; first += range) {
      const int64_t keys = std::min<int64_t>(range, context - first);
      MUST(ScoreKeyRange(queries(set), index(set), first, keys, scores.get(), stride,
                         multiprocessors, stream));
      MUST(SelectFromRange(selection(set), candidates.Running(), scores.get(), stride, first, keys,
                           first + range >= context, stream));
    }
  };
  const Device<uint8_t> rows_bf16(prompt ? static_cast<size_t>(slots_total * 1152) : 0);
  const Device<uint8_t> rows_fp8(static_cast<size_t>(slots_total * 656));
  if (prompt) Fill(rows_bf16.get(), slots_total * 1152, 4, 3);
  Fill(rows_fp8.get(), slots_total * 656, 4, 2);
  const Device<uint16_t> query(static_cast<size_t>(int64_t{tokens} * heads * 576));
  Fill(query.get(), int64_t{tokens} * heads * 576 * 2, 5, 3);
  const Device<uint16_t> out(static_cast<size_t>(int64_t{tokens} * heads * 512));
  const Device<uint8_t> partial_sums(
      static_cast<size_t>(RowAttentionBytes(tokens, heads, std::max<int64_t>(context, kTopk))));
  auto attention = [&](RowForm form) {
    RowAttentionArgs args;
    args.partial_sums = partial_sums.get();
    args.form = form;
    args.q = query.get();
    args.num_tokens = tokens;
    args.num_heads = heads;
    args.rows = form == RowForm::kFp8 ? rows_fp8.get() : rows_bf16.get();
    args.softmax_scale = 0.05f;
    args.out = out.get();
    args.out_bf16 = true;
    return args;
  };
  auto attend_from = [&](RowForm form, const int32_t* slots, cudaStream_t stream) {
    RowAttentionArgs args = attention(form);
    args.slots = slots;
    args.counts = out_counts.get();
    args.width = kTopk;
    MUST(RowAttention(args, stream));
  };
  auto attend_to_all = [&](RowForm form, int set, cudaStream_t stream) {
    RowAttentionArgs args = attention(form);
    args.positions = d_positions.get() + int64_t{set} * tokens;
    args.sequences = d_sequences.get() + int64_t{set} * tokens;
    args.page_table = d_table.get();
    args.page_table_stride = table_stride;
    MUST(RowAttention(args, stream));
  };
  const RowForm form = prompt ? RowForm::kBf16 : RowForm::kFp8;
  const int64_t row_bytes = prompt ? 1152 : 656;
  // Every set's selection, so that attention alone reads different rows each time.
  const Device<int32_t> kept(static_cast<size_t>(all) * kTopk);
  for (int set = 0; set < sets; ++set) {
    score_and_select(set, nullptr);
    MUST(cudaMemcpyAsync(kept.get() + int64_t{set} * tokens * kTopk, out_slots.get(),
                         static_cast<size_t>(tokens) * kTopk * 4, cudaMemcpyDeviceToDevice,
                         nullptr));
  }
  MUST(cudaDeviceSynchronize());
  const double indexer_bytes = prompt ? 0 : pairs * 136;
  const double attention_flops = 2.0 * heads * 1088 * kTopk * tokens;
  const double attention_bytes =
      tokens * (2048.0 * static_cast<double>(row_bytes) + heads * 2176.0);
  const std::string with_heads = "_h" + std::to_string(heads);
  if (heads == 128) {
    Bench("indexer" + shape, sets, pairs * 16384, indexer_bytes, score);
    Bench("selection" + shape, sets, 0, pairs * 4, select);
    index_form = IndexForm::kE4m3;
    Bench("indexer_e4m3" + shape, sets, pairs * 16384, indexer_bytes, score);
    index_form = IndexForm::kInt8;
    if (prompt) Bench("indexer+selection" + shape, sets, pairs * 16384, 0, score_and_select);
  }
  auto attend_kept = [&](RowForm rows) {
    return [&, rows](int set, cudaStream_t stream) {
      attend_from(rows, kept.get() + int64_t{set} * tokens * kTopk, stream);
    };
  };
  Bench("attention" + shape + with_heads, sets, attention_flops, attention_bytes,
        attend_kept(form));
  if (prompt) {
    Bench("attention_fp8" + shape + with_heads, sets, attention_flops, 0,
          attend_kept(RowForm::kFp8));
  }
  if (heads == 128 && context == 32768) {
    const double flops =
        2.0 * heads * 1088 * std::accumulate(positions.begin(), positions.begin() + tokens, 0.0);
    for (const RowForm rows : {RowForm::kFp8, RowForm::kBf16}) {
      if (rows == RowForm::kBf16 && !prompt) continue;
      Bench((rows == RowForm::kFp8 ? "dense_fp8" : "dense") + shape + with_heads, sets, flops, 0,
            [&](int set, cudaStream_t stream) { attend_to_all(rows, set, stream); },
            prompt ? 3 : 15);
    }
  }
  Bench("chain" + shape + with_heads, sets, 0, 0, [&](int set, cudaStream_t stream) {
    score_and_select(set, stream);
    attend_from(form, out_slots.get(), stream);
  });
}

}  // namespace

int main(int argc, char** argv) {
  cudaDeviceProp properties;
  MUST(cudaGetDeviceProperties(&properties, 0));
  multiprocessors = properties.multiProcessorCount;
  std::printf("%s, %d multiprocessors\n", properties.name, multiprocessors);
  const std::string mode = argc > 1 ? argv[1] : "check";
  for (int i = 2; i < argc; ++i) words.push_back(argv[i]);
  if (mode == "check") {
    if (Wanted("indexer")) CheckIndexers();
    if (Wanted("selection")) CheckSelections();
    if (Wanted("attention")) CheckAttentionForms();
    std::printf("%d checks failed\n", failures);
    return failures > 0;
  }
  MUST(cudaMalloc(&flush, kFlushBytes));
  {
    const Device<uint8_t> from(size_t{4} << 30), to(size_t{4} << 30);
    const Times copy = Time(1, 5, [&](int, cudaStream_t stream) {
      MUST(
          cudaMemcpyAsync(to.get(), from.get(), size_t{4} << 30, cudaMemcpyDeviceToDevice, stream));
    });
    std::printf("copy %.2f TB/s\n", 2.0 * 4294967296.0 / copy.cold / 1e6);
  }
  for (const int context : {4096, 32768, 131072}) {
    for (const int tokens : {1, 8, 32, 128}) BenchShape(false, tokens, context, 128);
  }
  for (const int tokens : {1, 8, 32, 128}) BenchShape(false, tokens, 32768, 16);
  for (const int context : {4096, 32768, 131072}) BenchShape(true, 2048, context, 128);
  return 0;
}
