// Whether a text is well-formed XML, as far as plots use it: elements, attributes, five entities.
#pragma once

#include <algorithm>
#include <cctype>
#include <string>
#include <vector>

namespace winnow {

// Empty if it is; otherwise what is wrong.
inline std::string XmlProblem(const std::string& text) {
  std::vector<std::string> open;
  bool had_root = false;
  const auto entities = [](const std::string& part) {
    for (size_t at = part.find('&'); at != std::string::npos; at = part.find('&', at + 1)) {
      bool known = false;
      for (const char* name : {"&amp;", "&lt;", "&gt;", "&quot;", "&#39;"}) {
        known = known || part.compare(at, std::string(name).size(), name) == 0;
      }
      if (!known) return false;
    }
    return true;
  };
  for (size_t at = 0; at < text.size();) {
    if (text[at] != '<') {
      const size_t next = std::min(text.find('<', at), text.size());
      const std::string content = text.substr(at, next - at);
      if (content.find('>') != std::string::npos || !entities(content)) return "text: " + content;
      if (open.empty() && content.find_first_not_of(" \n") != std::string::npos) {
        return "text outside: " + content;
      }
      at = next;
      continue;
    }
    const size_t end = text.find('>', at);
    if (end == std::string::npos) return "an open tag";
    std::string tag = text.substr(at + 1, end - at - 1);
    at = end + 1;
    if (tag.empty() || tag.find('<') != std::string::npos) return "tag: " + tag;
    if (tag[0] == '/') {
      if (open.empty() || open.back() != tag.substr(1)) return "closes: " + tag;
      open.pop_back();
      continue;
    }
    const bool single = tag.back() == '/';
    if (single) tag.pop_back();
    size_t place = 0;
    while (place < tag.size() && std::isalnum(static_cast<unsigned char>(tag[place]))) ++place;
    const std::string name = tag.substr(0, place);
    if (name.empty() || (open.empty() && had_root)) return "element: " + tag;
    had_root = true;
    while (place < tag.size()) {  // attributes: name="value"
      if (tag[place] == ' ') {
        ++place;
        continue;
      }
      const size_t equals = tag.find("=\"", place);
      if (equals == std::string::npos) return "attribute: " + tag;
      const size_t quote = tag.find('"', equals + 2);
      if (quote == std::string::npos) return "attribute: " + tag;
      if (!entities(tag.substr(equals + 2, quote - equals - 2))) return "entity: " + tag;
      place = quote + 1;
    }
    if (!single) open.push_back(name);
  }
  return open.empty() && had_root ? "" : "elements left open";
}

}  // namespace winnow
