// Calls of tools as each model family writes them.
#include <algorithm>
#include <deque>
#include <set>
#include <span>

#include "base/check.h"
#include "base/text.h"
#include "text/answer_grammar.h"
#include "text/argument_kinds.h"
#include "text/json_rules.h"
#include "text/schema_keywords.h"
#include "text/schema_rules.h"

namespace winnow {
namespace {

constexpr int kMaxCalls = 16;

// The tokens that a family may mark its calls with.
constexpr std::string_view kV31Markers[] = {"<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>",
                                            "<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>",
                                            "<｜tool▁sep｜>"};
constexpr std::string_view kV32Markers[] = {"｜DSML｜"};
constexpr std::string_view kGlmMarkers[] = {"<tool_call>", "</tool_call>", "<arg_key>",
                                            "</arg_key>",  "<arg_value>",  "</arg_value>"};

struct Tool {
  std::string name;
  const json::value* parameters;  // null: none
  std::string path;               // of the parameters
};

// Names stand bare between tags.
Status CheckName(std::string_view name, const std::string& path) {
  const bool is_valid = !name.empty() && name.size() <= 256 &&
                        name.find_first_of("<>\"") == std::string_view::npos &&
                        name.front() != ' ' && name.back() != ' ' &&
                        std::none_of(name.begin(), name.end(),
                                     [](char byte) { return static_cast<uint8_t>(byte) < 0x20; });
  if (is_valid) return OkStatus();
  return InvalidArgument(fmt::format(
      "{}: {}, expected a name without <, >, quotes, control characters and space around it", path,
      Quoted(name)));
}

Result<std::vector<Tool>> ReadTools(const json::value& tools, std::string_view choice) {
  if (!tools.is_array()) {
    return InvalidArgument(
        fmt::format("tools: {}, expected an array of functions", JsonKindName(tools)));
  }
  std::vector<Tool> chosen;
  std::set<std::string> names;
  for (size_t index = 0; index < tools.get_array().size(); ++index) {
    const std::string path = fmt::format("tools[{}].function", index);
    const json::object* object = tools.get_array()[index].if_object();
    const json::value* member = object == nullptr ? nullptr : object->if_contains("function");
    const json::object* function = member == nullptr ? object : member->if_object();
    const json::value* name = function == nullptr ? nullptr : function->if_contains("name");
    if (name == nullptr || !name->is_string()) {
      return InvalidArgument(fmt::format("{}: no string name, expected a function", path));
    }
    const json::value* parameters = function->if_contains("parameters");
    if (parameters != nullptr && parameters->is_null()) parameters = nullptr;
    Tool tool = {std::string(name->get_string()), parameters, path + ".parameters"};
    WINNOW_TRY(CheckName(tool.name, path + ".name"));
    if (!names.insert(tool.name).second) {
      return InvalidArgument(
          fmt::format("{}.name: {} again, expected different names", path, Quoted(tool.name)));
    }
    if (choice.empty() || tool.name == choice) chosen.push_back(std::move(tool));
  }
  if (chosen.empty()) {
    return InvalidArgument(choice.empty()
                               ? std::string("tools: none, expected one to call")
                               : fmt::format("tool_choice: {}, expected the name of one of the "
                                             "tools",
                                             Quoted(choice)));
  }
  return chosen;
}

class CallGrammar {
 public:
  CallGrammar(ChatFormat format, const TokenTrie& tokens)
      : format_(format), tokens_(tokens), json_(builder_, Style(format)) {}

  Result<ByteGrammar> Compile(const std::vector<Tool>& tools, int max_calls) {
    const int32_t root = builder_.AddRule();
    const int32_t call = builder_.AddRule();
    // The schemas outlive their rules' definition, which may wait until all tools were seen.
    for (const Tool& tool : tools) {
      static const json::value kNoParameters;
      schemas_.emplace_back(builder_, json_,
                            tool.parameters == nullptr ? kNoParameters : *tool.parameters,
                            tool.path);
    }
    ByteNfa nfa;
    const int32_t start = nfa.AddState();
    const int32_t end = nfa.AddState();
    for (size_t index = 0; index < tools.size(); ++index) {
      WINNOW_TRY(AddTool(nfa, start, tools[index], schemas_[index], end));
    }
    builder_.Define(call, nfa, start, end);
    AddCalls(root, call, max_calls);
    for (SchemaRules& schema : schemas_) WINNOW_TRY(schema.DefineCalled());
    return builder_.Finish("tools");
  }

