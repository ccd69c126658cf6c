#include "server/receipt_json.h"

namespace winnow::server {
namespace {

void AddPhase(const PhaseCost& cost, PhaseCost* into) {
  into->seconds += cost.seconds;
  into->flops += cost.flops;
  into->bytes += cost.bytes;
  into->dense_flops += cost.dense_flops;
  into->dense_bytes += cost.dense_bytes;
  into->dense_seconds += cost.dense_seconds;
}

json::object PhaseJson(int64_t tokens, const PhaseCost& cost, bool is_modelled) {
  json::object phase = {
      {"tokens", tokens},    {"seconds", cost.seconds},         {"flops", cost.flops},
      {"bytes", cost.bytes}, {"dense_flops", cost.dense_flops}, {"dense_bytes", cost.dense_bytes}};
  if (is_modelled) phase["dense_seconds_modelled"] = cost.dense_seconds;
  return phase;
}

}  // namespace

void AddReceipt(const Receipt& receipt, Receipt* into) {
  into->prompt_tokens += receipt.prompt_tokens;
  into->cached_tokens += receipt.cached_tokens;
  into->computed_tokens += receipt.computed_tokens;
  into->recomputed_tokens += receipt.recomputed_tokens;
  into->completion_tokens += receipt.completion_tokens;
  into->reasoning_tokens += receipt.reasoning_tokens;
  into->attention_rows_read += receipt.attention_rows_read;
  into->attention_rows_dense += receipt.attention_rows_dense;
  into->index_keys_scored += receipt.index_keys_scored;
  into->last_rows_read = std::max(into->last_rows_read, receipt.last_rows_read);
  into->last_rows_dense = std::max(into->last_rows_dense, receipt.last_rows_dense);
  into->queue_seconds = std::max(into->queue_seconds, receipt.queue_seconds);
  into->prefill_seconds = std::max(into->prefill_seconds, receipt.prefill_seconds);
  into->decode_seconds = std::max(into->decode_seconds, receipt.decode_seconds);
  AddPhase(receipt.prefill, &into->prefill);
  AddPhase(receipt.decode, &into->decode);
}

Receipt TotalReceipt(const std::vector<Receipt>& choices, int64_t n) {
  Receipt total;
  for (size_t index = 0; index < choices.size(); ++index) {
    Receipt receipt = choices[index];
    if (static_cast<int64_t>(index) % n != 0) {
      receipt.prompt_tokens = 0;
      receipt.cached_tokens = 0;
    }
    AddReceipt(receipt, &total);
  }
  return total;
}

double Dollars(const Receipt& receipt, double dollars_per_hour) {
  return (receipt.prefill.seconds + receipt.decode.seconds) / 3600.0 * dollars_per_hour;
}

double DenseDollarsModelled(const Receipt& receipt, double dollars_per_hour) {
  return (receipt.prefill.dense_seconds + receipt.decode.dense_seconds) / 3600.0 * dollars_per_hour;
}

json::object ReceiptJson(const Receipt& receipt, std::optional<double> dollars_per_hour) {
  const bool is_modelled = receipt.prefill.dense_seconds + receipt.decode.dense_seconds > 0.0;
  json::object json = {
      {"prefill", PhaseJson(receipt.computed_tokens, receipt.prefill, is_modelled)},
      {"decode", PhaseJson(receipt.completion_tokens, receipt.decode, is_modelled)},
      {"cached_tokens", receipt.cached_tokens},
      {"recomputed_tokens", receipt.recomputed_tokens},
      {"attention_rows_read", receipt.attention_rows_read},
      {"attention_rows_dense", receipt.attention_rows_dense},
      {"index_keys_scored", receipt.index_keys_scored},
      {"queue_seconds", receipt.queue_seconds},
      {"wall_prefill_seconds", receipt.prefill_seconds},
      {"wall_decode_seconds", receipt.decode_seconds}};
  if (dollars_per_hour) {
    json["dollars"] = Dollars(receipt, *dollars_per_hour);
    const double dense = DenseDollarsModelled(receipt, *dollars_per_hour);
    if (dense > 0.0) json["dense_dollars_modelled"] = dense;
  }
  return json;
}

json::object UsageJson(const Receipt& receipt, std::optional<double> dollars_per_hour) {
  return {{"prompt_tokens", receipt.prompt_tokens},
          {"completion_tokens", receipt.completion_tokens},
          {"total_tokens", receipt.prompt_tokens + receipt.completion_tokens},
          {"prompt_tokens_details", {{"cached_tokens", receipt.cached_tokens}}},
          {"completion_tokens_details", {{"reasoning_tokens", receipt.reasoning_tokens}}},
          {"prompt_cache_hit_tokens", receipt.cached_tokens},
          {"prompt_cache_miss_tokens", receipt.prompt_tokens - receipt.cached_tokens},
          {"winnow", ReceiptJson(receipt, dollars_per_hour)}};
}

}  // namespace winnow::server
