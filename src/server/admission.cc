#include "server/admission.h"

#include <openssl/evp.h>

#include <algorithm>

#include "base/text.h"
#include "server/answer_writer.h"

namespace winnow::server {
namespace {

constexpr size_t kMaxRequestId = 128;
constexpr size_t kMaxBasic = 4096;

bool EqualsIgnoringCase(std::string_view a, std::string_view b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](unsigned char x, unsigned char y) {
    return std::tolower(x) == std::tolower(y);
  });
}

bool Contains(const std::vector<std::string>& list, std::string_view value) {
  return std::any_of(list.begin(), list.end(), [value](const std::string& entry) {
    return EqualsIgnoringCase(entry, value);
  });
}

// What follows the scheme in "SCHEME value", if `value` has that scheme.
std::optional<std::string_view> AfterScheme(std::string_view value, std::string_view scheme) {
  if (value.size() <= scheme.size() || value[scheme.size()] != ' ' ||
      !EqualsIgnoringCase(value.substr(0, scheme.size()), scheme)) {
    return std::nullopt;
  }
  value.remove_prefix(scheme.size());
  while (value.starts_with(' ')) value.remove_prefix(1);
  return value;
}

// The password in base64 of "user:password"; empty if it is none.
std::string BasicPassword(std::string_view encoded) {
  if (encoded.size() > kMaxBasic || encoded.size() % 4 != 0) return {};
  std::string text(encoded.size() / 4 * 3 + 1, '\0');
  const int size = EVP_DecodeBlock(reinterpret_cast<unsigned char*>(text.data()),
                                   reinterpret_cast<const unsigned char*>(encoded.data()),
                                   static_cast<int>(encoded.size()));
  if (size < 0) return {};
  // The padding comes out as zeros.
  text.resize(static_cast<size_t>(size));
  const size_t padding = encoded.size() - std::min(encoded.find('='), encoded.size());
  text.resize(text.size() - std::min(padding, text.size()));
  const size_t colon = text.find(':');
  return colon == std::string::npos ? std::string() : text.substr(colon + 1);
}

// The key of "Authorization: Bearer KEY" or "x-api-key: KEY", or the password that a browser asked
// for.
std::string ShownKey(const HttpRequest& request) {
  const std::string_view value = request.Header("authorization");
  if (const auto key = AfterScheme(value, "bearer")) return std::string(*key);
  if (const auto basic = AfterScheme(value, "basic")) return BasicPassword(*basic);
  return std::string(request.Header("x-api-key"));
}

}  // namespace

std::string_view HostName(std::string_view host) {
  if (host.starts_with('[')) {
    const size_t end = host.find(']');
    return end == std::string_view::npos ? host : host.substr(0, end + 1);
  }
  return host.substr(0, host.find(':'));
}

std::string RequestId(std::string_view offered) {
  const bool sane = !offered.empty() && offered.size() <= kMaxRequestId &&
                    std::all_of(offered.begin(), offered.end(), [](unsigned char letter) {
                      return std::isalnum(letter) != 0 || letter == '-' || letter == '_' ||
                             letter == '.' || letter == ':';
                    });
  return sane ? std::string(offered) : RandomId("req_");
}

// A page of another site may have its own name resolve to this machine and so reach a server that
// listens for this machine only. The browser then still says whose name it was.
std::optional<ApiError> Admission::CheckHost(const HttpRequest& request) const {
  const std::string_view host = request.Header("host");
  const std::string_view name = HostName(host);
  if (Contains(options_.allowed_hosts, name) || Contains(options_.allowed_hosts, host)) {
    return std::nullopt;
  }
  if (!options_.loopback && options_.allowed_hosts.empty()) return std::nullopt;
  if (options_.loopback && (EqualsIgnoringCase(name, "localhost") || name == "127.0.0.1" ||
                            name == "[::1]" || (host.empty() && request.Header("host").empty()))) {
    return std::nullopt;
  }
  return ApiError{.status = 421,
                  .message = fmt::format("header Host: {}, expected localhost or a name given with "
                                         "--allowed-host",
                                         Quoted(host)),
                  .code = "host_not_allowed"};
}

