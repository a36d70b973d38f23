#include "tools/serve_http_fixture.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/file.h"

namespace l4::test {

using serve::Exchange;

// ---- client ---------------------------------------------------------------------------------------------------------

RawClient::RawClient(int port) {
  fd_ = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(uint16_t(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (fd_ < 0 || connect(fd_, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0)
    throw std::runtime_error("cannot connect to port " + std::to_string(port));
  const int at_once = 1;
  setsockopt(fd_, IPPROTO_TCP, TCP_NODELAY, &at_once, sizeof at_once);
}

RawClient& RawClient::send(std::string_view bytes) {
  while (!bytes.empty()) {
    pollfd writable{fd_, POLLOUT, 0};
    if (poll(&writable, 1, 10'000) <= 0) return *this;
    const ssize_t n = ::send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n <= 0) return *this;
    bytes.remove_prefix(size_t(n));
  }
  return *this;
}

RawClient& RawClient::shutdown_write() {
  shutdown(fd_, SHUT_WR);
  return *this;
}

void RawClient::close() {
  if (fd_ >= 0) ::close(fd_);
  fd_ = -1;
}

void RawClient::reset() {
  const linger now{1, 0};
  setsockopt(fd_, SOL_SOCKET, SO_LINGER, &now, sizeof now);
  close();
}

bool RawClient::wait_readable(double seconds) {
  pollfd readable{fd_, POLLIN, 0};
  return poll(&readable, 1, int(seconds * 1000)) > 0;
}

bool RawClient::receive(double seconds) {
  if (!wait_readable(seconds)) return false;
  char part[1 << 16];
  const ssize_t n = recv(fd_, part, sizeof part, 0);
  if (n <= 0) return false;
  received_.append(part, size_t(n));
  return true;
}

std::string RawClient::until(std::string_view text) {
  size_t at;
  while ((at = received_.find(text)) == received_.npos)
    if (!receive()) return std::exchange(received_, {});
  std::string out = received_.substr(0, at + text.size());
  received_.erase(0, at + text.size());
  return out;
}

bool RawClient::ends(double seconds) {
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::duration<double>(seconds);
  for (;;) {
    const double left = std::chrono::duration<double>(deadline - std::chrono::steady_clock::now()).count();
    if (left <= 0 || !wait_readable(left)) return false;
    received_.clear();
    if (!receive(left)) return true;
  }
}

RawClient::Response RawClient::response(bool is_head) {
  Response r;
  const std::string head = until("\r\n\r\n");
  if (!head.ends_with("\r\n\r\n") || !head.starts_with("HTTP/1.1 ")) return r;
  r.status = std::stoi(head.substr(9));
  for (const std::string& line : split(head, '\n')) {
    const size_t colon = line.find(": ");
    if (colon != line.npos) r.headers.emplace_back(line.substr(0, colon), std::string(trim(line.substr(colon + 2))));
  }
  if (is_head || r.status == 204 || r.status < 200) {
    r.is_whole = true;
  } else if (r.header("transfer-encoding") == "chunked") {
    for (;;) {
      const std::string size = until("\r\n");
      if (!size.ends_with("\r\n")) return r;
      const size_t n = std::stoul(size, nullptr, 16);
      while (received_.size() < n + 2)
        if (!receive()) return r;
      r.body += received_.substr(0, n);
      received_.erase(0, n + 2);
      if (n == 0) break;
    }
    r.is_whole = true;
  } else if (const std::string length = r.header("content-length"); !length.empty()) {
    while (received_.size() < std::stoul(length))
      if (!receive()) return r;
    r.body = received_.substr(0, std::stoul(length));
    received_.erase(0, r.body.size());
    r.is_whole = true;
  } else {
    while (receive()) {
    }
    r.body = std::exchange(received_, {});
    r.is_whole = true;
  }
  return r;
}

// ---- events ---------------------------------------------------------------------------------------------------------

struct EventPump::Stream {
  std::shared_ptr<Exchange> exchange;
  int left;
  std::string text;
  std::atomic<bool> is_closed{false};
};

EventPump::~EventPump() {
  {
    const std::lock_guard lock(mutex_);
    ends_ = true;
  }
  more_.notify_all();
  thread_.join();
}

void EventPump::add(std::shared_ptr<Exchange> exchange, int n_events, std::string text) {
  auto stream = std::make_shared<Stream>();
  stream->exchange = exchange;
  stream->left = n_events;
  stream->text = std::move(text);
  ++n_running_;
  exchange->begin_events();
  exchange->on_closed([this, weak = std::weak_ptr(stream)] {
    ++n_closed_;
    if (const auto closed = weak.lock()) closed->is_closed = true;
  });
  const std::lock_guard lock(mutex_);
  added_.push_back(std::move(stream));
  more_.notify_all();
}

void EventPump::run() {
  std::list<std::shared_ptr<Stream>> running;
  for (;;) {
    {
      std::unique_lock lock(mutex_);
      more_.wait(lock, [&] { return ends_ || !running.empty() || !added_.empty(); });
      if (ends_) return;
      running.splice(running.end(), added_);
    }
    for (auto it = running.begin(); it != running.end();) {
      Stream& stream = **it;
      if (!stream.is_closed && stream.left > 0) {
        stream.exchange->send_event(stream.text + std::to_string(stream.left--));
        ++it;
        continue;
      }
      if (!stream.is_closed) stream.exchange->send_event("[DONE]");
      stream.exchange->end_events();
      --n_running_;
      it = running.erase(it);
    }
    if (const int us = pause_us) std::this_thread::sleep_for(std::chrono::microseconds(us));
  }
}

// ---- server ---------------------------------------------------------------------------------------------------------

serve::ServerOptions quick_options() {
  serve::ServerOptions o;
  o.port = 0;
  o.io_threads = 1;
  o.workers = 2;
  using S = serve::ServerOptions::Seconds;
  o.header_timeout = S(0.3);
  o.body_timeout = S(0.3);
  o.idle_timeout = S(0.3);
  o.write_timeout = S(0.5);
  o.sse_ping_interval = S(0.15);
  return o;
}

TestServer::TestServer(serve::ServerOptions options) {
  options.port = 0;
  log_fd_ = open(log_file().c_str(), O_CREAT | O_WRONLY | O_APPEND | O_CLOEXEC, 0600);
  log_ = std::make_unique<serve::ServeLog>(serve::LogFormat::json, log_fd_);
  const serve::RouteOptions work{.is_work = true};
  serve::add_status_routes(router, metrics, [this] { return server->is_draining() ? "shutting down" : ""; });
  router.add("GET", "/v1/models/*", [](const std::shared_ptr<Exchange>& e) {
    e->reply({.content_type = "text/plain", .body = e->request().wildcard + "|" + e->request().query});
  });
  router.add(
      "POST", "/echo",
      [](const std::shared_ptr<Exchange>& e) {
        e->reply({.content_type = "text/plain", .body = std::move(e->request().body)});
      },
      work);
  router.add(
      "POST", "/drop", [](const std::shared_ptr<Exchange>&) {}, work);
  router.add(
      "POST", "/throw",
      [](const std::shared_ptr<Exchange>& e) {
        const std::string& what = e->request().body;
        if (what == "events") e->begin_events();
        if (what == "usage") fail(ErrorKind::usage, "max_tokens: too many");
        if (what == "api")
          throw serve::ApiError(serve::api_error(404, "no such model", "", "model", "model_not_found"));
        if (what == "std") throw std::runtime_error("/secret/path at 0x7fff");
        fail(ErrorKind::internal, "/secret/path");
      },
      work);
  router.add(
      "POST", "/events",
      [this](const std::shared_ptr<Exchange>& e) { pump.add(e, std::stoi(e->request().query), e->request().body); },
      work);
  router.add(
      "POST", "/hold",
      [this](const std::shared_ptr<Exchange>& e) {
        e->on_closed([this] { ++n_closed; });
        const std::lock_guard lock(mutex_);
        held_.push_back(e);
      },
      work);
  router.add("POST", "/small", [](const std::shared_ptr<Exchange>& e) { e->reply({}); }, {.max_body_bytes = 10});
  server = std::make_unique<serve::Server>(std::move(options), router, metrics, *log_);
  server->start();
}

TestServer::~TestServer() {
  server = nullptr;
  ::close(log_fd_);
}

std::string TestServer::log_text() const {
  return read_file(log_file(), 64 << 20);
}

std::vector<std::shared_ptr<Exchange>> TestServer::held() {
  const std::lock_guard lock(mutex_);
  return held_;
}

void TestServer::release() {
  std::vector<std::shared_ptr<Exchange>> all;
  {
    const std::lock_guard lock(mutex_);
    all.swap(held_);
  }
  for (const auto& exchange : all) exchange->reply({.content_type = "text/plain", .body = "released"});
}

bool TestServer::wait_for(const std::function<bool()>& condition, double seconds) const {
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::duration<double>(seconds);
  while (!condition()) {
    if (std::chrono::steady_clock::now() > deadline) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  return true;
}

bool TestServer::wait_held(size_t n) {
  return wait_for([&] { return held().size() == n; });
}

int open_descriptors() {
  int n = 0;
  for ([[maybe_unused]] const auto& entry : fs::directory_iterator("/proc/self/fd")) ++n;
  return n;
}

}  // namespace l4::test
