#include "tools/common/http_client.h"

#include <sys/resource.h>

#include <algorithm>
#include <array>
#include <boost/asio/connect.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/ssl.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/write.hpp>
#include <boost/beast/core/buffers_range.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http/parser.hpp>
#include <cmath>
#include <optional>
#include <random>
#include <unordered_map>

#include "base/error.h"
#include "formats/json.h"

namespace l4::tools {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = boost::beast::http;
using boost::system::error_code;
using tcp = asio::ip::tcp;
using Clock = HttpClient::Clock;

namespace {

constexpr size_t kReadBytes = 16 << 10;
constexpr size_t kMostHeaderBytes = 64 << 10;

// A body that its reader takes away as it comes. (Beast's string_body reserves what Content-Length announces.)
struct TakenBody {
  using value_type = std::string;
  class reader {
   public:
    template <bool is_request, class Fields>
    reader(http::header<is_request, Fields>&, value_type& body) : body_(body) {}
    void init(const boost::optional<std::uint64_t>&, error_code& ec) { ec = {}; }
    template <class Buffers>
    size_t put(const Buffers& buffers, error_code& ec) {
      ec = {};
      size_t n = 0;
      for (const auto buffer : beast::buffers_range_ref(buffers)) {
        body_.append(static_cast<const char*>(buffer.data()), buffer.size());
        n += buffer.size();
      }
      return n;
    }
    void finish(error_code& ec) { ec = {}; }

   private:
    value_type& body_;
  };
};
using Parser = http::response_parser<TakenBody>;

struct Connection {
  explicit Connection(asio::io_context& io) : socket(io) {}
  tcp::socket socket;
  std::optional<asio::ssl::stream<tcp::socket&>> tls;
  bool reused = false;  // the server may have closed it meanwhile

  template <class Buffers, class Handler>
  void write(const Buffers& buffers, Handler handler) {
    if (tls)
      asio::async_write(*tls, buffers, std::move(handler));
    else
      asio::async_write(socket, buffers, std::move(handler));
  }
  template <class Buffer, class Handler>
  void read_some(const Buffer& buffer, Handler handler) {
    if (tls)
      tls->async_read_some(buffer, std::move(handler));
    else
      socket.async_read_some(buffer, std::move(handler));
  }
  void close() {
    error_code ignored;
    socket.close(ignored);
  }
};

Clock::duration duration_of(double seconds) {
  return std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds));
}

bool worth_another_try(int status) {
  return status == 429 || status == 500 || (status >= 502 && status <= 504);
}

// "text/event-stream" of "Text/Event-Stream; charset=utf-8"
std::string media_type(std::string_view content_type) {
  return to_lower(trim(content_type.substr(0, content_type.find(';'))));
}

[[noreturn]] void bad_url(const std::string& text) {
  fail(ErrorKind::usage, "expected a URL like http://127.0.0.1:8000, found ", shown(text));
}

}  // namespace

// ---- addresses and answers ------------------------------------------------------------------------------------------

std::string Url::origin() const {
  const bool v6 = host.find(':') != std::string::npos;
  return cat(tls ? "https" : "http", "://", v6 ? "[" : "", host, v6 ? "]" : "", ":", port);
}

Url parse_url(const std::string& text) {
  Url url;
  std::string_view rest = text;
  for (const char c : rest)
    if (c <= ' ' || c > '~' || c == '\\' || c == '@' || c == '?' || c == '#') bad_url(text);
  if (rest.starts_with("http://")) {
    rest.remove_prefix(7);
  } else if (rest.starts_with("https://")) {
    url.tls = true;
    rest.remove_prefix(8);
  } else {
    bad_url(text);
  }
  const size_t slash = std::min(rest.find('/'), rest.size());
  std::string_view authority = rest.substr(0, slash), path = rest.substr(slash);
  while (path.ends_with('/')) path.remove_suffix(1);
  url.path = path;
  if (authority.starts_with('[')) {
    const size_t end = authority.find(']');
    if (end == std::string_view::npos) bad_url(text);
    url.host = authority.substr(1, end - 1);
    authority.remove_prefix(end + 1);
  } else {
    const size_t colon = std::min(authority.find(':'), authority.size());
    url.host = authority.substr(0, colon);
    authority.remove_prefix(colon);
  }
  if (authority.empty()) {
    url.port = url.tls ? "443" : "80";
  } else {
    const std::optional<int64_t> port = authority[0] == ':' ? parse_int(authority.substr(1)) : std::nullopt;
    if (!port || *port < 1 || *port > 65535) bad_url(text);
    url.port = cat(*port);
  }
  if (url.host.empty()) bad_url(text);
  return url;
}

