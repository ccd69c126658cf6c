// Part 3 of DSA: attention over the rows of a list, which is a token's selection or, in dense
// attention, every row of its sequence up to its own.
//
// A list is cut into tiles of kTileRows rows, counted from its start. A tile's softmax and mean are
// made on their own and then joined in the order of the list, so a token's result depends on its
// list alone: not on its neighbours, the threads, or whether the list came from a selection.
//
// Where kernels take tiles with gaps, a list that holds much of its context is laid out in tiles of
// positions, with gaps at those not selected: so tokens with different selections share tiles.
//
// Work is cut into groups of heads of a token, or of several tokens of which each one's list begins
// with that of the one before, which share the decoded rows: in dense attention, where a selection
// is everything there is, and where lists have gaps. When there are few groups, as in decoding,
// their tiles are shared out instead, a bounded number at a time.
#include <algorithm>

#include "cpu/context.h"
#include "cpu/dsa/dsa_kernels.h"
#include "cpu/dsa/dsa_ops.h"
#include "cpu/work.h"

namespace winnow::cpu {
namespace {

constexpr int64_t kGroupHeads = 64;  // of all tokens of a group together
// In bf16 precision, where rows take half the room.
constexpr int64_t kGroupHeadsBf16 = kMaxAttendHeads;
constexpr int64_t kWaveBytes = 8 << 20;  // of tiles that wait to be joined
// Tiles have gaps where a list holds at least one in so many of its token's positions, and a token
// has so few heads that they alone do not fill a product of tiles.
constexpr int64_t kPositionsARow = 4;
constexpr int64_t kFewHeads = 8;

int64_t RoundUp(int64_t extent, int64_t unit) { return (extent + unit - 1) / unit * unit; }
// Floats from one head's sums to the next one's. A vector more than they take: a column of many
// heads would fall into a few sets of the cache otherwise.
int64_t GatheredStride(int64_t latent_stride) { return latent_stride + 16; }
int64_t NumTiles(int64_t num_rows) { return (num_rows + kTileRows - 1) / kTileRows; }

// Heads [first_head, first_head + num_heads) of tokens next to each other: all heads where there is
// more than one token.
struct Group {
  int64_t first_token = 0;
  int64_t num_tokens = 0;
  int64_t first_head = 0;
  int64_t num_heads = 0;
  int64_t num_rows = 0;  // of the longest list

  int64_t size() const { return num_tokens * num_heads; }
  int64_t end() const { return first_token + num_tokens; }
};

// A tile of the rows of a group.
struct Tile {
  const Group* group = nullptr;
  int64_t index = 0;
};

// Tokens [begin, end) of a group, and how many rows of a tile they attend to together.
struct TokenRun {
  int64_t begin = 0;
  int64_t end = 0;
  int64_t num_rows = 0;
  bool joins = false;
};

// Rows of a tile to come.
struct Ahead {
  const uint8_t* rows[kTileRows];
  int64_t count = 0;
};

// What the heads of a group gather: a running softmax each.
struct Gathered {
  float* max = nullptr;  // [heads]
  float* sum = nullptr;  // [heads]
  float* out = nullptr;  // [heads, GatheredStride]

  Gathered From(int64_t head, int64_t stride) const {
    return {max + head, sum + head, out + head * stride};
  }
};

class Attender {
 public:
  Attender(CpuContext& context, const AttentionArgs& args)
      : context_(context),
        kernels_(context.kernels.dsa.attention),
        args_(args),
        num_tokens_(args.q.dims[0]),
        num_heads_(args.q.dims[1]),
        row_dim_(args.q.dims[2]),
        bf16_(context.rounds()),
        group_heads_(bf16_ ? kGroupHeadsBf16 : kGroupHeads),
        row_stride_(RoundUp(row_dim_, RowUnit(bf16_))),
        latent_stride_(RoundUp(args.cache.latent_dim, RowUnit(bf16_))),
        gathered_stride_(GatheredStride(latent_stride_)),
        dense_(!args.selection.slots),
        takes_gaps_(bf16_ && kernels_.takes_gaps) {}

  void Run();

