#include "tools/serve/http/server.h"

#include <netinet/tcp.h>
#include <poll.h>
#include <sys/resource.h>

#include <algorithm>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/ip/v6_only.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <thread>

#include "base/strings.h"
#include "tools/common/signals.h"
#include "tools/serve/http/connection.h"

namespace l4::serve {

namespace {

constexpr std::chrono::milliseconds kTick{50};
constexpr std::chrono::milliseconds kAcceptPause{100};  // where there are no descriptors left

// The most connections that the limit of descriptors allows, others' needs (pictures, fetches, weights) set aside. The
// soft limit is raised to the hard one first.
int64_t connections_that_fit() {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return 512;
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
  getrlimit(RLIMIT_NOFILE, &limit);
  if (limit.rlim_cur == RLIM_INFINITY) return INT64_MAX;
  const int64_t n = int64_t(limit.rlim_cur);
  return n - std::min<int64_t>(n / 2, 256);
}

int cores() {
  return std::max(1, int(std::thread::hardware_concurrency()));
}

std::string bracketed(const std::string& host) {
  return host.find(':') == host.npos ? host : "[" + host + "]";
}

}  // namespace

struct Server::Impl {
  Impl(ServerOptions o, const Router& router, Metrics& metrics, const ServeLog& log_)
      : options(checked(std::move(o))),
        log(log_),
        workers(std::make_unique<WorkerPool>(options.workers > 0 ? options.workers : std::clamp(cores(), 2, 16))),
        shared{options,
               router,
               metrics,
               log,
               ApiKeys(options.api_keys),
               *workers,
               metrics.gauge("http_connections", "Open HTTP connections.")} {
    if (!options.tls_certificate.empty()) tls = std::make_unique<TlsContext>(options.tls_certificate, options.tls_key);
    const int n = options.io_threads > 0 ? options.io_threads : cores() > 4 ? 2 : 1;
    for (int i = 0; i < n; ++i) io.push_back(std::make_unique<IoThread>());
  }

  ~Impl() {
    stop();
    workers = nullptr;  // its jobs look at `shared`
  }

  static ServerOptions checked(ServerOptions o) {
    if (o.tls_certificate.empty() != o.tls_key.empty())
      fail(ErrorKind::usage, "TLS takes a certificate and its key: --ssl-certfile and --ssl-keyfile");
    for (const std::string& key : o.api_keys)
      if (key.empty()) fail(ErrorKind::usage, "an API key is empty");
    return o;
  }

  const ServerOptions options;
  const ServeLog& log;
  std::unique_ptr<WorkerPool> workers;
  std::unique_ptr<TlsContext> tls;
  Shared shared;
  int64_t max_connections = 0;
  std::vector<std::unique_ptr<IoThread>> io;
  std::vector<std::unique_ptr<asio::executor_work_guard<asio::io_context::executor_type>>> guards;
  std::vector<std::unique_ptr<asio::steady_timer>> timers;
  std::vector<std::thread> threads;
  std::vector<std::unique_ptr<tcp::acceptor>> acceptors;  // touched by the first I/O thread alone, once that runs
  std::vector<std::unique_ptr<asio::steady_timer>> accept_timers;
  size_t next_io = 0;
  int port = 0;
  bool started = false;

  void bind() {
    asio::io_context& context = io[0]->context;
    error_code ec;
    tcp::resolver resolver(context);
    const auto found = resolver.resolve(options.host, cat(options.port), tcp::resolver::passive, ec);
    if (ec) fail(ErrorKind::io, "--host: ", shown(options.host), " is no address or name of this machine");
    port = options.port;
    for (const auto& entry : found) {
      tcp::endpoint endpoint = entry.endpoint();
      endpoint.port(uint16_t(port));  // the same for all of a name's addresses
      auto acceptor = std::make_unique<tcp::acceptor>(context);
      acceptor->open(endpoint.protocol(), ec);
      if (ec == asio::error::address_family_not_supported && found.size() > 1) continue;
      const auto check = [&](const char* what) {
        if (ec)
          fail(ErrorKind::io, "cannot ", what, " ", bracketed(endpoint.address().to_string()), ":", port, ": ",
               std::strerror(ec.value()));
      };
      check("open");
      acceptor->set_option(tcp::acceptor::reuse_address(true), ec);
      if (endpoint.address().is_v6()) acceptor->set_option(asio::ip::v6_only(true), ec);
      acceptor->bind(endpoint, ec);
      check("listen on");
      acceptor->listen(4096, ec);
      check("listen on");
      port = acceptor->local_endpoint(ec).port();
      acceptors.push_back(std::move(acceptor));
      accept_timers.push_back(std::make_unique<asio::steady_timer>(context));
    }
    if (acceptors.empty())
      fail(ErrorKind::io, "--host: ", shown(options.host), " has no address that can be listened on");
  }

