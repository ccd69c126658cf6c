// Attention of the kernels for Hopper against the definition, and a token alone against the same in
// batches, bit for bit.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "cuda/dsa/sparse_attention_sm90.h"
#include "dsa_bench.h"

namespace winnow::cuda {
namespace {

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

}  // namespace

void CheckAttention() {
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

}  // namespace winnow::cuda
