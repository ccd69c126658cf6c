// Parts 1 and 2 of DSA in one stream: keys are decoded a run at a time, scored for a block of
// tokens, and only scores that beat a token's threshold are remembered. Memory is bounded by K and
// the threads, not by the context.
//
// Work is cut into blocks of tokens of one sequence, which share the decoded keys. When there are
// few blocks, as in decoding, the context is cut into segments as well, whose best candidates are
// merged: the best of the whole are among the best of the parts, whatever the cut.
#include <algorithm>
#include <array>
#include <numeric>
#include <string>

#include "base/check.h"
#include "cpu/context.h"
#include "cpu/dsa/caches.h"
#include "cpu/dsa/dsa_kernels.h"
#include "cpu/dsa/dsa_ops.h"
#include "cpu/dsa/token_selection.h"
#include "cpu/work.h"

namespace winnow::cpu {
namespace {

constexpr int64_t kBlockTokens = 12;    // whose queries stay in the second-level cache
constexpr int64_t kSegmentKeys = 2048;  // the fewest worth handing to a thread

int64_t PiecesWanted(int num_threads) { return num_threads == 1 ? 1 : 4 * num_threads; }

// Tokens of one sequence, next to each other in the batch, that all have more than K candidates.
struct Block {
  int64_t first_token = 0;
  int64_t num_tokens = 0;
  int64_t sequence = 0;
  int64_t num_keys = 0;  // of the token with the most candidates

  int64_t end() const { return first_token + num_tokens; }
};

class Selector {
 public:
  Selector(CpuContext& context, const SelectTokensArgs& args)
      : context_(context),
        kernels_(context.kernels.dsa.indexer),
        args_(args),
        num_tokens_(args.q.dims[0]),
        index_heads_(args.q.dims[1]),
        index_dim_(args.q.dims[2]),
        positions_(args.batch.positions.As<int32_t>()),
        sequences_(args.batch.sequences.As<int32_t>()) {}

  void Run();

 private:
  // What a thread works with: one allocation, cut up.
  struct Workspace {
    float* keys = nullptr;            // [kMaxRun, J rounded up]
    float* q = nullptr;               // [kBlockTokens, I, J + 4]: packed, less of it
    float* scores = nullptr;          // [kBlockTokens, kMaxRun]
    Candidate* candidates = nullptr;  // [kBlockTokens, BufferSize(K)]
  };

  int64_t Candidates(int64_t token) const { return int64_t{positions_[token]} + 1; }
  // The block that starts at the first token from `token` on that must be scored; none: num_tokens
  // is 0.
  Block NextBlock(int64_t token) const;
  Workspace OfThread(int thread);
  const int32_t* PageTable(int64_t sequence) const {
    return args_.batch.page_table.As<int32_t>() + sequence * args_.batch.page_table.dims[1];
  }

  // Streams keys [first_key, last_key) past the block's tokens.
  void ScoreKeys(const Block& block, int64_t first_key, int64_t last_key, const Workspace& work,
                 BestCandidates* best) const;
  // Asks for the keys of a page that is scored next.
  void PrefetchPage(const Block& block, int64_t index) const;
  // One run of at most kMaxRun keys within a page.
  void ScoreRun(const Block& block, int64_t first_key, int64_t num_keys, const Workspace& work,
                BestCandidates* best) const;
  void SelectWhole(const Block* blocks, int64_t num_blocks);
  void SelectInSegments(const Block* blocks, int64_t num_blocks, int64_t num_segments,
                        Candidate* lists);
  // Writes the selection of a token: the candidates' positions, which ascend, and their slots.
  void Write(int64_t token, const Candidate* candidates, int64_t count) const;
  void WriteAll(int64_t token) const;
  void WriteSlots(int64_t token, int64_t count) const;

