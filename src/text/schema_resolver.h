// JSON schemas with their references followed and allOf merged: what remains is one object of
// keywords for a value, perhaps with alternatives.
#pragma once

#include <deque>
#include <map>
#include <string>
#include <string_view>
#include <utility>

#include "base/json.h"
#include "winnow/status.h"

namespace winnow {

// A schema whose keywords are all its own. It has neither $ref nor allOf.
using ResolvedSchema = const json::object*;

// What true and {} stand for, and false.
extern const json::object kAnything;
extern const json::object kNothing;

// The error that `path` holds `found` where `expected` ("an array") belongs.
Status WrongKind(const std::string& path, const json::value& found, std::string_view expected);

class SchemaResolver {
 public:
  // References start from `root`, which outlives the resolver. `what` names it in errors.
  SchemaResolver(const json::value& root, std::string what) : root_(root), what_(std::move(what)) {}

  // `path` names the schema in errors; the result lives as long as the resolver. One schema is
  // resolved to one object, however often it is met. kUnsupported for keywords that are not
  // supported and for merges that are not simple.
  Result<ResolvedSchema> Resolve(const json::value& schema, const std::string& path);

  // Whether values of the schema are those of alternatives.
  static bool HasAlternatives(ResolvedSchema schema);

  // Calls visit(alternative, path) for each alternative, with what stands beside them merged into
  // it, until one returns an error.
  template <typename Visit>
  Status ForAlternatives(ResolvedSchema schema, const std::string& path, Visit visit) {
    std::string list_path;
    const Result<const json::array*> list = Alternatives(schema, path, list_path);
    if (!list.ok()) return list.error();
    const ResolvedSchema rest = WithoutAlternatives(schema);
    for (size_t index = 0; index < (*list)->size(); ++index) {
      const std::string alternative_path = list_path + "[" + std::to_string(index) + "]";
      Result<ResolvedSchema> alternative = Resolve((**list)[index], alternative_path);
      if (alternative.ok()) alternative = Merge(rest, *alternative, alternative_path);
      if (!alternative.ok()) return alternative.error();
      if (Status status = visit(*alternative, alternative_path); !status.ok()) return status;
    }
    return OkStatus();
  }

 private:
  Result<ResolvedSchema> ResolveAt(const json::value& schema, const std::string& path, int depth);
  Result<ResolvedSchema> Merge(ResolvedSchema left, ResolvedSchema right, const std::string& path);
  Result<const json::value*> Target(std::string_view reference, const std::string& path) const;
  static Result<const json::array*> Alternatives(ResolvedSchema schema, const std::string& path,
                                                 std::string& list_path);
  ResolvedSchema WithoutAlternatives(ResolvedSchema schema);

  const json::value& root_;
  std::string what_;
  std::deque<json::object> made_;  // by merging and leaving out
  std::map<const json::value*, ResolvedSchema> resolved_;
  std::map<std::pair<ResolvedSchema, ResolvedSchema>, ResolvedSchema> merges_;
  std::map<ResolvedSchema, ResolvedSchema> rests_;  // without their alternatives
};

}  // namespace winnow
