#include <csignal>
#include <mutex>

#include "base/error.h"
#include "base/file.h"
#include "base/paths.h"
#include "support/test.h"
#include "tools/common/media/fetch.h"
#include "tools/common/media/media.h"
#include "tools/loopback_server.h"

using namespace l4;
using namespace l4::test;
using namespace l4::tools;
using Connection = LoopbackServer::Connection;
using Clock = std::chrono::steady_clock;

namespace {

FetchOptions options() {
  FetchOptions o;
  o.domains = {"localhost"};
  o.max_bytes = 1000;
  o.connect_timeout_s = 2;
  o.allow_loopback = true;
  return o;
}

Fetcher::Fetched fetch(Fetcher& fetcher, const std::string& url, int limit_ms = 2000) {
  const std::vector<PictureUrl> urls = {parse_picture_url(url)};
  return fetcher.fetch(urls, Clock::now() + std::chrono::milliseconds(limit_ms)).at(0);
}
std::string local_url(const LoopbackServer& server, const std::string& path = "/") {
  return cat("http://localhost:", server.port(), path);
}

// What a server that sends these bytes and closes makes of a fetch.
Fetcher::Fetched answer(const std::string& bytes) {
  LoopbackServer server([&](Connection& c) {
    c.read_head();
    c.send(bytes);
  });
  Fetcher fetcher(options());
  return fetch(fetcher, local_url(server));
}
std::string problem(const std::string& bytes) {
  const Fetcher::Fetched fetched = answer(bytes);
  CHECK(fetched.body.empty());
  return fetched.problem;
}
bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

// A certificate for that name, which signs itself, with its key.
fs::path certificate(const TempDir& dir, const std::string& name) {
  const fs::path key = dir / (name + ".key"), cert = dir / (name + ".crt"), both = dir / (name + ".pem");
  const Result made = run({"openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
                           "-nodes", "-days", "2", "-subj", "/CN=" + name, "-addext", "subjectAltName=DNS:" + name,
                           "-keyout", key.string(), "-out", cert.string()});
  if (made.status != 0) L4_SKIP("the openssl program");
  write_file_atomic(both, read_file(cert, 1 << 16) + read_file(key, 1 << 16));
  return both;
}

}  // namespace

