// One client's connection: reads a request, has it answered, writes the answer, and again. Everything runs on the
// connection's I/O thread; only ExchangeCore is shared with other threads. Internal to http/: brings Boost.Asio.
#pragma once

#include <atomic>
#include <chrono>
#include <memory>
#include <string>
#include <unordered_set>
#include <utility>
#include <vector>

#include "tools/serve/http/exchange_core.h"
#include "tools/serve/http/keys.h"
#include "tools/serve/http/request_reader.h"
#include "tools/serve/http/server.h"
#include "tools/serve/http/stream.h"
#include "tools/serve/http/worker_pool.h"

namespace l4::serve {

class Connection;

// What all connections of a server share.
struct Shared {
  const ServerOptions& options;
  const Router& router;
  Metrics& metrics;
  const ServeLog& log;
  ApiKeys keys;
  WorkerPool& workers;
  Gauge& connections_gauge;
  std::atomic<int64_t> connections{0}, requests{0}, work{0}, bodies_bytes{0};
  std::atomic<bool> draining{false};
};

struct IoThread {
  asio::io_context context{1};
  // Touched by the thread alone:
  std::unordered_set<std::shared_ptr<Connection>> connections;
  bool ends = false;
};

class Connection : public std::enable_shared_from_this<Connection> {
 public:
  using Clock = std::chrono::steady_clock;
  Connection(IoThread& io, Shared& shared, std::shared_ptr<Stream> stream, std::string remote, bool is_tls);
  ~Connection();

  void start();
  void tick(Clock::time_point now);  // now and then: time-outs and pings
  void close();                      // at once

 private:
  enum class Phase {
    handshake,
    idle,  // between requests
    header,
    body,
    answering,  // the request is whole; what follows it waits
    lingering,  // all is written, the client should close: bytes are thrown away
    closed,
  };
  struct BodyShare;  // of Shared::bodies_bytes

  void read();
  void on_read(error_code ec, size_t n);
  void on_read_end(error_code ec);
  void act();  // on the reader's state
  void decide();
  void dispatch();
  std::optional<ErrorBody> objection(const Router::Match& match);
  bool answers_options(const Router::Match& match);
  void refuse(const ErrorBody& error);  // and end the connection
  void reply_now(HttpResponse response);

  void flush();
  void queue_response(HttpResponse response);
  void queue_events(ExchangeCore::Output& output);
  void write(std::string bytes);
  void write_more();
  void on_write(error_code ec, size_t n);
  void end_request();
  void log_request(bool cut_off);
  void linger();
  HeaderList common_headers() const;

  IoThread& io_;
  Shared& shared_;
  std::shared_ptr<Stream> stream_;
  const std::string remote_;
  const bool is_tls_;
  RequestReader reader_;
  Phase phase_;
  Clock::time_point deadline_;

  std::vector<char> read_buffer_;
  bool is_reading_ = false, client_ended_ = false;
  int64_t discarded_bytes_ = 0;

  std::string writing_, to_write_;
  size_t written_ = 0;
  bool is_writing_ = false;
  Clock::time_point write_progress_;

  // ---- of the request at hand
  struct Current {
    const Route* route = nullptr;
    std::string method, path, id, origin;
    Clock::time_point begin;
    std::optional<HttpResponse> own_answer;  // once the body was read
    bool is_counted = false, is_work = false;
    bool is_events = false, is_answered = false, closes = false;  // answered: the whole answer is in to_write_
    int status = 0;
    int64_t body_bytes = 0, sent_bytes = 0;
    int64_t event_bytes = 0;  // in the write at hand
    std::shared_ptr<BodyShare> share;
  } now_;
  std::shared_ptr<ExchangeCore> core_;
};

}  // namespace l4::serve
