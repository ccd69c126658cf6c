// Documents of an exact length with statements hidden in them.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "text/tokenizer.h"
#include "winnow/status.h"

namespace winnow::eval {

struct Document {
  std::string text;
  std::vector<int32_t> tokens;           // of the text alone
  std::vector<size_t> statement_begins;  // bytes, one for each statement
  bool repeats = false;                  // the source was too short: it begins anew
};

// Where statement `index` of `count` belongs: 0 at the front to 1 at the end; one alone: 0.5.
double DepthOf(int64_t index, int64_t count);

// A statement and how it stands: on a line of its own, or within a paragraph behind a sentence.
struct Hidden {
  std::string text;
  bool own_line = false;
};

// The stretch of `source` that ends at byte `end` (0 < end ≤ its size), as long as it takes for a
// document of exactly `num_tokens` tokens with the statements in it; before its beginning `source`
// ends again. The stretch begins with a word where that is possible. Statement i stands at the end
// of a line or sentence nearest to DepthOf(i). kInvalidArgument if no such document can be made.
Result<Document> BuildDocument(const std::string& source, size_t end,
                               std::span<const Hidden> statements, int64_t num_tokens,
                               const Tokenizer& tokenizer);

// A passage of a document and what follows it.
struct Quotation {
  std::string passage;       // 12 tokens, whole words
  std::string continuation;  // the next 20 tokens
};
inline constexpr int64_t kPassageTokens = 12;
inline constexpr int64_t kContinuationTokens = 20;

// The quotable place nearest to `depth` that touches no statement: one line rather than several, a
// passage that occurs once rather than often. Empty if there is none.
Quotation QuoteAt(const Document& document, std::span<const Hidden> statements, double depth,
                  const Tokenizer& tokenizer);

}  // namespace winnow::eval
