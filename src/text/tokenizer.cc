// Encoding and decoding. Reading the file is in tokenizer_parser.cc.
#include "text/tokenizer.h"

#include "base/text.h"

namespace winnow {
namespace {

constexpr size_t kLongestText = size_t{1} << 30;  // keeps positions within a piece in 31 bits

}  // namespace

// A stretch of text without recognised tokens, or one recognised token.
struct Tokenizer::Part {
  std::string text;
  int32_t token = -1;
};

// Encodes the pieces of one call and remembers the short ones: text repeats itself.
class Tokenizer::PieceEncoder {
 public:
  // The texts whose pieces are given must outlive the encoder.
  PieceEncoder(const Tokenizer& tokenizer, size_t text_size, std::vector<int32_t>& tokens)
      : tokenizer_(tokenizer),
        merger_(tokenizer.byte_tokens_, tokenizer.merges_),
        tokens_(tokens),
        cache_(text_size < kSmallText ? 0 : kCacheSlots) {}

  void Encode(std::string_view piece) {
    if (cache_.empty() || piece.size() > kLongestCached) {
      Merge(piece);
      return;
    }
    Entry& entry = cache_[std::hash<std::string_view>()(piece) % kCacheSlots];
    if (entry.piece == piece) {
      for (uint32_t index = 0; index < entry.num_tokens; ++index) {
        tokens_.push_back(tokens_[entry.first_token + index]);
      }
      return;
    }
    const size_t first_token = tokens_.size();
    Merge(piece);
    entry = {piece, static_cast<uint32_t>(first_token),
             static_cast<uint32_t>(tokens_.size() - first_token)};
  }

 private:
  static constexpr size_t kSmallText = 4096;    // bytes; below, filling a cache does not pay
  static constexpr size_t kLongestCached = 64;  // bytes
  static constexpr size_t kCacheSlots = 1 << 13;

  struct Entry {
    std::string_view piece;
    uint32_t first_token;  // where tokens_ has the piece's tokens
    uint32_t num_tokens;
  };

  void Merge(std::string_view piece) {
    if (!tokenizer_.whole_pieces_.empty()) {
      const auto whole = tokenizer_.whole_pieces_.find(std::string(piece));
      if (whole != tokenizer_.whole_pieces_.end()) {
        tokens_.push_back(whole->second);
        return;
      }
    }
    merger_.Encode(piece, tokens_);
  }

  const Tokenizer& tokenizer_;
  BytePairMerger merger_;
  std::vector<int32_t>& tokens_;
  std::vector<Entry> cache_;
};

void Tokenizer::AppendParts(const PromptSegment& segment, std::vector<Part>& parts) const {
  const auto append_text = [&](std::string_view text) {
    if (parts.empty() || parts.back().token >= 0) parts.emplace_back();
    parts.back().text += text;
  };
  // Calls `gap` with what lies between the tokens that `matcher` finds.
  const auto split = [&](const AddedTokenMatcher& matcher, std::string_view text, auto gap) {
    size_t position = 0;
    while (position < text.size()) {
      const AddedTokenMatcher::Match match = matcher.Find(text, position);
      if (match.position > position) gap(text.substr(position, match.position - position));
      if (match.length > 0) parts.push_back({"", match.id});
      position = match.position + match.length;
    }
  };
  if (segment.special_tokens == SpecialTokens::kAsText) {
    append_text(segment.text);
    return;
  }
  split(matchers_[0], segment.text,
        [&](std::string_view gap) { split(matchers_[1], gap, append_text); });
}

Result<std::vector<int32_t>> Tokenizer::Encode(std::span<const PromptSegment> segments) const {
  size_t size = 0;
  for (const PromptSegment& segment : segments) {
    size += segment.text.size();
    if (size > kLongestText) {
      return InvalidArgument(
          fmt::format("text to tokenize: more than {} bytes, expected no more", kLongestText));
    }
  }
  std::vector<Part> parts;
  for (const PromptSegment& segment : segments) AppendParts(segment, parts);

  std::vector<int32_t> tokens;
  PieceEncoder encoder(*this, size, tokens);
  for (const Part& part : parts) {
    if (part.token >= 0) {
      tokens.push_back(part.token);
    } else {
      SplitText(split_pattern_, part.text, [&](std::string_view piece) { encoder.Encode(piece); });
    }
  }
  return tokens;
}

Result<std::vector<int32_t>> Tokenizer::Encode(std::string_view text,
                                               SpecialTokens special_tokens) const {
  const PromptSegment segment = {std::string(text), special_tokens};
  return Encode(std::span(&segment, 1));
}

std::string Tokenizer::Decode(std::span<const int32_t> tokens, bool keep_special) const {
  StreamDecoder decoder(*this, keep_special);
  std::string text;
  for (int32_t token : tokens) text += decoder.Append(token);
  return text + decoder.Flush();
}

const std::string& Tokenizer::TokenBytes(int32_t token) const {
  static const std::string nothing;
  return token >= 0 && token < vocab_size() ? tokens_[token].bytes : nothing;
}

std::optional<int32_t> Tokenizer::FindToken(std::string_view content) const {
  const auto found = added_tokens_.find(std::string(content));
  if (found == added_tokens_.end()) return std::nullopt;
  return found->second;
}

bool Tokenizer::IsSpecial(int32_t token) const {
  return token >= 0 && token < vocab_size() && tokens_[token].special;
}

std::string StreamDecoder::Append(int32_t token) {
  if (!keep_special_ && tokenizer_.IsSpecial(token)) return {};
  return repair_.Append(tokenizer_.TokenBytes(token));
}

}  // namespace winnow
