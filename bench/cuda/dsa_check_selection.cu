// Scores and selections of the kernels for Hopper against the host's, bit for bit.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <numeric>

#include "dsa_bench.h"

namespace winnow::cuda {
namespace {

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

}  // namespace

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

}  // namespace winnow::cuda