TEST_CASE("media fetch: a picture is asked for plainly, and comes whole") {
  std::string head;
  LoopbackServer server([&](Connection& c) {
    head = c.read_head();
    c.send("HTTP/1.1 200 OK\r\nContent-Type: image/png\r\nContent-Length: 5\r\n\r\nhello");
  });
  Fetcher fetcher(options());
  const Fetcher::Fetched fetched = fetch(fetcher, local_url(server, "/a%20b.png?x=/y@z#part"));
  CHECK(fetched.problem == "");
  CHECK(fetched.body == "hello");
  CHECK(head.starts_with("GET /a%20b.png?x=/y@z HTTP/1.1\r\n"));
  CHECK(contains(head, cat("\r\nHost: localhost:", server.port(), "\r\n")));
  CHECK(contains(head, "\r\nAccept-Encoding: identity\r\n"));
  CHECK(!contains(head, "Cookie"));

  CHECK(answer("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n").body ==
        "abcde");
  CHECK(answer("HTTP/1.0 200 OK\r\n\r\nto the end").body == "to the end");
  CHECK(answer("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabcdefgh").body == "abc");  // what it says, no more
  CHECK(answer("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + std::string(1000, 'x')).body.size() == 1000);
}

TEST_CASE("media fetch: hosts, ports and addresses that are not allowed are not connected to") {
  LoopbackServer server([](Connection& c) { c.read_head(); });
  FetchOptions strict = options();
  strict.allow_loopback = false;
  Fetcher fetcher(strict);
  CHECK(fetch(fetcher, local_url(server)).problem == "its host's address is not a public one");
  CHECK(server.n_connections() == 0);
  fetcher.check(parse_picture_url("http://localhost/"));
  fetcher.check(parse_picture_url("https://LOCALHOST:443/"));
  for (const char* url :
       {"http://localhost:8080/", "https://localhost:80/", "http://localhost:443/", "http://example.com/",
        "http://localhost.example.com/", "http://xlocalhost/", "http://local/"}) {
    CAPTURE(url);
    error_of([&] { fetcher.check(parse_picture_url(url)); });
  }
}

TEST_CASE("media fetch: redirects and other answers are no pictures") {
  std::atomic<int> status{0};
  std::atomic<int> port{0};
  LoopbackServer server([&](Connection& c) {
    c.read_head();
    c.send(cat("HTTP/1.1 ", status.load(), " X\r\nLocation: http://localhost:", port.load(),
               "/other\r\nContent-Length: 2\r\n\r\nhi"));
  });
  port = server.port();
  Fetcher fetcher(options());
  int n = 0;
  for (const int code : {301, 302, 303, 307, 308}) {
    status = code;
    CHECK(fetch(fetcher, local_url(server)).problem == "its host redirects, which is not followed");
    CHECK(server.n_connections() == ++n);  // once, and nowhere else
  }
  for (const int code : {201, 206, 401, 404, 500, 999}) {
    status = code;
    CHECK(fetch(fetcher, local_url(server)).problem == cat("its host answers with status ", code));
  }
}

TEST_CASE("media fetch: answers that lie or are damaged") {
  CHECK(contains(problem("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc"), "no whole HTTP answer"));
  CHECK(contains(problem("HTTP/1.1 200 OK\r\nContent-Length: 1001\r\n\r\n"), "limit"));
  CHECK(contains(problem("HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999999\r\n\r\n"), "no whole"));
  CHECK(contains(problem("HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\nabc"), "no whole"));
  CHECK(contains(problem("HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd"), "no whole"));
  CHECK(contains(problem("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nabc\r\n0\r\n\r\n"), "no whole"));
  CHECK(contains(problem("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab"), "no whole"));
  CHECK(contains(problem("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nFFFFFFFFFFFFFFF0\r\nab"), "limit"));
  CHECK(contains(problem("HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc"), "compressed"));
  CHECK(contains(problem("HTTP/1.1 200 OK\r\nX: " + std::string(20000, 'x') + "\r\n\r\nabc"), "no whole"));
  CHECK(contains(problem("HTTP/1.0 200 OK\r\n\r\n" + std::string(1001, 'x')), "limit"));
  CHECK(contains(problem("SSH-2.0-OpenSSH_9.2\r\n"), "no whole"));
  CHECK(contains(problem(std::string(100000, '\0')), "no whole"));
  CHECK(contains(problem(""), "no whole"));
  LoopbackServer tls_expected([](Connection& c) { c.send("HTTP/1.1 200 OK\r\n\r\n"); });
  Fetcher fetcher(options());
  CHECK(contains(fetch(fetcher, cat("https://localhost:", tls_expected.port(), "/")).problem, "certificate or TLS"));
}

TEST_CASE("media fetch: endless and slow answers end in time") {
  Fetcher fetcher(options());
  const auto timed = [&](LoopbackServer::Handler handler) {
    LoopbackServer server(std::move(handler));
    const auto begin = Clock::now();
    const std::string said = fetch(fetcher, local_url(server), 300).problem;
    CHECK(Clock::now() - begin < std::chrono::milliseconds(1500));
    return said;
  };
  CHECK(timed([](Connection& c) {
          while (c.sleep_ms(20)) {
          }
        }) == "it was not fetched in time");
  CHECK(timed([](Connection& c) {
          c.read_head();
          c.send("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n");
          while (c.send("x") && c.sleep_ms(20)) {
          }
        }) == "it was not fetched in time");
  CHECK(timed([](Connection& c) {
          c.read_head();
          while (c.send("H") && c.sleep_ms(20)) {
          }
        }) != "");
  CHECK(contains(timed([](Connection& c) {
                   c.read_head();
                   c.send("HTTP/1.1 200 OK\r\n\r\n");
                   while (c.send(std::string(4096, 'x'))) {
                   }
                 }),
                 "limit"));
  CHECK(contains(timed([](Connection& c) {
                   c.read_head();
                   c.send("HTTP/1.1 200 OK\r\n");
                   while (c.send("X: " + std::string(4096, 'x') + "\r\n")) {
                   }
                 }),
                 "no whole"));
  int closed_port = 0;
  {
    closed_port = LoopbackServer([](Connection&) {}).port();
  }
  CHECK(fetch(fetcher, cat("http://localhost:", closed_port, "/")).problem == "its host does not take the connection");
}

TEST_CASE("media fetch: several at once, in order, the slow ones beside the fast ones") {
  LoopbackServer server([](Connection& c) {
    const std::string head = c.read_head();
    const std::string path = head.substr(5, 1);
    if (path == "s")
      while (c.sleep_ms(20)) {
      }
    c.sleep_ms(150);
    c.send("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n" + path);
  });
  Fetcher fetcher(options());
  std::vector<PictureUrl> urls;
  for (const char* path : {"/0", "/1", "/slow", "/3", "/4", "/5"})
    urls.push_back(parse_picture_url(local_url(server, path)));
  const auto begin = Clock::now();
  const std::vector<Fetcher::Fetched> fetched = fetcher.fetch(urls, begin + std::chrono::milliseconds(600));
  CHECK(Clock::now() - begin < std::chrono::milliseconds(1500));
  REQUIRE(fetched.size() == 6);
  for (const size_t i : {0, 1, 3, 4, 5}) CHECK(fetched[i].body == cat(i));
  CHECK(fetched[2].problem == "it was not fetched in time");
}

TEST_CASE("media fetch: TLS with the host's name, or not at all") {
  std::signal(SIGPIPE, SIG_IGN);  // OpenSSL's test server writes to clients that have left
  TempDir dir;
  const fs::path right = certificate(dir, "localhost"), wrong = certificate(dir, "other.example");
  const auto handler = [](Connection& c) {
    c.read_head();
    c.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nsafe");
  };
  LoopbackServer right_server(handler, right.string()), wrong_server(handler, wrong.string());
  const auto url = [](const LoopbackServer& server) { return cat("https://localhost:", server.port(), "/"); };
  FetchOptions trusting = options();
  trusting.ca_file = right;
  Fetcher fetcher(trusting);
  CHECK(fetch(fetcher, url(right_server)).body == "safe");
  FetchOptions trusts_wrong = options();
  trusts_wrong.ca_file = wrong;
  Fetcher other(trusts_wrong), unsure(options());
  const std::string refused = "its host's certificate or TLS version is not acceptable";
  CHECK(fetch(other, url(wrong_server)).problem == refused);  // trusted, and another's
  CHECK(fetch(fetcher, url(wrong_server)).problem == refused);
  CHECK(fetch(unsure, url(right_server)).problem == refused);

  // The limit of connecting is none of answering.
  LoopbackServer thoughtful(
      [](Connection& c) {
        c.read_head();
        c.sleep_ms(700);
        c.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nlate");
      },
      right.string());
  trusting.connect_timeout_s = 0.5;
  Fetcher hasty(trusting);
  CHECK(fetch(hasty, url(thoughtful)).body == "late");
}

TEST_CASE("media fetch: a connection that was too slow is closed") {
  std::signal(SIGPIPE, SIG_IGN);
  TempDir dir;
  const fs::path pem = certificate(dir, "localhost");
  for (const bool tls : {false, true}) {
    CAPTURE(tls);
    std::atomic<bool> closed{false};
    LoopbackServer server(
        [&](Connection& c) {
          c.read_head();
          for (int i = 0; i < 100 && !closed; ++i) closed = !c.sleep_ms(20);
        },
        tls ? pem.string() : "");
    FetchOptions o = options();
    o.ca_file = pem;
    Fetcher fetcher(o);
    CHECK(fetch(fetcher, cat(tls ? "https" : "http", "://localhost:", server.port(), "/"), 300).problem ==
          "it was not fetched in time");
    for (int i = 0; i < 100 && !closed; ++i) std::this_thread::sleep_for(std::chrono::milliseconds(10));
    CHECK(closed);
  }
}

TEST_CASE("media fetch: from the loader, with the place of what failed") {
  const std::string picture = read_file(golden("vision/files/rgb8.png"), 1 << 20);
  LoopbackServer server([&](Connection& c) {
    const bool found = contains(c.read_head(), "/there.png");
    c.send(cat("HTTP/1.1 ", found ? "200 OK" : "404 Not Found", "\r\nContent-Length: ", picture.size(), "\r\n\r\n",
               picture));
  });
  MediaOptions media;
  media.domains = {"localhost"};
  media.allow_loopback = true;
  MediaLoader loader(Frontend::load(demo_model_dir()), demo_model_dir(), media);
  const std::string there = local_url(server, "/there.png"), none = local_url(server, "/none.png");
  const std::vector<PreparedImage> images = loader.load(std::vector{there, there});
  CHECK(images.at(0) == images.at(1));
  CHECK(loader.stats().decoded == 1);
  CHECK(error_of([&] { loader.load(std::vector{there, none}); }) == "image 2: its host answers with status 404");
  const int n = server.n_connections();
  CHECK(error_of([&] {
          loader.load(std::vector{there, std::string("http://example.com/")});
        }) == "image 2: its host is none of --allowed-media-domains");
  CHECK(server.n_connections() == n);  // all addresses are read before the first is fetched
}
