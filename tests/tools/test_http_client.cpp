#include "tools/common/http_client.h"

#include <algorithm>
#include <cstdlib>

#include "base/strings.h"
#include "support/test.h"
#include "tools/fake_endpoint.h"

using namespace l4;
using namespace l4::test;
using namespace l4::tools;

namespace {

HttpClientOptions options_for(const std::string& url) {
  HttpClientOptions o;
  o.base = parse_url(url);
  o.silence_timeout_s = 20;
  o.first_wait_s = 0.001;
  return o;
}

HttpCall post(std::string path, std::string body = "{}") {
  HttpCall call;
  call.path = std::move(path);
  call.body = std::move(body);
  return call;
}

HttpCall get(std::string path) {
  HttpCall call;
  call.method = "GET";
  call.path = std::move(path);
  return call;
}

// A call whose events are gathered.
HttpCall streamed(std::vector<std::string>& events, std::string path = "/") {
  HttpCall call = post(std::move(path));
  call.on_event = [&events](const SseEvent& e, HttpClient::Clock::time_point) { events.emplace_back(e.data); };
  return call;
}

// The one answer to a request that is answered by these bytes and the connection's end.
HttpAnswer answer_to(const std::string& bytes, std::vector<std::string>* events = nullptr,
                     HttpClientOptions* o = nullptr) {
  FakeEndpoint server([&](const FakeRequest&, FakeConnection& c) {
    c.send(bytes);
    c.close();
  });
  HttpClientOptions options = options_for(server.url());
  if (o) {
    o->base = options.base;
    options = *o;
  }
  HttpClient client(options);
  std::vector<std::string> ignored;
  return client.ask(streamed(events ? *events : ignored));
}

}  // namespace

TEST_CASE("http client: URLs") {
  const auto parts = [](const char* text) {
    const Url u = parse_url(text);
    return cat(u.tls, " ", u.host, " ", u.port, " ", u.path, " ", u.origin());
  };
  CHECK(parts("http://127.0.0.1:8000") == "false 127.0.0.1 8000  http://127.0.0.1:8000");
  CHECK(parts("https://example.com/") == "true example.com 443  https://example.com:443");
  CHECK(parts("http://[::1]:80/a/v1//") == "false ::1 80 /a/v1 http://[::1]:80");
  for (const char* wrong :
       {"", "127.0.0.1:8000", "ftp://a", "http://", "http://:80", "http://a:0", "http://a:65536", "http://a:x",
        "http://u@a", "http://a?b", "http://a#b", "http://a b", "http://a\r\n", "http://[::1", "http://a\\b"})
    CHECK_MESSAGE(error_of([&] { parse_url(wrong); }).starts_with("expected a URL like http://127.0.0.1:8000, found "),
                  wrong);
}

TEST_CASE("http client: what is sent and what comes back, on one connection") {
  std::vector<FakeRequest> seen;
  FakeEndpoint server([&](const FakeRequest& r, FakeConnection& c) {
    seen.push_back(r);
    c.answer(r.path == "/base/missing" ? 404 : 200, cat("[", r.body, "]"), "", "Application/JSON; charset=utf-8");
  });
  HttpClientOptions o = options_for(server.url() + "/base/");
  o.headers = {{"Authorization", "Bearer key"}};
  HttpClient client(o);
  const HttpAnswer a = client.ask(post("/v1/x", "1"));
  CHECK(a.ok());
  CHECK(a.status == 200);
  CHECK(a.body == "[1]");
  CHECK(a.content_type == "application/json");
  CHECK(a.attempts == 1);
  CHECK(a.problem() == "");
  const HttpAnswer missing = client.ask(get("/missing"));
  CHECK(!missing.ok());
  CHECK(missing.problem() == "HTTP 404: \"[]\"");
  CHECK(client.n_connections() == 1);
  REQUIRE(seen.size() == 2);
  CHECK(seen[0].method == "POST");
  CHECK(seen[0].path == "/base/v1/x");
  CHECK(seen[0].headers.at("authorization") == "Bearer key");
  CHECK(seen[0].headers.at("content-type") == "application/json");
  CHECK(seen[0].headers.at("host") == cat("127.0.0.1:", server.port()));
  CHECK(seen[1].method == "GET");
  CHECK(seen[1].headers.count("content-length") == 0);
  CHECK(error_of([&] {
          HttpClientOptions bad = o;
          bad.headers = {{"X", "a\r\nY: b"}};
          HttpClient{bad};
        }) == "the value of header \"X\" has a line end in it");
}

