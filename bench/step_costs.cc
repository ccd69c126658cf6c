// What a step of a model costs at a depth of context: decoding for some sequences at once, with
// their logits for the host (decode) or a token of each alone, the likeliest (greedy) or one drawn
// at temperature 0.7 and top_p 0.95 (drawn), and a chunk of a prompt. Prints CSV:
// attention,layers,phase,context,tokens,milliseconds (median),slowest run. tools/cost_curve.py
// makes a curve of it.
//
//   step_costs MODEL [--backend cuda] [--attention dense] [--contexts 4096,131072]
//              [--batches 1,32] [--chunk 2048] [--runs 7]
//
// One sequence is read to the longest context, and its cache copied for the others, so that every
// sequence has memory of its own. With dense attention, whose work does not depend on what is in
// the cache, the beginning is repeated instead. Latent rows are FP8, index keys int8.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <map>
#include <memory>
#include <numeric>
#include <sstream>
#include <string>
#include <vector>

#include "engine/model_runner.h"

namespace winnow {
namespace {

struct Options {
  EngineOptions engine;
  std::vector<int64_t> contexts = {4096, 8192, 16384, 32768, 65536, 131072};
  std::vector<int64_t> batches = {1, 8, 32};
  int64_t runs = 7;
};

std::vector<int64_t> Numbers(const std::string& text) {
  std::vector<int64_t> numbers;
  std::stringstream stream(text);
  for (std::string part; std::getline(stream, part, ',');) numbers.push_back(std::stoll(part));
  return numbers;
}

int32_t TokenAt(int64_t sequence, int64_t position, int64_t vocab_size) {
  uint64_t state = static_cast<uint64_t>(sequence * 1000003 + position) * 6364136223846793005u;
  state ^= state >> 29;
  return static_cast<int32_t>(state * 1442695040888963407u >> 33) %
         static_cast<int32_t>(vocab_size);
}

class Costs {
 public:
  Costs(ModelRunner& runner, const Options& options)
      : runner_(runner),
        options_(options),
        longest_(*std::max_element(options.contexts.begin(), options.contexts.end())),
        pages_(longest_ / kPageSize) {
    const int64_t sequences = *std::max_element(options.batches.begin(), options.batches.end());
    for (int64_t s = 0; s < sequences; ++s) {
      tables_.emplace_back(static_cast<size_t>(pages_));
      std::iota(tables_.back().begin(), tables_.back().end(), static_cast<int32_t>(s * pages_));
    }
    logits_ = runner.backend().AllocateOnHost(runner.config().vocab_size * sequences * 4);
    tokens_.resize(static_cast<size_t>(sequences));
  }

  Status Run() {
    const bool sparse = options_.engine.attention == AttentionMode::kSparse;
    const int64_t filled = sparse ? longest_ : std::min<int64_t>(longest_, 4096);
    for (int64_t end = options_.engine.chunk; end <= filled; end += options_.engine.chunk) {
      WINNOW_TRY(Step(Chunk(end)));
    }
    for (int64_t page = filled / kPageSize; page < pages_; ++page) {
      runner_.CopyPage(static_cast<int32_t>(page % (filled / kPageSize)),
                       static_cast<int32_t>(page));
    }
    for (size_t s = 1; s < tables_.size(); ++s) {
      for (int64_t page = 0; page < pages_; ++page) {
        runner_.CopyPage(static_cast<int32_t>(page), tables_[s][static_cast<size_t>(page)]);
      }
    }
    for (const int64_t context : options_.contexts) {
      WINNOW_TRY(Time("prefill", context, Chunk(context)));
      for (const int64_t batch : options_.batches) {
        Batch last = LastTokens(context, batch);
        WINNOW_TRY(Time("decode", context, last));
        DrawRule rule{.below = static_cast<int32_t>(runner_.config().vocab_size)};
        last.draws.assign(static_cast<size_t>(batch), rule);
        WINNOW_TRY(Time("greedy", context, last));
        rule.temperature = 0.7;
        rule.top_p = 0.95;
        rule.random = uint64_t{1} << 63;
        last.draws.assign(static_cast<size_t>(batch), rule);
        WINNOW_TRY(Time("drawn", context, last));
      }
    }
    return OkStatus();
  }