std::string HttpAnswer::problem() const {
  if (ok()) return {};
  if (!error.empty()) return status == 0 ? error : cat("HTTP ", status, ": ", error);
  std::string message;
  try {
    const Json json = parse_json(body, "answer");
    const Json* inner = json.find("error");
    const Json* text = inner && inner->is_object() ? inner->find("message") : json.find("message");
    if (text && text->is_string()) message = text->as_string();
  } catch (const Error&) {
    // no JSON: what there is may say something
  }
  return cat("HTTP ", status, ": ", shown(message.empty() ? body : message));
}

int64_t raise_descriptor_limit() {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return 0;
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
  getrlimit(RLIMIT_NOFILE, &limit);
  return int64_t(std::min<rlim_t>(limit.rlim_cur, rlim_t(1) << 40));
}

// ---- the client -----------------------------------------------------------------------------------------------------

struct HttpClient::Impl {
  struct Work;
  using WorkPtr = std::shared_ptr<Work>;

  explicit Impl(HttpClientOptions o) : options(std::move(o)) {
    for (const auto& [name, value] : options.headers)
      if ((name + value).find_first_of(std::string_view("\r\n\0", 3)) != std::string::npos)
        fail(ErrorKind::usage, "the value of header ", shown(name), " has a line end in it");
    if (options.base.tls) {
      tls.emplace(asio::ssl::context::tls_client);
      if (options.verify_tls) {
        tls->set_default_verify_paths();
        tls->set_verify_mode(asio::ssl::verify_peer);
      }
    }
  }

  HttpClientOptions options;
  asio::io_context io{1};
  std::optional<asio::ssl::context> tls;
  tcp::resolver resolver{io};
  tcp::resolver::results_type endpoints;  // looked up once
  std::vector<WorkPtr> waiting_for_endpoints;
  std::vector<std::unique_ptr<Connection>> idle;
  std::unordered_map<int64_t, WorkPtr> works;
  std::mt19937_64 random{std::random_device{}()};
  int64_t next_id = 1, n_connections = 0;

  void resolve(const WorkPtr& work);
};

// One request on its way, with all its attempts.
struct HttpClient::Impl::Work : std::enable_shared_from_this<Work> {
  Work(Impl& o, int64_t i, HttpCall c) : owner(o), id(i), call(std::move(c)), timer(o.io) {}

  enum class Phase { connecting, greeting, talking, waiting };

  Impl& owner;
  const int64_t id;
  HttpCall call;
  HttpAnswer answer;
  Phase phase = Phase::connecting;
  std::string head;
  std::unique_ptr<Connection> connection;
  beast::flat_buffer buffer{kMostHeaderBytes + kReadBytes};
  std::optional<Parser> parser;
  std::optional<SseParser> sse;  // of an answer that streams
  asio::steady_timer timer;
  Clock::time_point deadline;
  bool over = false;  // handlers that still come do nothing
  bool timed_out = false, answered = false;

  void begin() {
    ++answer.attempts;
    begin_attempt();
  }

  void begin_attempt() {
    parser.emplace();
    parser->eager(true);
    parser->header_limit(kMostHeaderBytes);
    parser->body_limit(uint64_t(owner.options.max_body_bytes));
    sse.reset();
    buffer.clear();
    timed_out = answered = false;
    if (!owner.idle.empty()) {
      connection = std::move(owner.idle.back());
      owner.idle.pop_back();
      connection->reused = true;
      return send();
    }
    phase = Phase::connecting;
    set_deadline(owner.options.connect_timeout_s);
    if (owner.endpoints.empty()) return owner.resolve(shared_from_this());
    connect();
  }

  void connect() {
    connection = std::make_unique<Connection>(owner.io);
    asio::async_connect(connection->socket, owner.endpoints,
                        [self = shared_from_this()](error_code ec, const tcp::endpoint&) {
                          if (self->over) return;
                          if (ec) return self->failed(ec);
                          ++self->owner.n_connections;
                          self->connection->socket.set_option(tcp::no_delay(true), ec);
                          if (self->owner.tls) return self->greet();
                          self->send();
                        });
  }