TEST_CASE("http client: a stream's events whole, wherever its bytes are cut") {
  const std::string head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
  const std::string body = "8\r\ndata: a\n\r\n11;x=y\r\n\n: ping\n\ndata: b\n\r\n1\r\n\n\r\n0\r\n\r\n";
  const std::string all = head + body;
  // The cut's place comes in the path; the server waits for nothing, so both parts may also come in one read.
  FakeEndpoint server([&](const FakeRequest& r, FakeConnection& c) {
    const size_t cut = std::stoul(r.path.substr(1));
    c.send(all.substr(0, cut));
    if (cut % 4 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(2));
    c.send(all.substr(cut));
  });
  HttpClient client(options_for(server.url()));
  for (size_t cut = 0; cut <= all.size(); ++cut) {
    std::vector<std::string> events;
    const HttpAnswer a = client.ask(streamed(events, cat("/", cut)));
    CHECK(a.problem() == "");
    CHECK(a.body == "");
    CHECK(events == std::vector<std::string>{"a", "b"});
  }
  CHECK(client.n_connections() == 1);
}

TEST_CASE("http client: answers that end with the connection, errors instead of streams") {
  std::vector<std::string> events;
  CHECK(answer_to("HTTP/1.0 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: a\n\ndata: b\n\n", &events).ok());
  CHECK(events == std::vector<std::string>{"a", "b"});
  events.clear();
  const HttpAnswer busy = answer_to(
      "HTTP/1.1 429 No\r\nContent-Type: application/json\r\nContent-Length: 38\r\n\r\n{\"error\": {\"message\": \"the "
      "queue is\"}}",
      &events);
  CHECK(busy.problem() == "HTTP 429: \"the queue is\"");
  CHECK(events.empty());
  CHECK(answer_to("HTTP/1.1 500 No\r\nContent-Length: 20\r\n\r\n{\"message\": \"plain\"}").problem() ==
        "HTTP 500: \"plain\"");
  CHECK(answer_to("HTTP/1.1 502 No\r\n\r\n<html>").problem() == "HTTP 502: \"<html>\"");
}

