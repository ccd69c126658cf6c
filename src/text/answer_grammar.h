// What an answer may be when a request leaves the model no choice: JSON, JSON of a schema, or calls
// of tools.
//
// Of JSON schema are supported: type (one or several), nullable, properties, required,
// additionalProperties, items, prefixItems, minItems, maxItems, enum, const, anyOf, oneOf (read as
// anyOf), allOf and keywords beside $ref where merging is simple, $ref within the schema (also to
// itself), minLength, maxLength, pattern (see pattern.h), format (date, time, date-time and uuid
// are kept to, others only described), minimum, maximum and their exclusive forms (whole ones, but
// for integers). Annotations and names that begin with "x-" restrict nothing; any other keyword is
// kUnsupported, and the error names it.
//
// An answer satisfies its schema, but not all that does can be the answer:
// - members of objects come in the order of `properties`, those not required may be left out, then
//   others follow if additionalProperties is given and not false, or the schema names no
//   properties; the names of those others are none of the named, but may repeat among themselves;
// - items behind prefixItems come only if `items` says which;
// - spaces and numbers have the bounds of json_rules.h, and strings of enum, const and patterns the
//   one spelling there.
#pragma once

#include <memory>
#include <string_view>
#include <utility>

#include "text/byte_grammar.h"
#include "text/chat_template.h"
#include "text/token_trie.h"
#include "winnow/status.h"

namespace winnow {

// Immutable; shared by threads and requests.
class AnswerGrammar {
 public:
  // Any object.
  static Result<std::shared_ptr<const AnswerGrammar>> ForJsonObject();

  // A value that satisfies the schema, at most 64 KiB of JSON. kInvalidArgument for what is no
  // schema, is satisfied by nothing or exceeds the limits; kUnsupported for keywords that are not
  // listed above.
  static Result<std::shared_ptr<const AnswerGrammar>> ForJsonSchema(std::string_view schema_json);

  // One to 16 calls of tools, or one call of the tool `name` if it is not empty, in the form that
  // the model family writes, with arguments that satisfy the tool's `parameters`. These are an
  // object's schema; without them a call has no arguments. But for V3.1, whose arguments are JSON,
  // it has no alternatives, and arguments are its properties only. What the family marks with
  // tokens is marked with those of them that `tokens` has. Where the family writes strings without
  // quotes, those of bounded length or with a pattern have no '<'. GLM does not mark strings: where
  // other types are allowed too, a string that reads as one of them is taken for one. `tools_json`
  // is an array of functions in OpenAI's form, at most 256 KiB.
  static Result<std::shared_ptr<const AnswerGrammar>> ForToolCalls(ChatFormat format,
                                                                   std::string_view tools_json,
                                                                   std::string_view name,
                                                                   const TokenTrie& tokens);

  explicit AnswerGrammar(ByteGrammar grammar) : grammar_(std::move(grammar)) {}

  const ByteGrammar& grammar() const { return grammar_; }

 private:
  ByteGrammar grammar_;
};

}  // namespace winnow
