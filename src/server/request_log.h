// The log: one JSON object a line for each request.
#pragma once

#include <string>

#include "server/request_record.h"

namespace winnow::server {

// Without its end of line. Has no text of prompts or answers unless the record has.
std::string RequestLogLine(const RequestRecord& record);

}  // namespace winnow::server
