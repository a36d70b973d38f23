// The HTTP/1.1 server: connections on one or two I/O threads, handlers on a bounded pool of worker threads.
//
//   connection   reads one request at a time: limits and time-outs while it reads, route, key and method looked at as
//   soon (I/O thread) as the header is whole, so that nothing is read of a body that nobody may send. While the request
//   is
//                answered it goes on watching for the client's end. Requests that were sent ahead wait.
//   worker       runs the route's handler with an Exchange.
//   exchange     takes the answer from any thread and wakes the connection, which writes what has gathered at once.
//
// Only tools/serve/http/*.cpp (and its internal headers) know Boost.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/file.h"
#include "tools/serve/log.h"
#include "tools/serve/metrics.h"
#include "tools/serve/router.h"

namespace l4::serve {

struct ServerOptions {
  using Seconds = std::chrono::duration<double>;

  std::string host = "127.0.0.1";  // an address or a name; all of a name's addresses are listened on
  int port = 8000;                 // 0: any free one, see Server::port()
  int io_threads = 0;              // 0: 1 on up to 4 cores, else 2
  int workers = 0;                 // 0: 2 to 16, by cores; one more is kept for quick answers

  int64_t max_connections = 10'000;      // more are told 503; never more than descriptors allow
  int64_t max_requests = 1024;           // of is_work routes that run or wait at once; more are told 429
  int64_t max_header_bytes = 64 << 10;   // request line and headers: 431
  int64_t max_headers = 100;             // 431
  int64_t max_body_bytes = 64ll << 20;   // 413
  int64_t max_bodies_bytes = 1ll << 30;  // of all connections at once: 503
  int64_t max_unsent_bytes = 4 << 20;    // events that a reader has not taken: the connection is closed

  Seconds header_timeout{30};     // from a request's first byte to its header's end, TLS handshakes too: 408
  Seconds body_timeout{60};       // of a body, and more for long ones: a second for each 16 KiB that came
  Seconds idle_timeout{75};       // between requests, before the first too
  Seconds write_timeout{60};      // without a byte taken by the client
  Seconds sse_ping_interval{30};  // 0: none

  fs::path tls_certificate, tls_key;  // PEM; both or neither
  std::vector<std::string> api_keys;  // empty: no key is asked for
  std::vector<std::string>
      allowed_origins;     // CORS: "*" or "https://host"; empty: browsers' pages of other origins are out
  bool access_log = true;  // a line for each request
};

struct ServerStats {
  int64_t connections = 0, requests = 0, work = 0;  // now: open; being answered; of these, of is_work routes
};

class Server {
 public:
  // `router`, `metrics` and `log` live as long as the server. Error{usage | input | io}: one line for a bad address, an
  // address in use, a certificate or key that does not load or fit.
  Server(ServerOptions options, const Router& router, Metrics& metrics, const ServeLog& log);
  ~Server();  // stop()
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  void start();             // binds, listens, returns
  int port() const;         // the real one
  std::string url() const;  // "http://127.0.0.1:8000"

  // No new connections; what runs goes on, requests of is_work routes are told 503 from now on.
  void drain();
  bool is_draining() const;
  bool wait_idle(ServerOptions::Seconds timeout);  // until no request is being answered; false: time is over
  void stop();                                     // ends every connection and thread; on_closed is called

  ServerStats stats() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// Until SIGTERM, SIGINT or SIGHUP (after tools::install_signal_handlers()), then drains; a second signal, or the time
// being over, ends what still runs. The exit status: 0 when all was answered, 1 when requests were cut off, 128 + the
// signal's number after a second one.
int serve_until_signal(Server& server, ServerOptions::Seconds drain_timeout, const ServeLog& log);

}  // namespace l4::serve
