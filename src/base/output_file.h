// Small files that appear whole or not at all.
#pragma once

#include <string>
#include <string_view>

#include "winnow/status.h"

namespace winnow {

// Whether WriteFile could write `path` now: a regular file, a link to one, or nothing yet. Leaves
// nothing behind. kInvalidArgument or kNotFound naming the path.
Status CheckWritable(const std::string& path);

// Writes `bytes` to a file beside `path`, which takes its name when it is complete; on an error
// what was there stays. As CheckWritable; kResourceExhausted when the bytes do not go in.
Status WriteFile(const std::string& path, std::string_view bytes);

}  // namespace winnow
