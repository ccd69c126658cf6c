#include "report.h"

#include <fmt/format.h>

#include "terminal.h"

namespace winnow::apps {
namespace {

double Rate(int64_t tokens, double seconds) {
  return seconds > 0.0 ? static_cast<double>(tokens) / seconds : 0.0;
}

double Percent(int64_t part, int64_t whole) {
  return whole > 0 ? 100.0 * static_cast<double>(part) / static_cast<double>(whole) : 100.0;
}

}  // namespace

std::string ReceiptText(const Receipt& r) {
  std::string text = fmt::format("prompt   {} tokens", Grouped(r.prompt_tokens));
  if (r.cached_tokens > 0) text += fmt::format(", {} of them cached", Grouped(r.cached_tokens));
  text += fmt::format(", {:.1f} s ({:.0f} tokens/s)\n", r.prefill_seconds,
                      Rate(r.computed_tokens, r.prefill_seconds));
  text +=
      fmt::format("answer   {} tokens, {:.2f} s ({:.0f} tokens/s)\n", Grouped(r.completion_tokens),
                  r.decode_seconds, Rate(r.completion_tokens - 1, r.decode_seconds));
  text += fmt::format("context  the last token read {} of {} rows in each layer ({:.1f} %)\n",
                      Grouped(r.last_rows_read), Grouped(r.last_rows_dense),
                      Percent(r.last_rows_read, r.last_rows_dense));
  text += fmt::format("read     {} rows in all; dense attention would have read {} ({:.1f} %)\n",
                      Grouped(r.attention_rows_read), Grouped(r.attention_rows_dense),
                      Percent(r.attention_rows_read, r.attention_rows_dense));
  text += fmt::format("scored   {} index keys to choose them\n", Grouped(r.index_keys_scored));
  return text;
}

json::object ReceiptJson(const Receipt& r) {
  return {{"prompt_tokens", r.prompt_tokens},
          {"cached_tokens", r.cached_tokens},
          {"computed_tokens", r.computed_tokens},
          {"completion_tokens", r.completion_tokens},
          {"attention_rows_read", r.attention_rows_read},
          {"attention_rows_dense", r.attention_rows_dense},
          {"index_keys_scored", r.index_keys_scored},
          {"last_rows_read", r.last_rows_read},
          {"last_rows_dense", r.last_rows_dense},
          {"prefill_seconds", r.prefill_seconds},
          {"decode_seconds", r.decode_seconds}};
}

}  // namespace winnow::apps