 private:
  void Add(Batch& batch, int64_t sequence, int64_t position) const {
    const auto& table = tables_[static_cast<size_t>(sequence)];
    batch.token_ids.push_back(TokenAt(sequence, position, runner_.config().vocab_size));
    batch.positions.push_back(static_cast<int32_t>(position));
    batch.sequences.push_back(static_cast<int32_t>(sequence));
    batch.slots.push_back(table[static_cast<size_t>(position / kPageSize)] *
                              static_cast<int32_t>(kPageSize) +
                          static_cast<int32_t>(position % kPageSize));
  }
  std::span<const int32_t> Pages(int64_t sequence, int64_t context) const {
    return std::span(tables_[static_cast<size_t>(sequence)])
        .first(static_cast<size_t>((context + kPageSize - 1) / kPageSize));
  }
  // The chunk of the first sequence that ends at `context`.
  Batch Chunk(int64_t context) const {
    Batch batch;
    const int64_t first = std::max<int64_t>(context - options_.engine.chunk, 0);
    for (int64_t position = first; position < context; ++position) Add(batch, 0, position);
    batch.page_tables.push_back(Pages(0, context));
    batch.logit_rows.push_back(static_cast<int32_t>(context - first) - 1);
    return batch;
  }
  Batch LastTokens(int64_t context, int64_t sequences) const {
    Batch batch;
    for (int64_t s = 0; s < sequences; ++s) {
      Add(batch, s, context - 1);
      batch.page_tables.push_back(Pages(s, context));
      batch.logit_rows.push_back(static_cast<int32_t>(s));
    }
    return batch;
  }

  Status Step(const Batch& batch) {
    const auto counts = runner_.Run(batch, {static_cast<float*>(logits_.get()), tokens_.data()});
    return counts.ok() ? OkStatus() : Status(counts.error());
  }
  Status Time(const char* phase, int64_t context, const Batch& batch) {
    using Clock = std::chrono::steady_clock;
    std::vector<double> times;
    WINNOW_TRY(Step(batch));
    for (int64_t run = 0; run < options_.runs; ++run) {
      const auto begin = Clock::now();
      WINNOW_TRY(Step(batch));
      times.push_back(std::chrono::duration<double, std::milli>(Clock::now() - begin).count());
    }
    std::sort(times.begin(), times.end());
    std::printf("%s,%ld,%s,%ld,%ld,%.3f,%.3f\n", Name(options_.engine.attention),
                static_cast<long>(runner_.config().num_hidden_layers), phase,
                static_cast<long>(context), static_cast<long>(batch.num_tokens()),
                times[times.size() / 2], times.back());
    std::fflush(stdout);
    return OkStatus();
  }

  ModelRunner& runner_;
  const Options& options_;
  const int64_t longest_;
  const int64_t pages_;
  std::vector<std::vector<int32_t>> tables_;
  std::shared_ptr<void> logits_;
  std::vector<int32_t> tokens_;
};

Status Run(Options options) {
  const int64_t longest = *std::max_element(options.contexts.begin(), options.contexts.end());
  const int64_t sequences = *std::max_element(options.batches.begin(), options.batches.end());
  options.engine.kv_cache = LatentType::kFp8;
  options.engine.max_context = longest;
  options.engine.cache_tokens = longest * sequences;
  options.engine.max_sequences = sequences;
  auto runner = ModelRunner::Load(options.engine);
  if (!runner.ok()) return runner.error();
  std::fprintf(stderr, "%s, %ld layers, cache %.1f GiB, step %.1f GiB\n",
               (*runner)->backend().Describe().c_str(),
               static_cast<long>((*runner)->config().num_hidden_layers),
               static_cast<double>((*runner)->cache_bytes()) / (1 << 30),
               static_cast<double>((*runner)->step_memory().total()) / (1 << 30));
  return Costs(**runner, options).Run();
}

}  // namespace
}  // namespace winnow

int main(int argc, char** argv) {
  winnow::Options options;
  options.engine.backend = "cuda";
  options.engine.chunk = 2048;
  if (argc % 2 != 0) {
    std::fprintf(stderr, "step_costs MODEL [--OPTION VALUE]…: bench/step_costs.cc says which\n");
    return 2;
  }
  options.engine.model_dir = argv[1];
  for (int i = 2; i + 1 < argc; i += 2) {
    const std::string name = argv[i];
    const std::string value = argv[i + 1];
    if (name == "--backend") {
      options.engine.backend = value;
    } else if (name == "--attention") {
      options.engine.attention =
          value == "dense" ? winnow::AttentionMode::kDense : winnow::AttentionMode::kSparse;
    } else if (name == "--contexts") {
      options.contexts = winnow::Numbers(value);
    } else if (name == "--batches") {
      options.batches = winnow::Numbers(value);
    } else if (name == "--chunk") {
      options.engine.chunk = std::stoll(value);
    } else if (name == "--runs") {
      options.runs = std::stoll(value);
    } else {
      std::fprintf(stderr, "step_costs: %s is no option\n", name.c_str());
      return 2;
    }
  }
  const winnow::Status status = winnow::Run(options);
  if (status.ok()) return 0;
  std::fprintf(stderr, "%s\n", status.ToString().c_str());
  return 1;
}
