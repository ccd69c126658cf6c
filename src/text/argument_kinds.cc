// The types that a schema mentions, followed through references and alternatives.
#include "text/argument_kinds.h"

#include "base/json.h"
#include "text/schema_keywords.h"

namespace winnow {
namespace {

constexpr int kMaxVisits = 1000;  // of schemas for one argument

// The value at a local reference such as #/$defs/name; null if there is none.
const json::value* Target(const json::value& root, std::string_view reference) {
  if (!reference.starts_with('#')) return nullptr;
  boost::json::error_code error;
  return root.find_pointer({reference.data() + 1, reference.size() - 1}, error);
}

// An upper bound of the types of `schema`'s values.
TypeSet TypesIn(const json::value& schema, const json::value& root, int& visits) {
  const json::object* object = schema.if_object();
  if (object == nullptr || ++visits > kMaxVisits) return kAnyType;
  TypeSet types = kAnyType;
  const auto union_of = [&](const json::value& list) {
    TypeSet any = 0;
    for (const json::value& part : list.get_array()) any |= TypesIn(part, root, visits);
    return any;
  };
  if (Find(*object, "type") != nullptr) {
    const Result<TypeSet> own = TypesOf(*object, "");
    if (own.ok()) types &= *own;
    if ((types & kNumberType) != 0) types |= kIntegerType;
  }
  if (const json::value* constant = Find(*object, "const")) types &= TypeOf(*constant);
  if (const json::value* list = Find(*object, "enum"); list != nullptr && list->is_array()) {
    TypeSet any = 0;
    for (const json::value& value : list->get_array()) any |= TypeOf(value);
    types &= any;
  }
  for (std::string_view keyword : {"anyOf", "oneOf"}) {
    const json::value* list = Find(*object, keyword);
    if (list != nullptr && list->is_array()) types &= union_of(*list);
  }
  if (const json::value* list = Find(*object, "allOf"); list != nullptr && list->is_array()) {
    for (const json::value& part : list->get_array()) types &= TypesIn(part, root, visits);
  }
  if (const json::value* reference = Find(*object, "$ref");
      reference != nullptr && reference->is_string()) {
    const std::string_view text(reference->get_string().data(), reference->get_string().size());
    const json::value* target = Target(root, text);
    if (target != nullptr) types &= TypesIn(*target, root, visits);
  }
  return types;
}

const json::value* Member(const json::value* value, std::string_view name) {
  const json::object* object = value == nullptr ? nullptr : value->if_object();
  return object == nullptr ? nullptr : Find(*object, name);
}

}  // namespace

ArgumentKinds::ArgumentKinds(std::string_view tools_json) {
  if (tools_json.empty() || tools_json.size() > kLargestTools) return;
  const Result<json::value> tools = ParseJson(tools_json, "tools");
  if (!tools.ok() || !tools->is_array()) return;
  for (const json::value& tool : tools->get_array()) {
    const json::value* function = Member(&tool, "function");
    if (function == nullptr) function = &tool;
    const json::value* name = Member(function, "name");
    const json::value* parameters = Member(function, "parameters");
    const json::value* properties = Member(parameters, "properties");
    if (name == nullptr || !name->is_string() || properties == nullptr) continue;
    if (!properties->is_object()) continue;
    std::map<std::string, uint32_t>& types = types_[std::string(name->get_string())];
    for (const auto& property : properties->get_object()) {
      int visits = 0;
      types[std::string(property.key())] = TypesIn(property.value(), *parameters, visits);
    }
  }
}

ArgumentKind ArgumentKinds::Of(const std::string& tool, const std::string& argument) const {
  const auto known = types_.find(tool);
  if (known == types_.end()) return ArgumentKind::kString;
  const auto types = known->second.find(argument);
  if (types == known->second.end() || types->second == kStringType) return ArgumentKind::kString;
  return (types->second & kStringType) == 0 ? ArgumentKind::kJson : ArgumentKind::kEither;
}

bool ArgumentKinds::IsOtherValue(const std::string& tool, const std::string& argument,
                                 std::string_view text) const {
  const auto known = types_.find(tool);
  if (known == types_.end()) return false;
  const auto types = known->second.find(argument);
  if (types == known->second.end()) return false;
  const Result<json::value> value = ParseJson(text, "argument");
  return value.ok() && !value->is_string() && (TypeOf(*value) & types->second) != 0;
}

}  // namespace winnow
