// A server with a few routes and nothing behind it, and a client that sends bytes as they are.
#pragma once

#include <atomic>
#include <condition_variable>
#include <list>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "support/test.h"
#include "tools/serve/http/server.h"
#include "tools/serve/status_routes.h"

namespace l4::test {

// One connection to 127.0.0.1. Reads give up after some seconds: the test fails instead of hanging.
class RawClient {
 public:
  explicit RawClient(int port);
  ~RawClient() { close(); }
  RawClient(RawClient&& other) noexcept : fd_(other.fd_), received_(std::move(other.received_)) { other.fd_ = -1; }
  RawClient(const RawClient&) = delete;

  RawClient& send(std::string_view bytes);  // whatever becomes of them
  RawClient& shutdown_write();
  void close();
  void reset();  // with RST
  int fd() const { return fd_; }

  struct Response {
    int status = 0;  // 0: the connection ended before a whole answer
    serve::HeaderList headers;
    std::string body;
    bool is_whole = false;
    std::string header(std::string_view name) const {
      const std::string* value = serve::find_header(headers, name);
      return value ? *value : "";
    }
  };
  Response response(bool is_head = false);   // the next one; 1xx are answers too
  std::string until(std::string_view text);  // what came up to and with it; all there was, where the end came first
  bool ends(double seconds = 5);             // the server closes within that time; what came is thrown away
  bool wait_readable(double seconds);

 private:
  bool receive(double seconds = 10);  // some more; false: the end, or the time is over
  int fd_ = -1;
  std::string received_;
};

// Sends events to all that ask for them, as an engine would: one thread, one event a stream and round.
class EventPump {
 public:
  EventPump() : thread_([this] { run(); }) {}
  ~EventPump();
  void add(std::shared_ptr<serve::Exchange> exchange, int n_events, std::string text);
  int64_t n_closed() const { return n_closed_; }
  int64_t n_running() const { return n_running_; }
  std::atomic<int> pause_us{0};  // between two rounds

 private:
  struct Stream;
  void run();
  std::mutex mutex_;
  std::condition_variable more_;
  std::list<std::shared_ptr<Stream>> added_;
  bool ends_ = false;
  std::atomic<int64_t> n_closed_{0}, n_running_{0};
  std::thread thread_;
};

struct TestServer {
  explicit TestServer(serve::ServerOptions options = {});
  ~TestServer();

  // GET /v1/models/*, POST /echo, /drop, /throw (body: what), /events?N (N events of the body's text), /hold (answered
  // by release()), and those of add_status_routes(). POST ones are work.
  serve::Router router;
  serve::Metrics metrics;
  fs::path log_file() const { return dir / "log"; }
  std::string log_text() const;
  std::unique_ptr<serve::Server> server;
  EventPump pump;

  RawClient client() const { return RawClient(server->port()); }
  std::vector<std::shared_ptr<serve::Exchange>> held();
  void release();                    // answers all that are held with "released"
  std::atomic<int64_t> n_closed{0};  // of held ones
  bool wait_held(size_t n);
  bool wait_for(const std::function<bool()>& condition, double seconds = 5) const;

 private:
  TempDir dir;
  int log_fd_;
  std::unique_ptr<serve::ServeLog> log_;
  std::mutex mutex_;
  std::vector<std::shared_ptr<serve::Exchange>> held_;
};

serve::ServerOptions quick_options();  // on any port, with one I/O thread and time-outs of a fraction of a second

inline std::string get(const std::string& path, const std::string& headers = {}) {
  return "GET " + path + " HTTP/1.1\r\nHost: x\r\n" + headers + "\r\n";
}
inline std::string post(const std::string& path, const std::string& body, const std::string& headers = {}) {
  return "POST " + path + " HTTP/1.1\r\nHost: x\r\nContent-Length: " + std::to_string(body.size()) + "\r\n" + headers +
         "\r\n" + body;
}
int open_descriptors();  // of this process

}  // namespace l4::test
