// Server-sent events: framing, pings, slow readers, clients that leave, a thousand at once; and the server's own end.
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <fstream>
#include <random>

#include "formats/json.h"
#include "tools/common/signals.h"
#include "tools/serve_http_fixture.h"

using namespace l4;
using test::get;
using test::post;
using test::quick_options;
using test::RawClient;
using test::TestServer;

namespace {

std::string expected_events(const std::string& text, int n) {
  std::string out;
  for (int i = n; i > 0; --i) out += cat("data: ", text, i, "\n\n");
  return out + "data: [DONE]\n\n";
}

int64_t resident_bytes() {
  int64_t size_pages = 0, resident_pages = 0;
  std::ifstream("/proc/self/statm") >> size_pages >> resident_pages;
  return resident_pages * sysconf(_SC_PAGESIZE);
}

// Reads answers of many streams without a thread each.
struct Stream {
  explicit Stream(RawClient c) : client(std::move(c)) {}
  RawClient client;
  std::string received;
  size_t leaves_at = SIZE_MAX;  // bytes
  bool is_over = false;

  // Of the chunked body; a stream that is cut off gives what there is.
  std::string body() const {
    std::string out;
    size_t at = received.find("\r\n\r\n");
    for (at += 4; at < received.size();) {
      const size_t end = received.find("\r\n", at);
      const size_t n = std::stoul(received.substr(at, end - at), nullptr, 16);
      out += received.substr(end + 2, n);
      at = end + 2 + n + 2;
    }
    return out;
  }
};

// Until all are over; false where nothing came for some seconds.
bool read_all(std::vector<Stream>& streams) {
  std::vector<pollfd> fds;
  for (;;) {
    fds.clear();
    for (const Stream& s : streams)
      if (!s.is_over) fds.push_back({s.client.fd(), POLLIN, 0});
    if (fds.empty()) return true;
    if (poll(fds.data(), fds.size(), 10'000) <= 0) return false;
    size_t i = 0;
    for (Stream& s : streams) {
      if (s.is_over || fds[i++].revents == 0) continue;
      char part[8192];
      const ssize_t n = recv(s.client.fd(), part, sizeof part, MSG_DONTWAIT);
      if (n > 0) s.received.append(part, size_t(n));
      s.is_over = n == 0 || s.received.ends_with("\r\n0\r\n\r\n") || s.received.size() >= s.leaves_at;
      if (s.received.size() >= s.leaves_at) s.client.close();
    }
  }
}

}  // namespace

TEST_CASE("serve http: an event stream, and the connection goes on") {
  TestServer s;
  RawClient c = s.client();
  const auto r = c.send(post("/events?3", "tok")).response();
  CHECK(r.status == 200);
  CHECK(r.header("content-type") == "text/event-stream; charset=utf-8");
  CHECK(r.header("cache-control") == "no-cache");
  CHECK(r.header("transfer-encoding") == "chunked");
  CHECK(!r.header("x-request-id").empty());
  CHECK(r.body == expected_events("tok", 3));
  CHECK(c.send(post("/events?0", "")).response().body == "data: [DONE]\n\n");
  CHECK(c.send(post("/events?1", "a\nb\r\nc\rd")).response().body ==
        "data: a\ndata: b\ndata: c\ndata: d1\n\ndata: [DONE]\n\n");
  CHECK(c.send(get("/health")).response().status == 200);
}

TEST_CASE("serve http: pings while nothing is said") {
  TestServer s(quick_options());  // every 0.15 s
  RawClient c = s.client();
  c.send(post("/hold", ""));
  REQUIRE(s.wait_held(1));
  const auto exchange = s.held()[0];
  exchange->begin_events();
  CHECK(c.until(": ping\n\n").find("200 OK") != std::string::npos);
  CHECK(c.until(": ping\n\n").ends_with(": ping\n\n"));
  exchange->send_event("{\"a\":1}", "message");
  CHECK(c.until("}\n\n").find("event: message\ndata: {\"a\":1}\n\n") != std::string::npos);
  CHECK(c.until(": ping\n\n").ends_with(": ping\n\n"));
  exchange->end_events();
  CHECK(c.until("\r\n0\r\n\r\n").ends_with("\r\n0\r\n\r\n"));
  exchange->send_event("after the end");  // nothing
  exchange->reply({});
  s.release();
  CHECK(c.send(get("/health")).response().status == 200);
}

TEST_CASE("serve http: a reader that does not read is cut off, in time and in bytes") {
  serve::ServerOptions o = quick_options();
  o.write_timeout = serve::ServerOptions::Seconds(20);
  o.max_unsent_bytes = 200'000;
  {
    TestServer s(o);  // by bytes
    RawClient c = s.client();
    c.send(post("/events?100000000", std::string(1000, 'x')));
    CHECK(s.wait_for([&] { return s.pump.n_closed() == 1; }));
    CHECK(s.wait_for([&] { return s.server->stats().requests == 0 && s.server->stats().connections == 0; }));
    CHECK(s.log_text().find("slow_reader") != std::string::npos);
  }
  o.max_unsent_bytes = 1 << 30;
  o.write_timeout = serve::ServerOptions::Seconds(0.4);
  TestServer s(o);  // by time: events and a long answer
  RawClient c = s.client(), d = s.client();
  s.pump.pause_us = 100;
  c.send(post("/events?100000000", std::string(100'000, 'x')));
  d.send(post("/hold", ""));
  REQUIRE(s.wait_held(1));
  s.held()[0]->reply({.body = std::string(50 << 20, 'y')});
  CHECK(s.wait_for([&] { return s.pump.n_closed() == 1; }, 10));
  CHECK(s.wait_for([&] { return s.server->stats().connections == 0; }));
}

TEST_CASE("serve http: a slow reader that does read gets everything") {
  serve::ServerOptions o = quick_options();
  TestServer s(o);
  RawClient c = s.client();
  c.send(post("/hold", ""));
  REQUIRE(s.wait_held(1));
  const std::string body(8 << 20, 'z');
  s.held()[0]->reply({.body = body});
  std::string got;
  c.until("\r\n\r\n");
  char part[100'000];
  for (int i = 0; got.size() < body.size() && i < 100'000; ++i) {
    const ssize_t n = recv(c.fd(), part, sizeof part, 0);
    if (n <= 0) break;
    got.append(part, size_t(n));
    if (i % 16 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  CHECK(got.size() > body.size() - (1 << 16));  // the rest came with the header
}

TEST_CASE("serve http: a thousand streams at once, one in ten leaving") {
  const int n_streams = 1000, n_events = 20, no_end = 100'000'000;
  serve::ServerOptions o;
  o.io_threads = 2;
  TestServer s(o);
  const auto round = [&](unsigned seed) {
    std::mt19937 random(seed);
    std::vector<Stream> streams;
    const int64_t closed_before = s.pump.n_closed();
    try {
      for (int i = 0; i < n_streams; ++i) streams.emplace_back(s.client());
    } catch (const std::exception&) {
      L4_SKIP("this process may not have 2,000 descriptors (ulimit -n)");
    }
    s.pump.pause_us = 2000;
    int64_t n_leaving = 0;
    for (int i = 0; i < n_streams; ++i) {
      const bool leaves = i % 10 == 0;  // from an answer that ends by that alone
      if (leaves) ++n_leaving, streams[size_t(i)].leaves_at = 1 + random() % 1000;
      streams[size_t(i)].client.send(post(cat("/events?", leaves ? no_end : n_events), cat("s", i, "-")));
    }
    REQUIRE(read_all(streams));
    for (int i = 0; i < n_streams; ++i)
      if (streams[size_t(i)].leaves_at == SIZE_MAX)
        CHECK(streams[size_t(i)].body() == expected_events(cat("s", i, "-"), n_events));
    CHECK(s.wait_for([&] { return s.pump.n_running() == 0 && s.server->stats().requests == 0; }));
    CHECK(s.pump.n_closed() - closed_before == n_leaving);
    streams.clear();
    CHECK(s.wait_for([&] { return s.server->stats().connections == 0; }));
  };
  round(1);
  const int descriptors = test::open_descriptors();
  const int64_t resident = resident_bytes();
  for (unsigned seed = 2; seed <= 4; ++seed) round(seed);
  CHECK(test::open_descriptors() == descriptors);
#if !defined(__SANITIZE_ADDRESS__)  // which keeps what was freed
  CHECK(resident_bytes() - resident < (8 << 20));
#endif
}

TEST_CASE("serve http: a drain lets what runs end, and nothing begin") {
  TestServer s(quick_options());
  RawClient stream = s.client(), held = s.client(), idle = s.client(), idle_work = s.client();
  s.pump.pause_us = 20'000;
  stream.send(post("/events?20", "t"));
  held.send(post("/hold", ""));
  idle.send(get("/ready"));
  CHECK(idle.response().status == 200);
  idle_work.send(get("/health")).response();
  REQUIRE(s.wait_held(1));
  stream.until("data: t19");
  s.server->drain();
  CHECK(s.server->is_draining());
  const auto ready = idle.send(get("/ready")).response();
  CHECK(ready.status == 503);
  CHECK(ready.header("connection") == "close");
  CHECK(idle.ends());
  const auto refused = idle_work.send(post("/echo", "x")).response();
  CHECK(refused.status == 503);
  CHECK(parse_json(refused.body, "body").find("error")->find("code")->as_string() == "shutting_down");
  CHECK(s.wait_for([&] {
    try {
      s.client();
      return false;
    } catch (const std::exception&) {
      return true;  // nobody listens
    }
  }));
  CHECK(!s.server->wait_idle(serve::ServerOptions::Seconds(0.05)));
  CHECK(stream.until("\r\n0\r\n\r\n").find("[DONE]") != std::string::npos);
  s.release();
  const auto last = held.response();
  CHECK(last.body == "released");
  CHECK(last.header("connection") == "close");
  CHECK(s.server->wait_idle(serve::ServerOptions::Seconds(5)));
  s.server->stop();
  CHECK(s.server->stats().connections == 0);
}

TEST_CASE("serve http: stopping with requests at work") {
  TestServer s;
  RawClient stream = s.client(), held = s.client();
  stream.send(post("/events?100000000", "t"));
  held.send(post("/hold", ""));
  REQUIRE(s.wait_held(1));
  stream.until("data: t");
  s.server->stop();
  CHECK(s.n_closed == 1);
  CHECK(s.pump.n_closed() == 1);
  s.release();  // into nothing
  CHECK(held.ends());
  CHECK(stream.ends());
}

namespace {

// A server of its own in a child process: signals are for the whole of it. What it prints first is its port.
struct Child {
  explicit Child(double drain_timeout_s) {
    int pipe_fds[2];
    REQUIRE(pipe(pipe_fds) == 0);
    std::fflush(nullptr);
    pid = fork();
    if (pid == 0) {
      ::close(pipe_fds[0]);
      alarm(30);  // ends by itself
      int status = 99;
      try {
        tools::install_signal_handlers();
        TestServer s;
        const int bound = s.server->port();
        (void)!write(pipe_fds[1], &bound, sizeof bound);
        const serve::ServeLog log(serve::LogFormat::text, open("/dev/null", O_WRONLY));
        status = serve::serve_until_signal(*s.server, serve::ServerOptions::Seconds(drain_timeout_s), log);
        s.release();
      } catch (...) {
      }
      _exit(status);
    }
    ::close(pipe_fds[1]);
    REQUIRE(read(pipe_fds[0], &port, sizeof port) == ssize_t(sizeof port));
    ::close(pipe_fds[0]);
  }
  int status() {  // 128 + n: ended by a signal
    int s = 0;
    waitpid(pid, &s, 0);
    return WIFEXITED(s) ? WEXITSTATUS(s) : 128 + WTERMSIG(s);
  }
  pid_t pid = -1;
  int port = 0;
};

}  // namespace

TEST_CASE("serve http: SIGTERM drains and ends with 0, a second signal ends at once") {
  {
    Child child(10);
    RawClient stream(child.port);
    stream.send(post("/events?200000", "t"));
    stream.until("data: t");
    kill(child.pid, SIGTERM);
    CHECK(stream.until("\r\n0\r\n\r\n").ends_with("data: [DONE]\n\n\r\n0\r\n\r\n"));
    CHECK(child.status() == 0);
  }
  {
    Child child(10);
    kill(child.pid, SIGINT);
    CHECK(child.status() == 0);
  }
  {
    Child child(0.2);  // and what does not end is cut off
    RawClient held(child.port);
    held.send(post("/hold", "") + get("/health"));
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    kill(child.pid, SIGTERM);
    CHECK(child.status() == 1);
    CHECK(held.ends());
  }
  for (const auto& [first, second, status] :
       {std::tuple{SIGTERM, SIGTERM, 143}, {SIGINT, SIGINT, 130}, {SIGINT, SIGTERM, 143}, {SIGTERM, SIGINT, 130}}) {
    Child child(20);
    RawClient held(child.port);
    held.send(post("/hold", ""));
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    kill(child.pid, first);
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
    kill(child.pid, second);
    CHECK(child.status() == status);
  }
}
