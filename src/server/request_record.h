// What is known of one request when it is over: for the log, the metrics and the ledger.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "winnow/winnow.h"

namespace winnow::server {

// Filled by the connection, the handler and the generations of a request, each its own fields, and
// given to the server's observers when all of them have let go of it.
struct RequestRecord {
  using Clock = std::chrono::steady_clock;

  std::string id;
  std::string method;
  std::string path;
  std::string route;  // its pattern; "other" if there is none
  std::string key;    // name of the API key
  std::string peer;
  Clock::time_point start = Clock::now();

  // Of the connection, when the answer was sent or the client has gone.
  int status = 0;
  int64_t bytes = 0;
  bool complete = false;  // the client got all of the answer
  double seconds = 0.0;   // until then

  // Of generations; num_choices is 0 if there were none.
  std::string model;
  bool stream = false;
  int64_t num_choices = 0;
  Receipt receipt;                     // of all choices together
  std::string finish;                  // of the first choice
  double first_token_seconds = -1.0;   // since `start`; negative: there was none
  std::vector<double> between_tokens;  // seconds
  std::string prompt;                  // only if prompts are to be logged
};

using RequestObserver = std::function<void(const RequestRecord&)>;

}  // namespace winnow::server
