// Running the requests of a batch, several at a time.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "server/batch_input.h"
#include "server/batch_output.h"
#include "server/batch_task.h"
#include "server/request_record.h"
#include "winnow/status.h"

namespace winnow::server {

struct BatchRun {
  BatchContext context;
  const BatchInput* input = nullptr;
  std::vector<bool> done;          // by request: those that have a result
  BatchOutput* results = nullptr;  // of requests that were answered
  BatchOutput* errors = nullptr;   // of those that were refused; may be the same
  // Generations that may run at a time, at least 1; asked again and again.
  std::function<int64_t()> concurrency;
  // Whether another request may begin now; empty: always. Asked again after a second.
  std::function<bool()> may_begin;
  // Called, by the thread that runs the batch, for each request that has a result, and at last for
  // those that had none when the run ended (status 499).
  std::function<void(const RequestRecord&)> observe;
  const std::atomic<bool>* stop = nullptr;  // may become true from any thread or signal handler
};

// Runs what is not done, in the order of the input; results come in the order in which they end.
// Refusals that may pass are waited out. Results are on the disk within about a second, and when
// this returns. kCancelled after `stop`, kUnavailable if the engine goes away, kResourceExhausted
// if a result cannot be written, kCorrupt if the input has changed; the files can be taken up again
// after each of them.
Status RunBatch(const BatchRun& run);

}  // namespace winnow::server