 private:
  static JsonStyle Style(ChatFormat format) {
    return format == ChatFormat::kDeepSeekV31 ? JsonStyle::kNoTokenTag : JsonStyle::kNoEndTag;
  }

  std::span<const std::string_view> Markers() const {
    switch (format_) {
      case ChatFormat::kDeepSeekV31:
        return kV31Markers;
      case ChatFormat::kDeepSeekV32:
        return kV32Markers;
      case ChatFormat::kGlm:
      case ChatFormat::kGlmWithEffort:
        break;
    }
    return kGlmMarkers;
  }

  // `text` with the markers in it that are tokens.
  std::string Marked(std::string_view text) const {
    std::string marked;
    while (!text.empty()) {
      std::string_view found;
      for (std::string_view marker : Markers()) {
        if (text.starts_with(marker) && tokens_.FindMarker(marker)) found = marker;
      }
      if (!found.empty()) marked += kMarkerByte;
      marked += found.empty() ? text.substr(0, 1) : found;
      text.remove_prefix(found.empty() ? 1 : found.size());
    }
    return marked;
  }

  int32_t Spell(ByteNfa& nfa, int32_t from, std::string_view text) const {
    return nfa.Spell(from, Marked(text));
  }

  void AddCalls(int32_t root, int32_t call, int max_calls) {
    const bool is_v32 = format_ == ChatFormat::kDeepSeekV32;
    const bool is_v31 = format_ == ChatFormat::kDeepSeekV31;
    ByteNfa nfa;
    const int32_t start = nfa.AddState();
    const int32_t closing = nfa.AddState();
    int32_t from = Spell(nfa, start,
                         is_v32   ? "\n\n<｜DSML｜function_calls>\n"
                         : is_v31 ? "<｜tool▁calls▁begin｜>"
                                  : "");
    for (int count = 0; count < max_calls; ++count) {
      if (count > 0 && is_v32) from = Spell(nfa, from, "\n");
      const int32_t behind = nfa.AddState();
      nfa.AddCall(from, call, behind);
      nfa.AddEmpty(behind, closing);
      from = behind;
    }
    const int32_t end = Spell(nfa, closing,
                              is_v32   ? "\n</｜DSML｜function_calls>"
                              : is_v31 ? "<｜tool▁calls▁end｜>"
                                       : "");
    builder_.Define(root, nfa, start, end);
  }

