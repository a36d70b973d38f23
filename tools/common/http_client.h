// HTTP(S) for tools that ask an endpoint: thousands of requests at once on the thread that calls run(), connections
// kept alive, server-sent events as they come. (Boost.Asio and Beast, whose headers are slow to compile, are included
// in http_client.cpp alone.)
//
//   HttpClient client(options);  // .base = parse_url("http://127.0.0.1:8000")
//   HttpCall call;  // .path, .body, .on_event, .on_done
//   client.start(std::move(call));
//   client.run();
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "tools/common/sse.h"

namespace l4::tools {

struct Url {
  bool tls = false;
  std::string host, port;  // an IPv6 address without its brackets
  std::string path;        // "" or "/v1": no slash at the end

  std::string origin() const;  // "http://127.0.0.1:8000"
};
// "http://HOST[:PORT][/PATH]" or https, no user, query or fragment. Error{usage} saying what was expected.
Url parse_url(const std::string& text);

using HttpHeaders = std::vector<std::pair<std::string, std::string>>;

struct HttpClientOptions {
  Url base;
  HttpHeaders headers;             // of every request; no line ends within (Error{usage})
  bool verify_tls = true;          // against the system's certificates, or those of $SSL_CERT_FILE
  double connect_timeout_s = 10;   // with the TLS handshake
  double silence_timeout_s = 600;  // between two reads of an answer
  int64_t max_body_bytes = int64_t(1) << 30;
  // A connection that cannot be made or breaks, silence, an answer of 429, 500, 502, 503 or 504, or one that `check`
  // refuses, is tried again after a wait that doubles (what Retry-After says, if longer), half of it by chance. Answers
  // that began to stream are not.
  int max_attempts = 1;
  double first_wait_s = 0.5, longest_wait_s = 30;
};

struct HttpAnswer {
  int status = 0;            // 0: none came
  std::string content_type;  // lower case, without parameters
  std::string body;          // of a stream that on_event got: empty
  std::string error;         // one line; empty: the answer came whole, whatever its status
  int attempts = 0;

  bool ok() const { return error.empty() && status >= 200 && status < 300; }
  // What went wrong, in one line with the message of the answer's body where it has OpenAI's shape; "" when ok().
  std::string problem() const;
};

struct HttpCall {
  using Clock = std::chrono::steady_clock;
  std::string method = "POST", path;  // after the base's path
  std::string body = {};              // JSON
  // Events of a text/event-stream with status 200, and when their bytes were read. Without it they are body.
  std::function<void(const SseEvent&, Clock::time_point)> on_event = {};
  // Why a whole answer with a status of success is none, in one line; empty: it is one.
  std::function<std::string(const HttpAnswer&)> check = {};
  std::function<void(HttpAnswer&)> on_done = {};  // once, unless cancelled
};

class HttpClient {
 public:
  using Clock = HttpCall::Clock;
  explicit HttpClient(HttpClientOptions options);
  ~HttpClient();
  HttpClient(const HttpClient&) = delete;
  HttpClient& operator=(const HttpClient&) = delete;

  // Begins while run() runs, of which all functions are called. Any function may start and cancel further requests.
  int64_t start(HttpCall call);
  // Closes its connection. Its functions are not called any more; one that is done already is none to cancel.
  void cancel(int64_t id);
  void at(Clock::time_point when, std::function<void()> what);
  // Until every request is done and every time is past. What a function throws comes out here.
  void run();

  // Starts this one and runs until it, with all others, is done.
  HttpAnswer ask(HttpCall call);

  int64_t n_connections() const;  // that were ever made

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// As many open files as the system grants, for a connection each. Returns how many that is.
int64_t raise_descriptor_limit();

}  // namespace l4::tools
