// Forms as browsers and SDKs upload them: multipart/form-data (RFC 7578), read strictly.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "winnow/status.h"

namespace winnow::server {

// A field of a form. `data` is a view into the body.
struct FormPart {
  std::string name;
  std::string filename;  // as the client calls it; never a path of ours
  bool has_filename = false;
  std::string_view data;
};

// The parts of `body`, in their order; `content_type` is the header with the boundary. Refused as
// kInvalidArgument, saying where: more than 32 parts, more than 8 header lines or 4 KiB of them in
// a part, anything before the first boundary or after the last, line ends other than CRLF, a part
// without a name, two parts of one name, encodings other than none.
Result<std::vector<FormPart>> ParseForm(std::string_view content_type, std::string_view body);

}  // namespace winnow::server
