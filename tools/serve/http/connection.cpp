#include "tools/serve/http/connection.h"

#include <sys/random.h>

#include <boost/asio/post.hpp>

#include "base/hex.h"
#include "base/strings.h"
#include "tools/serve/http/response_head.h"

namespace l4::serve {

namespace {

constexpr size_t kSmallRead = 4 << 10, kLargeRead = 64 << 10;
constexpr size_t kMaxWaiting = 64 << 10;  // of requests sent ahead; more stays in the socket
constexpr int64_t kBodyBytesPerSecond = 16 << 10;
constexpr uint64_t kSmallBody = 256 << 10;  // read although the answer is an error, so that the connection goes on
constexpr int64_t kMaxDiscarded = 1 << 20;
constexpr std::chrono::seconds kLinger{2};
constexpr size_t kMaxIdBytes = 128;

Connection::Clock::duration as_duration(ServerOptions::Seconds s) {
  return std::chrono::duration_cast<Connection::Clock::duration>(s);
}

bool is_sane_id(const std::string& id) {
  if (id.empty() || id.size() > kMaxIdBytes) return false;
  for (char c : id)
    if (!((c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '-' || c == '_' ||
          c == '.' || c == ':'))
      return false;
  return true;
}

std::string random_id() {
  uint8_t bytes[16];
  L4_CHECK(getrandom(bytes, sizeof bytes, 0) == ssize_t(sizeof bytes));
  return to_hex(bytes);
}

}  // namespace

struct Connection::BodyShare {
  explicit BodyShare(Shared& owner) : shared(owner) {}
  ~BodyShare() { shared.bodies_bytes -= bytes; }
  void grow_to(int64_t total) {
    shared.bodies_bytes += total - bytes;
    bytes = total;
  }
  Shared& shared;
  int64_t bytes = 0;
};

Connection::Connection(IoThread& io, Shared& shared, std::shared_ptr<Stream> stream, std::string remote, bool is_tls)
    : io_(io),
      shared_(shared),
      stream_(std::move(stream)),
      remote_(std::move(remote)),
      is_tls_(is_tls),
      reader_({shared.options.max_header_bytes, shared.options.max_headers}),
      phase_(is_tls ? Phase::handshake : Phase::idle),
      read_buffer_(kSmallRead) {
  shared_.connections_gauge.set(double(++shared_.connections));
}

Connection::~Connection() {
  shared_.connections_gauge.set(double(--shared_.connections));
}

void Connection::start() {
  io_.connections.insert(shared_from_this());
  const ServerOptions& o = shared_.options;
  deadline_ = Clock::now() + as_duration(is_tls_ ? o.header_timeout : o.idle_timeout);
  stream_->handshake([self = shared_from_this()](error_code ec, size_t) {
    if (self->phase_ == Phase::closed) return;
    if (ec) return self->close();
    self->phase_ = Phase::idle;
    self->deadline_ = Clock::now() + as_duration(self->shared_.options.idle_timeout);
    self->read();
  });
}

void Connection::close() {
  if (phase_ == Phase::closed) return;
  phase_ = Phase::closed;
  stream_->close();
  const std::shared_ptr<ExchangeCore> core = std::move(core_);
  core_ = nullptr;
  if (core) core->client_gone();
  if (core) core->close();
  if (now_.is_counted) log_request(true);
  now_ = {};
  io_.connections.erase(shared_from_this());
}

// ---- time -----------------------------------------------------------------------------------------------------------

void Connection::tick(Clock::time_point now) {
  const auto self = shared_from_this();
  const ServerOptions& o = shared_.options;
  if (is_writing_ && now - write_progress_ > as_duration(o.write_timeout)) return close();
  if (phase_ == Phase::answering) {
    const bool pings = now_.is_events && !now_.is_answered && !is_writing_ && o.sse_ping_interval.count() > 0;
    if (pings && now - write_progress_ > as_duration(o.sse_ping_interval)) {
      std::string bytes;
      if (reader_.is_http_1_0())
        bytes = kPing;
      else
        append_chunk(bytes, kPing);
      write(std::move(bytes));
    }
    return;
  }
  if (now < deadline_) return;
  if (phase_ == Phase::header || phase_ == Phase::body)
    refuse(api_error(408, "the request did not come in time"));
  else
    close();
}

// ---- reading --------------------------------------------------------------------------------------------------------

void Connection::read() {
  if (is_reading_ || client_ended_ || phase_ == Phase::closed) return;
  if (phase_ == Phase::answering && reader_.waiting_bytes() > kMaxWaiting) return;
  const size_t wanted = phase_ == Phase::body ? kLargeRead : kSmallRead;
  if (read_buffer_.size() != wanted) std::vector<char>(wanted).swap(read_buffer_);
  is_reading_ = true;
  stream_->read_some(asio::buffer(read_buffer_),
                     [self = shared_from_this()](error_code ec, size_t n) { self->on_read(ec, n); });
}

void Connection::on_read(error_code ec, size_t n) {
  is_reading_ = false;
  if (phase_ == Phase::closed) return;
  if (phase_ == Phase::lingering) {
    discarded_bytes_ += int64_t(n);
    if (ec || discarded_bytes_ > kMaxDiscarded) return close();
    return read();
  }
  if (ec) return on_read_end(ec);
  reader_.add({read_buffer_.data(), n});
  if (phase_ != Phase::answering) act();
  read();
}

void Connection::on_read_end(error_code ec) {
  // Only the end of what the client sends may leave it listening.
  client_ended_ = true;
  if (ec != asio::error::eof) return close();
  if (phase_ == Phase::header || phase_ == Phase::body)
    return refuse(api_error(400, "the request ended in its middle", "", "", "bad_request"));
  if (phase_ != Phase::answering || (now_.is_events && !now_.is_answered)) return close();
  if (core_) core_->client_gone();
}

void Connection::act() {
  switch (reader_.state()) {
    case RequestReader::State::idle:
      if (phase_ == Phase::idle) return;  // a line's end before the request: no reason to wait longer
      phase_ = Phase::idle;
      deadline_ = Clock::now() + as_duration(shared_.options.idle_timeout);
      return;
    case RequestReader::State::header:
      if (phase_ == Phase::header) return;
      phase_ = Phase::header;
      deadline_ = Clock::now() + as_duration(shared_.options.header_timeout);
      return;
    case RequestReader::State::decide:
      return decide();
    case RequestReader::State::body: {
      phase_ = Phase::body;
      const int64_t bytes = reader_.body_bytes();
      deadline_ =
          now_.begin + as_duration(shared_.options.body_timeout) + std::chrono::seconds(bytes / kBodyBytesPerSecond);
      now_.share->grow_to(bytes);
      if (shared_.bodies_bytes > shared_.options.max_bodies_bytes)
        refuse(
            api_error(503, "the server holds too many requests' bodies, try again later", "", "", "server_overloaded"));
      return;
    }
    case RequestReader::State::whole:
      now_.body_bytes = reader_.body_bytes();
      now_.share->grow_to(now_.body_bytes);
      return dispatch();
    case RequestReader::State::failed:
      return refuse(reader_.error());
  }
}

// ---- a request ------------------------------------------------------------------------------------------------------

void Connection::decide() {
  HttpRequest& request = reader_.request();
  now_ = {};
  now_.begin = Clock::now();
  now_.share = std::make_shared<BodyShare>(shared_);
  now_.closes = !reader_.keep_alive() || shared_.draining;
  now_.is_counted = true;
  ++shared_.requests;
  const std::string* id = request.header("x-request-id");
  request.id = id && is_sane_id(*id) ? *id : random_id();
  request.remote = remote_;
  now_.id = request.id;
  now_.method = request.method;
  now_.path = request.path;
  if (const std::string* origin = request.header("origin")) now_.origin = *origin;

  Router::Match match = shared_.router.find(request.method, request.path);
  now_.route = match.route;
  request.wildcard = std::move(match.wildcard);
  int64_t max_body = shared_.options.max_body_bytes;
  if (match.route && match.route->options.max_body_bytes > 0) max_body = match.route->options.max_body_bytes;
  if (!answers_options(match)) {
    if (const std::optional<ErrorBody> error = objection(match)) {
      // Read to its end, a short body leaves a connection that can go on; a long one is not worth its bytes.
      const bool is_short = !reader_.has_body() || reader_.content_length().value_or(kSmallBody + 1) <= kSmallBody;
      if (!is_short || reader_.expects_continue()) return refuse(*error);
      HttpResponse response = (match.route ? match.route->options.error_format : error_response)(*error);
      if (error->status == 405) response.headers.emplace_back("Allow", match.allowed);
      now_.own_answer = std::move(response);
    }
  }
  if (now_.own_answer) max_body = int64_t(kSmallBody);
  const bool is_awaited = reader_.accept_body(max_body) == RequestReader::State::body && reader_.body_bytes() == 0;
  if (is_awaited && reader_.expects_continue() && !reader_.is_http_1_0()) write(std::string(kContinue));
  act();
}

std::optional<ErrorBody> Connection::objection(const Router::Match& match) {
  const HttpRequest& request = reader_.request();
  if (match.allowed.empty())
    return api_error(404, cat("there is no ", shown(request.path), " here"), "invalid_request_error");
  if (!match.route)
    return api_error(405, cat(request.method, " is not what ", shown(request.path), " takes: ", match.allowed));
  const RouteOptions& route = match.route->options;
  if (route.needs_key && !shared_.keys.accept(request))
    return api_error(401, "this server asks for an API key: \"Authorization: Bearer KEY\" or \"x-api-key: KEY\"");
  if (match.bad_path) return api_error(400, "the path is not percent-encoded UTF-8", "", "", "bad_request");
  if (request.header("expect") && !reader_.expects_continue())
    return api_error(417, "of what a request may expect only 100-continue is known", "", "", "bad_request");
  if (!route.is_work) return std::nullopt;
  if (shared_.draining) return api_error(503, "the server is shutting down", "", "", "shutting_down");
  if (shared_.work >= shared_.options.max_requests)
    return api_error(429, cat("the server answers ", shared_.options.max_requests,
                              " requests already, as many as it takes; try again later"));
  return std::nullopt;
}

// OPTIONS: what may be asked, for browsers' pages of other origins too (common_headers() says if these are let in).
bool Connection::answers_options(const Router::Match& match) {
  const HttpRequest& request = reader_.request();
  if (request.method != "OPTIONS" || (match.allowed.empty() && request.path != "*")) return false;
  HttpResponse response;
  response.status = 204;
  response.content_type = "";
  response.headers.emplace_back("Allow", match.allowed.empty() ? "GET, HEAD, POST, OPTIONS" : match.allowed);
  if (request.header("access-control-request-method")) {
    response.headers.emplace_back("Access-Control-Allow-Methods", match.allowed);
    if (const std::string* headers = request.header("access-control-request-headers"))
      response.headers.emplace_back("Access-Control-Allow-Headers", *headers);
    response.headers.emplace_back("Access-Control-Max-Age", "600");
  }
  now_.own_answer = std::move(response);
  return true;
}

void Connection::dispatch() {
  phase_ = Phase::answering;
  if (now_.own_answer) return reply_now(std::move(*now_.own_answer));
  if (now_.route->options.is_work) {
    now_.is_work = true;
    if (++shared_.work > shared_.options.max_requests)  // others came while the body did
      return reply_now(now_.route->options.error_format(
          api_error(429, "the server answers as many requests as it takes; try again later")));
  }
  const auto wake = [weak = weak_from_this(), executor = io_.context.get_executor()] {
    asio::post(executor, [weak] {
      if (const auto self = weak.lock()) self->flush();
    });
  };
  core_ = std::make_shared<ExchangeCore>(std::move(reader_.request()), now_.route->options.error_format,
                                         shared_.options.max_unsent_bytes, wake);
  shared_.workers.add(
      [core = core_, share = std::move(now_.share), route = now_.route, &log = shared_.log] {
        const auto internal = [&](const std::string& what) {
          log.write(LogLevel::error, "handler_failed", {{"id", core->request().id}, {"reason", what}});
          core->abandon(api_error(500, "the server could not do this; its log says why"));
        };
        const std::shared_ptr<Exchange> exchange = make_exchange(core);
        try {
          route->handler(exchange);
        } catch (const ApiError& error) {
          core->abandon(error.body());
        } catch (const Error& error) {
          const ErrorBody body = api_error_of(error);
          if (body.status >= 500) return internal(error.message());
          core->abandon(body);
        } catch (const std::exception& error) {
          internal(error.what());
        }
      },
      !now_.route->options.is_work);
}

void Connection::refuse(const ErrorBody& error) {
  if (!now_.is_counted) {  // before there was a header to look at
    now_ = {};
    now_.begin = Clock::now();
    now_.id = random_id();
    now_.is_counted = true;
    ++shared_.requests;
  }
  now_.closes = true;
  phase_ = Phase::answering;
  reply_now((now_.route ? now_.route->options.error_format : error_response)(error));
}

void Connection::reply_now(HttpResponse response) {
  now_.share = nullptr;
  queue_response(std::move(response));
}

HeaderList Connection::common_headers() const {
  HeaderList headers{{"x-request-id", now_.id}};
  const std::vector<std::string>& allowed = shared_.options.allowed_origins;
  if (allowed.empty()) return headers;
  for (const std::string& origin : allowed) {
    if (now_.origin.empty() || (origin != "*" && origin != now_.origin)) continue;
    headers.emplace_back("Access-Control-Allow-Origin", origin);
    headers.emplace_back("Access-Control-Expose-Headers", "x-request-id, retry-after");
    break;
  }
  headers.emplace_back("Vary", "Origin");
  return headers;
}

// ---- writing --------------------------------------------------------------------------------------------------------

void Connection::flush() {
  if (phase_ != Phase::answering || !core_) return;
  if (core_->is_overflowed()) {  // also while the socket takes nothing
    shared_.log.write(LogLevel::warning, "slow_reader",
                      {{"id", now_.id}, {"max_unsent_bytes", shared_.options.max_unsent_bytes}});
    return close();
  }
  if (is_writing_) return;
  ExchangeCore::Output output = core_->take();
  if (output.response) return queue_response(std::move(*output.response));
  if (output.events_begin || !output.events.empty() || output.ended) queue_events(output);
}

void Connection::queue_response(HttpResponse response) {
  now_.is_answered = true;
  now_.status = response.status;
  now_.closes |= client_ended_ || shared_.draining;
  HeaderList headers = common_headers();
  for (auto& header : response.headers) headers.push_back(std::move(header));
  if (response.status == 401) headers.emplace_back("WWW-Authenticate", "Bearer");
  ResponseHead head{response.status, response.content_type, response.body.size()};
  if (response.status == 204 || response.status == 304) head.content_length.reset();
  head.close = now_.closes;
  head.keep_alive_1_0 = reader_.is_http_1_0();
  std::string bytes = response_head(head, headers);
  if (now_.method != "HEAD") bytes += response.body;
  write(std::move(bytes));
}

void Connection::queue_events(ExchangeCore::Output& output) {
  std::string bytes;
  const bool chunked = !reader_.is_http_1_0();
  if (output.events_begin) {
    now_.is_events = true;
    now_.status = 200;
    now_.closes |= client_ended_ || !chunked || shared_.draining;
    HeaderList headers = common_headers();
    headers.emplace_back("Cache-Control", "no-cache");
    headers.emplace_back("X-Accel-Buffering", "no");  // asks nginx to hand events on at once
    for (auto& header : *output.events_begin) headers.push_back(std::move(header));
    bytes =
        response_head({200, "text/event-stream; charset=utf-8", std::nullopt, chunked, now_.closes, false}, headers);
  }
  const bool has_body = now_.method != "HEAD";
  if (has_body && !output.events.empty()) {
    if (chunked)
      append_chunk(bytes, output.events);
    else
      bytes += output.events;
  }
  now_.event_bytes = int64_t(output.events.size());
  if (output.ended) {
    now_.is_answered = true;
    if (has_body && chunked) bytes += kLastChunk;
  }
  write(std::move(bytes));
}

void Connection::write(std::string bytes) {
  if (to_write_.empty())
    to_write_ = std::move(bytes);
  else
    to_write_ += bytes;
  if (!is_writing_) write_more();
}

void Connection::write_more() {
  if (written_ == writing_.size()) {
    writing_ = std::move(to_write_);
    to_write_.clear();
    written_ = 0;
    write_progress_ = Clock::now();
  }
  is_writing_ = true;
  stream_->write_some(asio::buffer(writing_.data() + written_, writing_.size() - written_),
                      [self = shared_from_this()](error_code ec, size_t n) { self->on_write(ec, n); });
}

void Connection::on_write(error_code ec, size_t n) {
  is_writing_ = false;
  if (phase_ == Phase::closed) return;
  if (ec) return close();
  written_ += n;
  now_.sent_bytes += int64_t(n);
  write_progress_ = Clock::now();
  if (written_ < writing_.size() || !to_write_.empty()) return write_more();
  if (core_ && now_.event_bytes > 0) core_->sent(std::exchange(now_.event_bytes, 0));
  if (phase_ != Phase::answering) return;  // that was 100 Continue
  if (now_.is_answered) return end_request();
  flush();
}

void Connection::end_request() {
  log_request(false);
  if (core_) core_->close();
  core_ = nullptr;
  const bool closes = now_.closes || client_ended_;
  now_ = {};
  writing_ = {};  // a connection that waits holds no answer's memory
  written_ = 0;
  if (closes) return linger();
  reader_.next();
  act();
  read();
}

void Connection::linger() {
  // A close with unread bytes in the socket would take back what was written: the client is given time to read it.
  phase_ = Phase::lingering;
  deadline_ = Clock::now() + kLinger;
  if (client_ended_) return close();
  stream_->shutdown_send();
  read();
}

void Connection::log_request(bool cut_off) {
  --shared_.requests;
  if (now_.is_work) --shared_.work;
  now_.is_counted = false;
  constexpr int kClientGone = 499;  // nginx's
  const int status = now_.status == 0 ? kClientGone : now_.status;
  const std::string handler = now_.route ? now_.route->pattern : "none";
  static const std::unordered_set<std::string> kMethods = {"GET", "HEAD", "POST", "OPTIONS", "PUT", "DELETE", "PATCH"};
  const std::string method = kMethods.count(now_.method) ? now_.method : "other";
  const double seconds = std::chrono::duration<double>(Clock::now() - now_.begin).count();
  shared_.metrics
      .counter("http_requests_total", "HTTP requests answered.",
               {{"handler", handler}, {"method", method}, {"status", cat(status / 100, "xx")}})
      .add();
  static const std::vector<double> kBounds = {0.01, 0.05, 0.1, 0.5, 1, 5, 10, 60, 300, 1800};
  shared_.metrics
      .histogram("http_request_duration_seconds", "From a request's header to its answer's end.", kBounds,
                 {{"handler", handler}, {"method", method}})
      .observe(seconds);
  if (!shared_.options.access_log) return;
  const bool is_quiet = now_.route && now_.route->options.is_probe && status < 400;
  LogFields fields = {{"id", now_.id},
                      {"remote", remote_},
                      {"method", now_.method.substr(0, 20)},
                      {"path", now_.path.substr(0, 200)},
                      {"status", status},
                      {"ms", double(int64_t(seconds * 1e4)) / 10},
                      {"bytes_in", now_.body_bytes},
                      {"bytes_out", now_.sent_bytes}};
  if (cut_off) fields.emplace_back("cut_off", true);
  shared_.log.write(is_quiet ? LogLevel::debug : LogLevel::info, "request", fields);
}

}  // namespace l4::serve
