// The HTTP server through raw sockets: requests well-formed and not, limits, time-outs, ends of all kinds.
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>

#include "formats/json.h"
#include "tools/serve_http_fixture.h"

using namespace l4;
using test::get;
using test::post;
using test::quick_options;
using test::RawClient;
using test::TestServer;

namespace {

// The server is unharmed: it answers.
void check_alive(const TestServer& s) {
  CHECK(s.client().send(get("/health")).response().status == 200);
}

// An error in OpenAI's shape, with that status and code.
void check_error(const RawClient::Response& r, int status, const std::string& code) {
  CHECK(r.status == status);
  CHECK(r.is_whole);
  if (!r.is_whole) return;
  const Json body = parse_json(r.body, "body");
  const Json* error = body.find("error");
  REQUIRE(error);
  CHECK(error->find("code")->as_string() == code);
  CHECK(!error->find("message")->as_string().empty());
  CHECK(error->find("type")->is_string());
  CHECK(error->find("param"));
  CHECK(!r.header("x-request-id").empty());
}

}  // namespace

TEST_CASE("serve http: an answer, keep-alive, HEAD, OPTIONS") {
  TestServer s(quick_options());
  RawClient c = s.client();
  const auto r = c.send(post("/echo", "hello", "X-Request-Id: my-1.a\r\n")).response();
  CHECK(r.status == 200);
  CHECK(r.body == "hello");
  CHECK(r.header("content-type") == "text/plain");
  CHECK(r.header("x-request-id") == "my-1.a");
  CHECK(r.header("date").ends_with(" GMT"));
  CHECK(r.header("connection") == "");
  // The same connection goes on.
  CHECK(c.send(get("/v1/models/meta%2FScout%20x?a=b?c")).response().body == "meta/Scout x|a=b?c");
  const auto head = c.send("HEAD /v1/models/abc HTTP/1.1\r\nHost: x\r\n\r\n").response(true);
  CHECK(head.status == 200);
  CHECK(head.header("content-length") == "4");
  const auto options = c.send("OPTIONS /echo HTTP/1.1\r\nHost: x\r\n\r\n").response();
  CHECK(options.status == 204);
  CHECK(options.header("allow") == "POST, OPTIONS");
  CHECK(options.header("content-length") == "");
  CHECK(c.send("OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n").response().status == 204);
  CHECK(c.send("GET http://somewhere:80/health HTTP/1.1\r\nHost: x\r\n\r\n").response().status == 200);
  CHECK(c.send("\r\n\r\n" + get("/health")).response().status == 200);  // empty lines before a request
  const auto last = c.send(get("/health", "Connection: close\r\n")).response();
  CHECK(last.header("connection") == "close");
  CHECK(c.ends());
}

TEST_CASE("serve http: HTTP/1.0 closes, unless asked not to") {
  TestServer s(quick_options());
  RawClient c = s.client();
  const auto r = c.send("GET /health HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").response();
  CHECK(r.header("connection") == "keep-alive");
  CHECK(c.send("GET /health HTTP/1.0\r\n\r\n").response().header("connection") == "close");
  CHECK(c.ends());
  RawClient events = s.client();
  const auto stream = events.send("POST /events?2 HTTP/1.0\r\nContent-Length: 1\r\n\r\nx").response();
  CHECK(stream.header("transfer-encoding") == "");
  CHECK(stream.body == "data: x2\n\ndata: x1\n\ndata: [DONE]\n\n");
}

TEST_CASE("serve http: a request cut at every byte") {
  TestServer s;  // ordinary time-outs
  const std::string chunked =
      "POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
      "3;ext=1\r\nabc\r\n2\r\nde\r\n0\r\nX-Trailer: t\r\n\r\n";
  RawClient c = s.client();
  for (size_t cut = 1; cut < chunked.size(); cut += 3) {
    c.send(chunked.substr(0, cut));
    std::this_thread::sleep_for(std::chrono::microseconds(200));  // so that it comes as two reads
    const auto r = c.send(chunked.substr(cut)).response();
    CHECK(r.body == "abcde");
  }
}

