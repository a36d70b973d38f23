// /health, /ready, /version and /metrics.
#pragma once

#include <functional>
#include <string>

#include "tools/serve/metrics.h"
#include "tools/serve/router.h"

namespace l4::serve {

// /health: 200 while the process lives. /ready: 200 where `not_ready` returns an empty string, else 503 with that
// reason
// ("loading the model", "shutting down"). /version and /metrics need a key.
void add_status_routes(Router& router, Metrics& metrics, std::function<std::string()> not_ready);

}  // namespace l4::serve
