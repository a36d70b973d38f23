// Events a second through the server from a backend that does nothing, the client in the same process. Not among the
// tests (a machine's speed is nothing to pass or fail): build/l4-tests -ns -tc='bench: serve http*'
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>

#include "tools/serve_http_fixture.h"

using namespace l4;

namespace {

double cpu_seconds() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& t) { return double(t.tv_sec) + double(t.tv_usec) * 1e-6; };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

// A round is what an engine's step is: one event for every stream, `pause_us` between two.
void measure(int n_streams, int n_events, int pause_us) {
  serve::ServerOptions o;
  o.max_unsent_bytes = 1 << 30;
  test::TestServer s(o);
  s.pump.pause_us = pause_us;
  const int epoll = epoll_create1(EPOLL_CLOEXEC);
  std::vector<test::RawClient> clients;
  for (int i = 0; i < n_streams; ++i) {
    clients.push_back(s.client());
    epoll_event event{EPOLLIN, {.u32 = uint32_t(i)}};
    epoll_ctl(epoll, EPOLL_CTL_ADD, clients.back().fd(), &event);
  }
  const auto begin = std::chrono::steady_clock::now();
  const double cpu_begin = cpu_seconds();
  // Of the size of a chat chunk.
  const std::string chunk =
      R"({"id":"chatcmpl-0123456789","object":"chat.completion.chunk","created":1700000000,)"
      R"("model":"scout","choices":[{"index":0,"delta":{"content":" word"},"finish_reason":null}]})";
  for (test::RawClient& c : clients) c.send(test::post(cat("/events?", n_events), chunk));
  const int64_t expected = int64_t(n_streams) * (n_events + 1);
  int64_t events = 0, bytes = 0;
  std::vector<char> last(size_t(n_streams), 0);
  std::vector<char> part(1 << 16);
  while (events < expected) {
    epoll_event ready[256];
    const int n_ready = epoll_wait(epoll, ready, 256, 10'000);
    if (n_ready <= 0) break;
    for (int k = 0; k < n_ready; ++k) {
      const size_t i = ready[k].data.u32;
      const ssize_t n = recv(clients[i].fd(), part.data(), part.size(), MSG_DONTWAIT);
      bytes += std::max<ssize_t>(n, 0);
      for (ssize_t b = 0; b < n; ++b) {
        events += part[size_t(b)] == '\n' && last[i] == '\n';
        last[i] = part[size_t(b)];
      }
    }
  }
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  ::close(epoll);
  CHECK(events == expected);
  std::printf("%5d streams of %5d events, %6d us between rounds: %9.0f events/s, %6.1f MB/s, %.2f cores\n", n_streams,
              n_events, pause_us, double(events) / seconds, double(bytes) / seconds / 1e6,
              (cpu_seconds() - cpu_begin) / seconds);
}

}  // namespace

TEST_CASE("bench: serve http events a second" * doctest::skip(true)) {
  measure(1, 20'000, 0);
  measure(16, 5'000, 0);
  measure(64, 2'000, 0);
  measure(256, 400, 0);
  measure(1000, 100, 0);
  measure(64, 200, 10'000);  // an engine that steps every 10 ms
  measure(1000, 50, 20'000);
}