  Status AddTool(ByteNfa& nfa, int32_t from, const Tool& tool, SchemaRules& rules, int32_t to) {
    SchemaRules::Shape shape;
    if (tool.parameters != nullptr) {
      WINNOW_ASSIGN(const ResolvedSchema schema, rules.Resolve(*tool.parameters, tool.path));
      WINNOW_ASSIGN(const TypeSet types, TypesOf(*schema, tool.path));
      if ((types & kObjectType) == 0) {
        return InvalidArgument(fmt::format("{}: no object, expected the schema of one", tool.path));
      }
      if (format_ == ChatFormat::kDeepSeekV31) {
        const int32_t arguments =
            Spell(nfa, from, "<｜tool▁call▁begin｜>" + tool.name + "<｜tool▁sep｜>");
        const int32_t behind = nfa.AddState();
        WINNOW_TRY(rules.AddCall(nfa, arguments, tool.parameters, kObjectType, tool.path, behind));
        nfa.AddEmpty(Spell(nfa, behind, "<｜tool▁call▁end｜>"), to);
        return OkStatus();
      }
      for (std::string_view keyword : {"anyOf", "oneOf", "enum", "const"}) {
        if (Find(*schema, keyword) == nullptr) continue;
        return Unsupported(
            fmt::format("{}: expected the properties of an object", JoinPath(tool.path, keyword)));
      }
      WINNOW_ASSIGN(shape, rules.ObjectShape(schema, tool.path));
    } else if (format_ == ChatFormat::kDeepSeekV31) {
      nfa.AddEmpty(
          Spell(nfa, from,
                "<｜tool▁call▁begin｜>" + tool.name + "<｜tool▁sep｜>{}<｜tool▁call▁end｜>"),
          to);
      return OkStatus();
    }
    const bool is_v32 = format_ == ChatFormat::kDeepSeekV32;
    int32_t none =
        Spell(nfa, from,
              is_v32 ? "<｜DSML｜invoke name=\"" + tool.name + "\">\n" : "<tool_call>" + tool.name);
    int32_t some = nfa.AddState();
    for (const SchemaRules::Property& property : shape.properties) {
      const std::string path = JoinPath(JoinPath(tool.path, "properties"), property.name);
      WINNOW_TRY(CheckName(property.name, path));
      const int32_t argument = nfa.AddState();
      const int32_t behind = nfa.AddState();
      if (none >= 0) nfa.AddEmpty(none, argument);
      nfa.AddEmpty(is_v32 ? Spell(nfa, some, "\n") : some, argument);
      WINNOW_TRY(AddArgument(nfa, argument, property, rules, path, behind));
      if (property.is_required) {
        none = -1;
      } else {
        nfa.AddEmpty(some, behind);
      }
      some = behind;
    }
    if (none >= 0) nfa.AddEmpty(none, some);
    nfa.AddEmpty(Spell(nfa, some, is_v32 ? "\n</｜DSML｜invoke>" : "</tool_call>"), to);
    return OkStatus();
  }

  Status AddArgument(ByteNfa& nfa, int32_t from, const SchemaRules::Property& property,
                     SchemaRules& rules, const std::string& path, int32_t to) {
    constexpr TypeSet kNoString = kAnyType & ~kStringType;
    const bool is_v32 = format_ == ChatFormat::kDeepSeekV32;
    const std::string letters = is_v32 ? "</｜DSML｜parameter>" : "</arg_value>";
    const std::string bytes = Marked(letters);
    const RawEnd end = {bytes, bytes == letters ? "" : letters};
    const int32_t behind = nfa.AddState();
    int32_t text = from;
    int32_t value = from;
    if (is_v32) {
      const int32_t kind =
          Spell(nfa, from, "<｜DSML｜parameter name=\"" + property.name + "\" string=\"");
      text = nfa.Spell(kind, "true\">");
      value = nfa.Spell(kind, "false\">");
    } else {
      text = value = Spell(nfa, from, "<arg_key>" + property.name + "</arg_key><arg_value>");
    }
    WINNOW_TRY(rules.AddRawString(nfa, text, property.schema, end, path, to));
    WINNOW_TRY(rules.AddCall(nfa, value, property.schema, kNoString, path, behind));
    nfa.AddEmpty(nfa.Spell(behind, bytes), to);
    return OkStatus();
  }

  ChatFormat format_;
  const TokenTrie& tokens_;
  GrammarBuilder builder_;
  JsonRules json_;
  std::deque<SchemaRules> schemas_;
};

}  // namespace

Result<std::shared_ptr<const AnswerGrammar>> AnswerGrammar::ForToolCalls(
    ChatFormat format, std::string_view tools_json, std::string_view name,
    const TokenTrie& tokens) {
  if (tools_json.size() > kLargestTools) {
    return InvalidArgument(
        fmt::format("tools: {} bytes, expected at most {}", tools_json.size(), kLargestTools));
  }
  const Result<json::value> parsed = ParseJson(tools_json, "tools");
  if (!parsed.ok()) return InvalidArgument(parsed.error().message());
  WINNOW_ASSIGN(const std::vector<Tool> tools, ReadTools(*parsed, name));
  CallGrammar compiler(format, tokens);
  WINNOW_ASSIGN(ByteGrammar grammar, compiler.Compile(tools, name.empty() ? kMaxCalls : 1));
  return std::make_shared<const AnswerGrammar>(std::move(grammar));
}

}  // namespace winnow