  void accept(size_t i) {
    IoThread& target = *io[next_io++ % io.size()];
    acceptors[i]->async_accept(target.context, [this, i, &target](error_code ec, tcp::socket socket) {
      if (ec == asio::error::operation_aborted || !acceptors[i]->is_open()) return;
      if (ec) {  // no descriptors, no memory: those that are open go on, and will end
        log.write(LogLevel::warning, "accept_failed", {{"reason", std::strerror(ec.value())}});
        accept_timers[i]->expires_after(kAcceptPause);
        accept_timers[i]->async_wait([this, i](error_code timer_ec) {
          if (!timer_ec && acceptors[i]->is_open()) accept(i);
        });
        return;
      }
      welcome(std::move(socket), target);
      accept(i);
    });
  }

  void welcome(tcp::socket socket, IoThread& target) {
    error_code ec;
    const tcp::endpoint remote = socket.remote_endpoint(ec);
    if (ec) return;  // it has gone already
    if (shared.connections >= max_connections) return turn_away(std::move(socket));
    socket.set_option(tcp::no_delay(true), ec);
    socket.set_option(asio::socket_base::keep_alive(true), ec);
    // A client that vanished without a word is noticed when what was written stays unconfirmed.
    const unsigned patience_ms = unsigned(std::clamp(options.write_timeout.count() * 1000, 1.0, 1e9));
    setsockopt(socket.native_handle(), IPPROTO_TCP, TCP_USER_TIMEOUT, &patience_ms, sizeof patience_ms);
    auto connection =
        std::make_shared<Connection>(target, shared, make_stream(std::move(socket), tls.get()),
                                     cat(bracketed(remote.address().to_string()), ":", remote.port()), tls != nullptr);
    asio::post(target.context, [connection = std::move(connection)] { connection->start(); });
  }

  // As much as fits into an empty socket, without waiting.
  void turn_away(tcp::socket socket) {
    if (tls) return;
    const HttpResponse response =
        error_response(api_error(503, "the server has as many connections as it takes", "", "", "server_overloaded"));
    const std::string bytes = cat("HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nRetry-After: 1\r\n",
                                  "Content-Type: ", response.content_type, "\r\nContent-Length: ", response.body.size(),
                                  "\r\n\r\n", response.body);
    error_code ec;
    socket.non_blocking(true, ec);
    socket.write_some(asio::buffer(bytes), ec);
    socket.shutdown(tcp::socket::shutdown_send, ec);
    char request[4096];
    socket.read_some(asio::buffer(request), ec);  // unread, it would take back the answer
  }

  void tick(size_t i) {
    timers[i]->expires_after(kTick);
    timers[i]->async_wait([this, i](error_code ec) {
      if (ec || io[i]->ends) return;  // cancelled, or too late to be
      const auto now = Connection::Clock::now();
      const std::vector<std::shared_ptr<Connection>> all(io[i]->connections.begin(), io[i]->connections.end());
      for (const auto& connection : all) connection->tick(now);
      tick(i);
    });
  }

