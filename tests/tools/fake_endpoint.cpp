#include "tools/fake_endpoint.h"

#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/error.h"

namespace l4::test {

void FakeConnection::send(std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t n = ::send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (n <= 0) return;
    bytes.remove_prefix(size_t(n));
  }
}

void FakeConnection::answer(int status, std::string_view body, const std::string& more_headers,
                            const std::string& content_type) {
  send(cat("HTTP/1.1 ", status, " X\r\nContent-Type: ", content_type, "\r\n", more_headers,
           "Content-Length: ", body.size(), "\r\n\r\n", body));
}

namespace {
std::string chunk(std::string_view bytes) {
  char size[20];
  std::snprintf(size, sizeof size, "%zx\r\n", bytes.size());
  return cat(size, bytes, "\r\n");
}
}  // namespace

void FakeConnection::begin_events() {
  send("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: chunked\r\n\r\n");
}
void FakeConnection::event(std::string_view data) {
  send(chunk(cat("data: ", data, "\n\n")));
}
void FakeConnection::end_events() {
  send("0\r\n\r\n");
}

bool FakeConnection::client_left() const {
  char byte;
  pollfd p{fd_, POLLIN, 0};
  return ::poll(&p, 1, 0) > 0 && ::recv(fd_, &byte, 1, MSG_PEEK | MSG_DONTWAIT) <= 0;
}

FakeEndpoint::FakeEndpoint(Handler handler) : handler_(std::move(handler)) {
  listen_fd_ = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof address;
  if (::bind(listen_fd_, reinterpret_cast<sockaddr*>(&address), size) != 0 || ::listen(listen_fd_, 4096) != 0 ||
      ::getsockname(listen_fd_, reinterpret_cast<sockaddr*>(&address), &size) != 0)
    fail(ErrorKind::io, "the test cannot listen on loopback");
  port_ = ntohs(address.sin_port);
  accepts_ = std::thread([this] {
    while (true) {
      const int fd = ::accept4(listen_fd_, nullptr, nullptr, SOCK_CLOEXEC);
      if (ends_ || fd < 0) {
        if (fd >= 0) ::close(fd);
        return;
      }
      const int on = 1;
      ::setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
      ++n_connections_;
      const std::lock_guard lock(mutex_);
      fds_.push_back(fd);
      threads_.emplace_back([this, fd] { serve(fd); });
    }
  });
}

FakeEndpoint::~FakeEndpoint() {
  ends_ = true;
  ::shutdown(listen_fd_, SHUT_RDWR);
  accepts_.join();
  ::close(listen_fd_);
  for (const int fd : fds_) ::shutdown(fd, SHUT_RDWR);
  for (std::thread& thread : threads_) thread.join();
  for (const int fd : fds_) ::close(fd);
}

std::string FakeEndpoint::url() const {
  return cat("http://127.0.0.1:", port_);
}

void FakeEndpoint::serve(int fd) {
  std::string bytes;
  const auto more = [&] {
    char buffer[16384];
    const ssize_t n = ::recv(fd, buffer, sizeof buffer, 0);
    if (n > 0) bytes.append(buffer, size_t(n));
    return n > 0;
  };
  for (int index = 0;; ++index) {
    size_t end;
    while ((end = bytes.find("\r\n\r\n")) == std::string::npos)
      if (!more()) return;
    FakeRequest request;
    request.index = index;
    const std::vector<std::string> lines = split(bytes.substr(0, end), '\n');
    bytes.erase(0, end + 4);
    const std::vector<std::string> words = split(lines[0], ' ');
    request.method = words.at(0);
    request.path = words.at(1);
    for (size_t i = 1; i < lines.size(); ++i) {
      const size_t colon = lines[i].find(':');
      request.headers[to_lower(lines[i].substr(0, colon))] = trim(lines[i].substr(colon + 1));
    }
    const size_t length = request.headers.count("content-length") ? std::stoul(request.headers["content-length"]) : 0;
    while (bytes.size() < length)
      if (!more()) return;
    request.body = bytes.substr(0, length);
    bytes.erase(0, length);
    ++n_requests_;
    const int live = ++live_;
    for (int most = most_live_; most < live && !most_live_.compare_exchange_weak(most, live);) {
    }
    FakeConnection connection(fd);
    handler_(request, connection);
    --live_;
    if (connection.closed()) {
      ::shutdown(fd, SHUT_RDWR);
      return;
    }
  }
}

}  // namespace l4::test
