// Numbers for Prometheus: what requests were, how long they took, what the engine does.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "server/http.h"
#include "server/request_record.h"
#include "winnow/winnow.h"

namespace winnow::server {

// Counts of values at most as large as each of some bounds.
class Histogram {
 public:
  explicit Histogram(std::vector<double> bounds)
      : bounds_(std::move(bounds)), counts_(bounds_.size() + 1) {}
  void Add(double value);
  // The lines of a metric called `name`; `labels` is "" or "model_name=\"x\"".
  void Append(const std::string& name, const std::string& help, const std::string& labels,
              std::string* text) const;

 private:
  std::vector<double> bounds_;
  std::vector<int64_t> counts_;  // the last: greater than all bounds
  int64_t count_ = 0;
  double sum_ = 0.0;
};

// What is asked for when the numbers are read.
struct MetricsContext {
  const EngineStats* engine = nullptr;  // null: the model is not loaded
  HttpCounts http;
  int64_t log_lines_dropped = 0;
  std::string model;
  bool vllm = false;  // also under vLLM's names
};

// Methods may be called from any thread.
class Metrics {
 public:
  Metrics();
  void Observe(const RequestRecord& record);
  // The text format of Prometheus, version 0.0.4.
  std::string Text(const MetricsContext& context) const;

 private:
  void AppendEngine(const MetricsContext& context, std::string* text) const;
  void AppendVllm(const MetricsContext& context, std::string* text) const;

  mutable std::mutex mutex_;
  std::map<std::pair<std::string, int>, int64_t> requests_;  // by route and status
  std::map<std::string, int64_t> finished_;                  // generations by reason
  int64_t prompt_tokens_ = 0;
  int64_t cached_tokens_ = 0;
  int64_t completion_tokens_ = 0;
  Histogram first_token_;
  Histogram between_tokens_;
  Histogram duration_;
  Histogram queue_;
};

}  // namespace winnow::server