std::optional<ApiError> Admission::CheckOrigin(const HttpRequest& request, bool changes,
                                               Headers* headers) const {
  const std::string_view origin = request.Header("origin");
  if (origin.empty()) return std::nullopt;
  const std::string own =
      fmt::format("{}://{}", request.tls ? "https" : "http", request.Header("host"));
  if (EqualsIgnoringCase(origin, own)) return std::nullopt;
  if (Contains(options_.allowed_origins, origin) || Contains(options_.allowed_origins, "*")) {
    headers->emplace_back("Access-Control-Allow-Origin", std::string(origin));
    headers->emplace_back("Access-Control-Expose-Headers", "x-request-id, retry-after");
    headers->emplace_back("Vary", "Origin");
    return std::nullopt;
  }
  if (!changes) return std::nullopt;  // without the header above the page cannot read the answer
  return ApiError{
      .status = 403,
      .message = fmt::format("header Origin: {}, expected the server's own or one given "
                             "with --allowed-origin",
                             Quoted(origin)),
      .code = "origin_not_allowed"};
}

std::optional<ApiError> Admission::CheckKey(const Route& route, HttpRequest* request) const {
  if (keys_.empty() || route.open) return std::nullopt;
  const std::string shown = ShownKey(*request);
  const std::optional<std::string> name = keys_.NameOf(shown);
  if (!name) {
    return ApiError{.status = 401,
                    .message = shown.empty()
                                   ? "no API key was given, expected one in Authorization "
                                     "or x-api-key"
                                   : "the API key is not known",
                    .code = "invalid_api_key"};
  }
  request->key = *name;
  return std::nullopt;
}

HttpResponse Admission::Options(const HttpRequest& request, const std::string& allowed) const {
  HttpResponse response;
  response.status = 204;
  response.headers.emplace_back("Allow", allowed + ", OPTIONS");
  const bool preflight = !request.Header("access-control-request-method").empty();
  if (preflight && !Find(request.response_headers, "Access-Control-Allow-Origin").empty()) {
    response.headers.emplace_back("Access-Control-Allow-Methods", allowed);
    const std::string_view asked = request.Header("access-control-request-headers");
    if (!asked.empty()) {
      response.headers.emplace_back("Access-Control-Allow-Headers", std::string(asked));
    }
    response.headers.emplace_back("Access-Control-Max-Age", "600");
  }
  return response;
}

std::optional<HttpResponse> Admission::Decide(const AdmissionState& state,
                                              HttpRequest* request) const {
  request->id = RequestId(request->Header("x-request-id"));
  request->response_headers.emplace_back("x-request-id", request->id);
  const auto refuse = [request](const ApiError& error) {
    return ErrorResponse(error, StyleOf(request->path), request->id);
  };
  if (auto error = CheckHost(*request)) return refuse(*error);
  const bool changes =
      request->method != "GET" && request->method != "HEAD" && request->method != "OPTIONS";
  if (auto error = CheckOrigin(*request, changes, &request->response_headers)) {
    return refuse(*error);
  }
  RouteMatch match = router_.Match(request->method, request->path);
  if (request->method == "OPTIONS" && (!match.allowed.empty() || request->path == "*")) {
    return Options(*request, match.allowed.empty() ? "GET, HEAD, POST" : match.allowed);
  }
  // Whether a path exists is no business of those without a key.
  static const Route kNoRoute{};
  if (auto error = CheckKey(match.route != nullptr ? *match.route : kNoRoute, request)) {
    HttpResponse response = refuse(*error);
    if (request->path == "/") {  // a browser then asks its user
      response.headers.emplace_back("WWW-Authenticate",
                                    "Basic realm=\"Winnow: an API key as password\"");
    }
    return response;
  }
  if (match.allowed.empty()) {
    return refuse({.status = 404,
                   .message = fmt::format("{} {}: there is no such path", request->method,
                                          Quoted(request->path)),
                   .code = "not_found"});
  }
  if (match.route == nullptr) {
    HttpResponse response =
        refuse({.status = 405,
                .message = fmt::format("{}: method {}, expected {}", request->path, request->method,
                                       match.allowed),
                .code = "method_not_allowed"});
    response.headers.emplace_back("Allow", match.allowed + ", OPTIONS");
    return response;
  }
  request->route = match.index;
  request->max_body_bytes = match.route->max_body_bytes;
  request->params = std::move(match.params);
  if (match.route->always) return std::nullopt;
  const auto unavailable = [&](const char* message, const char* code, int seconds) {
    return refuse({.status = 503, .message = message, .code = code, .retry_after = seconds});
  };
  if (request->reserve) {
    return unavailable("server: it has as many connections as it takes", "too_many_connections", 1);
  }
  if (state.draining) {
    HttpResponse response = unavailable("server: it is shutting down", "draining", 5);
    response.close = true;
    return response;
  }
  if (state.loading && match.route->needs_model) {
    return unavailable("server: the model is being loaded", "loading", 2);
  }
  return std::nullopt;
}

}  // namespace winnow::server
