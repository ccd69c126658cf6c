// What a request cost, as JSON: the fields of `usage` and its part `winnow`, the receipt.
#pragma once

#include <optional>

#include "base/json.h"
#include "winnow/winnow.h"

namespace winnow::server {

// `into` becomes the cost of both.
void AddReceipt(const Receipt& receipt, Receipt* into);

// The receipt. `dollars_per_hour` is what an hour of the machine costs.
json::object ReceiptJson(const Receipt& receipt, std::optional<double> dollars_per_hour);

// What the machine's time for a request cost, and what dense attention would have made it cost
// (modelled; 0 if that was not measured).
double Dollars(const Receipt& receipt, double dollars_per_hour);
double DenseDollarsModelled(const Receipt& receipt, double dollars_per_hour);

// OpenAI's `usage`, with DeepSeek's fields and the receipt.
json::object UsageJson(const Receipt& receipt, std::optional<double> dollars_per_hour);

}  // namespace winnow::server
