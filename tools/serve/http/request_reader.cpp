#include "tools/serve/http/request_reader.h"

#include <boost/beast/http/basic_parser.hpp>

#include "base/strings.h"

namespace l4::serve {

namespace http = boost::beast::http;
using boost::beast::string_view;
using boost::system::error_code;

namespace {

// A chunk's header, with extensions that nobody reads, and the trailers.
constexpr size_t kMaxChunkHeaderBytes = 16 << 10;

bool equals_ignoring_case(std::string_view a, std::string_view b) {
  return a.size() == b.size() && to_lower(a) == to_lower(b);
}

// "GET", "PATCH": a token of capitals; anything else is no method that a route could have.
bool is_method(std::string_view method) {
  if (method.empty() || method.size() > 20) return false;
  for (char c : method)
    if ((c < 'A' || c > 'Z') && c != '-' && c != '_') return false;
  return true;
}

ErrorBody error_of(error_code ec) {
  using E = http::error;
  if (ec == E::header_limit || ec == E::buffer_overflow)
    return api_error(431, "the request's header is too large", "", "", "header_too_large");
  if (ec == E::body_limit) return api_error(413, "the request's body is too large");
  if (ec == E::bad_chunk || ec == E::bad_chunk_extension)
    return api_error(400, "the request's chunked body is malformed", "", "", "bad_request");
  if (ec == E::bad_content_length || ec == E::multiple_content_length || ec == E::bad_transfer_encoding)
    return api_error(400, "the request's length headers are malformed or contradict each other", "", "", "bad_request");
  return api_error(400, "the request is not well-formed HTTP/1.1", "", "", "bad_request");
}

ErrorBody wrong_version() {
  return api_error(505, "HTTP/1.1 and HTTP/1.0 are spoken here", "invalid_request_error", "", "bad_http_version");
}

}  // namespace

struct RequestReader::Parser final : http::basic_parser<true> {
  explicit Parser(const ReaderLimits& reader_limits) : limits(reader_limits) {
    header_limit(std::uint32_t(limits.max_header_bytes));
    body_limit(boost::none);  // kept here: only the route knows it
    eager(true);
  }

  const ReaderLimits& limits;
  HttpRequest request;
  int64_t header_bytes = 0, max_body_bytes = 0;
  bool has_host = false, header_done = false;
  std::optional<ErrorBody> refusal;  // what the error code of a callback cannot say
  int minor_version = 1;

  void refuse(ErrorBody error, error_code& ec) {
    refusal = std::move(error);
    ec = http::error::bad_value;
  }

  void on_request_impl(http::verb, string_view method, string_view target, int version, error_code& ec) override {
    header_bytes = int64_t(method.size() + target.size()) + 12;
    minor_version = version - 10;
    request.method.assign(method.data(), method.size());
    std::string_view path(target.data(), target.size());
    for (unsigned char c : path)
      if (c <= ' ' || c >= 0x7f)
        return refuse(
            api_error(400, "the request's target has characters that must be percent-encoded", "", "", "bad_request"),
            ec);
    if (!is_method(request.method))
      return refuse(api_error(400, "the request's method is malformed", "", "", "bad_request"), ec);
    for (std::string_view scheme : {"http://", "https://"})  // as proxies write it
      if (path.substr(0, scheme.size()) == scheme) {
        path.remove_prefix(std::min(path.size(), path.find('/', scheme.size())));
        if (path.empty()) path = "/";
      }
    const size_t mark = path.find('?');
    request.path = path.substr(0, mark);
    if (mark != path.npos) request.query = path.substr(mark + 1);
    const bool is_whole_server = request.method == "OPTIONS" && path == "*";
    if (path[0] != '/' && !is_whole_server)
      refuse(api_error(400, "the request's target is not a path", "", "", "bad_request"), ec);
  }

  void on_response_impl(int, string_view, int, error_code&) override {}

  void on_field_impl(http::field field, string_view name, string_view value, error_code& ec) override {
    if (header_done) return;  // a trailer: nothing of it counts
    header_bytes += int64_t(name.size() + value.size()) + 4;
    if (header_bytes > limits.max_header_bytes || int64_t(request.headers.size()) >= limits.max_headers) {
      ec = http::error::header_limit;
      return;
    }
    for (unsigned char c : value)
      if ((c < ' ' && c != '\t') || c == 0x7f) {
        ec = http::error::bad_value;
        return;
      }
    if (field == http::field::host) {
      if (has_host) return refuse(api_error(400, "the request has two Host headers", "", "", "bad_request"), ec);
      has_host = true;
    }
    // Only "chunked" is understood; anything before or after it would hide where the body ends.
    if (field == http::field::transfer_encoding && !equals_ignoring_case({value.data(), value.size()}, "chunked"))
      return refuse(api_error(501, "no transfer encoding but chunked is spoken here", "invalid_request_error", "",
                              "bad_transfer_encoding"),
                    ec);
    request.headers.emplace_back(std::string(name.data(), name.size()), std::string(value.data(), value.size()));
  }