 private:
  // What a thread works with: one allocation, cut up.
  struct Workspace {
    float* rows = nullptr;     // a tile
    float* q = nullptr;        // [heads, row_stride], where q has to be padded or rounded
    float* weights = nullptr;  // [heads, kTileRows]
    float* scales = nullptr;   // [heads, 2]
    Gathered tile;
    Gathered all;
  };

  int64_t Context(int64_t token) const {
    return int64_t{args_.batch.positions.As<int32_t>()[token]} + 1;
  }
  int64_t NumSelected(int64_t token) const { return args_.selection.counts.As<int32_t>()[token]; }
  // Whether the token's rows are those of all positions up to its own, perhaps with gaps.
  bool LiesByPosition(int64_t token) const {
    return dense_ || (takes_gaps_ && num_heads_ <= kFewHeads &&
                      Context(token) <= kPositionsARow * NumSelected(token));
  }
  int64_t NumRows(int64_t token) const {
    return LiesByPosition(token) ? Context(token) : NumSelected(token);
  }
  // Which rows of a tile the token reads, as AttendArgs::seen says it.
  uint64_t Seen(int64_t token, int64_t tile) const;
  // Whether the list of `token` is that of the token before, or continues it, gaps aside.
  bool BeginsLikeTheOneBefore(int64_t token) const;
  // The group at `first_head` of the tokens from `token` on.
  Group GroupAt(int64_t token, int64_t first_head) const;
  // Calls body(group) for all groups, in order.
  template <typename Body>
  void ForEachGroup(const Body& body) const;
  int64_t GatheredSize() const { return group_heads_ * (gathered_stride_ + 2); }
  Gathered Cut(float* floats) const {
    return {floats, floats + group_heads_, floats + 2 * group_heads_};
  }
  Workspace OfThread(int thread);

  // Those of `count` positions from `first` on that are seen, null for the others.
  void FindPositions(int64_t token, int64_t first, int64_t count, uint64_t seen,
                     const uint8_t** stored) const;
  // The rows of a tile as they are stored, null for those that a token alone leaves out; returns
  // how many they are, 0 beyond the last tile.
  int64_t FindRows(const Tile& tile, const uint8_t** stored) const;
  // Returns whether all rows are known to be finite, where the level takes gaps.
  bool DecodeTile(const Group& group, const uint8_t* const* stored, int64_t count,
                  float* rows) const;
  void Prefetch(const uint8_t* row) const;
  // The group's queries as attend wants them, in `packed` [heads, row_stride] unless q is so.
  const float* Query(const Group& group, float* packed) const;
  // One tile for all heads of a group that have rows in it, and a look ahead at the rows of `next`,
  // which is the tile that this thread is likely to come to after it.
  void AttendTile(const Tile& tile, const Tile& next, const float* q, const Workspace& work,
                  const Gathered& out, bool joins) const;
  // The same for some tokens of the group, once the rows are decoded. `ahead` is used up.
  void AttendTokens(const Tile& tile, const TokenRun& run, const float* q, const Workspace& work,
                    const Gathered& out, Ahead& ahead) const;
  // Asks for the rows of a tile that no tile before could look ahead at.
  void PrefetchTile(const Tile& tile) const;
  // Joins head `head` of the group's heads, if its token has rows in the tile.
  void JoinTile(const Group& group, int64_t tile, int64_t first, int64_t count,
                const Gathered& from, const Gathered& to) const;
  void Finish(const Group& group, int64_t first, int64_t count, const Gathered& all) const;
  // `next` is the group that this thread is likely to come to next, or null.
  void AttendGroup(const Group& group, const Group* next, int thread);
  void AttendInWaves(const Group& group);

