#include "eval/needle_file.h"

#include <map>

#include "base/check.h"
#include "base/file.h"
#include "base/json.h"
#include "base/text.h"

namespace winnow::eval {
namespace {

constexpr int64_t kMaxFileBytes = int64_t{16} << 20;
constexpr std::string_view kPassage = "{passage}";

// The text of field `key`, called `name` in errors.
Result<std::string> ReadText(const json::object& object, const char* key, const std::string& name) {
  const json::value* value = object.if_contains(key);
  if (value == nullptr) return InvalidArgument(name + ": it is missing, expected a text");
  const json::string* text = value->if_string();
  if (text == nullptr) {
    return InvalidArgument(fmt::format("{}: {}, expected a text", name, JsonKindName(*value)));
  }
  if (text->find_first_not_of(" \t\r\n") == json::string::npos) {
    return InvalidArgument(name + ": it is blank, expected a text");
  }
  return std::string(*text);
}

// That `text` of needles[index] is not in `seen` from a needle before it; adds it.
Status CheckNew(const std::string& text, size_t index, const std::string& name,
                std::map<std::string, size_t>* seen) {
  const auto [entry, is_new] = seen->emplace(text, index);
  if (is_new) return OkStatus();
  return InvalidArgument(fmt::format("{}: {}, expected another than that of needles[{}]", name,
                                     Quoted(text), entry->second));
}

}  // namespace

std::string NeedleFile::QuoteQuestion(const std::string& passage) const {
  std::string question = quote_question;
  return question.replace(question.find(kPassage), kPassage.size(), passage);
}

Result<NeedleFile> ReadNeedleFile(const std::string& path) {
  WINNOW_ASSIGN(const std::string text, ReadFile(path, kMaxFileBytes));
  const std::string name = FileName(path);
  const auto parsed = ParseJson(text, name);
  if (!parsed.ok()) {
    return InvalidArgument(parsed.error().message(),
                           "expected JSON with statements, questions and answers: docs/eval.md");
  }
  const json::value& value = *parsed;
  const json::object* root = value.if_object();
  if (root == nullptr) {
    return InvalidArgument(fmt::format("{}: {}, expected an object", name, JsonKindName(value)));
  }
  for (const auto& member : *root) {
    const std::string_view key(member.key().data(), member.key().size());
    if (key != "absent_answer" && key != "quote_question" && key != "needles") {
      return InvalidArgument(fmt::format(
          "{}: field {}, expected absent_answer, quote_question or needles", name, Quoted(key)));
    }
  }
  NeedleFile file;
  file.name = name;
  WINNOW_ASSIGN(file.absent_answer, ReadText(*root, "absent_answer", name + ": absent_answer"));
  WINNOW_ASSIGN(file.quote_question, ReadText(*root, "quote_question", name + ": quote_question"));
  if (file.quote_question.find(kPassage) == std::string::npos) {
    return InvalidArgument(fmt::format("{}: quote_question: {}, expected {} in it", name,
                                       Quoted(file.quote_question), kPassage));
  }
  const json::value* needles = root->if_contains("needles");
  if (needles == nullptr || !needles->is_array()) {
    return InvalidArgument(fmt::format("{}: needles: {}, expected an array", name,
                                       needles == nullptr ? "missing" : JsonKindName(*needles)));
  }
  if (needles->as_array().empty()) {
    return InvalidArgument(name + ": needles: an empty array, expected at least one needle");
  }
  std::map<std::string, size_t> statements, questions;
  for (const json::value& element : needles->as_array()) {
    const std::string field = fmt::format("{}: needles[{}]", name, file.needles.size());
    const json::object* object = element.if_object();
    if (object == nullptr) {
      return InvalidArgument(
          fmt::format("{}: {}, expected an object", field, JsonKindName(element)));
    }
    Needle needle;
    WINNOW_ASSIGN(needle.statement, ReadText(*object, "statement", field + ".statement"));
    WINNOW_ASSIGN(needle.question, ReadText(*object, "question", field + ".question"));
    WINNOW_ASSIGN(needle.answer, ReadText(*object, "answer", field + ".answer"));
    const size_t index = file.needles.size();
    WINNOW_TRY(CheckNew(needle.statement, index, field + ".statement", &statements));
    WINNOW_TRY(CheckNew(needle.question, index, field + ".question", &questions));
    file.needles.push_back(std::move(needle));
  }
  return file;
}

Result<NeedleFile> ReadNeedles(const std::string& path, const std::string& default_path) {
  auto file = ReadNeedleFile(path);
  if (file.ok() || file.error().code() != StatusCode::kNotFound || path != default_path) {
    return file;
  }
  return Status(
      file.error().code(), file.error().message(),
      "it is the default, seen from the root of Winnow's source; --needles names another");
}

}  // namespace winnow::eval
