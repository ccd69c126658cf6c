// A small HTTP client for measuring a server: posts JSON, and reads the events of the answer.
#pragma once

#include <functional>
#include <string>

#include "winnow/status.h"

namespace winnow::apps {

struct Endpoint {
  std::string host;
  std::string port;
};

// "http://host:port". kInvalidArgument for anything else.
Result<Endpoint> ParseEndpoint(const std::string& url);

// Posts `body` to `path` on a connection of its own and calls `on_event` with the data of each
// server-sent event as it arrives. `key` may be empty. kUnavailable if the server cannot be reached
// or breaks off, kInternal with its answer if that is not 200.
Status PostForEvents(const Endpoint& endpoint, const std::string& path, const std::string& key,
                     const std::string& body,
                     const std::function<void(const std::string&)>& on_event);

}  // namespace winnow::apps