  void on_header_impl(error_code& ec) override {
    header_done = true;
    if (!has_host && minor_version >= 1)
      return refuse(api_error(400, "the request has no Host header", "", "", "bad_request"), ec);
    if (minor_version == 0 && chunked())
      return refuse(api_error(400, "an HTTP/1.0 request cannot be chunked", "", "", "bad_request"), ec);
    const std::string* encoding = request.header("content-encoding");
    if (encoding && !equals_ignoring_case(*encoding, "identity"))
      return refuse(api_error(415, "bodies are taken without Content-Encoding", "", "", "unsupported_encoding"), ec);
  }

  void on_body_init_impl(const boost::optional<std::uint64_t>&, error_code&) override {}

  size_t take_body(string_view bytes, error_code& ec) {
    if (int64_t(request.body.size() + bytes.size()) > max_body_bytes) {
      ec = http::error::body_limit;
      return 0;
    }
    request.body.append(bytes.data(), bytes.size());
    return bytes.size();
  }
  size_t on_body_impl(string_view bytes, error_code& ec) override { return take_body(bytes, ec); }
  void on_chunk_header_impl(std::uint64_t size, string_view, error_code& ec) override {
    // Said before the chunk comes. (The remaining room is never negative.)
    if (size > uint64_t(max_body_bytes) - request.body.size()) ec = http::error::body_limit;
  }
  size_t on_chunk_body_impl(std::uint64_t, string_view bytes, error_code& ec) override { return take_body(bytes, ec); }
  void on_finish_impl(error_code&) override {}
};

RequestReader::RequestReader(ReaderLimits limits) : limits_(limits), parser_(std::make_unique<Parser>(limits_)) {}
RequestReader::~RequestReader() = default;

RequestReader::State RequestReader::fail(ErrorBody error) {
  error_ = std::move(error);
  buffer_.clear();
  begin_ = 0;
  return state_ = State::failed;
}

RequestReader::State RequestReader::add(std::string_view bytes) {
  if (state_ == State::failed) return state_;
  buffer_.append(bytes);
  return state_ == State::idle || state_ == State::header || state_ == State::body ? parse() : state_;
}

RequestReader::State RequestReader::parse() {
  // Empty lines before a request are ignored, as RFC 9112 2.2 asks for.
  while (state_ == State::idle && buffer_.compare(begin_, 2, "\r\n") == 0) begin_ += 2;
  if (state_ == State::idle && waiting_bytes() == 1 && buffer_[begin_] == '\r') return state_;
  // Until the header is whole the parser stops there, afterwards at the body's end.
  while (begin_ < buffer_.size() && !parser_->is_done()) {
    if (state_ == State::idle) state_ = State::header;
    parser_->eager(state_ == State::body);
    error_code ec;
    const size_t taken = parser_->put(boost::asio::const_buffer(buffer_.data() + begin_, buffer_.size() - begin_), ec);
    begin_ += taken;
    // (A line that ends in a line feed alone is not of another version.)
    if (ec == http::error::bad_version && buffer_.find('\n') == buffer_.find("\r\n") + 1) return fail(wrong_version());
    if (ec && ec != http::error::need_more) return fail(parser_->refusal ? std::move(*parser_->refusal) : error_of(ec));
    if (state_ == State::header && parser_->is_header_done()) {
      state_ = State::decide;
      break;
    }
    if (ec == http::error::need_more || taken == 0) {
      // The parser bounds a header itself, not what stands between two chunks.
      if (state_ == State::body && waiting_bytes() > kMaxChunkHeaderBytes)
        return fail(error_of(http::error::bad_chunk));
      break;
    }
  }
  if (state_ == State::body && parser_->is_done()) state_ = State::whole;
  buffer_.erase(0, begin_);
  begin_ = 0;
  return state_;
}

RequestReader::State RequestReader::accept_body(int64_t max_bytes) {
  L4_CHECK(state_ == State::decide);
  parser_->max_body_bytes = max_bytes;
  if (const auto length = content_length(); length && *length > uint64_t(max_bytes))
    return fail(error_of(http::error::body_limit));
  state_ = State::body;
  return parse();
}

RequestReader::State RequestReader::next() {
  L4_CHECK(state_ == State::whole);
  parser_ = std::make_unique<Parser>(limits_);
  buffer_.shrink_to_fit();  // a connection that waits holds no body's memory
  state_ = State::idle;
  return parse();
}

HttpRequest& RequestReader::request() {
  return parser_->request;
}
std::optional<uint64_t> RequestReader::content_length() const {
  const auto length = parser_->content_length();
  return length ? std::optional<uint64_t>(*length) : std::nullopt;
}
bool RequestReader::has_body() const {
  return parser_->chunked() || content_length().value_or(0) > 0;
}
int64_t RequestReader::body_bytes() const {
  return int64_t(parser_->request.body.size());
}
bool RequestReader::expects_continue() const {
  const std::string* expect = parser_->request.header("expect");
  return expect && equals_ignoring_case(*expect, "100-continue");
}
bool RequestReader::keep_alive() const {
  return parser_->keep_alive();
}
bool RequestReader::is_http_1_0() const {
  return parser_->minor_version == 0;
}

}  // namespace l4::serve
