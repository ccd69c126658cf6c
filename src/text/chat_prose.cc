// Extraction of prose from Python and Jinja sources, without running either.
#include "text/chat_prose.h"

#include "base/check.h"
#include "base/text.h"
#include "text/sha256.h"

namespace winnow {
namespace {

constexpr std::string_view kPythonFile = "encoding/encoding_dsv32.py";
constexpr std::string_view kJinjaFile = "chat_template.jinja";

// Digests of the texts that models were trained with, placeholders filled in.
constexpr std::string_view kDeepSeekToolsDigest =
    "963a72ee9be43f07d21bec2348ed2d7e45185e4b502f2a4da35a540299dc2b03";
constexpr std::string_view kGlmToolsBeforeDigest =
    "7543b988ff82f468a77de4a6d81c0a5c19f2b04ecba1b641f17e96071ff748a4";
constexpr std::string_view kGlmToolsAfterDigest =
    "f66a8c65a9cb0f5bdcf0621d1f481f752f345e22eb0b543902167ff94431840d";

Status CheckDigest(std::string_view text, std::string_view digest, const std::string& field) {
  const std::string found = Sha256(text);
  if (found == digest) return OkStatus();
  return Unsupported(
      fmt::format("{}: {} bytes with SHA-256 {}, expected {}", field, text.size(), found, digest));
}

void ReplaceAll(std::string& text, std::string_view from, std::string_view to) {
  for (size_t at = text.find(from); at != std::string::npos; at = text.find(from, at + to.size())) {
    text.replace(at, from.size(), to);
  }
}

bool IsNameByte(char byte) {
  return (byte >= '0' && byte <= '9') || (byte >= 'A' && byte <= 'Z') ||
         (byte >= 'a' && byte <= 'z') || byte == '_';
}

// Reads string literals from the front of a Python expression.
class LiteralReader {
 public:
  LiteralReader(std::string_view rest, std::string field) : rest_(rest), field_(std::move(field)) {}

  // One literal, or neighbours within parentheses.
  Result<std::string> ReadExpression() {
    SkipSpaces(" \t");
    const bool in_parentheses = rest_.starts_with('(');
    const std::string_view spaces = in_parentheses ? " \t\r\n" : " \t";
    if (in_parentheses) rest_.remove_prefix(1);
    SkipSpaces(spaces);
    std::string value;
    do {
      WINNOW_TRY(ReadLiteral(value));
      SkipSpaces(spaces);
    } while (AtQuote());
    if (in_parentheses && !rest_.starts_with(')')) return Malformed("no ) behind the string");
    return value;
  }

 private:
  bool AtQuote() const { return rest_.starts_with('"') || rest_.starts_with('\''); }

  void SkipSpaces(std::string_view spaces) {
    const size_t count = rest_.find_first_not_of(spaces);
    rest_.remove_prefix(count == std::string_view::npos ? rest_.size() : count);
  }

  Status Malformed(std::string_view found) const {
    return Unsupported(fmt::format("{}: {}, expected a plain string literal", field_, found));
  }

  Status ReadLiteral(std::string& value) {
    if (!AtQuote()) return Malformed("no quote");
    const bool is_triple = rest_.starts_with("\"\"\"") || rest_.starts_with("'''");
    const std::string_view quote = rest_.substr(0, is_triple ? 3 : 1);
    rest_.remove_prefix(quote.size());
    while (!rest_.starts_with(quote)) {
      if (rest_.empty() || (!is_triple && rest_[0] == '\n')) return Malformed("no closing quote");
      if (rest_[0] == '\\') {
        WINNOW_TRY(ReadEscape(value));
      } else {
        value += rest_[0];
        rest_.remove_prefix(1);
      }
    }
    rest_.remove_prefix(quote.size());
    return OkStatus();
  }

  Status ReadEscape(std::string& value) {
    constexpr std::string_view kEscapes = "ntr\\'\"";
    constexpr std::string_view kValues = "\n\t\r\\'\"";
    const char letter = rest_.size() > 1 ? rest_[1] : '\0';
    const size_t index = kEscapes.find(letter);
    if (index != std::string_view::npos) {
      value += kValues[index];
    } else if (letter != '\n') {
      return Malformed(fmt::format("escape {}", Quoted(rest_.substr(0, 2))));
    }
    rest_.remove_prefix(2);
    return OkStatus();
  }

