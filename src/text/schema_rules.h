// JSON schemas as rules of a grammar (byte_grammar.h).
//
// What is supported is told in answer_grammar.h. Each resolved schema is one rule for each set of
// types asked of it, so that schemas may contain themselves.
#pragma once

#include <deque>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/json.h"
#include "text/byte_grammar.h"
#include "text/json_rules.h"
#include "text/schema_resolver.h"
#include "winnow/status.h"

namespace winnow {

// A set of the types that JSON schema knows.
using TypeSet = uint32_t;
inline constexpr TypeSet kNullType = 1;
inline constexpr TypeSet kBooleanType = 2;
inline constexpr TypeSet kIntegerType = 4;
inline constexpr TypeSet kNumberType = 8;  // includes integers
inline constexpr TypeSet kStringType = 16;
inline constexpr TypeSet kArrayType = 32;
inline constexpr TypeSet kObjectType = 64;
inline constexpr TypeSet kAnyType = 127;

// How a text that is not JSON ends: the bytes of a grammar that end it, and the same as letters if
// these bytes hold a marker, for which nobody may mistake them.
struct RawEnd {
  std::string bytes;
  std::string letters;  // empty if `bytes` are letters
};

class SchemaRules {
 public:
  // The members of an object.
  struct Property {
    std::string name;
    const json::value* schema;  // null: any value
    bool is_required;
  };
  struct Shape {
    std::vector<Property> properties;  // in the order of the schema
    bool allows_others = false;
    const json::value* others = nullptr;  // their schema; null: any value
  };

  // `root` is what references start from; it outlives this object. `what` names it in errors.
  SchemaRules(GrammarBuilder& builder, JsonRules& json, const json::value& root, std::string what)
      : builder_(builder), json_(json), resolver_(root, what), what_(std::move(what)) {}

  // `path` names the schema in errors, here and below.
  Result<ResolvedSchema> Resolve(const json::value& schema, const std::string& path) {
    return resolver_.Resolve(schema, path);
  }

  // The values of `schema` that have one of `types`, from `from` to `to`. Null: any value.
  Status AddCall(ByteNfa& nfa, int32_t from, const json::value* schema, TypeSet types,
                 const std::string& path, int32_t to);
  // The strings of `schema` as they are, without quotes and escapes, and what ends them. Strings of
  // bounded length or with a pattern have no '<'.
  Status AddRawString(ByteNfa& nfa, int32_t from, const json::value* schema, const RawEnd& end,
                      const std::string& path, int32_t to);
  // The members of the objects that satisfy `schema`, which has no alternatives.
  Result<Shape> ObjectShape(ResolvedSchema schema, const std::string& path);

  // Defines the rules that were called. To be called at the end.
  Status DefineCalled();

 private:
  struct Pending {
    ResolvedSchema schema;
    TypeSet types;
    std::string path;
    int32_t rule;
  };

  Status AddInline(ByteNfa& nfa, int32_t from, ResolvedSchema schema, TypeSet types,
                   const std::string& path, int32_t to, int depth);
  Result<std::vector<const json::value*>> Literals(ResolvedSchema schema,
                                                   const std::string& path) const;
  Status AddNumber(ByteNfa& nfa, int32_t from, ResolvedSchema schema, bool is_integer,
                   const std::string& path, int32_t to);
  Status AddString(ByteNfa& nfa, int32_t from, ResolvedSchema schema, const std::string& path,
                   int32_t to);
  Status AddArray(ByteNfa& nfa, int32_t from, ResolvedSchema schema, const std::string& path,
                  int32_t to);
  Status AddObject(ByteNfa& nfa, int32_t from, ResolvedSchema schema, const std::string& path,
                   int32_t to);
  Status AddRawInline(ByteNfa& nfa, int32_t from, ResolvedSchema schema, const RawEnd& end,
                      const std::string& path, int32_t to, int depth);
  Status CountPart(const ByteNfa& nfa, int depth);

  GrammarBuilder& builder_;
  JsonRules& json_;
  SchemaResolver resolver_;
  std::string what_;
  std::map<std::pair<ResolvedSchema, TypeSet>, int32_t> rules_;
  std::deque<Pending> pending_;
  int64_t num_parts_ = 0;
};

}  // namespace winnow
