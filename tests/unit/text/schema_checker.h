// A second opinion on JSON schemas, written without regard to grammars: whether a value satisfies a
// schema, and values that do.
#pragma once

#include <cmath>
#include <random>
#include <regex>
#include <string>

#include "base/json.h"
#include "base/text.h"

namespace winnow {

inline int64_t CountCharacters(std::string_view text) {
  int64_t count = 0;
  for (char byte : text) count += (byte & 0xC0) != 0x80;
  return count;
}

inline bool HasType(const json::value& value, std::string_view type) {
  if (type == "null") return value.is_null();
  if (type == "boolean") return value.is_bool();
  if (type == "string") return value.is_string();
  if (type == "array") return value.is_array();
  if (type == "object") return value.is_object();
  if (type == "number") return value.is_number();
  return value.is_number() && std::trunc(value.to_number<double>()) == value.to_number<double>();
}

// References are #/$defs/NAME and #.
inline bool Satisfies(const json::value& value, const json::value& schema,
                      const json::value& root) {
  if (schema.is_bool()) return schema.get_bool();
  const json::object& object = schema.get_object();
  const auto find = [&](std::string_view key) {
    return object.if_contains(json::string_view(key.data(), key.size()));
  };
  const auto all_or_one = [&](const json::value& list, bool all) {
    for (const json::value& part : list.get_array()) {
      if (Satisfies(value, part, root) != all) return !all;
    }
    return all;
  };
  if (const auto* reference = find("$ref")) {
    const std::string path(reference->get_string());
    const json::value& target =
        path == "#" ? root : root.at("$defs").at(path.substr(std::string("#/$defs/").size()));
    if (!Satisfies(value, target, root)) return false;
  }
  if (const auto* type = find("type")) {
    bool any = false;
    if (type->is_string()) any = HasType(value, std::string_view(type->get_string()));
    if (type->is_array()) {
      for (const json::value& name : type->get_array()) {
        any |= HasType(value, std::string_view(name.get_string()));
      }
    }
    if (!any) return false;
  }
  if (const auto* constant = find("const"); constant && *constant != value) return false;
  if (const auto* list = find("enum")) {
    bool any = false;
    for (const json::value& choice : list->get_array()) any |= choice == value;
    if (!any) return false;
  }
  if (const auto* list = find("anyOf"); list && !all_or_one(*list, false)) return false;
  if (const auto* list = find("oneOf"); list && !all_or_one(*list, false)) return false;
  if (const auto* list = find("allOf"); list && !all_or_one(*list, true)) return false;
  if (value.is_number()) {
    const double number = value.to_number<double>();
    const auto bound = [&](const char* key) { return find(key)->to_number<double>(); };
    if (find("minimum") && number < bound("minimum")) return false;
    if (find("maximum") && number > bound("maximum")) return false;
    if (find("exclusiveMinimum") && number <= bound("exclusiveMinimum")) return false;
    if (find("exclusiveMaximum") && number >= bound("exclusiveMaximum")) return false;
  }
  if (value.is_string()) {
    const std::string text(value.get_string());
    const int64_t length = CountCharacters(text);
    if (find("minLength") && length < find("minLength")->get_int64()) return false;
    if (find("maxLength") && length > find("maxLength")->get_int64()) return false;
    if (const auto* pattern = find("pattern")) {
      if (!std::regex_search(text, std::regex(std::string(pattern->get_string())))) return false;
    }
  }
  if (value.is_array()) {
    const json::array& items = value.get_array();
    const int64_t count = std::ssize(items);
    if (find("minItems") && count < find("minItems")->get_int64()) return false;
    if (find("maxItems") && count > find("maxItems")->get_int64()) return false;
    const int64_t num_prefix =
        find("prefixItems") ? std::ssize(find("prefixItems")->get_array()) : 0;
    for (int64_t index = 0; index < count; ++index) {
      if (index < num_prefix) {
        if (!Satisfies(items[index], find("prefixItems")->get_array()[index], root)) return false;
      } else if (find("items") && !Satisfies(items[index], *find("items"), root)) {
        return false;
      }
    }
  }
  if (value.is_object()) {
    const json::object& members = value.get_object();
    const json::object none;
    const json::object& properties = find("properties") ? find("properties")->get_object() : none;
    if (const auto* required = find("required")) {
      for (const json::value& name : required->get_array()) {
        if (!members.contains(name.get_string())) return false;
      }
    }
    for (const auto& member : members) {
      const json::value* own = properties.if_contains(member.key());
      const json::value* other = find("additionalProperties");
      const json::value* schema_of_member = own ? own : other;
      if (schema_of_member && !Satisfies(member.value(), *schema_of_member, root)) return false;
    }
  }
  return true;
}

using Random = std::mt19937;

// A value of any kind, of few names and texts, so that some happen to satisfy something.
inline json::value RandomValue(Random& random, int depth) {
  switch (random() % (depth > 0 ? 8 : 6)) {
    case 0:
      return nullptr;
    case 1:
      return random() % 2 == 0;
    case 2:
    case 3: {
      const double halves = static_cast<double>(static_cast<int>(random() % 60) - 20) / 2;
      if (std::trunc(halves) == halves) return static_cast<int64_t>(halves);
      return halves;
    }
    case 4:
    case 5: {
      static constexpr const char* kTexts[] = {"", "a", "ab", "abc", "ü", "üß", "a/b", "x\ny\"\\"};
      return kTexts[random() % std::size(kTexts)];
    }
    case 6: {
      json::array items;
      for (int count = random() % 4; count > 0; --count) {
        items.push_back(RandomValue(random, depth - 1));
      }
      return items;
    }
    default: {
      json::object members;
      for (const char* name : {"a", "b", "c", "z"}) {
        if (random() % 2 == 0) members[name] = RandomValue(random, depth - 1);
      }
      return members;
    }
  }
}

// A value that is likely to satisfy the schema, with members in its order.
inline json::value LikelyValue(Random& random, const json::value& schema, const json::value& root,
                               int depth) {
  if (schema.is_bool() || depth == 0 || random() % 12 == 0) return RandomValue(random, 2);
  const json::object& object = schema.get_object();
  const auto find = [&](std::string_view key) {
    return object.if_contains(json::string_view(key.data(), key.size()));
  };
  const auto pick = [&](const json::array& list) { return list[random() % list.size()]; };
  for (const char* key : {"anyOf", "oneOf", "allOf"}) {
    if (find(key)) return LikelyValue(random, pick(find(key)->get_array()), root, depth - 1);
  }
  if (const auto* reference = find("$ref")) {
    const std::string path(reference->get_string());
    const json::value& target =
        path == "#" ? root : root.at("$defs").at(path.substr(std::string("#/$defs/").size()));
    return LikelyValue(random, target, root, depth - 1);
  }
  if (find("const")) return *find("const");
  if (find("enum")) return pick(find("enum")->get_array());
  std::string type = find("type") == nullptr ? ""
                     : find("type")->is_string()
                         ? std::string(find("type")->get_string())
                         : std::string(pick(find("type")->get_array()).get_string());
  if (type == "integer") return static_cast<int64_t>(random() % 50) - 20;
  if (type == "number") return static_cast<double>(static_cast<int>(random() % 99) - 40) / 8;
  if (type == "array") {
    json::array items;
    for (size_t index = 0, count = random() % 5; index < count; ++index) {
      const auto* prefix = find("prefixItems");
      const json::value* item = prefix && index < prefix->get_array().size()
                                    ? &prefix->get_array()[index]
                                    : find("items");
      items.push_back(item ? LikelyValue(random, *item, root, depth - 1) : RandomValue(random, 1));
    }
    return items;
  }
  if (type == "object") {
    json::object members;
    if (find("properties")) {
      for (const auto& property : find("properties")->get_object()) {
        if (random() % 4 != 0) {
          members[property.key()] = LikelyValue(random, property.value(), root, depth - 1);
        }
      }
    }
    if (random() % 4 == 0) {
      const auto* other = find("additionalProperties");
      members["z"] = other ? LikelyValue(random, *other, root, depth - 1) : RandomValue(random, 1);
    }
    return members;
  }
  for (int trial = 0; trial < 20; ++trial) {
    json::value value = RandomValue(random, 2);
    if (type.empty() || HasType(value, type)) return value;
  }
  return nullptr;
}

// The spelling that grammars know for every value: no spaces, short escapes, no exponents.
inline std::string Spelled(const json::value& value) {
  if (const json::array* items = value.if_array()) {
    std::string text = "[";
    for (const json::value& item : *items) text += (text.size() > 1 ? "," : "") + Spelled(item);
    return text + "]";
  }
  if (const json::object* members = value.if_object()) {
    std::string text = "{";
    for (const auto& member : *members) {
      text += (text.size() > 1 ? "," : "") + json::serialize(member.key()) + ":" +
              Spelled(member.value());
    }
    return text + "}";
  }
  if (value.is_double()) return fmt::format("{}", value.get_double());
  return json::serialize(value);
}

}  // namespace winnow
