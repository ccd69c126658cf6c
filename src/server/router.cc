#include "server/router.h"

namespace winnow::server {
namespace {

std::string_view NextSegment(std::string_view* path) {
  if (path->starts_with('/')) path->remove_prefix(1);
  const std::string_view segment = path->substr(0, path->find('/'));
  path->remove_prefix(segment.size());
  return segment;
}

bool Matches(std::string_view pattern, std::string_view path, Headers* params) {
  params->clear();
  while (!pattern.empty()) {
    if (path.empty()) return false;
    std::string_view rest = path.substr(1);
    const std::string_view wanted = NextSegment(&pattern);
    std::string_view found = NextSegment(&path);
    if (!wanted.starts_with('{')) {
      if (wanted != found) return false;
      continue;
    }
    std::string_view name = wanted.substr(1, wanted.size() - 2);
    if (name.ends_with('*')) {
      name.remove_suffix(1);
      found = rest;
      path = {};
    }
    std::optional<std::string> value = PercentDecode(found, false);
    if (!value || value->empty()) return false;
    params->emplace_back(std::string(name), std::move(*value));
  }
  return path.empty();
}

}  // namespace

RouteMatch Router::Match(std::string_view method, std::string_view path) const {
  RouteMatch match;
  const std::string_view wanted = method == "HEAD" ? "GET" : method;
  for (size_t index = 0; index < routes_.size(); ++index) {
    const Route& route = routes_[index];
    Headers params;
    if (!Matches(route.path, path, &params)) continue;
    if (route.method == wanted && match.route == nullptr) {
      match.route = &route;
      match.index = index;
      match.params = std::move(params);
    }
    if (!match.allowed.empty()) match.allowed += ", ";
    match.allowed += route.method == "GET" ? "GET, HEAD" : route.method;
  }
  return match;
}

}  // namespace winnow::server
