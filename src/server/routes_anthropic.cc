// /v1/messages and /v1/messages/count_tokens.
#include "server/service.h"

namespace winnow::server {

void AddAnthropicRoutes(Router&, Service&) {}

}  // namespace winnow::server
