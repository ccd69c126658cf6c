// The first half of tokenizing: cutting text into the pieces that byte pairs are merged within.
//
// A tokenizer.json describes the cuts by regular expressions. Winnow does not run expressions: it
// knows those of the DeepSeek V3 and the GLM families and has a scanner for each, which matches
// what Oniguruma's leftmost, first-alternative search matches, in one pass and linear time.
#pragma once

#include <functional>
#include <string_view>

#include "base/json.h"
#include "winnow/status.h"

namespace winnow {

enum class SplitPattern {
  kDeepSeekV3,  // three expressions: numbers; Chinese and kana; words, punctuation, white space
  kGlm,         // one expression, with the English contractions
  kGlmCaseInsensitive  // the same, its contractions written (?i:…), which also match U+017F for s
};

// Reads the field pre_tokenizer of a tokenizer.json: a Sequence of isolated Splits and a ByteLevel
// that neither adds a space nor splits. Anything else is kUnsupported or, if malformed, kCorrupt.
Result<SplitPattern> ParsePreTokenizer(const json::value& pre_tokenizer, std::string_view what);

// Calls `piece` with the pieces of `text`, in order; together they are `text`.
void SplitText(SplitPattern pattern, std::string_view text,
               const std::function<void(std::string_view piece)>& piece);

}  // namespace winnow
