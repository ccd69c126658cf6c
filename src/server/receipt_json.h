// What a request cost, as JSON: the fields of `usage` and its part `winnow`, the receipt.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "base/json.h"
#include "winnow/winnow.h"

namespace winnow::server {

// `into` becomes the cost of both.
void AddReceipt(const Receipt& receipt, Receipt* into);

// Of the choices of an answer together, `n` of each prompt: tokens of a prompt count once, what
// they cost counts each time.
Receipt TotalReceipt(const std::vector<Receipt>& choices, int64_t n);

// The receipt. `dollars_per_hour` is what an hour of the machine costs.
json::object ReceiptJson(const Receipt& receipt, std::optional<double> dollars_per_hour);

// What the machine's time for a request cost, and what dense attention would have made it cost
// (modelled; 0 if that was not measured).
double Dollars(const Receipt& receipt, double dollars_per_hour);
double DenseDollarsModelled(const Receipt& receipt, double dollars_per_hour);

// OpenAI's `usage`, with DeepSeek's fields and the receipt.
json::object UsageJson(const Receipt& receipt, std::optional<double> dollars_per_hour);

}  // namespace winnow::server
