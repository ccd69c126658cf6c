// Keeps a running answer within a grammar (answer_grammar.h): which tokens may come next.
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <span>
#include <unordered_map>
#include <vector>

#include "text/answer_grammar.h"
#include "text/token_trie.h"

namespace winnow {

// One for each running sequence; one thread at a time. Tokens may end anywhere, also within a
// character or an escape; all bytes of the answer together are valid UTF-8 whenever complete().
class AnswerConstraint {
 public:
  // With `in_reasoning` the answer begins with reasoning, which is free, and with the token
  // </think> the grammar begins.
  AnswerConstraint(std::shared_ptr<const AnswerGrammar> grammar,
                   std::shared_ptr<const TokenTrie> tokens, bool in_reasoning = false);

  // Sets the logits of tokens that may not come next to -infinity, also those of ids beyond the
  // vocabulary. `end_tokens` may come exactly when the answer is complete(), whatever else they
  // are; when it is finished(), nothing else may. Within reasoning all but they may.
  void Mask(std::span<float> logits, std::span<const int32_t> end_tokens);

  // Takes the token that came. False, and nothing changes, if it may not come next; so for those of
  // `end_tokens` that are no text.
  bool Accept(int32_t token);

  // The answer may end here; and it must.
  bool complete() const;
  bool finished() const;

 private:
  // A call of a rule under way: its node, its count, and the frame it returns to.
  struct Frame {
    int32_t node;
    int32_t parent;  // in links_, or one of the following
    int64_t count;
    bool operator==(const Frame&) const = default;
  };
  static constexpr int32_t kNone = -1;     // this is the whole answer
  static constexpr int32_t kUnknown = -2;  // for masks that hold under any parent
  struct FrameHash {
    size_t operator()(const Frame& frame) const;
  };
  // What can follow a frame without leaving it, and where in the tree of tokens it can be left.
  struct FrameMask {
    std::vector<uint64_t> bits;  // by token
    std::vector<int32_t> exits;  // nodes of the trie
  };

  // By byte: a node, perhaps with kTakes, or one of the following.
  struct Row {
    std::array<int32_t, 256> reached;
    std::optional<bool> loops;  // see LoopsOnText; empty: not known yet
  };
  static constexpr int32_t kDead = -1;
  static constexpr int32_t kManyWays = -2;  // ask Step
  static constexpr int32_t kTakes = 1 << 30;

  int32_t LinkOf(const Frame& frame);
  void ForgetLinks(size_t count);
  void KeepOnlyLinksInUse();
  void Step(const Frame& frame, uint8_t byte, size_t first, std::vector<Frame>& next);
  bool CanReturn(const Frame& frame, int32_t parent) const;
  bool CanContinue(const Frame& frame) const;
  Row& RowOf(int32_t node);
  bool LoopsOnText(int32_t node);
  int64_t Walk(int32_t root, const Frame& frame, std::vector<uint64_t>& bits,
               std::vector<int32_t>* exits);
  const FrameMask& MaskOf(const Frame& frame, FrameMask& scratch);
  void Allow(const Frame& frame, std::vector<uint64_t>& bits);

  std::shared_ptr<const AnswerGrammar> grammar_;
  std::shared_ptr<const TokenTrie> tokens_;
  int32_t end_of_reasoning_ = -1;
  bool in_reasoning_ = false;

  std::vector<Frame> readings_;  // the ways to read the answer so far, by their innermost frames
  std::vector<Frame> links_;     // outer frames, each once
  std::unordered_map<Frame, int32_t, FrameHash> link_of_;

  // Masks of frames that were dear to find, under an unknown parent and with a count that is as far
  // from its bounds.
  std::unordered_map<Frame, FrameMask, FrameHash> masks_;
  std::vector<Frame> masked_readings_;  // what allowed_ holds for
  std::vector<uint64_t> allowed_;
  std::deque<Row> rows_;
  std::unordered_map<int32_t, int32_t> row_of_;  // by node
  std::vector<Frame> walk_frames_;
  std::vector<std::pair<size_t, size_t>> walk_ranges_;
};

}  // namespace winnow