  void greet() {
    phase = Phase::greeting;
    auto& stream = connection->tls.emplace(connection->socket, *owner.tls);
    const std::string& host = owner.options.base.host;
    SSL_set_tlsext_host_name(stream.native_handle(), host.c_str());
    if (owner.options.verify_tls) stream.set_verify_callback(asio::ssl::host_name_verification(host));
    stream.async_handshake(asio::ssl::stream_base::client, [self = shared_from_this()](error_code ec) {
      if (self->over) return;
      if (ec) return self->failed(ec);
      self->send();
    });
  }

  void send() {
    phase = Phase::talking;
    set_deadline(owner.options.silence_timeout_s);
    const Url& base = owner.options.base;
    head = cat(call.method, " ", base.path, call.path, " HTTP/1.1\r\nHost: ", base.origin().substr(base.tls ? 8 : 7),
               "\r\nAccept: */*\r\n");
    for (const auto& [name, value] : owner.options.headers) head += cat(name, ": ", value, "\r\n");
    if (call.method != "GET")
      head += cat("Content-Type: application/json\r\nContent-Length: ", call.body.size(), "\r\n");
    head += "\r\n";
    const std::array<asio::const_buffer, 2> buffers{asio::buffer(head), asio::buffer(call.body)};
    connection->write(buffers, [self = shared_from_this()](error_code, size_t) {
      // Where the server did not take all of it there may still be an answer that says why; reading tells.
      if (!self->over) self->read();
    });
  }

  void read() {
    connection->read_some(buffer.prepare(kReadBytes), [self = shared_from_this()](error_code ec, size_t n) {
      if (self->over) return;
      self->buffer.commit(n);
      self->take(ec);
    });
  }

  void take(error_code ec) {
    const Clock::time_point now = Clock::now();
    deadline = now + duration_of(owner.options.silence_timeout_s);  // the timer looks at it when it is up
    error_code wrong;
    while (buffer.size() > 0 && !parser->is_done() && !wrong) {
      answered = true;
      buffer.consume(parser->put(buffer.data(), wrong));
    }
    if (wrong == http::error::need_more) wrong = {};
    if (!wrong && buffer.size() > kMostHeaderBytes) wrong = http::error::header_limit;
    const bool closed = ec == asio::error::eof || ec == asio::ssl::error::stream_truncated;
    if (closed && answered && !wrong && !parser->is_done()) parser->put_eof(wrong);
    if (parser->is_header_done() && answer.status == 0) take_header();
    if (!take_body(now, wrong)) return;
    if (wrong) return failed(wrong);
    if (parser->is_done()) return done();
    if (ec) return failed(ec);
    read();
  }

  void take_header() {
    answer.status = int(parser->get().result_int());
    answer.content_type = media_type(std::string(parser->get()[http::field::content_type]));
    if (call.on_event && answer.status == 200 && answer.content_type == "text/event-stream") sse.emplace();
  }

  // What came of the body; false where a function of the caller cancelled the request.
  bool take_body(Clock::time_point now, error_code& wrong) {
    std::string& body = parser->get().body();
    if (!sse) {
      answer.body += body;
    } else if (!sse->feed(body, [&](const SseEvent& event) {
                 if (!over) call.on_event(event, now);
               })) {
      wrong = http::error::body_limit;
    }
    body.clear();
    return !over;
  }

  void done() {
    if (call.check && answer.ok()) answer.error = call.check(answer);
    if ((worth_another_try(answer.status) || !answer.error.empty()) && answer.attempts < owner.options.max_attempts)
      return try_again(parse_int(std::string(parser->get()[http::field::retry_after])).value_or(0));
    if (parser->keep_alive() && buffer.size() == 0) owner.idle.push_back(std::move(connection));
    finish();
  }

  void failed(error_code ec) {
    const bool was_stale = connection && connection->reused && !answered && !timed_out;
    drop_connection();
    if (was_stale) return begin_attempt();  // the server had closed it before we wrote
    answer.error = cat(owner.options.base.origin(), ": ", what_failed(ec));
    const bool too_large = ec == http::error::body_limit || ec == http::error::header_limit;
    if (!sse && !too_large && answer.attempts < owner.options.max_attempts) return try_again(0);
    finish();
  }

