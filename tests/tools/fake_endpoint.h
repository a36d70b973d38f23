// An HTTP server on loopback that answers as a test says, byte for byte: a blocking thread a connection.
#pragma once

#include <atomic>
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

namespace l4::test {

struct FakeRequest {
  std::string method, path, body;
  std::map<std::string, std::string> headers;  // names in lower case
  int index = 0;                               // of this connection, from 0
};

class FakeConnection {
 public:
  explicit FakeConnection(int fd) : fd_(fd) {}
  void send(std::string_view bytes);  // silently nothing once the client has left
  // A whole answer with its length.
  void answer(int status, std::string_view body, const std::string& more_headers = "",
              const std::string& content_type = "application/json");
  // An answer of events: a header, one chunk for each call, an end.
  void begin_events();
  void event(std::string_view data);
  void end_events();
  void close() { closed_ = true; }  // after this request
  bool closed() const { return closed_; }
  bool client_left() const;  // right now

 private:
  int fd_;
  bool closed_ = false;
};

class FakeEndpoint {
 public:
  // Called on the connection's thread. It must end by itself.
  using Handler = std::function<void(const FakeRequest&, FakeConnection&)>;
  explicit FakeEndpoint(Handler handler);
  ~FakeEndpoint();  // closes all, waits for all
  FakeEndpoint(const FakeEndpoint&) = delete;
  FakeEndpoint& operator=(const FakeEndpoint&) = delete;

  std::string url() const;
  int port() const { return port_; }
  int n_connections() const { return n_connections_; }
  int n_requests() const { return n_requests_; }
  int most_at_once() const { return most_live_; }  // requests being answered

 private:
  void serve(int fd);

  Handler handler_;
  int listen_fd_ = -1, port_ = 0;
  std::atomic<int> n_connections_{0}, n_requests_{0}, live_{0}, most_live_{0};
  std::atomic<bool> ends_{false};
  std::mutex mutex_;
  std::vector<int> fds_;
  std::vector<std::thread> threads_;
  std::thread accepts_;
};

}  // namespace l4::test
