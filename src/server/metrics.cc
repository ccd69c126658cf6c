#include "server/metrics.h"

#include <algorithm>

#include "base/text.h"

namespace winnow::server {
namespace {

const std::vector<double> kSecondsOfRequests = {0.01, 0.025, 0.05, 0.1,  0.25, 0.5,   1.0,   2.5,
                                                5.0,  10.0,  20.0, 40.0, 80.0, 160.0, 320.0, 640.0};
const std::vector<double> kSecondsOfTokens = {0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05,
                                              0.075, 0.1,    0.15,  0.25, 0.5,  1.0,  2.5};

void AppendHead(const std::string& name, const char* type, const std::string& help,
                std::string* text) {
  *text += fmt::format("# HELP {0} {1}\n# TYPE {0} {2}\n", name, help, type);
}

template <typename T>
void AppendOne(const std::string& name, const char* type, const std::string& help,
               const std::string& labels, T value, std::string* text) {
  AppendHead(name, type, help, text);
  *text += labels.empty() ? fmt::format("{} {}\n", name, value)
                          : fmt::format("{}{{{}}} {}\n", name, labels, value);
}

std::string Escaped(const std::string& label) {
  std::string escaped;
  for (const char letter : label) {
    if (letter == '\\' || letter == '"') escaped += '\\';
    escaped += letter == '\n' ? ' ' : letter;
  }
  return escaped;
}

}  // namespace

void Histogram::Add(double value) {
  const auto bound = std::lower_bound(bounds_.begin(), bounds_.end(), value);
  ++counts_[static_cast<size_t>(bound - bounds_.begin())];
  ++count_;
  sum_ += value;
}

void Histogram::Append(const std::string& name, const std::string& help, const std::string& labels,
                       std::string* text) const {
  AppendHead(name, "histogram", help, text);
  const std::string before = labels.empty() ? "" : labels + ",";
  const std::string all = labels.empty() ? "" : "{" + labels + "}";
  int64_t sum = 0;
  for (size_t index = 0; index < bounds_.size(); ++index) {
    sum += counts_[index];
    *text += fmt::format("{}_bucket{{{}le=\"{}\"}} {}\n", name, before, bounds_[index], sum);
  }
  *text += fmt::format("{}_bucket{{{}le=\"+Inf\"}} {}\n", name, before, count_);
  *text += fmt::format("{}_sum{} {}\n{}_count{} {}\n", name, all, sum_, name, all, count_);
}

Metrics::Metrics()
    : first_token_(kSecondsOfRequests),
      between_tokens_(kSecondsOfTokens),
      duration_(kSecondsOfRequests),
      queue_(kSecondsOfRequests) {}

void Metrics::Observe(const RequestRecord& record) {
  std::lock_guard<std::mutex> lock(mutex_);
  ++requests_[{record.route, record.status}];
  if (record.num_choices == 0) return;
  finished_[record.finish] += 1;
  prompt_tokens_ += record.receipt.prompt_tokens;
  cached_tokens_ += record.receipt.cached_tokens;
  completion_tokens_ += record.receipt.completion_tokens;
  if (record.first_token_seconds >= 0.0) first_token_.Add(record.first_token_seconds);
  for (const double gap : record.between_tokens) between_tokens_.Add(gap);
  duration_.Add(record.seconds);
  queue_.Add(record.receipt.queue_seconds);
}

void Metrics::AppendEngine(const MetricsContext& context, std::string* text) const {
  const EngineStats& stats = *context.engine;
  const auto gauge = [&](const char* name, const char* help, int64_t value) {
    AppendOne(name, "gauge", help, "", value, text);
  };
  const auto counter = [&](const char* name, const char* help, auto value) {
    AppendOne(name, "counter", help, "", value, text);
  };
  gauge("winnow_requests_waiting", "Generations that wait to begin.", stats.waiting);
  gauge("winnow_requests_running", "Generations that run.", stats.running);
  AppendHead("winnow_cache_pages", "gauge", "Pages of the cache, by what they are used for.", text);
  *text += fmt::format("winnow_cache_pages{{state=\"used\"}} {}\n", stats.pages_used);
  *text += fmt::format("winnow_cache_pages{{state=\"cached\"}} {}\n", stats.pages_cached);
  *text += fmt::format("winnow_cache_pages{{state=\"free\"}} {}\n",
                       stats.pages - stats.pages_used - stats.pages_cached);
  counter("winnow_generations_total", "Generations that were submitted.", stats.requests);
  counter("winnow_cancelled_total", "Generations that were cancelled.", stats.cancelled);
  counter("winnow_preempted_total", "Times a generation gave up its pages.", stats.preempted);
  counter("winnow_steps_total", "Steps of the engine.", stats.steps);
  counter("winnow_prompt_tokens_total", "Tokens of admitted prompts.", stats.prompt_tokens);
  counter("winnow_cached_tokens_total", "Of those, found in the cache.", stats.cached_tokens);
  counter("winnow_computed_tokens_total", "Tokens run through the model.", stats.computed_tokens);
  counter("winnow_completion_tokens_total", "Tokens generated.", stats.completion_tokens);
  counter("winnow_attention_rows_read_total", "Cache rows that attention gathered.",
          stats.attention_rows_read);
  counter("winnow_attention_rows_dense_total", "Cache rows that dense attention would gather.",
          stats.attention_rows_dense);
  counter("winnow_index_keys_scored_total", "Index keys that the indexer compared.",
          stats.index_keys_scored);
  counter("winnow_busy_seconds_total", "Seconds the engine was in steps.", stats.busy_seconds);
}

void Metrics::AppendVllm(const MetricsContext& context, std::string* text) const {
  const EngineStats& stats = *context.engine;
  const std::string labels = fmt::format("model_name=\"{}\"", Escaped(context.model));
  const auto one = [&](const char* name, const char* type, const char* help, auto value) {
    AppendOne(name, type, help, labels, value, text);
  };
  const double usage =
      stats.pages > 0 ? static_cast<double>(stats.pages_used) / static_cast<double>(stats.pages)
                      : 0.0;
  one("vllm:num_requests_running", "gauge", "Requests that run.", stats.running);
  one("vllm:num_requests_waiting", "gauge", "Requests that wait.", stats.waiting);
  one("vllm:kv_cache_usage_perc", "gauge", "Share of the cache in use, from 0 to 1.", usage);
  one("vllm:gpu_cache_usage_perc", "gauge", "Share of the cache in use, from 0 to 1.", usage);
  one("vllm:num_preemptions_total", "counter", "Preemptions.", stats.preempted);
  one("vllm:prompt_tokens_total", "counter", "Tokens of prompts.", stats.prompt_tokens);
  one("vllm:generation_tokens_total", "counter", "Tokens generated.", stats.completion_tokens);
  one("vllm:prefix_cache_queries_total", "counter", "Tokens looked up in the prefix cache.",
      stats.prompt_tokens);
  one("vllm:prefix_cache_hits_total", "counter", "Tokens found in the prefix cache.",
      stats.cached_tokens);
  AppendHead("vllm:request_success_total", "counter", "Finished requests by reason.", text);
  for (const auto& [reason, count] : finished_) {
    *text += fmt::format("vllm:request_success_total{{{},finished_reason=\"{}\"}} {}\n", labels,
                         Escaped(reason), count);
  }
  first_token_.Append("vllm:time_to_first_token_seconds", "Time to first token.", labels, text);
  between_tokens_.Append("vllm:time_per_output_token_seconds", "Time between tokens.", labels,
                         text);
  between_tokens_.Append("vllm:inter_token_latency_seconds", "Time between tokens.", labels, text);
  duration_.Append("vllm:e2e_request_latency_seconds", "Time of a request.", labels, text);
  queue_.Append("vllm:request_queue_time_seconds", "Time in the queue.", labels, text);
}

std::string Metrics::Text(const MetricsContext& context) const {
  std::lock_guard<std::mutex> lock(mutex_);
  std::string text;
  AppendHead("winnow_requests_total", "counter", "HTTP requests by route and status.", &text);
  for (const auto& [route, count] : requests_) {
    text += fmt::format("winnow_requests_total{{route=\"{}\",code=\"{}\"}} {}\n",
                        Escaped(route.first), route.second, count);
  }
  std::map<int, int64_t> errors;
  for (const auto& [route, count] : requests_) {
    if (route.second >= 400) errors[route.second] += count;
  }
  AppendHead("winnow_request_errors_total", "counter", "HTTP errors by status.", &text);
  for (const auto& [status, count] : errors) {
    text += fmt::format("winnow_request_errors_total{{code=\"{}\"}} {}\n", status, count);
  }
  AppendHead("winnow_finished_total", "counter", "Answers by how they ended.", &text);
  for (const auto& [reason, count] : finished_) {
    text += fmt::format("winnow_finished_total{{reason=\"{}\"}} {}\n", Escaped(reason), count);
  }
  first_token_.Append("winnow_time_to_first_token_seconds",
                      "From the request's arrival to its first token.", "", &text);
  between_tokens_.Append("winnow_time_between_tokens_seconds",
                         "Between the tokens of one answer, as they are handed to the connection.",
                         "", &text);
  duration_.Append("winnow_request_seconds", "From arrival to the end, of generating requests.", "",
                   &text);
  queue_.Append("winnow_queue_seconds", "Until the engine began.", "", &text);
  AppendOne("winnow_connections", "gauge", "Open connections.", "", context.http.open, &text);
  AppendOne("winnow_connections_busy", "gauge", "Connections with a request.", "",
            context.http.busy, &text);
  AppendOne("winnow_connections_total", "counter", "Connections accepted.", "",
            context.http.accepted, &text);
  AppendOne("winnow_connections_refused_total", "counter", "Connections beyond the limit.", "",
            context.http.refused, &text);
  AppendOne("winnow_log_lines_dropped_total", "counter", "Log lines that could not be written.", "",
            context.log_lines_dropped, &text);
  AppendOne("winnow_ready", "gauge", "Whether the model is loaded.", "",
            context.engine != nullptr ? 1 : 0, &text);
  if (context.engine != nullptr) AppendEngine(context, &text);
  if (context.engine != nullptr && context.vllm) AppendVllm(context, &text);
  return text;
}

}  // namespace winnow::server
