// Reads the fixed prose of the chat formats from the files that checkpoints carry.
#pragma once

#include <string>
#include <string_view>

#include "text/chat_template.h"

namespace winnow {

// From the text of encoding/encoding_dsv32.py.
ChatProse ReadDeepSeekProse(std::string_view python);

// From the text of chat_template.jinja.
ChatProse ReadGlmProse(std::string_view jinja);

// For a checkpoint without the file: every text is `status`.
ChatProse MissingProse(const Status& status);

// The value of the string constant `name` assigned at the beginning of a line of Python: one
// literal or several in parentheses, single- or triple-quoted, with the escapes \n \t \r \\ \' \"
// and \ at the end of a line. `what` names the source in errors.
Result<std::string> PythonStringConstant(std::string_view python, std::string_view name,
                                         std::string_view what);

}  // namespace winnow
