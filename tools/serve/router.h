// Which handler answers which path, and what is asked of a request before it gets there.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "tools/serve/api_error.h"
#include "tools/serve/exchange.h"

namespace l4::serve {

// Runs on one of the server's worker threads, never on an I/O thread: it may parse, tokenise and decode pictures, and
// should hand long work (an answer's tokens) on and return. What it throws is answered (tools/serve/api_error.h).
using Handler = std::function<void(std::shared_ptr<Exchange>)>;

struct RouteOptions {
  bool needs_key = true;
  // Work for the model: counted against the queue limit (429), refused while the server ends (503), and never run by
  // the worker that is kept for quick answers such as /health.
  bool is_work = false;
  bool is_probe = false;       // asked all the time by machines: logged as debug where all is well
  int64_t max_body_bytes = 0;  // 0: the server's limit
  // Errors that the server answers for this route, where they differ from OpenAI's shape.
  std::function<HttpResponse(const ErrorBody&)> error_format = error_response;
};

struct Route {
  std::string method, pattern;
  Handler handler;
  RouteOptions options;
};

class Router {
 public:
  // "/v1/models" or, matching every path that begins so, "/v1/models/*". All routes are added before the server starts.
  void add(std::string method, std::string pattern, Handler handler, RouteOptions options = {});

  struct Match {
    const Route* route = nullptr;  // null: none; then
    std::string allowed;           // "GET, HEAD, OPTIONS": the path exists with these methods; empty: it does not
    std::string wildcard;          // decoded
    bool bad_path = false;         // what stands for "*" is not percent-encoded UTF-8
  };
  Match find(std::string_view method, std::string_view path) const;  // HEAD finds GET's

 private:
  std::vector<Route> routes_;
};

}  // namespace l4::serve
