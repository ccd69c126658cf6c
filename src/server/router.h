// Which handler answers which path.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "server/api_error.h"
#include "server/http.h"

namespace winnow::server {

using Handler = std::function<void(const HttpRequest&, const Responder&)>;

struct Route {
  std::string method;  // "GET" also answers HEAD
  // Matched exactly, segment by segment: "/v1/files/{id}/content". "{id}" is any one segment,
  // "{id*}", at the end, one or more; both are decoded and found by HttpRequest::Param.
  std::string path;
  Handler handler;
  bool open = false;           // needs no API key
  bool needs_model = true;     // 503 while the model loads
  bool always = false;         // answered while the server drains, and beyond max_connections
  int64_t max_body_bytes = 0;  // 0: as many as any route takes
  bool on_io_thread = false;   // takes microseconds; others run on a worker thread
};

struct RouteMatch {
  const Route* route = nullptr;  // null: none has this path, or none this method
  size_t index = 0;
  Headers params;
  std::string allowed;  // methods that the path has, for Allow; empty: there is no such path
};

// Routes are added before the server runs.
class Router {
 public:
  void Add(Route route) { routes_.push_back(std::move(route)); }
  RouteMatch Match(std::string_view method, std::string_view path) const;
  const Route& route(size_t index) const { return routes_[index]; }

 private:
  std::vector<Route> routes_;
};

}  // namespace winnow::server