  void start() {
    L4_CHECK(!started);
    bind();
    started = true;
    const int64_t fitting = connections_that_fit();
    max_connections = std::min(options.max_connections, fitting);
    if (fitting < options.max_connections)
      log.say(LogLevel::info, cat("the limit of descriptors (ulimit -n) allows ", fitting, " connections"));
    for (size_t i = 0; i < io.size(); ++i) {
      guards.push_back(
          std::make_unique<asio::executor_work_guard<asio::io_context::executor_type>>(io[i]->context.get_executor()));
      timers.push_back(std::make_unique<asio::steady_timer>(io[i]->context));
      tick(i);
    }
    for (size_t i = 0; i < acceptors.size(); ++i) accept(i);
    for (const auto& thread : io) threads.emplace_back([&context = thread->context] { context.run(); });
  }

  void stop_accepting() {
    for (const auto& timer : accept_timers) timer->cancel();
    error_code ignored;
    for (const auto& acceptor : acceptors) acceptor->close(ignored);
  }

  void end(size_t i) {
    io[i]->ends = true;
    timers[i]->cancel();
    const std::vector<std::shared_ptr<Connection>> all(io[i]->connections.begin(), io[i]->connections.end());
    for (const auto& connection : all) connection->close();
    guards[i]->reset();
  }

  void stop() {
    if (threads.empty()) return;
    shared.draining = true;
    // By way of the first thread: a connection that was accepted a moment ago is on its way to its own. All of them at
    // once: the first thread ends when it has come to its own end, and would leave what is posted to it later.
    asio::post(io[0]->context, [this] {
      stop_accepting();
      for (size_t i = 0; i < io.size(); ++i) asio::post(io[i]->context, [this, i] { end(i); });
    });
    for (std::thread& thread : threads) thread.join();
    threads.clear();
  }
};

Server::Server(ServerOptions options, const Router& router, Metrics& metrics, const ServeLog& log)
    : impl_(std::make_unique<Impl>(std::move(options), router, metrics, log)) {}

Server::~Server() = default;

void Server::start() {
  impl_->start();
}
int Server::port() const {
  return impl_->port;
}
std::string Server::url() const {
  return cat(impl_->tls ? "https://" : "http://", bracketed(impl_->options.host), ":", impl_->port);
}

void Server::drain() {
  if (impl_->shared.draining.exchange(true)) return;
  asio::post(impl_->io[0]->context, [impl = impl_.get()] { impl->stop_accepting(); });
}
bool Server::is_draining() const {
  return impl_->shared.draining;
}

bool Server::wait_idle(ServerOptions::Seconds timeout) {
  const auto deadline = std::chrono::steady_clock::now() + timeout;
  while (impl_->shared.requests > 0) {
    if (std::chrono::steady_clock::now() >= deadline) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  return true;
}

void Server::stop() {
  impl_->stop();
}

ServerStats Server::stats() const {
  return {impl_->shared.connections, impl_->shared.requests, impl_->shared.work};
}

// ---- until a signal -------------------------------------------------------------------------------------------------

namespace {

// Nothing before the time is over.
int wait_for_signal(int timeout_ms) {
  pollfd waiting{tools::wake_fd(), POLLIN, 0};
  poll(&waiting, 1, timeout_ms);
  tools::drain_wake_fd();
  return tools::take_interrupts() > 0 ? SIGINT : tools::asked_to_end();
}

}  // namespace

int serve_until_signal(Server& server, ServerOptions::Seconds drain_timeout, const ServeLog& log) {
  while (wait_for_signal(-1) == 0) {
  }
  const int first = tools::asked_to_end();  // a second one of this kind ends the process in the signal's handler
  server.drain();
  log.write(LogLevel::info, "draining", {{"requests", server.stats().requests}, {"timeout_s", drain_timeout.count()}});
  const auto deadline = std::chrono::steady_clock::now() + drain_timeout;
  while (!server.wait_idle(ServerOptions::Seconds(0.0))) {
    const int second = wait_for_signal(20);
    if (second != 0 && second != first) tools::end_now(128 + second);
    if (std::chrono::steady_clock::now() < deadline) continue;
    log.write(LogLevel::warning, "drain_timeout", {{"requests", server.stats().requests}});
    server.stop();
    return 1;
  }
  server.stop();
  log.write(LogLevel::info, "stopped");
  return 0;
}

}  // namespace l4::serve