  std::string what_failed(error_code ec) const {
    const HttpClientOptions& o = owner.options;
    if (timed_out)
      return phase == Phase::talking ? cat("nothing came for ", o.silence_timeout_s, " s")
                                     : cat("no connection within ", o.connect_timeout_s, " s");
    if (phase == Phase::connecting) return cat("cannot connect: ", ec.message());
    if (phase == Phase::greeting) return cat("no TLS connection: ", ec.message());
    if (ec == asio::error::eof || ec == asio::ssl::error::stream_truncated || ec == http::error::partial_message)
      return answered ? "the connection was closed before the answer's end"
                      : "the connection was closed without an answer";
    if (ec == http::error::body_limit || ec == http::error::header_limit) return "the answer is too large";
    if (ec.category() == http::make_error_code(http::error::bad_version).category())
      return cat("not a valid HTTP answer: ", ec.message());
    return cat("the connection broke: ", ec.message());
  }

  void try_again(int64_t retry_after_s) {
    const HttpClientOptions& o = owner.options;
    double wait = std::min(o.longest_wait_s, std::ldexp(o.first_wait_s, std::min(answer.attempts - 1, 30)));
    wait *= 0.5 + 0.5 * std::uniform_real_distribution<double>()(owner.random);
    wait = std::max(wait, std::min(double(retry_after_s), o.longest_wait_s));
    drop_connection();
    const int attempts = answer.attempts;
    answer = {};
    answer.attempts = attempts;
    phase = Phase::waiting;
    timer.expires_after(duration_of(wait));
    timer.async_wait([self = shared_from_this()](error_code ec) {
      if (!ec && !self->over) self->begin();
    });
  }

  void finish() {
    end();
    if (call.on_done) call.on_done(answer);
  }

  void end() {
    over = true;
    timer.cancel();
    drop_connection();
    owner.works.erase(id);
  }

  void drop_connection() {
    if (connection) connection->close();
    connection.reset();
  }

  void set_deadline(double seconds) {
    deadline = Clock::now() + duration_of(seconds);
    watch();
  }

  // One timer a request, which is not set anew for each read but looks whether the deadline has moved.
  void watch() {
    timer.expires_at(deadline);
    timer.async_wait([self = shared_from_this()](error_code ec) {
      if (ec || self->over || self->phase == Phase::waiting) return;
      if (Clock::now() < self->deadline) return self->watch();
      self->timed_out = true;
      if (self->connection) return self->connection->close();  // whose handler tells
      std::erase(self->owner.waiting_for_endpoints, self);
      self->failed({});
    });
  }
};

void HttpClient::Impl::resolve(const WorkPtr& work) {
  waiting_for_endpoints.push_back(work);
  if (waiting_for_endpoints.size() > 1) return;
  const Url& base = options.base;
  resolver.async_resolve(base.host, base.port, [this](error_code ec, tcp::resolver::results_type results) {
    if (!ec) endpoints = std::move(results);
    for (const WorkPtr& waiting : std::exchange(waiting_for_endpoints, {})) {
      if (waiting->over) continue;
      if (ec)
        waiting->failed(ec);
      else
        waiting->connect();
    }
  });
}

HttpClient::HttpClient(HttpClientOptions options) : impl_(std::make_unique<Impl>(std::move(options))) {}
HttpClient::~HttpClient() = default;

int64_t HttpClient::start(HttpCall call) {
  const int64_t id = impl_->next_id++;
  const auto work = std::make_shared<Impl::Work>(*impl_, id, std::move(call));
  impl_->works.emplace(id, work);
  asio::post(impl_->io, [work] {
    if (!work->over) work->begin();
  });
  return id;
}

void HttpClient::cancel(int64_t id) {
  const auto found = impl_->works.find(id);
  if (found == impl_->works.end()) return;
  const Impl::WorkPtr work = found->second;
  work->end();
}

void HttpClient::at(Clock::time_point when, std::function<void()> what) {
  const auto timer = std::make_shared<asio::steady_timer>(impl_->io, when);
  timer->async_wait([timer, what = std::move(what)](error_code) { what(); });
}

void HttpClient::run() {
  impl_->io.restart();
  impl_->io.run();
}

HttpAnswer HttpClient::ask(HttpCall call) {
  HttpAnswer answer;
  call.on_done = [&answer](HttpAnswer& a) { answer = std::move(a); };
  start(std::move(call));
  run();
  return answer;
}

int64_t HttpClient::n_connections() const {
  return impl_->n_connections;
}

}  // namespace l4::tools
