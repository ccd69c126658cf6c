// From keywords to automata. Objects have their members in the order of the schema, which keeps
// their automata small; those that are not required may be left out.
#include "text/schema_rules.h"

#include <algorithm>
#include <optional>

#include "base/check.h"
#include "base/text.h"
#include "text/pattern.h"
#include "text/schema_keywords.h"

namespace winnow {
namespace {

constexpr int kMaxAlternativeDepth = 32;     // of alternatives in each other
constexpr int64_t kMaxParts = 1 << 14;       // schemas written out, each time they are
constexpr int64_t kMaxRuleStates = 1 << 17;  // of the automaton of one rule
constexpr int64_t kMaxRules = 4096;
constexpr int64_t kMaxUnrolledItems = 256;

// Whether nothing but the keyword `type` restricts the schema.
bool IsPlain(const json::object& schema) {
  return std::all_of(schema.begin(), schema.end(), [](const auto& member) {
    const std::string_view keyword(member.key().data(), member.key().size());
    return keyword == "type" || IsAnnotation(keyword);
  });
}

void AddAutomaton(ByteNfa& nfa, int32_t from, const CharacterAutomaton& automaton,
                  const std::optional<JsonStyle>& style, int32_t to) {
  std::vector<int32_t> states;
  for (size_t state = 0; state < automaton.states.size(); ++state) {
    states.push_back(nfa.AddState());
  }
  if (!states.empty()) nfa.AddEmpty(from, states[0]);
  for (size_t state = 0; state < automaton.states.size(); ++state) {
    if (automaton.states[state].is_final) nfa.AddEmpty(states[state], to);
    for (const auto& [first, last, target] : automaton.states[state].edges) {
      if (style) {
        AddJsonCharacters(nfa, states[state], first, last, *style, states[target]);
      } else {
        nfa.AddCharacters(states[state], first, last, states[target]);
      }
    }
  }
}

// What a text without quotes may hold: no control characters but tabs and ends of lines.
void AddRawCharacters(ByteNfa& nfa, int32_t from, bool with_opening, CountAction action,
                      int32_t to) {
  nfa.AddBytes(from, '\t', '\n', to, action);
  nfa.AddBytes(from, '\r', '\r', to, action);
  nfa.AddCharacters(from, 0x20, with_opening ? 0x7F : '<' - 1, to, action);
  if (!with_opening) nfa.AddCharacters(from, '<' + 1, 0x7F, to, action);
  nfa.AddCharacters(from, 0x80, 0x10FFFF, to, action);
}

}  // namespace

Status SchemaRules::CountPart(const ByteNfa& nfa, int depth) {
  if (depth > kMaxAlternativeDepth) {
    return InvalidArgument(
        fmt::format("{}: more than {} alternatives in each other, expected a value in between",
                    what_, kMaxAlternativeDepth));
  }
  if (++num_parts_ > kMaxParts || nfa.size() > kMaxRuleStates) {
    return InvalidArgument(
        fmt::format("{}: too large once its references and alternatives are "
                    "written out, expected at most {} parts and {} states",
                    what_, kMaxParts, kMaxRuleStates));
  }
  return OkStatus();
}

// The values of enum and const that have a type of the schema.
Result<std::vector<const json::value*>> SchemaRules::Literals(ResolvedSchema schema,
                                                              const std::string& path) const {
  for (const auto& member : *schema) {
    const std::string_view keyword(member.key().data(), member.key().size());
    if (keyword == "enum" || keyword == "const" || keyword == "type" || keyword == "nullable" ||
        keyword == "format" || IsAnnotation(keyword)) {
      continue;
    }
    return Unsupported(
        fmt::format("{}: beside enum or const, expected only type", JoinPath(path, keyword)));
  }
  TypeSet types = kAnyType;
  if (Find(*schema, "type") != nullptr) {
    WINNOW_ASSIGN(types, TypesOf(*schema, path));
  }
  const json::value* constant = Find(*schema, "const");
  std::vector<const json::value*> literals;
  const auto add = [&](const json::value& value) {
    if ((TypeOf(value) & types) == 0) return;
    if (constant == nullptr || *constant == value) literals.push_back(&value);
  };
  if (const json::value* list = Find(*schema, "enum")) {
    if (!list->is_array()) return WrongKind(JoinPath(path, "enum"), *list, "an array");
    for (const json::value& value : list->get_array()) add(value);
  } else {
    add(*constant);
  }
  return literals;
}

Status SchemaRules::AddInline(ByteNfa& nfa, int32_t from, ResolvedSchema schema, TypeSet types,
                              const std::string& path, int32_t to, int depth) {
  WINNOW_TRY(CountPart(nfa, depth));
  if (SchemaResolver::HasAlternatives(schema)) {
    return resolver_.ForAlternatives(
        schema, path, [&](ResolvedSchema alternative, const std::string& its_path) {
          return AddInline(nfa, from, alternative, types, its_path, to, depth + 1);
        });
  }
  if (Find(*schema, "enum") != nullptr || Find(*schema, "const") != nullptr) {
    WINNOW_ASSIGN(const std::vector<const json::value*> literals, Literals(schema, path));
    for (const json::value* literal : literals) {
      if ((TypeOf(*literal) & types) == 0) continue;
      nfa.AddEmpty(nfa.Spell(from, PrintJson(*literal, json_.style())), to);
    }
    return OkStatus();
  }
  WINNOW_ASSIGN(TypeSet own, TypesOf(*schema, path));
  if ((own & kNumberType) != 0) own |= kIntegerType;
  types &= own;
  if ((types & kNullType) != 0) nfa.AddEmpty(nfa.Spell(from, "null"), to);
  if ((types & kBooleanType) != 0) {
    nfa.AddEmpty(nfa.Spell(from, "true"), to);
    nfa.AddEmpty(nfa.Spell(from, "false"), to);
  }
  if ((types & (kNumberType | kIntegerType)) != 0) {
    WINNOW_TRY(AddNumber(nfa, from, schema, (types & kNumberType) == 0, path, to));
  }
  if ((types & kStringType) != 0) WINNOW_TRY(AddString(nfa, from, schema, path, to));
  if ((types & kArrayType) != 0) WINNOW_TRY(AddArray(nfa, from, schema, path, to));
  if ((types & kObjectType) != 0) WINNOW_TRY(AddObject(nfa, from, schema, path, to));
  return OkStatus();
}

Status SchemaRules::AddCall(ByteNfa& nfa, int32_t from, const json::value* schema, TypeSet types,
                            const std::string& path, int32_t to) {
  ResolvedSchema resolved = &kAnything;
  if (schema != nullptr) {
    WINNOW_ASSIGN(resolved, resolver_.Resolve(*schema, path));
  }
  if (Find(*resolved, "enum") != nullptr || Find(*resolved, "const") != nullptr) {
    return AddInline(nfa, from, resolved, types, path, to, 0);
  }
  if (IsPlain(*resolved)) {
    WINNOW_ASSIGN(TypeSet own, TypesOf(*resolved, path));
    own &= types;
    if (own == kAnyType) {
      nfa.AddCall(from, json_.Value(), to);
      return OkStatus();
    }
    return AddInline(nfa, from, resolved, types, path, to, 0);
  }
  const auto [entry, is_new] = rules_.try_emplace({resolved, types}, -1);
  if (is_new) {
    if (std::ssize(rules_) > kMaxRules) {
      return InvalidArgument(
          fmt::format("{}: more than {} schemas, expected fewer", what_, kMaxRules));
    }
    entry->second = builder_.AddRule();
    pending_.push_back({resolved, types, path, entry->second});
  }
  nfa.AddCall(from, entry->second, to);
  return OkStatus();
}

Status SchemaRules::DefineCalled() {
  while (!pending_.empty() && !builder_.is_too_large()) {
    const Pending next = std::move(pending_.front());
    pending_.pop_front();
    ByteNfa nfa;
    const int32_t start = nfa.AddState();
    const int32_t end = nfa.AddState();
    WINNOW_TRY(AddInline(nfa, start, next.schema, next.types, next.path, end, 0));
    builder_.Define(next.rule, nfa, start, end);
  }
  return OkStatus();
}

Status SchemaRules::AddNumber(ByteNfa& nfa, int32_t from, ResolvedSchema schema, bool is_integer,
                              const std::string& path, int32_t to) {
  WINNOW_ASSIGN(const std::optional<NumberBounds> bounds, ReadBounds(*schema, is_integer, path));
  if (!bounds) {
    nfa.AddCall(from, is_integer ? json_.Integer() : json_.Number(), to);
  } else if (is_integer) {
    AddIntegers(nfa, from, *bounds, to);
  } else {
    AddNumbers(nfa, from, *bounds, to);
  }
  return OkStatus();
}

Status SchemaRules::AddString(ByteNfa& nfa, int32_t from, ResolvedSchema schema,
                              const std::string& path, int32_t to) {
  WINNOW_ASSIGN(const std::optional<int64_t> min, ReadCount(*schema, "minLength", path));
  WINNOW_ASSIGN(const std::optional<int64_t> max, ReadCount(*schema, "maxLength", path));
  WINNOW_ASSIGN(const std::optional<std::string> pattern, ReadPattern(*schema, path));
  if (pattern) {
    WINNOW_ASSIGN(
        const CharacterAutomaton automaton,
        CompilePattern(*pattern, min.value_or(0), max.value_or(-1), "", JoinPath(path, "pattern")));
    const int32_t quote = nfa.AddState();
    AddAutomaton(nfa, nfa.Spell(from, "\""), automaton, json_.style(), quote);
    nfa.AddBytes(quote, '"', '"', to);
  } else if (min || max) {
    nfa.AddCall(from, json_.BoundedString(min.value_or(0), max.value_or(JsonRules::kUnbounded)),
                to);
  } else {
    nfa.AddCall(from, json_.String(), to);
  }
  return OkStatus();
}

Status SchemaRules::AddArray(ByteNfa& nfa, int32_t from, ResolvedSchema schema,
                             const std::string& path, int32_t to) {
  const json::value* items = Find(*schema, "items");
  const json::value* prefix = Find(*schema, "prefixItems");
  WINNOW_ASSIGN(const std::optional<int64_t> min, ReadCount(*schema, "minItems", path));
  WINNOW_ASSIGN(const std::optional<int64_t> max, ReadCount(*schema, "maxItems", path));
  const std::string items_path = JoinPath(path, "items");
  if (items == nullptr && prefix == nullptr && !min && !max) {
    nfa.AddCall(from, json_.Array(), to);
    return OkStatus();
  }
  if (prefix == nullptr && (min || max)) {
    const int32_t item = builder_.AddRule();
    ByteNfa item_nfa;
    const int32_t start = item_nfa.AddState();
    const int32_t end = item_nfa.AddState();
    WINNOW_TRY(AddCall(item_nfa, start, items, kAnyType, items_path, end));
    builder_.Define(item, item_nfa, start, end);
    nfa.AddCall(from,
                json_.BoundedArray(item, min.value_or(0), max.value_or(JsonRules::kUnbounded)), to);
    return OkStatus();
  }
  int64_t num_prefix = 0;
  if (prefix != nullptr) {
    if (!prefix->is_array()) {
      return WrongKind(JoinPath(path, "prefixItems"), *prefix, "an array of schemas");
    }
    num_prefix = std::ssize(prefix->get_array());
  }
  // Behind listed items come others only if the schema says which.
  const bool has_rest = items != nullptr && !(items->is_bool() && !items->get_bool());
  const int64_t least = min.value_or(0);
  const int64_t most = has_rest ? max.value_or(JsonRules::kUnbounded)
                                : std::min(max.value_or(num_prefix), num_prefix);
  const bool loops = most == JsonRules::kUnbounded;
  const int64_t unrolled = loops ? std::max(num_prefix, least) : most;
  if (unrolled > kMaxUnrolledItems) {
    return Unsupported(fmt::format("{}: prefixItems with bounds beyond {} items, expected fewer",
                                   path, kMaxUnrolledItems));
  }
  // `behind` is where `count` items have been read.
  int32_t behind = nfa.Spell(from, "[");
  int32_t item = nfa.AddState();
  json_.AddSpace(nfa, behind, item);
  const auto close = [&] {
    const int32_t bracket = nfa.AddState();
    json_.AddSpace(nfa, behind, bracket);
    nfa.AddBytes(bracket, ']', ']', to);
  };
  if (least == 0) nfa.AddBytes(behind, ']', ']', to);
  for (int64_t count = 0; count < unrolled; ++count) {
    behind = nfa.AddState();
    const bool is_listed = count < num_prefix;
    const std::string item_path =
        is_listed ? fmt::format("{}[{}]", JoinPath(path, "prefixItems"), count) : items_path;
    WINNOW_TRY(AddCall(nfa, item, is_listed ? &prefix->get_array()[count] : items, kAnyType,
                       item_path, behind));
    if (count + 1 >= least) close();
    item = nfa.AddState();
    if (count + 1 < unrolled || loops) json_.AddSpace(nfa, nfa.Spell(behind, ","), item);
  }
  if (loops) {
    behind = nfa.AddState();
    WINNOW_TRY(AddCall(nfa, item, items, kAnyType, items_path, behind));
    json_.AddSpace(nfa, nfa.Spell(behind, ","), item);
    close();
  }
  return OkStatus();
}

Result<SchemaRules::Shape> SchemaRules::ObjectShape(ResolvedSchema schema,
                                                    const std::string& path) {
  Shape shape;
  const json::value* properties = Find(*schema, "properties");
  const json::value* others = Find(*schema, "additionalProperties");
  const json::value* required = Find(*schema, "required");
  shape.allows_others =
      others == nullptr ? properties == nullptr : !(others->is_bool() && !others->get_bool());
  if (others != nullptr && !others->is_bool()) shape.others = others;
  if (properties != nullptr) {
    if (!properties->is_object()) {
      return WrongKind(JoinPath(path, "properties"), *properties, "an object of schemas");
    }
    for (const auto& member : properties->get_object()) {
      shape.properties.push_back({std::string(member.key()), &member.value(), false});
    }
  }
  if (required == nullptr) return shape;
  const std::string required_path = JoinPath(path, "required");
  if (!required->is_array()) return WrongKind(required_path, *required, "an array of names");
  std::map<std::string, size_t, std::less<>> places;
  for (size_t index = 0; index < shape.properties.size(); ++index) {
    places[shape.properties[index].name] = index;
  }
  for (const json::value& name : required->get_array()) {
    if (!name.is_string()) return WrongKind(required_path, name, "a name");
    const auto [place, is_new] =
        places.try_emplace(std::string(name.get_string()), shape.properties.size());
    if (is_new) {
      if (others != nullptr && !shape.allows_others) {
        return InvalidArgument(fmt::format("{}: {}, expected one of the properties", required_path,
                                           Quoted(place->first)));
      }
      shape.properties.push_back({place->first, shape.others, true});
    }
    shape.properties[place->second].is_required = true;
  }
  return shape;
}

Status SchemaRules::AddObject(ByteNfa& nfa, int32_t from, ResolvedSchema schema,
                              const std::string& path, int32_t to) {
  WINNOW_ASSIGN(const Shape shape, ObjectShape(schema, path));
  if (shape.properties.empty() && shape.allows_others && shape.others == nullptr) {
    nfa.AddCall(from, json_.Object(), to);
    return OkStatus();
  }
  const int32_t open = nfa.Spell(from, "{");
  int32_t none = open;            // no member yet
  int32_t some = nfa.AddState();  // behind a member; nothing leads here at first
  std::vector<std::string> names;
  for (const Property& property : shape.properties) {
    names.push_back(property.name);
    const int32_t name = nfa.AddState();
    if (none >= 0) json_.AddSpace(nfa, none, name);
    json_.AddSpace(nfa, nfa.Spell(some, ","), name);
    std::string spelled;
    AppendJsonString(property.name, json_.style(), spelled);
    const int32_t behind = nfa.AddState();
    WINNOW_TRY(AddCall(nfa, json_.Colon(nfa, nfa.Spell(name, spelled)), property.schema, kAnyType,
                       JoinPath(JoinPath(path, "properties"), property.name), behind));
    if (property.is_required) {
      none = -1;
    } else {
      nfa.AddEmpty(some, behind);
    }
    some = behind;
  }
  if (shape.allows_others) {
    const int32_t name = nfa.AddState();
    const int32_t colon = nfa.AddState();
    const int32_t behind = nfa.AddState();
    if (none >= 0) json_.AddSpace(nfa, none, name);
    nfa.AddEmpty(some, behind);
    some = behind;
    json_.AddSpace(nfa, nfa.Spell(some, ","), name);
    json_.AddName(nfa, name, names, colon);
    WINNOW_TRY(AddCall(nfa, json_.Colon(nfa, colon), shape.others, kAnyType,
                       JoinPath(path, "additionalProperties"), some));
  }
  if (none >= 0) nfa.AddBytes(none, '}', '}', to);
  const int32_t close = nfa.AddState();
  json_.AddSpace(nfa, some, close);
  nfa.AddBytes(close, '}', '}', to);
  return OkStatus();
}

Status SchemaRules::AddRawString(ByteNfa& nfa, int32_t from, const json::value* schema,
                                 const RawEnd& end, const std::string& path, int32_t to) {
  ResolvedSchema resolved = &kAnything;
  if (schema != nullptr) {
    WINNOW_ASSIGN(resolved, resolver_.Resolve(*schema, path));
  }
  return AddRawInline(nfa, from, resolved, end, path, to, 0);
}

Status SchemaRules::AddRawInline(ByteNfa& nfa, int32_t from, ResolvedSchema schema,
                                 const RawEnd& end, const std::string& path, int32_t to,
                                 int depth) {
  WINNOW_TRY(CountPart(nfa, depth));
  if (SchemaResolver::HasAlternatives(schema)) {
    return resolver_.ForAlternatives(
        schema, path, [&](ResolvedSchema alternative, const std::string& its_path) {
          return AddRawInline(nfa, from, alternative, end, its_path, to, depth + 1);
        });
  }
  const std::string& letters = end.letters.empty() ? end.bytes : end.letters;
  if (Find(*schema, "enum") != nullptr || Find(*schema, "const") != nullptr) {
    WINNOW_ASSIGN(const std::vector<const json::value*> literals, Literals(schema, path));
    for (const json::value* literal : literals) {
      if (!literal->is_string()) continue;
      const std::string text(literal->get_string());
      if ((text + letters).find(letters) != text.size()) {
        return InvalidArgument(
            fmt::format("{}: {} cannot be an argument, expected no text that "
                        "ends one",
                        path, Quoted(text)));
      }
      nfa.AddEmpty(nfa.Spell(from, text + end.bytes), to);
    }
    return OkStatus();
  }
  WINNOW_ASSIGN(const TypeSet types, TypesOf(*schema, path));
  if ((types & kStringType) == 0) return OkStatus();
  WINNOW_ASSIGN(const std::optional<int64_t> min, ReadCount(*schema, "minLength", path));
  WINNOW_ASSIGN(const std::optional<int64_t> max, ReadCount(*schema, "maxLength", path));
  WINNOW_ASSIGN(const std::optional<std::string> pattern, ReadPattern(*schema, path));
  if (pattern) {
    WINNOW_ASSIGN(const CharacterAutomaton automaton,
                  CompilePattern(*pattern, min.value_or(0), max.value_or(-1), "<",
                                 JoinPath(path, "pattern")));
    const int32_t behind = nfa.AddState();
    AddAutomaton(nfa, from, automaton, std::nullopt, behind);
    nfa.AddEmpty(nfa.Spell(behind, end.bytes), to);
    return OkStatus();
  }
  if (min || max) {
    const int64_t most = max.value_or(JsonRules::kUnbounded);
    if (min.value_or(0) > most) return OkStatus();
    ByteNfa counted;
    const int32_t body = counted.AddState();
    AddRawCharacters(counted, body, /*with_opening=*/false, CountAction::kTake, body);
    const int32_t tail = counted.AddState();
    const uint8_t first = static_cast<uint8_t>(end.bytes[0]);
    counted.AddBytes(body, first, first, tail, CountAction::kLeave);
    const int32_t rule = builder_.AddRule();
    builder_.Define(rule, counted, body, counted.Spell(tail, end.bytes.substr(1)), min.value_or(0),
                    most);
    nfa.AddCall(from, rule, to);
    return OkStatus();
  }
  // Any text, read as ended where it can be. If the end is a marker, its letters may not come.
  ByteNfa text;
  const int32_t body = text.AddState();
  AddRawCharacters(text, body, /*with_opening=*/true, CountAction::kNone, body);
  const int32_t ended = text.Spell(body, end.bytes);
  text.MakeExclusive(ended);
  if (!end.letters.empty()) text.MakeExclusive(text.Spell(body, end.letters));
  const int32_t rule = builder_.AddRule();
  builder_.Define(rule, text, body, ended);
  nfa.AddCall(from, rule, to);
  return OkStatus();
}

}  // namespace winnow
