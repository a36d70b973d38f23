// A server on 127.0.0.1 that does to each connection what a test says, well-behaved or not, and ends with the object.
#pragma once

#include <openssl/ssl.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <arpa/inet.h>
#include <atomic>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "support/test.h"

namespace l4::test {

class LoopbackServer {
 public:
  class Connection {
   public:
    Connection(int fd, SSL* ssl, const std::atomic<bool>& ending) : fd_(fd), ssl_(ssl), ending_(ending) {}
    // Up to the empty line after a request's headers.
    std::string read_head() {
      std::string head;
      char c;
      while (!head.ends_with("\r\n\r\n") && (ssl_ ? SSL_read(ssl_, &c, 1) : ::recv(fd_, &c, 1, 0)) == 1) head += c;
      return head;
    }
    // False once nobody reads any more.
    bool send(const std::string& text) {
      for (size_t at = 0; at < text.size();) {
        const ssize_t n = ssl_ ? SSL_write(ssl_, text.data() + at, int(text.size() - at))
                               : ::send(fd_, text.data() + at, text.size() - at, MSG_NOSIGNAL);
        if (n <= 0) return false;
        at += size_t(n);
      }
      return !ending_;
    }
    bool sleep_ms(int ms) {
      pollfd entry{fd_, POLLRDHUP, 0};
      return ::poll(&entry, 1, ms) == 0 && !ending_;
    }

   private:
    int fd_;
    SSL* ssl_;
    const std::atomic<bool>& ending_;
  };
  using Handler = std::function<void(Connection&)>;

  // With a certificate (PEM, its key in the same file): TLS.
  explicit LoopbackServer(Handler handler, const std::string& certificate = {}) : handler_(std::move(handler)) {
    if (!certificate.empty()) {
      tls_ = SSL_CTX_new(TLS_server_method());
      REQUIRE(SSL_CTX_use_certificate_file(tls_, certificate.c_str(), SSL_FILETYPE_PEM) == 1);
      REQUIRE(SSL_CTX_use_PrivateKey_file(tls_, certificate.c_str(), SSL_FILETYPE_PEM) == 1);
    }
    fd_ = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof address;
    REQUIRE(::bind(fd_, reinterpret_cast<sockaddr*>(&address), size) == 0);
    REQUIRE(::listen(fd_, 64) == 0);
    REQUIRE(::getsockname(fd_, reinterpret_cast<sockaddr*>(&address), &size) == 0);
    port_ = ntohs(address.sin_port);
    thread_ = std::thread([this] { accept_all(); });
  }
  ~LoopbackServer() {
    ending_ = true;
    thread_.join();
    for (std::thread& thread : connections_) thread.join();
    ::close(fd_);
    SSL_CTX_free(tls_);
  }
  LoopbackServer(const LoopbackServer&) = delete;
  LoopbackServer& operator=(const LoopbackServer&) = delete;

  int port() const { return port_; }
  int n_connections() const { return n_connections_; }

 private:
  void accept_all() {
    while (!ending_) {
      pollfd entry{fd_, POLLIN, 0};
      if (::poll(&entry, 1, 20) != 1) continue;
      const int fd = ::accept(fd_, nullptr, nullptr);
      if (fd < 0) continue;
      ++n_connections_;
      const timeval limit{2, 0};  // nothing here outlives its test
      ::setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
      ::setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
      connections_.emplace_back([this, fd] { serve(fd); });
    }
  }
  void serve(int fd) {
    SSL* ssl = nullptr;
    if (tls_) {
      ssl = SSL_new(tls_);
      SSL_set_fd(ssl, fd);
    }
    if (!ssl || SSL_accept(ssl) == 1) {
      Connection connection(fd, ssl, ending_);
      handler_(connection);
      if (ssl) SSL_shutdown(ssl);
    }
    SSL_free(ssl);
    ::close(fd);
  }

  Handler handler_;
  SSL_CTX* tls_ = nullptr;
  int fd_ = -1, port_ = 0;
  std::atomic<bool> ending_{false};
  std::atomic<int> n_connections_{0};
  std::thread thread_;
  std::vector<std::thread> connections_;  // of thread_ alone until it has ended
};

}  // namespace l4::test
