// Steps that the GPU runs from a recording give the bits of those that it runs as they come: at
// every length of context, in batches that come and go, and after a sequence was run again.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <random>

#include "engine/model_runner.h"

namespace winnow {
namespace {

const std::string kSource = WINNOW_SOURCE_DIR;

struct Case {
  std::string model;
  Precision precision = Precision::kBf16;
  AttentionMode attention = AttentionMode::kSparse;
  LatentType latent = LatentType::kBf16;

  std::string Name() const {
    return model + ", " + winnow::Name(precision) + ", " + winnow::Name(attention) + ", " +
           winnow::Name(latent);
  }
};

// index_topk is 12, 40 and 256: contexts begin within it and outgrow it.
std::vector<Case> Cases() {
  std::vector<Case> cases;
  for (const std::string model : {"tests/golden/v32-heads-fp8", "tests/golden/v32-groups-f32",
                                  "tests/golden/glm-pattern-bf16", "models/winnow-nano"}) {
    for (const Precision precision : {Precision::kF32, Precision::kBf16}) {
      cases.push_back({model, precision, AttentionMode::kSparse, LatentType::kBf16});
    }
    cases.push_back({model, Precision::kBf16, AttentionMode::kDense, LatentType::kBf16});
    cases.push_back({model, Precision::kBf16, AttentionMode::kSparse, LatentType::kFp8});
  }
  return cases;
}

constexpr int64_t kContext = 600;  // pages of a table grow from 1 to 2, 4, 8 and 10
constexpr int64_t kSequences = 5;

std::unique_ptr<ModelRunner> Load(const Case& c) {
  EngineOptions options;
  options.model_dir = kSource + "/" + c.model;
  options.backend = "cuda";
  options.precision = c.precision;
  options.attention = c.attention;
  options.kv_cache = c.latent;
  options.max_context = kContext;
  options.cache_tokens = (kSequences + 1) * 640;
  options.chunk = 128;
  options.max_sequences = kSequences;
  return ModelRunner::Load(options,
                           [](ModelConfig& config) { config.max_position_embeddings = kContext; })
      .value();
}

std::vector<int32_t> Tokens(uint32_t seed, int64_t vocab) {
  std::mt19937 bits(seed);
  std::vector<int32_t> tokens;
  for (int64_t i = 0; i < kContext; ++i) {
    tokens.push_back(static_cast<int32_t>(bits() % static_cast<uint32_t>(vocab)));
  }
  return tokens;
}

// The logits of every token, [kContext, vocab], of steps of `chunk` tokens.
std::vector<float> LogitsInChunks(ModelRunner& runner, std::span<const int32_t> tokens,
                                  size_t chunk) {
  const size_t vocab = static_cast<size_t>(runner.config().vocab_size);
  std::vector<float> logits(tokens.size() * vocab);
  runner.Clear();
  for (size_t first = 0; first < tokens.size(); first += chunk) {
    const auto part = tokens.subspan(first, std::min(chunk, tokens.size() - first));
    EXPECT_TRUE(runner.Step(part, LogitRows::kAll, &logits[first * vocab]).ok());
  }
  runner.Clear();
  return logits;
}

// Sequences on pages of their own, which lie in no order.
class Batches {
 public:
  explicit Batches(ModelRunner& runner) : runner_(runner), bits_(3) {
    for (int64_t page = 0; page < runner.num_pages(); ++page) {
      free_.push_back(static_cast<int32_t>(page));
    }
    std::shuffle(free_.begin(), free_.end(), bits_);
    for (int64_t s = 0; s < kSequences; ++s) {
      Sequence sequence;
      sequence.tokens = Tokens(static_cast<uint32_t>(s) + 20, runner.config().vocab_size);
      sequence.expected = LogitsInChunks(runner, sequence.tokens, 128);
      sequences_.push_back(std::move(sequence));
    }
  }

  void Run(int steps) {
    for (int64_t s = 0; s < kSequences; ++s) Restart(s, Draw(1, 200));
    for (int step = 0; step < steps; ++step) {
      if (Draw(0, 20) == 0) {  // gives up its pages, and computes again what was in them
        const int64_t s = Draw(0, kSequences - 1);
        Restart(s, sequences_[static_cast<size_t>(s)].length);
      }
      // The same ones for some steps.
      if (step % 6 == 0) {
        chosen_.clear();
        for (int64_t s = 0; s < kSequences; ++s) {
          if (Draw(0, 1)) chosen_.push_back(s);
        }
        if (chosen_.empty()) chosen_.push_back(Draw(0, kSequences - 1));
      }
      Step();
    }
  }

 private:
  struct Sequence {
    std::vector<int32_t> tokens;
    std::vector<float> expected;
    std::vector<int32_t> pages;
    int64_t length = 0;  // tokens whose rows are in the pages
  };

