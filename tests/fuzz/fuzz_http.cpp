// A connection's bytes up to the handler and back: reader, routes, keys, the answer's head. The first byte says how the
// rest is cut into reads.
#include <cstdlib>
#include <string_view>

#include "base/strings.h"
#include "tools/serve/http/exchange_core.h"
#include "tools/serve/http/keys.h"
#include "tools/serve/http/request_reader.h"
#include "tools/serve/http/response_head.h"
#include "tools/serve/router.h"

using namespace l4;
using namespace l4::serve;

namespace {

void require(bool holds) {
  if (!holds) std::abort();
}

constexpr ReaderLimits kLimits{.max_header_bytes = 1000, .max_headers = 10};
constexpr int64_t kMaxBody = 500;

const Router& routes() {
  static const Router router = [] {
    Router r;
    const auto echo = [](const std::shared_ptr<Exchange>& e) {
      if (e->request().query == "events") {
        e->begin_events({{"x-path", e->request().path}});
        e->send_event(e->request().body, e->request().path);
        e->end_events();
      } else {
        e->reply({.content_type = e->request().path, .body = e->request().body, .headers = e->request().headers});
      }
    };
    r.add("GET", "/", echo);
    r.add("POST", "/a", echo);
    r.add("POST", "/a/*", echo);
    return r;
  }();
  return router;
}

// One head, whatever was put into it.
void check_head(const std::string& head) {
  require(head.find("\r\n\r\n") == head.size() - 4);
  for (size_t i = 0; i < head.size(); ++i) require((unsigned char)head[i] >= ' ' || head[i] == '\r' || head[i] == '\n');
}

void check_events(std::string_view events) {
  require(events.ends_with("\n\n"));
  for (const std::string& line : split(events, '\n'))
    require(line.empty() || line.starts_with("data: ") || line.starts_with("event: "));
  require(events.find('\r') == events.npos);
}

void answer(RequestReader& reader) {
  HttpRequest& request = reader.request();
  static const ApiKeys keys({"key"});
  keys.accept(request);
  const Router::Match match = routes().find(request.method, request.path);
  if (!match.route) return;
  require(is_valid_utf8(match.wildcard));
  const auto core = std::make_shared<ExchangeCore>(std::move(request), error_response, 100'000, [] {});
  match.route->handler(make_exchange(core));
  const ExchangeCore::Output output = core->take();
  require(output.ended);
  if (output.response) check_head(response_head({200, output.response->content_type, 1}, output.response->headers));
  if (output.events_begin) check_head(response_head({200, "text/event-stream"}, *output.events_begin));
  if (output.events_begin) check_events(output.events);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const size_t step = data[0] == 0 ? size : data[0];
  std::string_view rest(reinterpret_cast<const char*>(data) + 1, size - 1);
  RequestReader reader(kLimits);
  while (!rest.empty()) {
    reader.add(rest.substr(0, step));
    rest.remove_prefix(std::min(step, rest.size()));
    for (bool goes_on = true; goes_on;) {
      switch (reader.state()) {
        case RequestReader::State::decide: {
          const HttpRequest& request = reader.request();
          require(!request.method.empty());
          require(request.path == "*" || request.path.starts_with('/'));
          require(int64_t(request.headers.size()) <= kLimits.max_headers);
          require(request.body.empty());
          reader.expects_continue();
          reader.accept_body(kMaxBody);
          break;
        }
        case RequestReader::State::whole:
          require(reader.body_bytes() <= kMaxBody);
          answer(reader);
          reader.keep_alive();
          reader.next();
          break;
        case RequestReader::State::failed:
          require(reader.error().status >= 400 && reader.error().status < 600);
          return 0;
        case RequestReader::State::body:
          require(reader.body_bytes() <= kMaxBody);
          [[fallthrough]];
        default:
          goes_on = false;
      }
    }
    require(reader.waiting_bytes() < 100'000);
  }
  return 0;
}
