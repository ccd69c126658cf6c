// A tree built from the events of Boost.JSON's parser, which show numbers as they are written.
#include "text/python_json.h"

#include <boost/json/basic_parser_impl.hpp>
#include <utility>

#include "base/check.h"
#include "base/json.h"
#include "base/text.h"

namespace winnow {
namespace {

void AppendQuoted(std::string_view text, std::string& out) {
  out += '"';
  for (char byte : text) {
    switch (byte) {
      case '"':
        out += "\\\"";
        break;
      case '\\':
        out += "\\\\";
        break;
      case '\n':
        out += "\\n";
        break;
      case '\r':
        out += "\\r";
        break;
      case '\t':
        out += "\\t";
        break;
      case '\b':
        out += "\\b";
        break;
      case '\f':
        out += "\\f";
        break;
      default:
        if (static_cast<uint8_t>(byte) < 0x20) {
          out += fmt::format("\\u{:04x}", byte);
        } else {
          out += byte;
        }
    }
  }
  out += '"';
}

// Python's repr of a float: the shortest digits that read back, always with a point or an exponent.
std::string PrintFloat(double number) {
  std::string text = fmt::format("{}", number);
  if (text.find_first_of(".e") == std::string::npos) text += ".0";
  return text;
}

// Builds the tree. Each open container is an element of its parent's last place, so the pointers of
// `open` stay valid: a parent grows only when its last child is closed.
class TreeBuilder {
 public:
  static constexpr size_t max_array_size = static_cast<size_t>(-1);
  static constexpr size_t max_object_size = static_cast<size_t>(-1);
  static constexpr size_t max_string_size = static_cast<size_t>(-1);
  static constexpr size_t max_key_size = static_cast<size_t>(-1);

  using Error = boost::json::error_code;
  using View = boost::json::string_view;
  using Kind = PythonJson::Kind;

  PythonJson root;

  bool on_document_begin(Error&) { return true; }
  bool on_document_end(Error&) { return true; }
  bool on_object_begin(Error&) { return Open(Kind::kObject); }
  bool on_object_end(size_t, Error&) { return Close(); }
  bool on_array_begin(Error&) { return Open(Kind::kArray); }
  bool on_array_end(size_t, Error&) { return Close(); }
  bool on_key_part(View part, size_t, Error&) { return Collect(part); }
  bool on_key(View part, size_t, Error&) {
    Collect(part);
    key_ = std::exchange(collected_, {});
    return true;
  }
  bool on_string_part(View part, size_t, Error&) { return Collect(part); }
  bool on_string(View part, size_t, Error&) {
    Collect(part);
    return AddScalar(Kind::kString);
  }
  bool on_number_part(View part, Error&) { return Collect(part); }
  bool on_int64(int64_t, View part, Error&) { return AddInteger(part); }
  bool on_uint64(uint64_t, View part, Error&) { return AddInteger(part); }
  bool on_double(double number, View part, Error&) {
    Collect(part);
    if (collected_.find_first_of(".eE") == std::string::npos) return AddInteger({});
    collected_ = PrintFloat(number);
    return AddScalar(Kind::kOther);
  }
  bool on_bool(bool value, Error&) {
    collected_ = value ? "true" : "false";
    return AddScalar(Kind::kOther);
  }
  bool on_null(Error&) {
    collected_ = "null";
    return AddScalar(Kind::kOther);
  }
  bool on_comment_part(View, Error&) { return true; }
  bool on_comment(View, Error&) { return true; }

 private:
  PythonJson& Add(Kind kind) {
    PythonJson* place = &root;
    if (!open_.empty()) {
      open_.back()->members.push_back({std::exchange(key_, {}), PythonJson()});
      place = &open_.back()->members.back().value;
    }
    place->kind = kind;
    return *place;
  }
  bool Open(Kind kind) {
    open_.push_back(&Add(kind));
    return true;
  }
  bool Close() {
    open_.pop_back();
    return true;
  }
  bool Collect(View part) {
    collected_.append(part.data(), part.size());
    return true;
  }
  bool AddScalar(Kind kind) {
    Add(kind).text = std::exchange(collected_, {});
    return true;
  }
  bool AddInteger(View part) {
    Collect(part);
    if (collected_ == "-0") collected_ = "0";
    return AddScalar(Kind::kOther);
  }

  std::vector<PythonJson*> open_;
  std::string key_;
  std::string collected_;
};

void Append(const PythonJson& value, std::string& out) {
  switch (value.kind) {
    case PythonJson::Kind::kString:
      AppendQuoted(value.text, out);
      return;
    case PythonJson::Kind::kOther:
      out += value.text;
      return;
    case PythonJson::Kind::kObject:
    case PythonJson::Kind::kArray:
      break;
  }
  const bool is_object = value.kind == PythonJson::Kind::kObject;
  out += is_object ? '{' : '[';
  std::string_view separator;
  for (const auto& [key, member] : value.members) {
    out += separator;
    separator = ", ";
    if (is_object) {
      AppendQuoted(key, out);
      out += ": ";
    }
    Append(member, out);
  }
  out += is_object ? '}' : ']';
}

}  // namespace

const PythonJson* PythonJson::Find(std::string_view key) const {
  if (kind != Kind::kObject) return nullptr;
  for (const auto& [name, member] : members) {
    if (name == key) return &member;
  }
  return nullptr;
}

std::string PythonJson::Print() const {
  std::string out;
  Append(*this, out);
  return out;
}

Result<PythonJson> ParsePythonJson(std::string_view text, std::string_view what) {
  const Result<json::value> checked = ParseJson(text, what);
  if (!checked.ok()) return InvalidArgument(checked.error().message());
  json::basic_parser<TreeBuilder> parser(json::parse_options{});
  boost::json::error_code error;
  parser.write_some(false, text.data(), text.size(), error);
  if (error) return InvalidArgument(fmt::format("{}: {}", what, error.message()));
  return std::move(parser.handler().root);
}

}  // namespace winnow
