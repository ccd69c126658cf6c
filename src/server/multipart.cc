#include "server/multipart.h"

#include <algorithm>
#include <cctype>
#include <optional>

#include "base/check.h"
#include "base/text.h"

namespace winnow::server {
namespace {

constexpr size_t kMaxParts = 32;
constexpr size_t kMaxHeaders = 8;
constexpr size_t kMaxHeaderBytes = 4096;
constexpr size_t kMaxBoundary = 70;
constexpr std::string_view kLineEnd = "\r\n";

std::string_view Trim(std::string_view text) {
  while (!text.empty() && (text.front() == ' ' || text.front() == '\t')) text.remove_prefix(1);
  while (!text.empty() && (text.back() == ' ' || text.back() == '\t')) text.remove_suffix(1);
  return text;
}

// Reads `"a \"quoted\" word"` or `word` at the beginning of `text` and takes it off; nothing if it
// is neither.
std::optional<std::string> TakeWord(std::string_view* text) {
  std::string word;
  if (!text->starts_with('"')) {
    const size_t end = std::min(text->find_first_of("; \t\""), text->size());
    word = text->substr(0, end);
    text->remove_prefix(end);
    return word.empty() ? std::nullopt : std::optional(word);
  }
  for (size_t at = 1; at < text->size(); ++at) {
    const char letter = (*text)[at];
    if (letter == '"') {
      text->remove_prefix(at + 1);
      return word;
    }
    // Only what must be escaped is: a lone backslash is part of a name on Windows.
    const char next = at + 1 < text->size() ? (*text)[at + 1] : '\0';
    if (letter == '\\' && (next == '"' || next == '\\')) ++at;
    word += (*text)[at];
  }
  return std::nullopt;
}

struct Parameter {
  std::string name;  // in lower case
  std::string value;
};

// "form-data; name=\"file\"; filename=\"a.jsonl\"": the first word, in lower case, and what follows
// it.
std::optional<std::string> ReadParameters(std::string_view text,
                                          std::vector<Parameter>* parameters) {
  const size_t end = std::min(text.find(';'), text.size());
  const std::string kind = LowerAscii(Trim(text.substr(0, end)));
  text.remove_prefix(end);
  while (!(text = Trim(text)).empty()) {
    if (!text.starts_with(';')) return std::nullopt;
    text.remove_prefix(1);
    text = Trim(text);
    if (text.empty()) break;
    const size_t equals = text.find('=');
    if (equals == std::string_view::npos) return std::nullopt;
    Parameter parameter;
    parameter.name = LowerAscii(Trim(text.substr(0, equals)));
    text.remove_prefix(equals + 1);
    text = Trim(text);
    std::optional<std::string> value = TakeWord(&text);
    if (!value) return std::nullopt;
    parameter.value = std::move(*value);
    for (const Parameter& other : *parameters) {
      if (other.name == parameter.name) return std::nullopt;
    }
    parameters->push_back(std::move(parameter));
  }
  return kind;
}

bool IsBoundary(std::string_view text) {
  constexpr std::string_view kMarks = "'()+_,-./:=? ";
  return !text.empty() && text.size() <= kMaxBoundary && text.back() != ' ' &&
         std::all_of(text.begin(), text.end(), [&](unsigned char letter) {
           return std::isalnum(letter) != 0 ||
                  kMarks.find(static_cast<char>(letter)) != std::string_view::npos;
         });
}

Result<std::string> ReadBoundary(std::string_view content_type) {
  std::vector<Parameter> parameters;
  const std::optional<std::string> kind = ReadParameters(content_type, &parameters);
  if (!kind || *kind != "multipart/form-data") {
    return InvalidArgument(
        fmt::format("header Content-Type: {}, expected multipart/form-data", Quoted(content_type)));
  }
  for (const Parameter& parameter : parameters) {
    if (parameter.name == "boundary" && IsBoundary(parameter.value)) return parameter.value;
  }
  return InvalidArgument(fmt::format(
      "header Content-Type: {}, expected a boundary of 1 to 70 characters", Quoted(content_type)));
}

Status Wrong(size_t part, std::string_view what) {
  return InvalidArgument(fmt::format("form: part {}: {}", part + 1, what));
}

Status ReadDisposition(size_t index, std::string_view value, FormPart* part) {
  std::vector<Parameter> parameters;
  const std::optional<std::string> kind = ReadParameters(value, &parameters);
  if (!kind || *kind != "form-data") {
    return Wrong(index, fmt::format("Content-Disposition is {}, expected form-data with a name",
                                    Quoted(value)));
  }
  for (Parameter& parameter : parameters) {
    if (parameter.name == "name") part->name = std::move(parameter.value);
    if (parameter.name == "filename") {
      part->filename = std::move(parameter.value);
      part->has_filename = true;
    }
  }
  return OkStatus();
}

// Takes the header of a part off `rest`, with the blank line after it.
Status TakeHeader(size_t index, std::string_view* rest, FormPart* part) {
  size_t left = kMaxHeaderBytes;
  for (size_t count = 0;; ++count) {
    const size_t end = rest->substr(0, left).find(kLineEnd);
    if (end == std::string_view::npos || count > kMaxHeaders) {
      return Wrong(index, fmt::format("its header does not end, expected at most {} lines and {} "
                                      "bytes",
                                      kMaxHeaders, kMaxHeaderBytes));
    }
    const std::string_view line = rest->substr(0, end);
    rest->remove_prefix(end + kLineEnd.size());
    left -= end + kLineEnd.size();
    if (line.empty()) break;
    const size_t colon = line.find(':');
    if (colon == std::string_view::npos || line.front() == ' ' || line.front() == '\t') {
      return Wrong(index, fmt::format("header line {}, expected a name and a value", Quoted(line)));
    }
    const std::string name = LowerAscii(line.substr(0, colon));
    const std::string_view value = Trim(line.substr(colon + 1));
    if (name == "content-disposition") {
      if (!part->name.empty()) return Wrong(index, "Content-Disposition twice, expected it once");
      WINNOW_TRY(ReadDisposition(index, value, part));
    } else if (name == "content-transfer-encoding") {
      const std::string encoding = LowerAscii(value);
      if (encoding != "binary" && encoding != "8bit" && encoding != "7bit") {
        return Wrong(index,
                     fmt::format("Content-Transfer-Encoding is {}, expected none", Quoted(value)));
      }
    }
  }
  return part->name.empty() ? Wrong(index, "it has no name, expected one") : OkStatus();
}

}  // namespace

Result<std::vector<FormPart>> ParseForm(std::string_view content_type, std::string_view body) {
  WINNOW_ASSIGN(const std::string boundary, ReadBoundary(content_type));
  const std::string first = "--" + boundary;
  const std::string delimiter = "\r\n--" + boundary;
  std::vector<FormPart> parts;
  if (!body.starts_with(first)) {
    return InvalidArgument("form: it does not begin with its boundary");
  }
  std::string_view rest = body.substr(first.size());
  while (!rest.starts_with("--")) {
    const size_t index = parts.size();
    if (index == kMaxParts) {
      return InvalidArgument(fmt::format("form: more than {} parts, expected fewer", kMaxParts));
    }
    if (!rest.starts_with(kLineEnd)) return Wrong(index, "its boundary has no end of line");
    rest.remove_prefix(kLineEnd.size());
    FormPart part;
    WINNOW_TRY(TakeHeader(index, &rest, &part));
    const size_t end = rest.find(delimiter);
    if (end == std::string_view::npos) return Wrong(index, "it does not end with the boundary");
    part.data = rest.substr(0, end);
    rest.remove_prefix(end + delimiter.size());
    for (const FormPart& other : parts) {
      if (other.name == part.name) {
        return Wrong(
            index, fmt::format("name {} for the second time, expected it once", Quoted(part.name)));
      }
    }
    parts.push_back(std::move(part));
  }
  rest.remove_prefix(2);
  if (!rest.empty() && rest != kLineEnd) {
    return InvalidArgument("form: something follows its last boundary, expected its end");
  }
  return parts;
}

}  // namespace winnow::server
