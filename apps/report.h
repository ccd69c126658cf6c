// Receipts, for people and for programs.
#pragma once

#include <string>

#include "base/json.h"
#include "winnow/winnow.h"

namespace winnow::apps {

// A few lines: speed, what was read, what dense attention would have read.
std::string ReceiptText(const Receipt& receipt);

json::object ReceiptJson(const Receipt& receipt);

}  // namespace winnow::apps