  std::string_view rest_;
  std::string field_;
};

// The text in front of and behind the list of tools.
Status ReadDeepSeekTools(std::string_view python, std::string& before, std::string& after) {
  constexpr std::string_view kName = "TOOLS_SYSTEM_TEMPLATE";
  constexpr std::string_view kList = "{tool_schemas}";
  const std::string field = fmt::format("{}: {}", kPythonFile, kName);
  WINNOW_ASSIGN(std::string text, PythonStringConstant(python, kName, kPythonFile));
  ReplaceAll(text, "{dsml_token}", "｜DSML｜");
  ReplaceAll(text, "{thinking_start_token}", "<think>");
  ReplaceAll(text, "{thinking_end_token}", "</think>");
  const size_t list = text.find(kList);
  if (list == std::string::npos) {
    return Unsupported(fmt::format("{}: no {}, expected one", field, kList));
  }
  before = text.substr(0, list);
  after = text.substr(list + kList.size());
  WINNOW_TRY(CheckDigest(before, kDeepSeekToolsDigest, field));
  if (after != "\n</functions>\n") {
    return Unsupported(fmt::format("{}: {} behind {}, expected {}", field, Quoted(after), kList,
                                   Quoted("\n</functions>\n")));
  }
  return OkStatus();
}

Result<std::string> ReadResponseFormat(std::string_view python) {
  constexpr std::string_view kName = "response_format_template";
  WINNOW_ASSIGN(std::string text, PythonStringConstant(python, kName, kPythonFile));
  const size_t schema = text.find("{schema}");
  if (schema == std::string::npos || text.find_first_of("{}", schema + 8) != std::string::npos ||
      text.find_first_of("{}") != schema) {
    return Unsupported(fmt::format("{}: {}: {}, expected one placeholder, {}", kPythonFile, kName,
                                   Quoted(text), Quoted("{schema}")));
  }
  return text;
}

// From `first` to the end of the next `last` behind it; empty if either is missing.
std::string_view Between(std::string_view text, std::string_view first, std::string_view last) {
  const size_t begin = text.find(first);
  if (begin == std::string_view::npos) return {};
  const size_t end = text.find(last, begin + first.size());
  if (end == std::string_view::npos) return {};
  return text.substr(begin, end + last.size() - begin);
}

Result<std::string> CheckedGlmText(std::string_view text, std::string_view digest,
                                   std::string_view name) {
  WINNOW_TRY(CheckDigest(text, digest, fmt::format("{}: {}", kJinjaFile, name)));
  return std::string(text);
}

}  // namespace

Result<std::string> PythonStringConstant(std::string_view python, std::string_view name,
                                         std::string_view what) {
  const std::string field = fmt::format("{}: {}", what, name);
  for (size_t at = python.find(name); at != std::string_view::npos;
       at = python.find(name, at + name.size())) {
    if (at > 0 && python[at - 1] != '\n') continue;
    std::string_view rest = python.substr(at + name.size());
    if (rest.empty() || IsNameByte(rest[0])) continue;
    // The name may be followed by a type.
    const std::string_view line = rest.substr(0, rest.find('\n'));
    const size_t equals = line.find('=');
    if (equals == std::string_view::npos) continue;
    return LiteralReader(rest.substr(equals + 1), field).ReadExpression();
  }
  return Unsupported(fmt::format("{}: no such constant, expected a string", field));
}

ChatProse ReadDeepSeekProse(std::string_view python) {
  ChatProse prose;
  std::string before;
  std::string after;
  if (const Status status = ReadDeepSeekTools(python, before, after); status.ok()) {
    prose.tools_before = std::move(before);
    prose.tools_after = std::move(after);
  } else {
    prose.tools_before = status;
    prose.tools_after = status;
  }
  prose.response_format = ReadResponseFormat(python);
  return prose;
}

ChatProse ReadGlmProse(std::string_view jinja) {
  ChatProse prose;
  const std::string_view before = Between(jinja, "# Tools", "<tools>\n");
  const size_t behind = before.empty() ? 0 : before.data() - jinja.data() + before.size();
  prose.tools_before = CheckedGlmText(before, kGlmToolsBeforeDigest, "the text before the tools");
  prose.tools_after = CheckedGlmText(Between(jinja.substr(behind), "</tools>", "...</tool_call>"),
                                     kGlmToolsAfterDigest, "the text after the tools");
  return prose;
}

ChatProse MissingProse(const Status& status) { return {status, status, status}; }

}  // namespace winnow