TEST_CASE("serve http: requests sent ahead are answered in order") {
  TestServer s;
  std::string all, expected;
  for (int i = 0; i < 300; ++i) {
    all += post("/echo", cat("n", i));
    if (i % 50 == 0) all += get("/nothing");
  }
  RawClient c = s.client();
  c.send(all);
  for (int i = 0; i < 300; ++i) {
    CHECK(c.response().body == cat("n", i));
    if (i % 50 == 0) CHECK(c.response().status == 404);
  }
  // More than waits in memory, while the first is held.
  RawClient d = s.client();
  d.send(post("/hold", ""));
  REQUIRE(s.wait_held(1));
  const std::string big(1000, 'b');
  std::thread sender([&] {
    for (int i = 0; i < 1000; ++i) d.send(post("/echo", big));
  });
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  s.release();
  CHECK(d.response().body == "released");
  for (int i = 0; i < 1000; ++i) CHECK(d.response().body == big);
  sender.join();
}

TEST_CASE("serve http: what is no request gets its 4xx, and the connection ends") {
  TestServer s(quick_options());
  const std::string host = "Host: x\r\n";
  const struct {
    const char* name;
    std::string bytes;
    int status;
  } rows[] = {
      {"words", "hello server\r\n\r\n", 400},
      {"binary", std::string("\0\1\2\xff\xfe\r\n\r\n", 9), 400},
      {"TLS hello", std::string("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 11), 400},
      {"HTTP/2 preface", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505},
      {"version", "GET / HTTP/3.7\r\n" + host + "\r\n", 505},
      {"lower case method", "get / HTTP/1.1\r\n" + host + "\r\n", 400},
      {"no path", "GET HTTP/1.1\r\n" + host + "\r\n", 400},
      {"relative path", "GET health HTTP/1.1\r\n" + host + "\r\n", 400},
      {"bad UTF-8 path", "GET /v1/models/\xff\xfe HTTP/1.1\r\n" + host + "\r\n", 400},
      {"bare line feeds", "GET /health HTTP/1.1\nHost: x\n\n", 400},
      {"no host", "GET /health HTTP/1.1\r\n\r\n", 400},
      {"two hosts", "GET /health HTTP/1.1\r\n" + host + host + "\r\n", 400},
      {"space before colon", "GET /health HTTP/1.1\r\nHost : x\r\n\r\n", 400},
      {"header without colon", "GET /health HTTP/1.1\r\n" + host + "nonsense\r\n\r\n", 400},
      {"control character",
       "GET /health HTTP/1.1\r\n" + host +
           "A: b\x01"
           "c\r\n\r\n",
       400},
      {"NUL", "GET /health HTTP/1.1\r\n" + host + std::string("A: b\0c\r\n\r\n", 10), 400},
      {"length no number", "POST /echo HTTP/1.1\r\n" + host + "Content-Length: abc\r\n\r\n", 400},
      {"length negative", "POST /echo HTTP/1.1\r\n" + host + "Content-Length: -1\r\n\r\n", 400},
      {"length overflows", "POST /echo HTTP/1.1\r\n" + host + "Content-Length: 99999999999999999999999\r\n\r\n", 400},
      {"two lengths", "POST /echo HTTP/1.1\r\n" + host + "Content-Length: 1\r\nContent-Length: 2\r\n\r\nab", 400},
      {"length and chunks",
       "POST /echo HTTP/1.1\r\n" + host + "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400},
      {"chunks and length",
       "POST /echo HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n", 400},
      {"hidden encoding", "POST /echo HTTP/1.1\r\n" + host + "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 501},
      {"two encodings", "POST /echo HTTP/1.1\r\n" + host + "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501},
      {"chunked 1.0", "POST /echo HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400},
      {"compressed", "POST /echo HTTP/1.1\r\n" + host + "Content-Encoding: gzip\r\nContent-Length: 1\r\n\r\nx", 415},
      {"bad chunk", "POST /echo HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\n\r\nzz\r\n", 400},
      {"chunk longer than said", "POST /echo HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\n\r\n1\r\nabc\r\n",
       400},
      {"chunk overflows", "POST /echo HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n",
       400},
      {"expectation", "POST /echo HTTP/1.1\r\n" + host + "Expect: miracles\r\nContent-Length: 999999\r\n\r\n", 417},
      {"half a request", "POST /echo HTTP/1.1\r\n" + host + "Content-Length: 10\r\n\r\nabc", 400},
  };
  for (const auto& row : rows) {
    CAPTURE(std::string(row.name));
    RawClient c = s.client();
    c.send(row.bytes);
    if (std::string(row.name) == "half a request") c.shutdown_write();
    const auto r = c.response();
    CHECK(r.status == row.status);
    CHECK(r.is_whole);
    CHECK(r.header("connection") == "close");
    if (r.is_whole) {
      const Json body = parse_json(r.body, "body");
      CHECK(body.find("error")->find("message")->as_string().find("boost") == std::string::npos);
    }
    CHECK(c.ends());
  }
  check_alive(s);
}

TEST_CASE("serve http: limits of header and body") {
  serve::ServerOptions o = quick_options();
  o.max_header_bytes = 2000;
  o.max_headers = 10;
  o.max_body_bytes = 1000;
  TestServer s(o);
  const auto status = [&](const std::string& bytes) {
    RawClient c = s.client();
    return c.send(bytes).response().status;
  };
  const std::string fits = get("/health", "A: " + std::string(1800, 'a') + "\r\n");
  CHECK(status(fits) == 200);
  CHECK(status(get("/health", "A: " + std::string(2000, 'a') + "\r\n")) == 431);
  CHECK(status(get(cat("/", std::string(3000, 'a')))) == 431);
  CHECK(status(std::string(5000, 'A')) == 431);                                     // a method without end
  CHECK(status("GET /health HTTP/1.1\r\nA: " + std::string(100'000, 'a')) == 431);  // a header without end
  std::string many;
  for (int i = 0; i < 10; ++i) many += cat("A", i, ": b\r\n");
  CHECK(status(get("/health", many)) == 431);
  CHECK(status(get("/health", many.substr(7))) == 200);

  CHECK(status(post("/echo", std::string(1000, 'b'))) == 200);
  RawClient big = s.client();
  check_error(big.send(post("/echo", std::string(1001, 'b'))).response(), 413, "request_too_large");
  CHECK(big.ends());
  CHECK(status("POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 9999999999999\r\n\r\n") == 413);
  CHECK(status("POST /small HTTP/1.1\r\nHost: x\r\nContent-Length: 11\r\n\r\n") == 413);  // a route's own
  CHECK(status(post("/small", "1234567890")) == 200);
  const std::string chunked = "POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n";
  CHECK(status(chunked + "3e8\r\n" + std::string(1000, 'c') + "\r\n0\r\n\r\n") == 200);
  CHECK(status(chunked + "3e9\r\n") == 413);  // before it came
  CHECK(status(chunked + "3e8\r\n" + std::string(1000, 'c') + "\r\n1\r\n") == 413);
  CHECK(status(chunked + "1;" + std::string(100'000, 'x')) == 400);        // an extension without end
  CHECK(status(chunked + "0\r\nA: " + std::string(100'000, 'x')) == 400);  // a trailer without end

  // A body without end: answered while it still comes.
  RawClient endless = s.client();
  endless.send(chunked);
  for (int i = 0; i < 200; ++i) endless.send("64\r\n" + std::string(100, 'c') + "\r\n");
  CHECK(endless.response().status == 413);
  check_alive(s);
}

TEST_CASE("serve http: all bodies together have a limit") {
  serve::ServerOptions o = quick_options();
  o.max_bodies_bytes = 10'000;
  o.body_timeout = serve::ServerOptions::Seconds(10);
  TestServer s(o);
  RawClient first = s.client();
  first.send("POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 9000\r\n\r\n" + std::string(8000, 'a'));
  REQUIRE(s.wait_for([&] { return s.server->stats().requests == 1; }));
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  RawClient second = s.client();
  second.send("POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 9000\r\n\r\n" + std::string(8000, 'a'));
  check_error(second.response(), 503, "server_overloaded");
  CHECK(first.send(std::string(1000, 'a')).response().body.size() == 9000);
  // What was counted is given back.
  RawClient third = s.client();
  for (int i = 0; i < 5; ++i) CHECK(third.send(post("/echo", std::string(9000, 'a'))).response().status == 200);
}

TEST_CASE("serve http: time-outs of header, body and idle connections") {
  TestServer s(quick_options());  // 0.3 s each
  RawClient idle = s.client(), slow_header = s.client(), slow_body = s.client(), after = s.client();
  slow_body.send("POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n");
  CHECK(after.send(get("/health")).response().status == 200);
  const auto begin = std::chrono::steady_clock::now();
  std::string header = "GET /health HTTP/1.1\r\nHost: x\r\nLong-Header: ";
  size_t sent = 0;
  while (!slow_header.wait_readable(0.02) && sent < header.size()) slow_header.send(header.substr(sent++, 1));
  check_error(slow_header.response(), 408, "request_timeout");
  CHECK(std::chrono::steady_clock::now() - begin > std::chrono::milliseconds(250));
  check_error(slow_body.response(), 408, "request_timeout");
  CHECK(idle.ends());
  CHECK(after.ends());
  CHECK(slow_header.ends());
  CHECK(slow_body.ends());
  CHECK(std::chrono::steady_clock::now() - begin < std::chrono::seconds(5));
  CHECK(s.wait_for([&] { return s.server->stats().connections == 0; }));
}

TEST_CASE("serve http: Expect: 100-continue") {
  serve::ServerOptions o = quick_options();
  o.max_body_bytes = 1000;
  TestServer s(o);
  RawClient c = s.client();
  c.send("POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n");
  CHECK(c.response().status == 100);
  CHECK(c.send("hello").response().body == "hello");
  // The body comes unasked.
  CHECK(c.send(post("/echo", "quick", "Expect: 100-Continue\r\n")).response().body == "quick");
  // What would be refused is refused before it is sent.
  c.send("POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 5000\r\nExpect: 100-continue\r\n\r\n");
  CHECK(c.response().status == 413);
  RawClient none = s.client();
  none.send("POST /nowhere HTTP/1.1\r\nHost: x\r\nContent-Length: 50\r\nExpect: 100-continue\r\n\r\n");
  CHECK(none.response().status == 404);
  CHECK(none.ends());
}

TEST_CASE("serve http: wrong paths and methods leave a connection that goes on") {
  TestServer s(quick_options());
  RawClient c = s.client();
  check_error(c.send(post("/nowhere", "some body")).response(), 404, "not_found");
  const auto r = c.send(get("/echo")).response();
  check_error(r, 405, "method_not_allowed");
  CHECK(r.header("allow") == "POST, OPTIONS");
  check_error(c.send("BREW /echo HTTP/1.1\r\nHost: x\r\n\r\n").response(), 405, "method_not_allowed");
  check_error(c.send(get("/v1/models/%ff")).response(), 400, "bad_request");
  check_error(c.send(get("/v1/models/a%0ab")).response(), 400, "bad_request");
  CHECK(c.send(get("/health")).response().status == 200);
  // A long body of a refused request is not read.
  c.send("POST /nowhere HTTP/1.1\r\nHost: x\r\nContent-Length: 10000000\r\n\r\n");
  CHECK(c.response().status == 404);
  CHECK(c.ends());
}

TEST_CASE("serve http: what handlers throw, and answers that never come") {
  TestServer s;
  RawClient c = s.client();
  auto r = c.send(post("/throw", "usage")).response();
  check_error(r, 400, "invalid_value");
  CHECK(r.body.find("max_tokens: too many") != std::string::npos);
  r = c.send(post("/throw", "api")).response();
  check_error(r, 404, "model_not_found");
  CHECK(parse_json(r.body, "body").find("error")->find("param")->as_string() == "model");
  for (const char* what : {"std", "internal"}) {
    r = c.send(post("/throw", what)).response();
    check_error(r, 500, "internal_error");
    CHECK(r.body.find("secret") == std::string::npos);
  }
  CHECK(s.log_text().find("/secret/path at 0x7fff") != std::string::npos);  // there for the operator
  check_error(c.send(post("/drop", "")).response(), 500, "internal_error");
  // In an event stream the error is its last event.
  r = c.send(post("/throw", "events")).response();
  CHECK(r.status == 200);
  CHECK(r.body.starts_with("event: error\ndata: {\"error\":{"));
  CHECK(r.body.ends_with("}}\n\n"));
  check_alive(s);
}

TEST_CASE("serve http: clients that go away or close one side") {
  TestServer s;
  RawClient closed = s.client(), reset = s.client(), half = s.client();
  for (RawClient* c : {&closed, &reset, &half}) c->send(post("/hold", ""));
  REQUIRE(s.wait_held(3));
  closed.close();
  CHECK(s.wait_for([&] { return s.n_closed == 1; }));
  reset.reset();
  CHECK(s.wait_for([&] { return s.n_closed == 2; }));
  half.shutdown_write();  // told too: nothing tells it from a client that left; but where an answer comes, it is
                          // written
  CHECK(s.wait_for([&] { return s.n_closed == 3; }));
  for (const auto& exchange : s.held()) CHECK(exchange->is_closed());
  s.release();
  CHECK(half.response().body == "released");
  CHECK(half.ends());
  RawClient quick = s.client();
  CHECK(quick.send(get("/health")).shutdown_write().response().status == 200);
  CHECK(quick.ends());
  // on_closed() where the client went before.
  RawClient gone = s.client();
  gone.send(post("/hold", ""));
  REQUIRE(s.wait_held(1));
  gone.close();
  CHECK(s.wait_for([&] { return s.n_closed == 4; }));
  bool told = false;
  s.held()[0]->on_closed([&] { told = true; });
  CHECK(told);
  CHECK(s.wait_for([&] { return s.server->stats().requests == 1; }));  // until the handler is done with it
  s.release();
  CHECK(s.wait_for([&] { return s.server->stats().connections == 0 && s.server->stats().requests == 0; }));
}

TEST_CASE("serve http: more requests than it takes are told 429, more connections 503") {
  serve::ServerOptions o = quick_options();
  o.max_requests = 3;
  o.max_connections = 6;
  o.idle_timeout = serve::ServerOptions::Seconds(20);
  TestServer s(o);
  std::vector<RawClient> holders;
  for (int i = 0; i < 3; ++i) holders.push_back(s.client());
  for (RawClient& c : holders) c.send(post("/hold", ""));
  REQUIRE(s.wait_for([&] { return s.server->stats().work == 3; }));
  RawClient c = s.client();
  const auto r = c.send(post("/echo", "x")).response();
  check_error(r, 429, "server_overloaded");
  CHECK(std::stoi(r.header("retry-after")) >= 1);
  CHECK(c.send(get("/health")).response().status == 200);  // that is no work, and the connection goes on
  s.release();
  for (RawClient& h : holders) CHECK(h.response().body == "released");
  CHECK(c.send(post("/echo", "x")).response().status == 200);

  std::vector<RawClient> idle;
  while (s.server->stats().connections < 6) {
    idle.push_back(s.client());
    idle.back().send(get("/health")).response();
  }
  RawClient turned_away = s.client();
  CHECK(turned_away.response().status == 503);
  CHECK(turned_away.ends());
  idle.clear();
  CHECK(s.wait_for([&] { return s.server->stats().connections < 6; }));
  check_alive(s);
}

TEST_CASE("serve http: sane request ids are kept, others replaced") {
  TestServer s;
  RawClient c = s.client();
  const auto id = [&](const std::string& given) {
    return c.send(get("/health", "x-request-id: " + given + "\r\n")).response().header("x-request-id");
  };
  CHECK(id("0af7651916cd43dd8448eb211c80319c") == "0af7651916cd43dd8448eb211c80319c");
  for (const char* bad : {"", "a b", "a\"b", "\xff", "{}"}) {
    const std::string made = id(bad);
    CHECK(made.size() == 32);
    CHECK(made != bad);
  }
  CHECK(id(std::string(129, 'a')).size() == 32);
  CHECK(id("") != id(""));
}

TEST_CASE("serve http: the log has a line for each request and nothing of its body") {
  set_log_level(LogLevel::info);
  TestServer s;
  RawClient c = s.client();
  c.send(post("/echo", "secret words", "x-request-id: find-me\r\n")).response();
  c.send(get("/v1/models/a?secret=1")).response();
  c.send(get("/health")).response();  // a probe that goes well: not at this level
  REQUIRE(s.wait_for([&] { return s.log_text().find("/v1/models/a") != std::string::npos; }));
  set_log_level(LogLevel::warning);
  const std::string text = s.log_text();
  CHECK(text.find("secret") == std::string::npos);
  CHECK(text.find("/health") == std::string::npos);
  const Json line = parse_json(split(text, '\n')[0], "log");
  CHECK(line.find("event")->as_string() == "request");
  CHECK(line.find("id")->as_string() == "find-me");
  CHECK(line.find("status")->as_integer() == 200);
  CHECK(line.find("path")->as_string() == "/echo");
  CHECK(line.find("bytes_in")->as_integer() == 12);
  CHECK(line.find("level")->as_string() == "info");
}

TEST_CASE("serve http: metrics count requests by route, method and status") {
  TestServer s;
  RawClient c = s.client();
  c.send(post("/echo", "x")).response();
  c.send(post("/echo", "x")).response();
  c.send(get("/v1/models/abc")).response();
  c.send(get("/nowhere")).response();
  const auto r = c.send(get("/metrics")).response();
  CHECK(r.header("content-type").starts_with("text/plain; version=0.0.4"));
  for (const char* line : {"http_requests_total{handler=\"/echo\",method=\"POST\",status=\"2xx\"} 2\n",
                           "http_requests_total{handler=\"/v1/models/*\",method=\"GET\",status=\"2xx\"} 1\n",
                           "http_requests_total{handler=\"none\",method=\"GET\",status=\"4xx\"} 1\n",
                           "http_connections 1\n", "# TYPE http_requests_total counter\n"})
    CHECK_MESSAGE(r.body.find(line) != std::string::npos, line);
  const Json version = parse_json(c.send(get("/version")).response().body, "version");
  CHECK(!version.find("version")->as_string().empty());
}

TEST_CASE("serve http: an address in use, and names that are none, are one clear line") {
  TestServer s;
  serve::ServerOptions o;
  o.port = s.server->port();
  serve::Router router;
  serve::Metrics metrics;
  const serve::ServeLog log;
  const auto error = [&] { return test::error_of([&] { serve::Server(o, router, metrics, log).start(); }); };
  CHECK(error() == cat("cannot listen on 127.0.0.1:", o.port, ": Address already in use"));
  o.host = "203.0.113.7";  // documentation's, of nobody
  CHECK(error() == cat("cannot listen on 203.0.113.7:", o.port, ": Cannot assign requested address"));
  o.host = "no host";
  CHECK(error() == "--host: \"no host\" is no address or name of this machine");
}

TEST_CASE("serve http: ten thousand idle connections") {
  constexpr int kMost = 10'000;
  rlimit limit{};
  REQUIRE(getrlimit(RLIMIT_NOFILE, &limit) == 0);
  if (limit.rlim_max < rlim_t(kMost + 1000)) L4_SKIP("this process may not have 11,000 descriptors (ulimit -Hn)");
  serve::ServerOptions o;
  o.max_connections = kMost + 10;
  TestServer s(o);  // raises the limit of descriptors as far as it may be
  int go_on[2];
  REQUIRE(pipe(go_on) == 0);
  std::fflush(nullptr);
  const pid_t clients = fork();  // a process of their own: descriptors are counted by process
  if (clients == 0) {
    alarm(60);
    ::close(go_on[1]);
    std::vector<RawClient> idle;
    int status = 0;
    try {
      for (int i = 0; i < kMost; ++i) idle.push_back(s.client());
      char end;
      (void)!read(go_on[0], &end, 1);  // until the test is over
    } catch (...) {
      status = 1;
    }
    _exit(status);
  }
  ::close(go_on[0]);
  CHECK(s.wait_for([&] { return s.server->stats().connections >= kMost; }, 30));
  const auto begin = std::chrono::steady_clock::now();
  RawClient c = s.client();
  for (int i = 0; i < 100; ++i) CHECK(c.send(post("/echo", "x")).response().body == "x");
  CHECK(std::chrono::steady_clock::now() - begin < std::chrono::seconds(5));
  ::close(go_on[1]);
  int status = 1;
  waitpid(clients, &status, 0);
  CHECK(status == 0);
  CHECK(s.wait_for([&] { return s.server->stats().connections == 1; }, 10));
}
