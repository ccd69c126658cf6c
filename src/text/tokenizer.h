// From text to tokens and back: byte-level BPE as a tokenizer.json describes it.
//
// Equal to Hugging Face tokenizers for the families named in pre_tokenizer.h. Nothing is added at
// the front or at the end (the field post_processor is ignored): prompts carry their own beginning.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "text/added_tokens.h"
#include "text/bpe.h"
#include "text/pre_tokenizer.h"
#include "text/unicode.h"
#include "winnow/status.h"

namespace winnow {

// What happens to the literals of added tokens (roles, tags, ends of sentences) in a text.
enum class SpecialTokens {
  // They are text like any other: for words of users, tools and documents. This holds for all of
  // added_tokens and not only those flagged special, because checkpoints leave the flag off for
  // tokens
  // that rule a conversation (<｜User｜> in DeepSeek's file, <think> in others).
  kAsText,
  // They become the tokens, as Hugging Face tokenizers does by default.
  kRecognize,
};

// A part of a prompt and who wrote it.
struct PromptSegment {
  std::string text;
  SpecialTokens special_tokens;
};

// Immutable after loading; any number of threads may use it.
class Tokenizer {
 public:
  // Reads the file tokenizer.json at `path`.
  static Result<Tokenizer> Load(const std::string& path);

  // Reads the text of a tokenizer.json; `what` names it in errors. Contradictions are kCorrupt;
  // what is well-formed but not byte-level BPE with known splits is kUnsupported and names the
  // field.
  static Result<Tokenizer> Parse(std::string_view json_text, std::string_view what);

  // The tokens of `text`. Bytes that are not UTF-8 are kept as they are and come back from Decode's
  // bytes. kInvalidArgument for more than 1 GiB.
  Result<std::vector<int32_t>> Encode(std::string_view text,
                                      SpecialTokens special_tokens = SpecialTokens::kAsText) const;

  // The tokens of the segments' joined text: only recognised tokens separate, borders of segments
  // don't.
  Result<std::vector<int32_t>> Encode(std::span<const PromptSegment> segments) const;

  // The text of `tokens` as valid UTF-8, broken sequences as U+FFFD. Unknown ids give nothing;
  // tokens flagged special are left out unless `keep_special`.
  std::string Decode(std::span<const int32_t> tokens, bool keep_special) const;

  // The bytes a token stands for; empty for unknown ids.
  const std::string& TokenBytes(int32_t token) const;

  // Bytes of the longest token, at least 1: no text has fewer tokens than its bytes by these.
  size_t longest_token() const { return longest_token_; }

  // The id of the added token that is written `content`.
  std::optional<int32_t> FindToken(std::string_view content) const;

  // Whether the token is flagged special.
  bool IsSpecial(int32_t token) const;

  // One more than the largest id.
  int32_t vocab_size() const { return static_cast<int32_t>(tokens_.size()); }

 private:
  friend class TokenizerParser;

  struct Token {
    std::string bytes;
    bool known = false;
    bool special = false;
  };
  struct Part;
  class PieceEncoder;

  Tokenizer() = default;
  void AppendParts(const PromptSegment& segment, std::vector<Part>& parts) const;

  std::vector<Token> tokens_;  // by id
  size_t longest_token_ = 1;
  std::array<int32_t, 256> byte_tokens_{};
  MergeTable merges_;
  SplitPattern split_pattern_ = SplitPattern::kDeepSeekV3;
  // Set if the model says ignore_merges: pieces that are tokens themselves are not merged.
  std::unordered_map<std::string, int32_t> whole_pieces_;
  // In the order they are looked for: those not marked normalized win over those that are.
  std::array<AddedTokenMatcher, 2> matchers_;
  std::unordered_map<std::string, int32_t> added_tokens_;  // by content
};

// Decodes tokens as they come: hands out whole characters only. The tokenizer outlives it.
class StreamDecoder {
 public:
  StreamDecoder(const Tokenizer& tokenizer, bool keep_special)
      : tokenizer_(tokenizer), keep_special_(keep_special) {}

  // The characters that `token` completes, often none.
  std::string Append(int32_t token);

  // The end: an unfinished character becomes U+FFFD. All that was returned, joined, is what
  // Tokenizer::Decode gives.
  std::string Flush() { return repair_.Flush(); }

 private:
  const Tokenizer& tokenizer_;
  bool keep_special_;
  Utf8Repair repair_;
};

}  // namespace winnow
