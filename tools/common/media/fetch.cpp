#include "tools/common/media/fetch.h"

#include <algorithm>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/ssl/context.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/use_future.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/core/tcp_stream.hpp>
#include <boost/beast/http.hpp>
#include <boost/beast/ssl/ssl_stream.hpp>
#include <future>
#include <thread>

#include "base/error.h"
#include "base/version.h"

namespace l4::tools {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = boost::beast::http;
using asio::ip::tcp;
using Clock = std::chrono::steady_clock;

namespace {

constexpr uint32_t kMaxHeaderBytes = 16 << 10;

bool may_connect(const asio::ip::address& address, bool allow_loopback) {
  const auto check = [&](const auto& bytes) {
    return is_public_address(bytes) || (allow_loopback && is_loopback_address(bytes));
  };
  return address.is_v4() ? check(address.to_v4().to_bytes()) : check(address.to_v6().to_bytes());
}

// What was being done when something failed, which is all that is told of a failure.
enum class Stage { resolve, connect, handshake, exchange };

std::string problem_of(Stage stage, const boost::system::error_code& error, uint64_t max_bytes) {
  if (error == beast::error::timeout) return "it was not fetched in time";
  if (error == http::error::body_limit) return cat("over the limit of ", human_bytes(max_bytes), " for an image");
  switch (stage) {
    case Stage::resolve:
      return "its host's name has no address";
    case Stage::connect:
      return "its host does not take the connection";
    case Stage::handshake:
      return "its host's certificate or TLS version is not acceptable";
    case Stage::exchange:
      break;
  }
  return "its host's answer is no whole HTTP answer";
}

}  // namespace

struct Fetcher::Impl {
  explicit Impl(FetchOptions o) : options(std::move(o)), tls(asio::ssl::context::tls_client) {
    tls.set_options(asio::ssl::context::no_tlsv1 | asio::ssl::context::no_tlsv1_1);
    tls.set_verify_mode(asio::ssl::verify_peer);
    boost::system::error_code ignored;  // a machine without certificates: every handshake says so
    tls.set_default_verify_paths(ignored);
    if (!options.ca_file.empty()) tls.load_verify_file(options.ca_file.string());
    thread = std::thread([this] { io.run(); });
  }
  ~Impl() {
    io.stop();
    thread.join();
  }

  // Every argument by value: it may run on after its caller has given up waiting.
  asio::awaitable<Fetched> fetch(PictureUrl url, Clock::time_point deadline) {
    Stage stage = Stage::resolve;
    Fetched out;
    try {
      out = co_await try_fetch(url, deadline, stage);
    } catch (const boost::system::system_error& error) {
      out.problem = problem_of(stage, error.code(), options.max_bytes);
    } catch (const std::exception&) {
      out.problem = "it could not be fetched";
    }
    co_return out;
  }

  asio::awaitable<Fetched> try_fetch(const PictureUrl& url, Clock::time_point deadline, Stage& stage) {
    const auto connect_deadline =
        std::min(deadline, Clock::now() + std::chrono::duration_cast<Clock::duration>(
                                              std::chrono::duration<double>(options.connect_timeout_s)));
    tcp::resolver resolver(io);
    const auto addresses = co_await resolver.async_resolve(url.host, std::to_string(url.port),
                                                           tcp::resolver::numeric_service, asio::use_awaitable);
    for (const auto& entry : addresses)
      if (!may_connect(entry.endpoint().address(), options.allow_loopback))
        co_return Fetched{{}, "its host's address is not a public one"};

    stage = Stage::connect;
    if (!url.tls) {
      beast::tcp_stream stream(io);
      stream.expires_at(connect_deadline);
      co_await stream.async_connect(addresses, asio::use_awaitable);
      stage = Stage::exchange;
      stream.expires_at(deadline);
      co_return co_await exchange(stream, url);
    }
    beast::ssl_stream<beast::tcp_stream> stream(io, tls);
    SSL* const ssl = stream.native_handle();
    if (!SSL_set_tlsext_host_name(ssl, url.host.c_str()) || !SSL_set1_host(ssl, url.host.c_str()))
      co_return Fetched{{}, "it could not be fetched"};
    SSL_set_hostflags(ssl, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
    stream.next_layer().expires_at(connect_deadline);
    co_await stream.next_layer().async_connect(addresses, asio::use_awaitable);
    stage = Stage::handshake;
    co_await stream.async_handshake(asio::ssl::stream_base::client, asio::use_awaitable);
    stage = Stage::exchange;
    stream.next_layer().expires_at(deadline);
    co_return co_await exchange(stream, url);
  }

  template <class Stream>
  asio::awaitable<Fetched> exchange(Stream& stream, const PictureUrl& url) {
    http::request<http::empty_body> request(http::verb::get, url.target, 11);
    request.set(http::field::host, url.default_port() ? url.host : cat(url.host, ":", url.port));
    request.set(http::field::user_agent, cat("l4/", build_info().version));
    request.set(http::field::accept, "image/png, image/jpeg, image/webp, image/bmp");
    request.set(http::field::accept_encoding, "identity");
    request.set(http::field::connection, "close");
    co_await http::async_write(stream, request, asio::use_awaitable);

    beast::flat_buffer buffer(kMaxHeaderBytes + 65536);
    http::response_parser<http::string_body> parser;
    parser.header_limit(kMaxHeaderBytes);
    parser.body_limit(options.max_bytes);
    co_await http::async_read_header(stream, buffer, parser, asio::use_awaitable);
    const unsigned status = parser.get().result_int();
    if (status >= 300 && status < 400) co_return Fetched{{}, "its host redirects, which is not followed"};
    if (status != 200) co_return Fetched{{}, cat("its host answers with status ", status)};
    const auto encoding = parser.get()[http::field::content_encoding];
    if (!encoding.empty() && encoding != "identity") co_return Fetched{{}, "its host's answer is compressed"};
    co_await http::async_read(stream, buffer, parser, asio::use_awaitable);
    co_return Fetched{std::move(parser.get().body()), {}};
  }

  FetchOptions options;
  asio::ssl::context tls;
  asio::io_context io{1};
  asio::executor_work_guard<asio::io_context::executor_type> work{io.get_executor()};
  std::thread thread;
};

Fetcher::Fetcher(FetchOptions options) : impl_(std::make_unique<Impl>(std::move(options))) {}
Fetcher::~Fetcher() = default;

void Fetcher::check(const PictureUrl& url) const {
  const FetchOptions& o = impl_->options;
  if (std::find(o.domains.begin(), o.domains.end(), url.host) == o.domains.end())
    fail(ErrorKind::usage, "its host is none of --allowed-media-domains");
  if (!url.default_port() && !o.allow_loopback)
    fail(ErrorKind::usage, "port ", url.port, ": only 80 (http) and 443 (https) are fetched from");
}

std::vector<Fetcher::Fetched> Fetcher::fetch(std::span<const PictureUrl> urls, Clock::time_point deadline) {
  std::vector<std::future<Fetched>> futures;
  for (const PictureUrl& url : urls)
    futures.push_back(asio::co_spawn(impl_->io, impl_->fetch(url, deadline), asio::use_future));
  std::vector<Fetched> out;
  // A moment more, for the streams' own time-outs; only a name server that does not answer is slower than that.
  const auto last = deadline + std::chrono::milliseconds(200);
  for (std::future<Fetched>& future : futures) {
    if (future.wait_until(last) == std::future_status::ready)
      out.push_back(future.get());
    else
      out.push_back({{}, "it was not fetched in time"});
  }
  return out;
}

}  // namespace l4::tools