  CpuContext& context_;
  const LightningIndexerKernels& kernels_;
  const SelectTokensArgs& args_;
  const int64_t num_tokens_;
  const int64_t index_heads_;
  const int64_t index_dim_;
  const int32_t* positions_;
  const int32_t* sequences_;
  int64_t topk_ = 0;  // K, or less when no context is that long
};

Block Selector::NextBlock(int64_t token) const {
  while (token < num_tokens_ && Candidates(token) <= args_.topk) ++token;
  Block block{.first_token = token};
  if (token == num_tokens_) return block;
  block.sequence = sequences_[token];
  for (; token < num_tokens_ && block.num_tokens < kBlockTokens; ++token) {
    if (sequences_[token] != block.sequence || Candidates(token) <= args_.topk) break;
    ++block.num_tokens;
    block.num_keys = std::max(block.num_keys, Candidates(token));
  }
  return block;
}

// The places of a list: a count, then the candidates.
int64_t ListSize(int64_t topk) { return topk + 1; }

void Selector::Run() {
  int64_t longest = 0;
  for (int64_t token = 0; token < num_tokens_; ++token) {
    longest = std::max(longest, Candidates(token));
    if (Candidates(token) <= args_.topk) WriteAll(token);
  }
  topk_ = std::min(args_.topk, longest);
  WINNOW_CHECK(topk_ <= args_.selection.slots.dims[1],
               "SelectTokens: selection.slots has width " +
                   std::to_string(args_.selection.slots.dims[1]) +
                   ", expected at least min(K, longest context) = " + std::to_string(topk_));
  int64_t num_blocks = 0;
  for (Block block = NextBlock(0); block.num_tokens > 0; block = NextBlock(block.end())) {
    ++num_blocks;
  }
  if (num_blocks == 0) return;
  const int64_t num_segments =
      std::clamp<int64_t>(PiecesWanted(context_.pool.num_threads()) / num_blocks, 1,
                          std::max<int64_t>(longest / kSegmentKeys, 1));
  const int64_t list_candidates =
      num_segments == 1 ? 0 : num_blocks * num_segments * kBlockTokens * ListSize(topk_);
  Candidate* lists = context_.scratch.Shared<Candidate>(
      list_candidates + num_blocks * static_cast<int64_t>(sizeof(Block) / sizeof(Candidate)));
  Block* blocks = reinterpret_cast<Block*>(lists + list_candidates);
  for (Block block = NextBlock(0); block.num_tokens > 0; block = NextBlock(block.end())) {
    *blocks++ = block;
  }
  blocks -= num_blocks;
  if (num_segments == 1) {
    SelectWhole(blocks, num_blocks);
  } else {
    SelectInSegments(blocks, num_blocks, num_segments, lists);
  }
}

void Selector::SelectWhole(const Block* blocks, int64_t num_blocks) {
  context_.ForEach(num_blocks, [&](int64_t piece, int thread) {
    // The last blocks have the longest contexts: first, so that no thread is left with one.
    const Block& block = blocks[num_blocks - 1 - piece];
    BestCandidates best[kBlockTokens];
    ScoreKeys(block, 0, block.num_keys, OfThread(thread), best);
    for (int64_t index = 0; index < block.num_tokens; ++index) {
      const int64_t count = best[index].Finish();
      Write(block.first_token + index, best[index].begin(), count);
    }
  });
}

void Selector::SelectInSegments(const Block* blocks, int64_t num_blocks, int64_t num_segments,
                                Candidate* lists) {
  const int64_t block_lists = num_segments * kBlockTokens * ListSize(topk_);
  context_.ForEach(num_blocks * num_segments, [&](int64_t piece, int thread) {
    const Block& block = blocks[piece / num_segments];
    const int64_t segment = piece % num_segments;
    const Split split = SplitInto(block.num_keys, num_segments, kMaxRun);
    const int64_t first_key = std::min(split.begin(segment), block.num_keys);
    const int64_t last_key = std::min(first_key + split.size, block.num_keys);
    BestCandidates best[kBlockTokens];
    ScoreKeys(block, first_key, last_key, OfThread(thread), best);
    for (int64_t index = 0; index < block.num_tokens; ++index) {
      Candidate* list = lists + piece / num_segments * block_lists +
                        (index * num_segments + segment) * ListSize(topk_);
      list[0] = static_cast<Candidate>(best[index].Finish());
      std::copy_n(best[index].begin(), list[0], list + 1);
    }
  });
  context_.ForEach(num_blocks * kBlockTokens, [&](int64_t piece, int) {
    const Block& block = blocks[piece / kBlockTokens];
    const int64_t index = piece % kBlockTokens;
    if (index >= block.num_tokens) return;
    Candidate* first =
        lists + piece / kBlockTokens * block_lists + index * num_segments * ListSize(topk_);
    // The lists move together over their counts and gaps.
    Candidate* end = first;
    for (int64_t segment = 0; segment < num_segments; ++segment) {
      Candidate* list = first + segment * ListSize(topk_);
      const int64_t count = static_cast<int64_t>(list[0]);
      end = std::copy_n(list + 1, count, end);
    }
    Write(block.first_token + index, first, PickBest(kernels_, first, end - first, topk_));
  });
}

Selector::Workspace Selector::OfThread(int thread) {
  const int64_t keys = kMaxRun * PaddedIndexDim(index_dim_);
  const int64_t q = kBlockTokens * index_heads_ * (index_dim_ + 4);
  const int64_t scores = kBlockTokens * kMaxRun;
  const int64_t candidates = kBlockTokens * BestCandidates::BufferSize(topk_);
  float* keys_at = context_.scratch.OfThread<float>(thread, keys + scores + 2 * candidates + q);
  float* q_at = keys_at + keys;  // at a multiple of 64 bytes
  float* scores_at = q_at + q;
  float* candidates_at = scores_at + scores;
  return {.keys = keys_at,
          .q = q_at,
          .scores = scores_at,
          .candidates = reinterpret_cast<Candidate*>(candidates_at)};
}

void Selector::ScoreKeys(const Block& block, int64_t first_key, int64_t last_key,
                         const Workspace& work, BestCandidates* best) const {
  for (int64_t index = 0; index < block.num_tokens; ++index) {
    best[index] = BestCandidates(
        kernels_, work.candidates + index * BestCandidates::BufferSize(topk_), topk_);
  }
  kernels_.pack_queries(args_.cache.type,
                        args_.q.As<float>() + block.first_token * index_heads_ * index_dim_,
                        block.num_tokens * index_heads_, index_dim_, work.q);
  const int64_t page_size = args_.cache.page_size;
  for (int64_t key = first_key; key < last_key;) {
    const int64_t page_end = (key / page_size + 1) * page_size;
    const int64_t num_keys = std::min({kMaxRun, page_end - key, last_key - key});
    if (key % page_size == 0 && page_end < last_key) PrefetchPage(block, page_end / page_size);
    ScoreRun(block, key, num_keys, work, best);
    key += num_keys;
  }
}

// Pages lie anywhere, so that the processor cannot foresee the next.
void Selector::PrefetchPage(const Block& block, int64_t index) const {
  const uint8_t* page = IndexPage(args_.cache, PageTable(block.sequence)[index]);
  for (int64_t byte = 0; byte < args_.cache.page_bytes; byte += 64) {
    __builtin_prefetch(page + byte, 0, 2);
  }
}

void Selector::ScoreRun(const Block& block, int64_t first_key, int64_t num_keys,
                        const Workspace& work, BestCandidates* best) const {
  static constexpr std::array<float, kMaxRun> kOnes = [] {
    std::array<float, kMaxRun> ones{};
    for (float& one : ones) one = 1;
    return ones;
  }();
  const int64_t page_size = args_.cache.page_size;
  const int64_t page = PageTable(block.sequence)[first_key / page_size];
  const int64_t offset = first_key % page_size;
  const int64_t num_groups = (num_keys + kKeyGroup - 1) / kKeyGroup;
  const float* scales = IndexScales(args_.cache, page);
  kernels_.score({.type = args_.cache.type,
                  .q = work.q,
                  .weights = args_.weights.As<float>() + block.first_token * index_heads_,
                  .num_tokens = block.num_tokens,
                  .index_heads = index_heads_,
                  .index_dim = index_dim_,
                  .page = IndexPage(args_.cache, page),
                  .page_size = page_size,
                  .first_key = offset,
                  .num_groups = num_groups,
                  .key_scale = scales ? scales + offset : kOnes.data(),
                  .keys = work.keys,
                  .scores = work.scores,
                  .scores_stride = kMaxRun});
  for (int64_t index = 0; index < block.num_tokens; ++index) {
    const int64_t visible = std::min(num_keys, Candidates(block.first_token + index) - first_key);
    if (visible <= 0) continue;
    BestCandidates& list = best[index];
    list.Appended(kernels_.filter(work.scores + index * kMaxRun, visible,
                                  static_cast<int32_t>(first_key), list.threshold(), list.end()));
  }
}

void Selector::Write(int64_t token, const Candidate* candidates, int64_t count) const {
  int32_t* positions =
      args_.selection.positions.As<int32_t>() + token * args_.selection.positions.dims[1];
  for (int64_t k = 0; k < count; ++k) positions[k] = PositionOf(candidates[k]);
  WriteSlots(token, count);
}

void Selector::WriteAll(int64_t token) const {
  const int64_t width = args_.selection.positions.dims[1];
  const int64_t count = Candidates(token);
  WINNOW_CHECK(count <= width, "SelectTokens: selection.slots has width " + std::to_string(width) +
                                   ", expected at least min(K, longest context), here " +
                                   std::to_string(count));
  int32_t* positions = args_.selection.positions.As<int32_t>() + token * width;
  std::iota(positions, positions + count, 0);
  WriteSlots(token, count);
}

void Selector::WriteSlots(int64_t token, int64_t count) const {
  const int64_t width = args_.selection.positions.dims[1];
  int32_t* positions = args_.selection.positions.As<int32_t>() + token * width;
  int32_t* slots = args_.selection.slots.As<int32_t>() + token * width;
  const int32_t* page_table = PageTable(sequences_[token]);
  const int32_t page_size = static_cast<int32_t>(args_.batch.page_size);
  int32_t page_begin = 0;  // of the page of the position before
  int32_t shift = page_table[0] * page_size;
  for (int64_t k = 0; k < count; ++k) {
    if (positions[k] - page_begin >= page_size) {
      const int32_t page = positions[k] / page_size;
      page_begin = page * page_size;
      shift = page_table[page] * page_size - page_begin;
    }
    slots[k] = positions[k] + shift;
  }
  std::fill(positions + count, positions + width, -1);
  std::fill(slots + count, slots + width, -1);
  args_.selection.counts.As<int32_t>()[token] = static_cast<int32_t>(count);
}

}  // namespace

void SelectTokens(CpuContext& context, const SelectTokensArgs& args) {
  Selector(context, args).Run();
}

int64_t SelectionScratchBytes(int num_threads, int64_t topk) {
  const int64_t scoring =
      kBlockTokens * kMaxRun * int64_t{sizeof(float)} +
      kBlockTokens * BestCandidates::BufferSize(topk) * int64_t{sizeof(Candidate)};
  if (num_threads == 1) return scoring;
  const int64_t list = PiecesWanted(num_threads) * ListSize(topk) * int64_t{sizeof(Candidate)};
  return num_threads * scoring + kBlockTokens * list;
}

// As Selector::OfThread and Selector::Run cut it up.
ScratchNeed SelectTokensScratch(const StepShape& shape, int num_threads) {
  if (shape.attention == AttentionMode::kDense) return {};
  const int64_t topk = std::min(shape.topk, shape.max_context);
  const int64_t floats = kMaxRun * PaddedIndexDim(shape.index_dim) +
                         kBlockTokens * (kMaxRun + shape.index_heads * (shape.index_dim + 4)) +
                         2 * kBlockTokens * BestCandidates::BufferSize(topk);
  const int64_t lists = PiecesWanted(num_threads) * kBlockTokens * ListSize(topk);
  return {floats * int64_t{sizeof(float)},
          lists * int64_t{sizeof(Candidate)} + shape.num_tokens * int64_t{sizeof(Block)}};
}

}  // namespace winnow::cpu
