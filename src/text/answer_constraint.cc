// A stack machine over bytes. Where one byte can be read in several ways all of them are followed;
// stacks share their outer frames.
//
// Most of a mask depends on the innermost frame only: all that stays within a string is allowed
// whatever stands around it. That part is kept from step to step; for the tokens that leave the
// frame the walk through the tree of tokens goes on from where they leave it.
#include "text/answer_constraint.h"

#include <algorithm>
#include <limits>

#include "base/check.h"

namespace winnow {
namespace {

// More readings than these are not followed: within a token, and from one to the next.
constexpr size_t kMaxAnswerReadings = 1024;
constexpr size_t kKeptReadings = 32;
constexpr size_t kMaxLinks = 4096;  // before those not in use are dropped
constexpr size_t kMaxMasks = 64;    // a mask is a bit for each token
constexpr size_t kMaxRows = 512;
constexpr int64_t kDearWalk = 2000;  // nodes of the trie

}  // namespace

size_t AnswerConstraint::FrameHash::operator()(const Frame& frame) const {
  uint64_t key = static_cast<uint64_t>(static_cast<uint32_t>(frame.node)) << 32 |
                 static_cast<uint32_t>(frame.parent);
  key ^= static_cast<uint64_t>(frame.count) * 0xBF58476D1CE4E5B9u;
  key ^= key >> 31;
  key *= 0x9E3779B97F4A7C15u;
  return key ^ key >> 29;
}

AnswerConstraint::AnswerConstraint(std::shared_ptr<const AnswerGrammar> grammar,
                                   std::shared_ptr<const TokenTrie> tokens, bool in_reasoning)
    : grammar_(std::move(grammar)), tokens_(std::move(tokens)) {
  if (in_reasoning) {
    const std::optional<int32_t> end = tokens_->FindMarker("</think>");
    in_reasoning_ = end.has_value();
    end_of_reasoning_ = end.value_or(-1);
  }
  readings_.push_back({grammar_->grammar().rules[0].start, kNone, 0});
}

int32_t AnswerConstraint::LinkOf(const Frame& frame) {
  const auto [entry, is_new] = link_of_.try_emplace(frame, static_cast<int32_t>(links_.size()));
  if (is_new) links_.push_back(frame);
  return entry->second;
}

void AnswerConstraint::ForgetLinks(size_t count) {
  while (links_.size() > count) {
    link_of_.erase(links_.back());
    links_.pop_back();
  }
}

void AnswerConstraint::KeepOnlyLinksInUse() {
  const std::vector<Frame> old = std::move(links_);
  std::vector<int32_t> moved(old.size(), kUnknown);
  links_.clear();
  link_of_.clear();
  masked_readings_.clear();
  // Parents lie before their children.
  std::vector<bool> in_use(old.size());
  for (const Frame& frame : readings_) {
    if (frame.parent >= 0) in_use[frame.parent] = true;
  }
  for (size_t link = old.size(); link-- > 0;) {
    if (in_use[link] && old[link].parent >= 0) in_use[old[link].parent] = true;
  }
  const auto move = [&](Frame frame) {
    if (frame.parent >= 0) frame.parent = moved[frame.parent];
    return frame;
  };
  for (size_t link = 0; link < old.size(); ++link) {
    if (in_use[link]) moved[link] = LinkOf(move(old[link]));
  }
  for (Frame& frame : readings_) frame = move(frame);
}

// Appends what `frame` becomes by `byte`; readings of the same byte begin at next[first].
void AnswerConstraint::Step(const Frame& frame, uint8_t byte, size_t first,
                            std::vector<Frame>& next) {
  const ByteGrammar& grammar = grammar_->grammar();
  const GrammarNode& node = grammar.nodes[frame.node];
  for (int32_t index = node.first_edge; index < node.first_edge + node.num_edges; ++index) {
    const ByteEdge& edge = grammar.edges[index];
    if (byte < edge.first) break;
    if (byte > edge.last) continue;
    Frame reached = {edge.target, frame.parent, frame.count};
    if (edge.action != CountAction::kNone) {
      const GrammarRule& rule = grammar.rules[node.rule];
      if (edge.action == CountAction::kTake) {
        if (frame.count >= rule.max_count) break;
        ++reached.count;
      } else if (frame.count < rule.min_count) {
        break;
      }
    }
    const bool is_known = std::find(next.begin() + first, next.end(), reached) != next.end();
    if (!is_known && next.size() - first < kMaxAnswerReadings) next.push_back(reached);
    break;
  }
  for (int32_t index = node.first_call; index < node.first_call + node.num_calls; ++index) {
    const CallEdge& call = grammar.calls[index];
    const GrammarRule& rule = grammar.rules[call.rule];
    if (!rule.first_bytes[byte]) continue;
    // A frame with nothing left to do is not returned to.
    const GrammarNode& target = grammar.nodes[call.target];
    const bool is_done = target.is_final && target.num_edges == 0 && target.num_calls == 0;
    const int32_t parent =
        is_done ? frame.parent : LinkOf({call.target, frame.parent, frame.count});
    Step({rule.start, parent, 0}, byte, first, next);
  }
  if (node.is_final && frame.parent >= 0) {
    const Frame outer = links_[frame.parent];
    Step(outer, byte, first, next);
  }
}

// Whether all frames from `frame` outward to below `parent` may end here.
bool AnswerConstraint::CanReturn(const Frame& frame, int32_t parent) const {
  const Frame* current = &frame;
  while (grammar_->grammar().nodes[current->node].is_final) {
    if (current->parent == parent) return true;
    if (current->parent < 0) return false;
    current = &links_[current->parent];
  }
  return false;
}

bool AnswerConstraint::CanContinue(const Frame& frame) const {
  const Frame* current = &frame;
  while (true) {
    const GrammarNode& node = grammar_->grammar().nodes[current->node];
    if (node.num_edges > 0 || node.num_calls > 0) return true;
    if (current->parent < 0) return false;
    current = &links_[current->parent];
  }
}

bool AnswerConstraint::complete() const {
  return !in_reasoning_ && std::any_of(readings_.begin(), readings_.end(),
                                       [&](const Frame& frame) { return CanReturn(frame, kNone); });
}

bool AnswerConstraint::finished() const {
  return complete() && std::none_of(readings_.begin(), readings_.end(),
                                    [&](const Frame& frame) { return CanContinue(frame); });
}

bool AnswerConstraint::Accept(int32_t token) {
  if (in_reasoning_) {
    if (token == end_of_reasoning_) in_reasoning_ = false;
    return true;
  }
  const std::string_view spelling = tokens_->Spelling(token);
  if (spelling.empty()) return false;
  std::vector<Frame> readings = readings_;
  std::vector<Frame> next;
  for (char byte : spelling) {
    next.clear();
    for (const Frame& frame : readings) Step(frame, static_cast<uint8_t>(byte), 0, next);
    readings.swap(next);
  }
  if (readings.empty()) return false;
  if (readings.size() > kKeptReadings) readings.resize(kKeptReadings);
  readings_ = std::move(readings);
  if (links_.size() > kMaxLinks) KeepOnlyLinksInUse();
  return true;
}

// What each byte does at a node, as far as it leads to one node of the same call.
AnswerConstraint::Row& AnswerConstraint::RowOf(int32_t node) {
  const auto [entry, is_new] = row_of_.try_emplace(node, static_cast<int32_t>(rows_.size()));
  if (!is_new) return rows_[entry->second];
  const ByteGrammar& grammar = grammar_->grammar();
  const GrammarNode& from = grammar.nodes[node];
  Row& row = rows_.emplace_back();
  row.reached.fill(kDead);
  for (int32_t index = from.first_edge; index < from.first_edge + from.num_edges; ++index) {
    const ByteEdge& edge = grammar.edges[index];
    const int32_t reached = edge.action == CountAction::kLeave  ? kManyWays
                            : edge.action == CountAction::kTake ? edge.target | kTakes
                                                                : edge.target;
    for (int byte = edge.first; byte <= edge.last; ++byte) row.reached[byte] = reached;
  }
  for (int32_t index = from.first_call; index < from.first_call + from.num_calls; ++index) {
    const std::bitset<256>& bytes = grammar.rules[grammar.calls[index].rule].first_bytes;
    for (int byte = 0; byte < 256; ++byte) {
      if (bytes[byte]) row.reached[byte] = kManyWays;
    }
  }
  return row;
}

// Whether the node is no end and each character of plain text (TokenTrie::Node::text_height) leads
// back to it, counted or not.
bool AnswerConstraint::LoopsOnText(int32_t node) {
  Row& row = RowOf(node);
  if (row.loops) return *row.loops;
  row.loops = false;
  if (grammar_->grammar().nodes[node].is_final) return false;
  for (int byte = 0x20; byte < 0x80; ++byte) {
    if (byte == '"' || byte == '\\' || byte == '<' || byte == '/') continue;
    if (row.reached[byte] < 0 || (row.reached[byte] & ~kTakes) != node) return false;
  }
  // The second byte of a character has fewer values behind some first bytes.
  const auto leads_back = [&](auto& self, int32_t from, int tail, int lowest, int highest) -> bool {
    const Row& tail_row = RowOf(from);
    for (int byte = lowest; byte <= highest; ++byte) {
      const int32_t reached = tail_row.reached[byte];
      if (byte > lowest && reached == tail_row.reached[byte - 1]) continue;
      if (reached < 0 || (reached & kTakes) != 0) return false;
      if (tail == 1 ? reached != node : !self(self, reached, tail - 1, 0x80, 0xBF)) return false;
    }
    return true;
  };
  for (int byte = 0xC2; byte <= 0xF4; ++byte) {
    const int32_t reached = row.reached[byte];
    if (reached < 0) return false;
    const int lowest = byte == 0xE0 ? 0xA0 : byte == 0xF0 ? 0x90 : 0x80;
    const int highest = byte == 0xED ? 0x9F : byte == 0xF4 ? 0x8F : 0xBF;
    const int tail = byte < 0xE0 ? 1 : byte < 0xF0 ? 2 : 3;
    if (!leads_back(leads_back, reached & ~kTakes, tail, lowest, highest)) return false;
  }
  row.loops = true;
  return true;
}

// Sets the bits of all tokens below the trie's node `root` that `frame` can read from there, and
// lists the nodes at which it can be left for an unknown parent. Returns how many nodes it saw.
int64_t AnswerConstraint::Walk(int32_t root, const Frame& frame, std::vector<uint64_t>& bits,
                               std::vector<int32_t>* exits) {
  const ByteGrammar& grammar = grammar_->grammar();
  const std::span<const TokenTrie::Node> nodes = tokens_->nodes();
  const int32_t end = nodes[root].end;
  const int32_t root_depth = nodes[root].depth;
  if (rows_.size() > kMaxRows) {
    rows_.clear();
    row_of_.clear();
  }
  // walk_ranges_[d]: the readings at depth d below the root, within walk_frames_.
  walk_ranges_.resize(tokens_->longest() + 1);
  walk_ranges_[0] = {0, 1};
  walk_frames_.assign(1, frame);
  const Row* row = nullptr;  // of row_node
  int32_t row_node = -1;
  if (exits != nullptr && CanReturn(frame, kUnknown)) exits->push_back(root);
  int64_t seen = 0;
  for (int32_t index = root + 1; index < end;) {
    ++seen;
    const TokenTrie::Node& node = nodes[index];
    const size_t depth = node.depth - root_depth;
    const auto [first, last] = walk_ranges_[depth - 1];
    const Frame from = walk_frames_[first];
    int32_t reached = kManyWays;
    // Nearly all steps are of one reading and lead to one.
    if (last - first == 1 && (from.parent < 0 || !grammar.nodes[from.node].is_final)) {
      if (from.node != row_node) {
        row = &RowOf(from.node);
        row_node = from.node;
      }
      reached = row->reached[node.byte];
    }
    size_t next_last = last;
    if (reached >= 0) {
      const bool takes = (reached & kTakes) != 0;
      if (!takes || from.count < grammar.rules[grammar.nodes[from.node].rule].max_count) {
        if (walk_frames_.size() == last) walk_frames_.emplace_back();
        walk_frames_[last] = {reached & ~kTakes, from.parent, from.count + takes};
        next_last = last + 1;
      }
    } else if (reached == kManyWays) {
      walk_frames_.resize(last);
      for (size_t reading = first; reading < last; ++reading) {
        const Frame copy = walk_frames_[reading];
        Step(copy, node.byte, last, walk_frames_);
      }
      next_last = walk_frames_.size();
    }
    if (next_last == last) {
      index = node.end;
      continue;
    }
    walk_ranges_[depth] = {last, next_last};
    if (node.text_height != TokenTrie::kNoText && next_last == last + 1) {
      const Frame& frame = walk_frames_[last];
      const GrammarRule& rule = grammar.rules[grammar.nodes[frame.node].rule];
      const bool is_counted = rule.max_count > 0;
      if ((!is_counted || rule.max_count - frame.count >= node.text_height) &&
          LoopsOnText(frame.node)) {
        for (int32_t token : tokens_->TokensFrom(index)) {
          bits[token / 64] |= uint64_t{1} << token % 64;
        }
        index = node.end;
        continue;
      }
    }
    for (int32_t token : tokens_->TokensAt(index)) bits[token / 64] |= uint64_t{1} << token % 64;
    if (exits != nullptr && index + 1 < node.end) {
      for (size_t reading = last; reading < next_last; ++reading) {
        if (!CanReturn(walk_frames_[reading], kUnknown)) continue;
        exits->push_back(index);
        break;
      }
    }
    ++index;
  }
  return seen;
}

const AnswerConstraint::FrameMask& AnswerConstraint::MaskOf(const Frame& frame,
                                                            FrameMask& scratch) {
  const ByteGrammar& grammar = grammar_->grammar();
  const GrammarRule& rule = grammar.rules[grammar.nodes[frame.node].rule];
  // Two counts are alike if no token can tell them apart.
  const int64_t reach = tokens_->longest() + 1;
  const int64_t to_least = std::clamp<int64_t>(rule.min_count - frame.count, 0, reach);
  const int64_t to_most = std::clamp<int64_t>(rule.max_count - frame.count, 0, reach);
  const Frame key = {frame.node, kUnknown, to_least * (reach + 1) + to_most};
  const auto known = masks_.find(key);
  if (known != masks_.end()) return known->second;
  scratch.bits.assign(allowed_.size(), 0);
  scratch.exits.clear();
  const int64_t seen = Walk(0, {frame.node, kUnknown, frame.count}, scratch.bits, &scratch.exits);
  if (seen < kDearWalk) return scratch;
  if (masks_.size() >= kMaxMasks) masks_.clear();
  return masks_[key] = std::move(scratch);
}

// Sets the bits of all tokens that `frame` and its parents can read.
void AnswerConstraint::Allow(const Frame& frame, std::vector<uint64_t>& bits) {
  FrameMask scratch;
  const FrameMask& mask = MaskOf(frame, scratch);
  for (size_t word = 0; word < bits.size(); ++word) bits[word] |= mask.bits[word];
  if (frame.parent < 0) return;
  const Frame parent = links_[frame.parent];
  bool leaves_at_once = false;
  for (int32_t exit : mask.exits) {
    if (exit == 0) {
      leaves_at_once = true;
    } else {
      Walk(exit, parent, bits, nullptr);
    }
  }
  if (leaves_at_once) Allow(parent, bits);
}

void AnswerConstraint::Mask(std::span<float> logits, std::span<const int32_t> end_tokens) {
  constexpr float kNever = -std::numeric_limits<float>::infinity();
  const bool may_end = complete();
  std::vector<float> end_logits;
  for (int32_t token : end_tokens) {
    const bool is_valid = token >= 0 && static_cast<size_t>(token) < logits.size();
    end_logits.push_back(is_valid && may_end ? logits[token] : kNever);
  }
  if (!in_reasoning_) {
    if (masked_readings_ != readings_ || masked_readings_.empty()) {
      allowed_.assign((tokens_->vocab_size() + 63) / 64, 0);
      const size_t num_links = links_.size();
      for (const Frame& frame : readings_) Allow(frame, allowed_);
      ForgetLinks(num_links);
      masked_readings_ = readings_;
    }
    for (size_t first = 0; first < logits.size(); first += 64) {
      const size_t last = std::min(first + 64, logits.size());
      const uint64_t word = first / 64 < allowed_.size() ? allowed_[first / 64] : 0;
      if (word == ~uint64_t{0}) continue;
      for (size_t token = first; token < last; ++token) {
        if ((word >> (token - first) & 1) == 0) logits[token] = kNever;
      }
    }
  }
  for (size_t index = 0; index < end_tokens.size(); ++index) {
    const int32_t token = end_tokens[index];
    if (token >= 0 && static_cast<size_t>(token) < logits.size()) {
      logits[token] = end_logits[index];
    }
  }
}

}  // namespace winnow
