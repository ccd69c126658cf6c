// Times of the kernels of DSA for Hopper, at the shapes of docs/benchmarks.md.
#include <algorithm>
#include <functional>
#include <numeric>

#include "cuda/dsa/sparse_attention_sm90.h"
#include "dsa_bench.h"

namespace winnow::cuda {
namespace {

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
void BenchShape(bool prompt, int tokens, int context, int heads, int topk) {
  constexpr int kHeads = 64;
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
    if (s < tokens) pairs += positions.back() + 1 > topk ? positions.back() + 1 : 0;
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
  const Device<int32_t> out_positions(static_cast<size_t>(tokens) * topk),
      out_slots(static_cast<size_t>(tokens) * topk), out_counts(static_cast<size_t>(tokens));
  const Candidates candidates(prompt ? tokens : 0, topk);
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
                      topk};
  };
  auto selection = [&](int set) {
    const int64_t first = int64_t{set} * tokens;
    return SelectionBatch{tokens,
                          d_positions.get() + first,
                          d_sequences.get() + first,
                          d_table.get(),
                          table_stride,
                          topk,
                          out_positions.get(),
                          out_slots.get(),
                          out_counts.get(),
                          topk};
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
      static_cast<size_t>(RowAttentionBytes(tokens, heads, std::max(context, topk))));
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
    args.width = topk;
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
  const Device<int32_t> kept(static_cast<size_t>(all) * topk);
  for (int set = 0; set < sets; ++set) {
    score_and_select(set, nullptr);
    MUST(cudaMemcpyAsync(kept.get() + int64_t{set} * tokens * topk, out_slots.get(),
                         static_cast<size_t>(tokens) * topk * 4, cudaMemcpyDeviceToDevice,
                         nullptr));
  }
  MUST(cudaDeviceSynchronize());
  const double indexer_bytes = prompt ? 0 : pairs * 136;
  const double attention_flops = 2.0 * heads * 1088 * topk * tokens;
  const double attention_bytes = tokens * (topk * static_cast<double>(row_bytes) + heads * 2176.0);
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
      attend_from(rows, kept.get() + int64_t{set} * tokens * topk, stream);
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

void TimeShapes(int topk) {
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
    for (const int tokens : {1, 8, 32, 128}) BenchShape(false, tokens, context, 128, topk);
  }
  for (const int tokens : {1, 8, 32, 128}) BenchShape(false, tokens, 32768, 16, topk);
  for (const int context : {4096, 32768, 131072}) BenchShape(true, 2048, context, 128, topk);
}

}  // namespace winnow::cuda
