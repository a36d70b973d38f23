// A connection's bytes, plain or through TLS. All calls and callbacks on the connection's I/O thread. Internal to
// http/: brings Boost.Asio.
#pragma once

#include <boost/asio/buffer.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <functional>
#include <memory>
#include <string>

#include "base/file.h"

namespace l4::serve {

namespace asio = boost::asio;
using asio::ip::tcp;
using boost::system::error_code;

class Stream {
 public:
  using Done = std::function<void(error_code, size_t)>;
  virtual ~Stream() = default;

  virtual void handshake(Done done) = 0;  // at once for plain ones
  virtual void read_some(asio::mutable_buffer to, Done done) = 0;
  virtual void write_some(asio::const_buffer from, Done done) = 0;
  virtual void shutdown_send() = 0;  // the client reads the end of the stream; nothing is written after it
  virtual tcp::socket& socket() = 0;
  void close();
};

class TlsContext {  // certificate and key, shared by all connections
 public:
  // Error{io | input} naming the file that does not load.
  TlsContext(const fs::path& certificate, const fs::path& key);
  ~TlsContext();

 private:
  friend std::shared_ptr<Stream> make_stream(tcp::socket socket, TlsContext* tls);
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

std::shared_ptr<Stream> make_stream(tcp::socket socket, TlsContext* tls);  // nullptr: plain

}  // namespace l4::serve
