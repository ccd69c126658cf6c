// Small files that appear whole or not at all.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "winnow/status.h"

namespace winnow {

// Whether WriteFile could write `path` now: a regular file, a link to one, or nothing yet. Leaves
// nothing behind. kInvalidArgument or kNotFound naming the path.
Status CheckWritable(const std::string& path);

// Writes `bytes` to a file beside `path`, which takes its name when it is complete; on an error
// what was there stays. As CheckWritable; kResourceExhausted when the bytes do not go in.
Status WriteFile(const std::string& path, std::string_view bytes);

// Whether two paths lead to one file, or would once it is written.
bool SameFile(const std::string& a, const std::string& b);

// What stands in `folder`; nothing if it cannot be read. For refusing to write over it.
std::vector<std::string> FilesIn(const std::string& folder);

}  // namespace winnow
