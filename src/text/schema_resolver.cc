// Merging keeps to what is obvious: keywords of one schema only, equal ones, and the union of
// properties and of required names.
#include "text/schema_resolver.h"

#include <algorithm>
#include <charconv>
#include <optional>

#include "base/check.h"
#include "base/text.h"
#include "text/schema_keywords.h"

namespace winnow {

const json::object kAnything;
const json::object kNothing = {{"enum", json::array()}};

Status WrongKind(const std::string& path, const json::value& found, std::string_view expected) {
  return InvalidArgument(fmt::format("{}: {}, expected {}", path, JsonKindName(found), expected));
}

namespace {

constexpr int kMaxReferenceDepth = 32;  // of references in each other
constexpr int64_t kMaxMerges = 256;

bool HasRestrictions(const json::object& schema) {
  return std::any_of(schema.begin(), schema.end(), [](const auto& member) {
    return !IsAnnotation({member.key().data(), member.key().size()});
  });
}

// Two schemas' values of one keyword, both of which hold, as one; nothing if that is not simple.
std::optional<json::value> MergeKeyword(std::string_view keyword, const json::value& left,
                                        const json::value& right) {
  if (left == right) return left;
  if (keyword == "required" && left.is_array() && right.is_array()) {
    json::array merged = left.get_array();
    for (const json::value& name : right.get_array()) {
      if (std::find(merged.begin(), merged.end(), name) == merged.end()) merged.push_back(name);
    }
    return merged;
  }
  if (keyword == "properties" && left.is_object() && right.is_object()) {
    json::object merged = left.get_object();
    for (const auto& member : right.get_object()) {
      const json::value* other = merged.if_contains(member.key());
      if (other != nullptr && *other != member.value()) return std::nullopt;
      merged[member.key()] = member.value();
    }
    return merged;
  }
  return std::nullopt;
}

// Part of a JSON pointer in a URI, with the escapes of both undone.
std::string UnescapePointer(std::string_view part) {
  std::string bytes;
  for (size_t position = 0; position < part.size(); ++position) {
    int byte = 0;
    const char* digits = part.data() + position + 1;
    if (part[position] == '%' && position + 2 < part.size() &&
        std::from_chars(digits, digits + 2, byte, 16).ptr == digits + 2) {
      bytes += static_cast<char>(byte);
      position += 2;
    } else {
      bytes += part[position];
    }
  }
  std::string text;
  for (size_t position = 0; position < bytes.size(); ++position) {
    const bool is_escape = bytes[position] == '~' && position + 1 < bytes.size() &&
                           (bytes[position + 1] == '0' || bytes[position + 1] == '1');
    text += !is_escape ? bytes[position] : bytes[position + 1] == '0' ? '~' : '/';
    position += is_escape;
  }
  return text;
}

}  // namespace

Result<ResolvedSchema> SchemaResolver::Resolve(const json::value& schema, const std::string& path) {
  return ResolveAt(schema, path, 0);
}

Result<ResolvedSchema> SchemaResolver::ResolveAt(const json::value& schema, const std::string& path,
                                                 int depth) {
  if (depth > kMaxReferenceDepth) {
    return InvalidArgument(
        fmt::format("{}: more than {} references in each other, expected a value in between", what_,
                    kMaxReferenceDepth));
  }
  if (const bool* allows = schema.if_bool()) return *allows ? &kAnything : &kNothing;
  if (!schema.is_object()) return WrongKind(path, schema, "a schema");
  const auto known = resolved_.find(&schema);
  if (known != resolved_.end()) return known->second;

  const json::object& object = schema.get_object();
  WINNOW_TRY(CheckKeywords(object, path));
  const json::value* reference = Find(object, "$ref");
  const json::value* all = Find(object, "allOf");
  ResolvedSchema resolved = &object;
  if (reference != nullptr || all != nullptr) {
    json::object& rest = made_.emplace_back(object);
    rest.erase("$ref");
    rest.erase("allOf");
    resolved = &rest;
  }
  if (reference != nullptr) {
    const std::string reference_path = JoinPath(path, "$ref");
    if (!reference->is_string()) return WrongKind(reference_path, *reference, "a string");
    WINNOW_ASSIGN(
        const json::value* target,
        Target({reference->get_string().data(), reference->get_string().size()}, reference_path));
    WINNOW_ASSIGN(const ResolvedSchema other, ResolveAt(*target, reference_path, depth + 1));
    WINNOW_ASSIGN(resolved, Merge(resolved, other, reference_path));
  }
  if (all != nullptr) {
    const std::string all_path = JoinPath(path, "allOf");
    if (!all->is_array()) return WrongKind(all_path, *all, "an array of schemas");
    for (const json::value& part : all->get_array()) {
      WINNOW_ASSIGN(const ResolvedSchema other, ResolveAt(part, all_path, depth + 1));
      WINNOW_ASSIGN(resolved, Merge(resolved, other, all_path));
    }
  }
  resolved_[&schema] = resolved;
  return resolved;
}

Result<ResolvedSchema> SchemaResolver::Merge(ResolvedSchema left, ResolvedSchema right,
                                             const std::string& path) {
  if (left == right || !HasRestrictions(*right)) return left;
  if (!HasRestrictions(*left)) return right;
  const auto known = merges_.find({left, right});
  if (known != merges_.end()) return known->second;
  if (std::ssize(merges_) >= kMaxMerges) {
    return InvalidArgument(
        fmt::format("{}: more than {} schemas to merge, expected fewer", what_, kMaxMerges));
  }
  // Whoever forbids other members means those of the other schema too.
  for (const auto& [closed, open] : {std::pair(left, right), std::pair(right, left)}) {
    const json::value* others = Find(*closed, "additionalProperties");
    const bool is_open = others == nullptr || (others->is_bool() && others->get_bool());
    if (!is_open && Find(*open, "properties") != nullptr) {
      return Unsupported(fmt::format(
          "{}: additionalProperties in one of several schemas for an object, expected it in none",
          path));
    }
  }
  json::object merged = *left;
  for (const auto& member : *right) {
    const std::string_view keyword(member.key().data(), member.key().size());
    if (IsAnnotation(keyword)) continue;
    json::value* own = merged.if_contains(member.key());
    if (own == nullptr) {
      merged[member.key()] = member.value();
      continue;
    }
    std::optional<json::value> both = MergeKeyword(keyword, *own, member.value());
    if (!both) {
      return Unsupported(
          fmt::format("{}: two different {} for one value, expected one", path, Quoted(keyword)));
    }
    *own = std::move(*both);
  }
  return merges_[{left, right}] = &made_.emplace_back(std::move(merged));
}

Result<const json::value*> SchemaResolver::Target(std::string_view reference,
                                                  const std::string& path) const {
  const auto missing = [&](std::string_view expected) {
    return InvalidArgument(fmt::format("{}: {}, expected {}", path, Quoted(reference), expected));
  };
  if (!reference.starts_with('#') || (reference.size() > 1 && reference[1] != '/')) {
    return Unsupported(fmt::format("{}: {}, expected a reference within the schema (#/…)", path,
                                   Quoted(reference)));
  }
  const json::value* target = &root_;
  for (size_t position = 1; position < reference.size();) {
    const size_t end = std::min(reference.find('/', position + 1), reference.size());
    const std::string part = UnescapePointer(reference.substr(position + 1, end - position - 1));
    position = end;
    if (const json::object* object = target->if_object()) {
      target = object->if_contains(part);
    } else if (const json::array* array = target->if_array()) {
      size_t index = 0;
      const auto [last, error] = std::from_chars(part.data(), part.data() + part.size(), index);
      const bool is_index = error == std::errc() && last == part.data() + part.size();
      target = is_index ? array->if_contains(index) : nullptr;
    } else {
      target = nullptr;
    }
    if (target == nullptr) return missing("a part of the schema");
  }
  return target;
}

bool SchemaResolver::HasAlternatives(ResolvedSchema schema) {
  return Find(*schema, "anyOf") != nullptr || Find(*schema, "oneOf") != nullptr;
}

Result<const json::array*> SchemaResolver::Alternatives(ResolvedSchema schema,
                                                        const std::string& path,
                                                        std::string& list_path) {
  const json::value* any = Find(*schema, "anyOf");
  const json::value* one = Find(*schema, "oneOf");
  if (any != nullptr && one != nullptr) {
    return Unsupported(fmt::format("{}: anyOf and oneOf, expected one of them", path));
  }
  list_path = JoinPath(path, any != nullptr ? "anyOf" : "oneOf");
  const json::value* list = any != nullptr ? any : one;
  if (!list->is_array()) return WrongKind(list_path, *list, "an array of schemas");
  return &list->get_array();
}

ResolvedSchema SchemaResolver::WithoutAlternatives(ResolvedSchema schema) {
  const auto [entry, is_new] = rests_.try_emplace(schema, nullptr);
  if (is_new) {
    json::object& rest = made_.emplace_back(*schema);
    rest.erase("anyOf");
    rest.erase("oneOf");
    entry->second = &rest;
  }
  return entry->second;
}

}  // namespace winnow
