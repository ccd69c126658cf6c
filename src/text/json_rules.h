// Grammars (byte_grammar.h) of JSON's own parts: strings, numbers, space, values without a schema.
//
// What they allow is narrower than JSON where JSON is loose, so that no answer runs in circles or
// overflows its reader: between the parts of a value at most one space, or one line break and 32
// spaces or 16 tabs; behind a colon at most one space; numbers of at most 18 digits before and 18
// behind the point and 2 in the exponent; values without a schema at most 16 deep.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "text/byte_grammar.h"

namespace winnow {

// Where JSON stands, which decides what its strings must escape so that they do not look like the
// end of what surrounds them.
enum class JsonStyle {
  kPlain,
  kNoEndTag,    // "</" is written "<\/"
  kNoTokenTag,  // "<｜" is written "<\uff5c"
};

// Appends `text`, which is UTF-8, as a string of JSON with its quotes: the one spelling that
// literals have in a grammar.
void AppendJsonString(std::string_view text, JsonStyle style, std::string& out);

// A value of JSON with no space in it.
std::string PrintJson(const json::value& value, JsonStyle style);

// The characters of [first, last], each as AppendJsonString writes it.
void AddJsonCharacters(ByteNfa& nfa, int32_t from, uint32_t first, uint32_t last, JsonStyle style,
                       int32_t to);

// Rules that are defined when they are first asked for.
class JsonRules {
 public:
  JsonRules(GrammarBuilder& builder, JsonStyle style) : builder_(builder), style_(style) {}

  JsonStyle style() const { return style_; }

  int32_t String();
  int32_t Number();
  int32_t Integer();
  // An object, an array, or any value, of at most `depth` levels; 0 levels is a scalar.
  int32_t Object(int depth = kDepth);
  int32_t Array(int depth = kDepth);
  int32_t Value(int depth = kDepth);

  // The space that may stand between the parts of a value, or nothing.
  void AddSpace(ByteNfa& nfa, int32_t from, int32_t to);
  // A colon and what may follow it; the state before the value.
  int32_t Colon(ByteNfa& nfa, int32_t from);
  // A name that is none of `others`, quotes included.
  void AddName(ByteNfa& nfa, int32_t from, const std::vector<std::string>& others, int32_t to);

  // A string of min to max characters.
  int32_t BoundedString(int64_t min, int64_t max);
  // An array of min to max items of the rule `item`.
  int32_t BoundedArray(int32_t item, int64_t min, int64_t max);

  static constexpr int kDepth = 16;
  static constexpr int64_t kUnbounded = int64_t{1} << 40;  // more than any answer has

 private:
  int32_t Space();
  int32_t Name();
  void AddStringBody(ByteNfa& nfa, int32_t body, bool is_counted, int32_t end);
  int32_t DefineNumber(bool is_integer);

  GrammarBuilder& builder_;
  JsonStyle style_;
  int32_t space_ = -1;
  int32_t name_ = -1;
  int32_t string_ = -1;
  int32_t number_ = -1;
  int32_t integer_ = -1;
  std::vector<int32_t> objects_ = std::vector<int32_t>(kDepth + 1, -1);
  std::vector<int32_t> arrays_ = std::vector<int32_t>(kDepth + 1, -1);
  std::vector<int32_t> values_ = std::vector<int32_t>(kDepth + 1, -1);
};

}  // namespace winnow
