// How the model families write calls of tools (answer_parser.h), read from the front of a text that
// may not be there as a whole yet.
#pragma once

#include <string>
#include <string_view>

#include "text/chat_template.h"

namespace winnow {

// Whether what was looked for is there, is not, or may be once more text has come.
enum class Found { kYes, kNo, kPerhaps };

// What was read: the head of a call, the head of its next argument, or its end. V3.1 has no
// arguments of its own: their JSON comes next.
struct CallHead {
  size_t length = 0;       // bytes, if it is there
  std::string name;        // of the tool, where a call begins
  bool ends = false;       // nothing begins: the call ends, or the tags around all calls
  std::string key;         // of an argument
  bool is_string = false;  // of an argument of V3.2
};

// Each answer but kPerhaps holds for every continuation of the text.

// Calls at their beginning, with the tags around all and, in V3.2, two line ends in front.
Found ReadFirstCall(ChatFormat format, std::string_view text, CallHead& head);
// What follows a call within the tags around all: another one, or their end. Not for GLM.
Found ReadNextCall(ChatFormat format, std::string_view text, CallHead& head);
// What follows an argument: another one, or the end of the call. Not for V3.1.
Found ReadNextArgument(ChatFormat format, std::string_view text, CallHead& head);

// The tag that a text of calls begins with, and the one that ends an argument (in V3.1, a call).
std::string_view OpeningTag(ChatFormat format);
std::string_view ValueEndTag(ChatFormat format);

// Without the space at both ends.
std::string_view Trimmed(std::string_view text);

}  // namespace winnow
