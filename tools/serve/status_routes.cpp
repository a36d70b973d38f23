#include "tools/serve/status_routes.h"

#include "base/version.h"

namespace l4::serve {

void add_status_routes(Router& router, Metrics& metrics, std::function<std::string()> not_ready) {
  const RouteOptions open_probe{.needs_key = false, .is_probe = true};
  router.add(
      "GET", "/health", [](const std::shared_ptr<Exchange>& exchange) { exchange->reply({.body = "{}\n"}); },
      open_probe);
  router.add(
      "GET", "/ready",
      [not_ready = std::move(not_ready)](const std::shared_ptr<Exchange>& exchange) {
        const std::string reason = not_ready();
        exchange->reply(reason.empty() ? HttpResponse{.body = "{}\n"} : error_response(api_error(503, reason)));
      },
      open_probe);
  router.add("GET", "/version", [](const std::shared_ptr<Exchange>& exchange) {
    Json version;
    version.set("version", build_info().version);
    version.set("commit", build_info().commit);
    exchange->reply({.body = dump_json(version, JsonStyle::compact) + "\n"});
  });
  router.add("GET", "/metrics",
             [&metrics](const std::shared_ptr<Exchange>& exchange) {
               exchange->reply({.content_type = "text/plain; version=0.0.4; charset=utf-8", .body = metrics.text()});
             },
             {.is_probe = true});
}

}  // namespace l4::serve