  CpuContext& context_;
  const SparseAttentionKernels& kernels_;
  const AttentionArgs& args_;
  const int64_t num_tokens_;
  const int64_t num_heads_;
  const int64_t row_dim_;
  const bool bf16_;
  const int64_t group_heads_;
  const int64_t row_stride_;
  const int64_t latent_stride_;
  const int64_t gathered_stride_;
  const bool dense_;
  const bool takes_gaps_;
};

uint64_t FirstRows(int64_t count) {
  return count >= kTileRows ? ~uint64_t{0} : (uint64_t{1} << std::max<int64_t>(count, 0)) - 1;
}

// The first of ascending positions that is at least `least`, without a branch on what is compared,
// which would be guessed wrong half of the time.
const int32_t* FirstFrom(const int32_t* positions, int64_t count, int64_t least) {
  while (count > 0) {
    const int64_t half = (count + 1) / 2;
    positions += positions[half - 1] < least ? half : 0;
    count -= half;
  }
  return positions;
}

uint64_t Attender::Seen(int64_t token, int64_t tile) const {
  const int64_t first = tile * kTileRows;
  if (dense_ || !LiesByPosition(token) || NumSelected(token) == Context(token)) {
    return FirstRows(NumRows(token) - first);
  }
  const int32_t* positions =
      args_.selection.positions.As<int32_t>() + token * args_.selection.positions.dims[1];
  const int32_t* end = positions + NumSelected(token);
  const int32_t* begin = FirstFrom(positions, end - positions, first);
  return kernels_.mark(begin, std::min<int64_t>(end - begin, kTileRows),
                       static_cast<int32_t>(first));
}

bool Attender::BeginsLikeTheOneBefore(int64_t token) const {
  if (NumRows(token) < NumRows(token - 1)) return false;
  if (LiesByPosition(token) != LiesByPosition(token - 1)) return false;
  if (LiesByPosition(token)) {
    const int32_t* sequences = args_.batch.sequences.As<int32_t>();
    return sequences[token] == sequences[token - 1];
  }
  const int64_t width = args_.selection.slots.dims[1];
  const int32_t* slots = args_.selection.slots.As<int32_t>() + token * width;
  return std::equal(slots - width, slots - width + NumRows(token - 1), slots);
}

Group Attender::GroupAt(int64_t token, int64_t first_head) const {
  Group group{.first_token = token, .num_tokens = 1, .first_head = first_head};
  group.num_heads = std::min(group_heads_, num_heads_ - first_head);
  group.num_rows = NumRows(token);
  while (group.end() < num_tokens_ && (group.num_tokens + 1) * num_heads_ <= group_heads_ &&
         BeginsLikeTheOneBefore(group.end())) {
    group.num_rows = NumRows(group.end());
    ++group.num_tokens;
  }
  return group;
}

template <typename Body>
void Attender::ForEachGroup(const Body& body) const {
  for (int64_t token = 0; token < num_tokens_;) {
    Group group;
    for (int64_t head = 0; head < num_heads_; head += group_heads_) {
      group = GroupAt(token, head);
      body(group);
    }
    token = group.end();
  }
}

void Attender::Run() {
  if (num_heads_ == 0) return;
  int64_t num_groups = 0;
  ForEachGroup([&](const Group&) { ++num_groups; });
  const int num_threads = context_.pool.num_threads();
  if (num_threads > 1 && num_groups < 2 * num_threads) {
    ForEachGroup([&](const Group& group) { AttendInWaves(group); });
    return;
  }
  Group* groups = reinterpret_cast<Group*>(
      context_.scratch.Shared<uint8_t>(num_groups * static_cast<int64_t>(sizeof(Group))));
  Group* next = groups;
  ForEachGroup([&](const Group& group) { *next++ = group; });
  // The last groups of dense attention have the most rows: first, so that no thread is left with
  // one.
  context_.ForEach(num_groups, [&](int64_t piece, int thread) {
    const Group* group = groups + (num_groups - 1 - piece);
    if (piece < num_threads) PrefetchTile({group, 0});
    AttendGroup(*group, piece + num_threads < num_groups ? group - num_threads : nullptr, thread);
  });
}

Attender::Workspace Attender::OfThread(int thread) {
  const int64_t rows = kTileHeader + (kTileRows + 1) * row_stride_;  // one more for pack_rows
  const int64_t q = row_dim_ == row_stride_ && !bf16_ ? 0 : group_heads_ * row_stride_;
  const int64_t weights = group_heads_ * kTileRows;
  const int64_t scales = RoundUp(2 * group_heads_, 16);
  float* floats =
      context_.scratch.OfThread<float>(thread, rows + q + weights + scales + 2 * GatheredSize());
  float* gathered = floats + rows + q + weights + scales;
  return {.rows = floats,
          .q = floats + rows,
          .weights = floats + rows + q,
          .scales = floats + rows + q + weights,
          .tile = Cut(gathered),
          .all = Cut(gathered + GatheredSize())};
}

// Positions of a page lie next to each other.
void Attender::FindPositions(int64_t token, int64_t first, int64_t count, uint64_t seen,
                             const uint8_t** stored) const {
  const TensorView& page_table = args_.batch.page_table;
  const int32_t* pages =
      page_table.As<int32_t>() + args_.batch.sequences.As<int32_t>()[token] * page_table.dims[1];
  const int64_t page_size = args_.batch.page_size;
  const int64_t row_bytes = args_.cache.row_bytes;
  for (int64_t row = 0; row < count;) {
    const int64_t page = (first + row) / page_size;
    const int64_t end = std::min(count, (page + 1) * page_size - first);
    const uint8_t* here = args_.cache.rows.As<uint8_t>() +
                          (pages[page] * page_size + first + row - page * page_size) * row_bytes;
    for (; row < end; ++row, here += row_bytes) {
      stored[row] = (seen >> row & 1) != 0 ? here : nullptr;
    }
  }
}

int64_t Attender::FindRows(const Tile& tile, const uint8_t** stored) const {
  if (tile.group == nullptr) return 0;
  const int64_t first = tile.index * kTileRows;
  const int64_t count = std::clamp<int64_t>(tile.group->num_rows - first, 0, kTileRows);
  const int64_t token = tile.group->end() - 1;
  const uint64_t seen = tile.group->num_tokens == 1 ? Seen(token, tile.index) : FirstRows(count);
  if (LiesByPosition(token)) {
    FindPositions(token, first, count, seen, stored);
    return count;
  }
  const int64_t width = args_.selection.slots.dims[1];
  const int32_t* slots = args_.selection.slots.As<int32_t>() + token * width + first;
  for (int64_t row = 0; row < count; ++row) {
    stored[row] = args_.cache.rows.As<uint8_t>() + slots[row] * args_.cache.row_bytes;
  }
  return count;
}

bool Attender::DecodeTile(const Group& group, const uint8_t* const* stored, int64_t count,
                          float* rows) const {
  if (bf16_) {
    return kernels_.pack_rows(args_.cache.type, stored, count, group.size(), args_.cache.latent_dim,
                              args_.cache.rope_dim, rows + kTileHeader + kTileRows * row_stride_,
                              rows);
  }
  constexpr int64_t kAhead = 4;  // rows whose bytes are asked for in advance
  for (int64_t row = 0; row < count; ++row) {
    if (row + kAhead < count) Prefetch(stored[row + kAhead]);
    kernels_.decode_row(args_.cache.type, stored[row], args_.cache.latent_dim, args_.cache.rope_dim,
                        rows + row * row_stride_);
  }
  return true;
}

void Attender::Prefetch(const uint8_t* row) const {
  for (int64_t byte = 0; byte < args_.cache.row_bytes; byte += 64) __builtin_prefetch(row + byte);
}

const float* Attender::Query(const Group& group, float* packed) const {
  const float* q =
      args_.q.As<float>() + (group.first_token * num_heads_ + group.first_head) * row_dim_;
  if (bf16_) {
    kernels_.pack_queries(q, group.size(), row_dim_, row_stride_, packed);
    return packed;
  }
  if (row_dim_ == row_stride_) return q;
  for (int64_t head = 0; head < group.size(); ++head) {
    float* padded = packed + head * row_stride_;
    std::copy_n(q + head * row_dim_, row_dim_, padded);
    std::fill(padded + row_dim_, padded + row_stride_, 0.0f);
  }
  return packed;
}

void Attender::PrefetchTile(const Tile& tile) const {
  if (!bf16_) return;
  const uint8_t* stored[kTileRows];
  const int64_t count = FindRows(tile, stored);
  for (int64_t row = 0; row < count; ++row) Prefetch(stored[row]);
}

void Attender::AttendTokens(const Tile& tile, const TokenRun& run, const float* q,
                            const Workspace& work, const Gathered& out, Ahead& ahead) const {
  const Group& group = *tile.group;
  const int64_t first_head = run.begin * group.num_heads;
  const QueryLayout layout = bf16_ ? kernels_.lay_out_queries(group.size(), row_stride_)
                                   : QueryLayout{row_stride_ * int64_t{sizeof(float)}, row_stride_};
  const Gathered to = out.From(first_head, gathered_stride_);
  uint64_t seen[kMaxAttendHeads];
  for (int64_t index = run.begin; index < run.end; ++index) {
    seen[index - run.begin] = Seen(group.first_token + index, tile.index);
  }
  const auto attend = bf16_ ? kernels_.attend_bf16 : kernels_.attend;
  attend({.q = reinterpret_cast<const uint8_t*>(q) + first_head * layout.head_bytes,
          .q_stride = layout.stride,
          .num_heads = (run.end - run.begin) * group.num_heads,
          .rows = work.rows,
          .row_stride = row_stride_,
          .num_rows = run.num_rows,
          .seen = seen,
          .heads_per_token = group.num_heads,
          .latent_dim = latent_stride_,
          .softmax_scale = args_.softmax_scale,
          .weights = work.weights,
          .scales = work.scales,
          .max = to.max,
          .sum = to.sum,
          .out = to.out,
          .out_stride = gathered_stride_,
          .joins = run.joins,
          .ahead = ahead.rows,
          .num_ahead = ahead.count,
          .ahead_bytes = args_.cache.row_bytes});
  ahead.count = 0;
}

void Attender::AttendTile(const Tile& tile, const Tile& next, const float* q, const Workspace& work,
                          const Gathered& out, bool joins) const {
  const Group& group = *tile.group;
  const uint8_t* stored[kTileRows];
  const int64_t count = FindRows(tile, stored);
  const bool finite = DecodeTile(group, stored, count, work.rows);
  Ahead ahead;
  if (bf16_) {
    const uint8_t** last = ahead.rows + FindRows(next, ahead.rows);
    ahead.count = std::remove(ahead.rows, last, nullptr) - ahead.rows;
  }
  const auto num_rows = [&](int64_t index) {
    return std::clamp<int64_t>(NumRows(group.first_token + index) - tile.index * kTileRows, 0,
                               kTileRows);
  };
  int64_t begin = 0;
  while (num_rows(begin) == 0) ++begin;
  if (takes_gaps_ && (finite || group.num_tokens == 1)) {
    return AttendTokens(tile, {begin, group.num_tokens, count, joins}, q, work, out, ahead);
  }
  for (int64_t end = begin; begin < group.num_tokens; begin = end) {
    if (takes_gaps_) {
      const Group alone = {group.first_token + begin, 1, group.first_head, group.num_heads,
                           NumRows(group.first_token + begin)};
      DecodeTile(alone, stored, FindRows({&alone, tile.index}, stored), work.rows);
      end = begin + 1;
    } else {
      // Tokens next to each other that see the same rows of the tile.
      while (end < group.num_tokens && num_rows(end) == num_rows(begin)) ++end;
    }
    AttendTokens(tile, {begin, end, num_rows(begin), joins}, q, work, out, ahead);
  }
}

void Attender::JoinTile(const Group& group, int64_t tile, int64_t first, int64_t count,
                        const Gathered& from, const Gathered& to) const {
  for (int64_t head = first; head < first + count; ++head) {
    const int64_t token = group.first_token + head / group.num_heads;
    if (NumRows(token) <= tile * kTileRows) continue;
    const Gathered part = from.From(head, gathered_stride_);
    const Gathered all = to.From(head, gathered_stride_);
    kernels_.join({.num_heads = 1,
                   .latent_dim = latent_stride_,
                   .tile_max = part.max,
                   .tile_sum = part.sum,
                   .tile_out = part.out,
                   .max = all.max,
                   .sum = all.sum,
                   .out = all.out});
  }
}

void Attender::Finish(const Group& group, int64_t first, int64_t count, const Gathered& all) const {
  const int64_t latent_dim = args_.cache.latent_dim;
  float* out =
      args_.out.As<float>() + (group.first_token * num_heads_ + group.first_head) * latent_dim;
  for (int64_t head = first; head < first + count; ++head) {
    if (NumRows(group.first_token + head / group.num_heads) == 0) {
      std::fill_n(out + head * latent_dim, latent_dim, 0.0f);
    } else {
      kernels_.finish(all.out + head * gathered_stride_, all.sum[head], out + head * latent_dim,
                      latent_dim, bf16_);
    }
  }
}

void Attender::AttendGroup(const Group& group, const Group* next, int thread) {
  const Workspace work = OfThread(thread);
  const float* q = Query(group, work.q);
  const int64_t num_tiles = NumTiles(group.num_rows);
  for (int64_t index = 0; index < num_tiles; ++index) {
    const Tile tile = {&group, index};
    const Tile after = index + 1 < num_tiles ? Tile{&group, index + 1} : Tile{next, 0};
    if (index == 0 || bf16_) {
      AttendTile(tile, after, q, work, work.all, index > 0);
    } else {
      AttendTile(tile, after, q, work, work.tile, false);
      JoinTile(group, index, 0, group.size(), work.tile, work.all);
    }
  }
  Finish(group, 0, group.size(), work.all);
}

// The tiles of a wave are made by all threads, then the heads are joined by all threads, each head
// in the order of the tiles. The first tile of all is where the others are joined to.
void Attender::AttendInWaves(const Group& group) {
  const int64_t num_tiles = NumTiles(group.num_rows);
  const int64_t wave = std::clamp<int64_t>(kWaveBytes / (GatheredSize() * int64_t{sizeof(float)}),
                                           1, std::max<int64_t>(num_tiles, 1));
  float* floats =
      context_.scratch.Shared<float>((wave + 1) * GatheredSize() + group_heads_ * row_stride_);
  const auto place = [&](int64_t index) { return Cut(floats + index * GatheredSize()); };
  const float* q = nullptr;
  context_.ForEach(1,
                   [&](int64_t, int) { q = Query(group, floats + (wave + 1) * GatheredSize()); });
  const Split heads = SplitInto(group.size(), 2 * context_.pool.num_threads(), 1);
  for (int64_t first = 0; first < num_tiles; first += wave) {
    const int64_t count = std::min(wave, num_tiles - first);
    context_.ForEach(count, [&](int64_t piece, int thread) {
      const Tile tile = {&group, first + piece};
      const Tile next = {&group, tile.index + context_.pool.num_threads()};
      if (tile.index < context_.pool.num_threads()) PrefetchTile(tile);
      AttendTile(tile, next, q, OfThread(thread), place(tile.index == 0 ? 0 : 1 + piece), false);
    });
    context_.ForEach(heads.count, [&](int64_t piece, int) {
      for (int64_t tile = std::max<int64_t>(first, 1); tile < first + count; ++tile) {
        JoinTile(group, tile, heads.begin(piece), heads.length(piece, group.size()),
                 place(1 + tile - first), place(0));
      }
    });
  }
  Finish(group, 0, group.size(), place(0));
}

}  // namespace

void Attention(CpuContext& context, const AttentionArgs& args) { Attender(context, args).Run(); }

// As Attender::OfThread, Run and AttendInWaves cut it up.
ScratchNeed AttentionScratch(const CpuContext& context, const StepShape& shape) {
  const bool bf16 = context.rounds();
  const int64_t heads = bf16 ? kGroupHeadsBf16 : kGroupHeads;
  const int64_t row_stride = RoundUp(shape.latent_dim + shape.rope_dim, RowUnit(bf16));
  const int64_t gathered = heads * (GatheredStride(RoundUp(shape.latent_dim, RowUnit(bf16))) + 2);
  const int64_t floats = kTileHeader + (kTileRows + 1 + heads) * row_stride + heads * kTileRows +
                         RoundUp(2 * heads, 16) + 2 * gathered;
  const bool gaps =
      bf16 && context.kernels.dsa.attention.takes_gaps && shape.num_heads <= kFewHeads;
  const int64_t most = gaps ? kPositionsARow * shape.topk : shape.topk;
  const int64_t rows = shape.attention == AttentionMode::kDense ? shape.max_context
                                                                : std::min(most, shape.max_context);
  const int64_t gathered_bytes = gathered * int64_t{sizeof(float)};
  const int64_t wave = std::min(std::max<int64_t>(kWaveBytes / gathered_bytes, 1), NumTiles(rows));
  const int64_t groups = shape.num_tokens * ((shape.num_heads + heads - 1) / heads);
  return {floats * int64_t{sizeof(float)},
          std::max(groups * int64_t{sizeof(Group)},
                   (wave + 1) * gathered_bytes + heads * row_stride * int64_t{sizeof(float)})};
}

}  // namespace winnow::cpu
