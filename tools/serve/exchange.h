// One HTTP request and the way to answer it: what the API's handlers see of HTTP. The server behind it is
// tools/serve/http/server.h; tests and fuzzers answer to a fake.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace l4::serve {

using HeaderList = std::vector<std::pair<std::string, std::string>>;

// The first header of that name, whatever its case; nullptr: none.
const std::string* find_header(const HeaderList& headers, std::string_view name);

struct HttpRequest {
  std::string method;    // "GET"; a HEAD request reaches a GET's handler, which need not care
  std::string path;      // "/v1/models", as it was sent (percent signs kept), without the query
  std::string wildcard;  // what a route's closing "*" stands for, percent signs decoded; UTF-8
  std::string query;     // behind "?", as it was sent
  HeaderList headers;    // in order; values trimmed, any bytes but control characters
  std::string body;      // any bytes
  std::string remote;    // "127.0.0.1:51000"
  std::string id;        // x-request-id: the client's where it is sane, else made

  const std::string* header(std::string_view name) const { return find_header(headers, name); }
};

struct HttpResponse {
  int status = 200;
  std::string content_type = "application/json";
  std::string body;
  HeaderList headers = {};  // beside Content-Type, Content-Length, Date, Connection, x-request-id and CORS
};

// Any thread may call, several at once too; calls never wait for the client. Exactly one of reply() and begin_events()
// is to be called, once; the last reference given up without either is answered with status 500. Calls after the client
// has gone do nothing.
class Exchange {
 public:
  virtual ~Exchange() = default;

  virtual const HttpRequest& request() const = 0;
  virtual HttpRequest& request() = 0;  // so that a handler may move the body out: nobody else looks at it

  virtual void reply(HttpResponse response) = 0;

  // Server-sent events: status 200, text/event-stream, no-cache. The server sends ping comments by itself.
  virtual void begin_events(HeaderList headers = {}) = 0;
  // "event: NAME\ndata: DATA\n\n", in the order of calls; data of several lines becomes several data lines. What a slow
  // reader has not taken is bounded (ServerOptions::max_unsent_bytes): beyond, the connection is closed.
  virtual void send_event(std::string_view data, std::string_view event_name = {}) = 0;
  virtual void end_events() = 0;

  // Called when the client is gone before the answer's end, or closed its sending side (which nothing tells apart): the
  // place to cancel work. At most once; at once, on this thread, where it has gone already; otherwise on an I/O thread,
  // which must not be kept waiting. Forgotten with the answer's end.
  virtual void on_closed(std::function<void()> call) = 0;
  virtual bool is_closed() const = 0;
};

}  // namespace l4::serve
