// Who may ask, from where: what is decided when a request's header is read.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "server/api_keys.h"
#include "server/router.h"

namespace winnow::server {

struct AdmissionOptions {
  bool loopback = true;  // the server listens for this machine only
  std::vector<std::string> allowed_hosts;
  std::vector<std::string> allowed_origins;  // "*": all
};

// What the server can do at the moment.
struct AdmissionState {
  bool loading = false;
  bool draining = false;
};

// Decides on headers alone. Does not change once made; any thread.
class Admission {
 public:
  Admission(AdmissionOptions options, ApiKeys keys, const Router& router)
      : options_(std::move(options)), keys_(std::move(keys)), router_(router) {}

  // Fills the fields of `request` that admit fills, but for `record`. A response refuses it, or
  // answers it where that takes no handler (OPTIONS).
  std::optional<HttpResponse> Decide(const AdmissionState& state, HttpRequest* request) const;

 private:
  std::optional<ApiError> CheckHost(const HttpRequest& request) const;
  std::optional<ApiError> CheckOrigin(const HttpRequest& request, bool changes,
                                      Headers* headers) const;
  std::optional<ApiError> CheckKey(const Route& route, HttpRequest* request) const;
  HttpResponse Options(const HttpRequest& request, const std::string& allowed) const;

  const AdmissionOptions options_;
  const ApiKeys keys_;
  const Router& router_;
};

// The name in "name:port", "[::1]:port" or either without a port.
std::string_view HostName(std::string_view host);

// A client's request id if it is one to put into logs, else a new one.
std::string RequestId(std::string_view offered);

}  // namespace winnow::server