TEST_CASE("http client: broken answers are named") {
  const auto problem = [](const std::string& bytes, HttpClientOptions* o = nullptr) {
    std::string text = answer_to(bytes, nullptr, o).problem();
    const size_t at = text.find("http://127.0.0.1:");  // the port differs
    const size_t end = at == std::string::npos ? at : text.find(": ", at);
    return end == std::string::npos ? text : text.erase(at, end + 2 - at);
  };
  CHECK(problem("") == "the connection was closed without an answer");
  CHECK(problem("HTTP/1.1 200 OK\r\nContent-Le") == "the connection was closed before the answer's end");
  CHECK(problem("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabc") ==
        "HTTP 200: the connection was closed before the answer's end");
  CHECK(problem("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabc") ==
        "HTTP 200: the connection was closed before the answer's end");
  CHECK(problem("220 smtp.example.com ready\r\n\r\n").starts_with("not a valid HTTP answer: "));
  CHECK(problem("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n").find("not a valid HTTP answer: ") !=
        std::string::npos);
  CHECK(problem("HTTP/1.1 200 OK\r\nX: " + std::string(100'000, 'x')) == "the answer is too large");
  CHECK(problem("HTTP/1.1 200 OK\r\nContent-Length: 1000000000000\r\n\r\n").find("too large") != std::string::npos);
  HttpClientOptions o;
  o.max_body_bytes = 10;
  CHECK(problem("HTTP/1.1 200 OK\r\n\r\n01234567890", &o).find("too large") != std::string::npos);
  CHECK(problem("HTTP/1.1 200 OK\r\n\r\n0123456789", &o) == "");
}

TEST_CASE("http client: a connection that the server closed meanwhile is made anew") {
  FakeEndpoint server([](const FakeRequest&, FakeConnection& c) {
    c.answer(200, "x");
    c.close();  // without having said so
  });
  HttpClient client(options_for(server.url()));
  for (int i = 0; i < 3; ++i) {
    const HttpAnswer a = client.ask(post("/"));
    CHECK(a.problem() == "");
    CHECK(a.attempts == 1);
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  CHECK(server.n_connections() == 3);
}

TEST_CASE("http client: tries again what may be tried again") {
  std::atomic<int> n{0};
  FakeEndpoint server([&](const FakeRequest& r, FakeConnection& c) {
    const int i = n++;
    if (r.path == "/streams") {
      c.begin_events();
      c.event("a");
      c.close();
    } else if (r.path == "/closes" && i < 2) {
      c.close();
    } else if (r.path == "/breaks" && i < 2) {
      c.send("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab");
      c.close();
    } else if (r.path == "/busy" && i < 2) {
      c.answer(i ? 503 : 429, "{}", "Retry-After: 0\r\n");
    } else {
      c.answer(r.path == "/wrong" ? 400 : r.path == "/never" ? 503 : 200, "{}");
    }
  });
  HttpClientOptions o = options_for(server.url());
  o.max_attempts = 3;
  HttpClient client(o);
  const auto ask = [&](const char* path, std::vector<std::string>& events) {
    n = 0;
    return client.ask(streamed(events, path));
  };
  std::vector<std::string> events;
  HttpAnswer a = ask("/busy", events);
  CHECK(a.ok());
  CHECK(a.attempts == 3);
  a = ask("/closes", events);
  CHECK(a.ok());
  CHECK(n == 3);
  a = ask("/breaks", events);
  CHECK(a.ok());
  CHECK(a.body == "{}");
  CHECK(a.attempts == 3);
  HttpCall checked = post("/any");
  checked.check = [&](const HttpAnswer&) { return n < 2 ? std::string("not what was asked for") : std::string(); };
  n = 0;
  a = client.ask(checked);
  CHECK(a.ok());
  CHECK(a.attempts == 2);
  checked.check = [](const HttpAnswer&) { return std::string("never good"); };
  a = client.ask(checked);
  CHECK(a.problem() == "HTTP 200: never good");
  CHECK(a.attempts == 3);
  a = ask("/never", events);
  CHECK(a.problem() == "HTTP 503: \"{}\"");
  CHECK(a.attempts == 3);
  a = ask("/wrong", events);
  CHECK(a.attempts == 1);
  a = ask("/streams", events);
  CHECK(a.attempts == 1);
  CHECK(!a.ok());
  CHECK(events == std::vector<std::string>{"a"});
  o.max_attempts = 1;
  HttpClient once(o);
  n = 0;
  CHECK(once.ask(post("/busy")).status == 429);
}

TEST_CASE("http client: waits as long as Retry-After asks, within its own limit") {
  std::atomic<int> n{0};
  FakeEndpoint server(
      [&](const FakeRequest&, FakeConnection& c) { c.answer(n++ == 0 ? 429 : 200, "{}", "Retry-After: 3600\r\n"); });
  HttpClientOptions o = options_for(server.url());
  o.max_attempts = 2;
  o.longest_wait_s = 0.05;
  HttpClient client(o);
  const auto begin = HttpClient::Clock::now();
  CHECK(client.ask(post("/")).ok());
  CHECK(HttpClient::Clock::now() - begin >= std::chrono::milliseconds(50));
}

TEST_CASE("http client: nobody there, nobody answers, silence in an answer") {
  int port;
  {
    const FakeEndpoint gone([](const FakeRequest&, FakeConnection&) {});
    port = gone.port();
  }
  HttpClientOptions o = options_for(cat("http://127.0.0.1:", port));
  o.max_attempts = 2;
  const HttpAnswer refused = HttpClient(o).ask(post("/"));
  CHECK(refused.problem() == cat("http://127.0.0.1:", port, ": cannot connect: Connection refused"));
  CHECK(refused.attempts == 2);
  // A name too long to be asked for anywhere.
  const std::string name(300, 'a');
  CHECK(HttpClient(options_for("http://" + name))
            .ask(post("/"))
            .problem()
            .starts_with(cat("http://", name, ":80: cannot connect: ")));

  FakeEndpoint silent([](const FakeRequest& r, FakeConnection& c) {
    if (r.path == "/some") {
      c.begin_events();
      c.event("a");
    }
    while (!c.client_left()) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  });
  o = options_for(silent.url());
  o.silence_timeout_s = 0.05;
  std::vector<std::string> events;
  CHECK(HttpClient(o).ask(post("/")).problem() == silent.url() + ": nothing came for 0.05 s");
  CHECK(HttpClient(o).ask(streamed(events, "/some")).problem() ==
        "HTTP 200: " + silent.url() + ": nothing came for 0.05 s");
  CHECK(events == std::vector<std::string>{"a"});
}

TEST_CASE("http client: a request that is cancelled closes its connection and hears no more") {
  std::atomic<int> left{0};
  FakeEndpoint server([&](const FakeRequest&, FakeConnection& c) {
    c.begin_events();
    for (int i = 0; i < 20'000 && !c.client_left(); ++i) {
      c.event(cat(i));
      if (i % 100 == 99) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    left += c.client_left();
  });
  HttpClient client(options_for(server.url()));
  int n_events = 0, n_done = 0;
  int64_t id = 0;
  HttpCall call = post("/");
  call.on_event = [&](const SseEvent&, HttpClient::Clock::time_point) {
    if (++n_events == 3) client.cancel(id);
  };
  call.on_done = [&](HttpAnswer&) { ++n_done; };
  id = client.start(call);
  // Another one is cancelled before it began, one by a timer while it streams.
  client.cancel(client.start(call));
  std::vector<std::string> events;
  const int64_t slow = client.start(streamed(events));
  client.at(HttpClient::Clock::now() + std::chrono::milliseconds(20), [&] { client.cancel(slow); });
  client.run();
  client.cancel(id);  // is done already
  CHECK(n_events == 3);
  CHECK(n_done == 0);
  for (int i = 0; i < 1000 && left < 2; ++i) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  CHECK(left == 2);
  CHECK(server.n_requests() == 2);
}

TEST_CASE("http client: many streams at once on one thread, each its own") {
  constexpr int kStreams = 300, kEvents = 20;
  std::atomic<int> arrived{0};
  FakeEndpoint server([&](const FakeRequest& r, FakeConnection& c) {
    ++arrived;
    for (int i = 0; i < 20'000 && arrived < kStreams; ++i) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    c.begin_events();
    for (int i = 0; i < kEvents; ++i) c.event(cat(r.body, ":", i));
    c.end_events();
  });
  raise_descriptor_limit();
  HttpClient client(options_for(server.url()));
  std::vector<std::vector<std::string>> events(kStreams);
  int n_ok = 0;
  for (int s = 0; s < kStreams; ++s) {
    HttpCall call = streamed(events[size_t(s)]);
    call.body = cat(s);
    call.on_done = [&n_ok](HttpAnswer& a) { n_ok += a.ok(); };
    client.start(call);
  }
  client.run();
  CHECK(n_ok == kStreams);
  CHECK(server.most_at_once() == kStreams);
  for (int s = 0; s < kStreams; ++s) {
    std::vector<std::string> expected;
    for (int i = 0; i < kEvents; ++i) expected.push_back(cat(s, ":", i));
    CHECK(events[size_t(s)] == expected);
  }
}

TEST_CASE("http client: what a function throws comes out of run()") {
  FakeEndpoint server([](const FakeRequest&, FakeConnection& c) { c.answer(200, "{}"); });
  HttpClient client(options_for(server.url()));
  HttpCall call = post("/");
  call.on_done = [](HttpAnswer&) { fail_input("told you"); };
  client.start(call);
  CHECK(error_of([&] { client.run(); }) == "told you");
}

TEST_CASE("http client: TLS, with a certificate that is known and one that is not") {
  if (run({"openssl", "version"}).status != 0) L4_SKIP("openssl, which makes a certificate and serves it");
  const TempDir dir;
  const std::string key = dir / "key.pem", certificate = dir / "cert.pem";
  REQUIRE(
      run({"openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days",
           "2", "-keyout", key, "-out", certificate, "-subj", "/CN=l4", "-addext", "subjectAltName=IP:127.0.0.1"})
          .status == 0);
  int port;
  {
    const FakeEndpoint free_port([](const FakeRequest&, FakeConnection&) {});
    port = free_port.port();
  }
  std::thread server([&] {  // ends by itself after these many connections
    run({"openssl", "s_server", "-accept", cat(port), "-cert", certificate, "-key", key, "-www", "-quiet", "-naccept",
         "3"});
  });
  HttpClientOptions o = options_for(cat("https://127.0.0.1:", port));
  o.max_attempts = 10;  // until it listens; s_server closes the connection after each
  o.first_wait_s = 0.05;
  o.verify_tls = false;
  const HttpAnswer unverified = HttpClient(o).ask(get("/"));
  CHECK(unverified.problem() == "");
  CHECK(unverified.body.find("s_server") != std::string::npos);
  o.verify_tls = true;
  o.max_attempts = 1;
  const HttpAnswer unknown = HttpClient(o).ask(get("/"));
  CHECK(unknown.problem().find("no TLS connection: certificate verify failed") != std::string::npos);
  setenv("SSL_CERT_FILE", certificate.c_str(), 1);
  const HttpAnswer known = HttpClient(o).ask(get("/"));
  unsetenv("SSL_CERT_FILE");
  CHECK(known.problem() == "");
  server.join();
}
