// HTTP/1.1 requests out of bytes, however they are cut: Beast's parser with our limits, without sockets (so that tests
// and fuzzers drive all of it).
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "tools/serve/api_error.h"
#include "tools/serve/exchange.h"

namespace l4::serve {

struct ReaderLimits {
  int64_t max_header_bytes = 64 << 10;
  int64_t max_headers = 100;
};

class RequestReader {
 public:
  enum class State {
    idle,    // no byte of the next request yet
    header,  // some
    decide,  // the header is whole: accept_body() says how much of a body may come
    body,    // some of it is missing
    whole,   // next() goes on to the following request
    failed,  // error() says what to answer; nothing more is read from this connection
  };

  explicit RequestReader(ReaderLimits limits);
  ~RequestReader();

  State add(std::string_view bytes);  // stops at decide, whole and failed; what is left waits
  State accept_body(int64_t max_bytes);
  State next();

  State state() const { return state_; }
  const ErrorBody& error() const { return error_; }
  size_t waiting_bytes() const { return buffer_.size() - begin_; }  // sent ahead

  // From decide on; the body and the query's target are in it once it is whole. May be moved out.
  HttpRequest& request();
  std::optional<uint64_t> content_length() const;  // none: chunked, or no body (0)
  bool has_body() const;
  int64_t body_bytes() const;  // so far
  bool expects_continue() const;
  bool keep_alive() const;  // what the client wants
  bool is_http_1_0() const;

 private:
  struct Parser;
  State parse();
  State fail(ErrorBody error);

  ReaderLimits limits_;
  State state_ = State::idle;
  ErrorBody error_;
  std::string buffer_;
  size_t begin_ = 0;  // of what is not parsed
  std::unique_ptr<Parser> parser_;
};

}  // namespace l4::serve