  int64_t Draw(int64_t least, int64_t most) {
    return std::uniform_int_distribution<int64_t>(least, most)(bits_);
  }

  void Add(Batch& batch, Sequence& sequence) {
    if (sequence.length % kPageSize == 0) {
      sequence.pages.push_back(free_.back());
      free_.pop_back();
    }
    batch.token_ids.push_back(sequence.tokens[static_cast<size_t>(sequence.length)]);
    batch.positions.push_back(static_cast<int32_t>(sequence.length));
    batch.sequences.push_back(static_cast<int32_t>(batch.page_tables.size()));
    batch.slots.push_back(
        static_cast<int32_t>(sequence.pages.back() * kPageSize + sequence.length % kPageSize));
    ++sequence.length;
  }

  void Restart(int64_t s, int64_t length) {
    Sequence& sequence = sequences_[static_cast<size_t>(s)];
    free_.insert(free_.begin(), sequence.pages.begin(), sequence.pages.end());
    sequence.pages.clear();
    sequence.length = 0;
    while (sequence.length < length) {
      Batch batch;
      const int64_t end = std::min(length, sequence.length + 100);
      while (sequence.length < end) Add(batch, sequence);
      batch.page_tables.push_back(sequence.pages);
      ASSERT_TRUE(runner_.Run(batch, {}).ok());
    }
  }

  void Step() {
    Batch batch;
    std::vector<const float*> expected;
    const size_t vocab = static_cast<size_t>(runner_.config().vocab_size);
    for (const int64_t s : chosen_) {
      Sequence& sequence = sequences_[static_cast<size_t>(s)];
      if (sequence.length == kContext) continue;
      expected.push_back(&sequence.expected[static_cast<size_t>(sequence.length) * vocab]);
      Add(batch, sequence);
      batch.page_tables.push_back(sequence.pages);
      batch.logit_rows.push_back(static_cast<int32_t>(batch.logit_rows.size()));
      // Of some the token alone is wanted, the likeliest or another.
      batch.draws.push_back({.below = Draw(0, 1) ? static_cast<int32_t>(vocab) : 0,
                             .temperature = Draw(0, 1) ? 0.7 : 0.0,
                             .top_p = Draw(0, 1) ? 0.9 : 1.0,
                             .random = static_cast<uint64_t>(Draw(0, 1 << 30)) << 34});
    }
    if (expected.empty()) return;
    std::vector<float> logits(expected.size() * vocab);
    std::vector<int32_t> tokens(expected.size(), -7);
    ASSERT_TRUE(runner_.Run(batch, {logits.data(), tokens.data()}).ok());
    for (size_t row = 0; row < expected.size(); ++row) {
      const std::string where = std::to_string(expected.size()) + " sequences, row " +
                                std::to_string(row) + ", position " +
                                std::to_string(batch.positions[row]);
      if (batch.draws[row].below == 0) {
        ASSERT_EQ(std::memcmp(&logits[row * vocab], expected[row], vocab * sizeof(float)), 0)
            << where;
      } else {
        ASSERT_EQ(tokens[row], DrawToken({expected[row], vocab}, batch.draws[row])) << where;
      }
    }
  }

  ModelRunner& runner_;
  std::mt19937 bits_;
  std::vector<int32_t> free_;
  std::vector<Sequence> sequences_;
  std::vector<int64_t> chosen_;
};

TEST(CudaRecordings, GiveTheBitsOfChunksAtEveryLength) {
  for (const Case& c : Cases()) {
    const auto runner = Load(c);
    const std::vector<int32_t> tokens = Tokens(1, runner->config().vocab_size);
    const std::vector<float> in_chunks = LogitsInChunks(*runner, tokens, 37);
    EXPECT_EQ(LogitsInChunks(*runner, tokens, 128), in_chunks) << c.Name();
    // One token at a time, twice, as the second time every length has been met before.
    for (int turn = 0; turn < 2; ++turn) {
      const std::vector<float> one_by_one = LogitsInChunks(*runner, tokens, 1);
      EXPECT_EQ(std::memcmp(one_by_one.data(), in_chunks.data(), in_chunks.size() * sizeof(float)),
                0)
          << c.Name() << ", turn " << turn;
    }
    EXPECT_EQ(runner->backend().scratch_bytes(), runner->step_memory().scratch) << c.Name();
  }
}

TEST(CudaRecordings, GiveTheBitsOfChunksInBatchesThatComeAndGo) {
  for (const Case& c : Cases()) {
    SCOPED_TRACE(c.Name());
    const auto runner = Load(c);
    Batches(*runner).Run(300);
    if (HasFatalFailure()) return;
  }
}

}  // namespace
}  // namespace winnow
