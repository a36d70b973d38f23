#include "tools/serve/http/stream.h"

#include <openssl/ssl.h>

#include <boost/asio/ssl.hpp>

#include "base/error.h"

namespace l4::serve {

namespace {

class PlainStream final : public Stream {
 public:
  explicit PlainStream(tcp::socket socket) : socket_(std::move(socket)) {}
  void handshake(Done done) override { done({}, 0); }
  void read_some(asio::mutable_buffer to, Done done) override { socket_.async_read_some(to, std::move(done)); }
  void write_some(asio::const_buffer from, Done done) override { socket_.async_write_some(from, std::move(done)); }
  void shutdown_send() override {
    error_code ignored;
    socket_.shutdown(tcp::socket::shutdown_send, ignored);
  }
  tcp::socket& socket() override { return socket_; }

 private:
  tcp::socket socket_;
};

class TlsStream final : public Stream, public std::enable_shared_from_this<TlsStream> {
 public:
  TlsStream(tcp::socket socket, asio::ssl::context& context) : stream_(std::move(socket), context) {}
  void handshake(Done done) override {
    stream_.async_handshake(asio::ssl::stream_base::server, [done = std::move(done)](error_code ec) { done(ec, 0); });
  }
  void read_some(asio::mutable_buffer to, Done done) override { stream_.async_read_some(to, std::move(done)); }
  void write_some(asio::const_buffer from, Done done) override { stream_.async_write_some(from, std::move(done)); }
  void shutdown_send() override {
    stream_.async_shutdown([self = shared_from_this()](error_code) {
      error_code ignored;
      self->socket().shutdown(tcp::socket::shutdown_send, ignored);
    });
  }
  tcp::socket& socket() override { return stream_.next_layer(); }

 private:
  asio::ssl::stream<tcp::socket> stream_;
};

// HTTP/1.1 for clients that ask what is spoken; those that speak something else get no handshake.
int choose_protocol(SSL*, const unsigned char** out, unsigned char* out_size, const unsigned char* offered,
                    unsigned offered_size, void*) {
  static constexpr unsigned char kOurs[] = "\x08http/1.1";
  unsigned char* chosen = nullptr;
  if (SSL_select_next_proto(&chosen, out_size, kOurs, sizeof kOurs - 1, offered, offered_size) !=
      OPENSSL_NPN_NEGOTIATED)
    return SSL_TLSEXT_ERR_ALERT_FATAL;
  *out = chosen;
  return SSL_TLSEXT_ERR_OK;
}

}  // namespace

void Stream::close() {
  error_code ignored;
  socket().close(ignored);
}

struct TlsContext::Impl {
  asio::ssl::context context{asio::ssl::context::tls_server};
};

TlsContext::TlsContext(const fs::path& certificate, const fs::path& key) : impl_(std::make_unique<Impl>()) {
  asio::ssl::context& context = impl_->context;
  for (const fs::path& path : {certificate, key}) read_file(path, 1 << 20);  // says what is wrong with the file itself
  SSL_CTX* native = context.native_handle();
  SSL_CTX_set_min_proto_version(native, TLS1_2_VERSION);
  SSL_CTX_set_options(native, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION);
  SSL_CTX_set_mode(native, SSL_MODE_RELEASE_BUFFERS);  // idle connections hold no 34 KiB each
  SSL_CTX_set_alpn_select_cb(native, choose_protocol, nullptr);
  // A key with a password is refused instead of asked for on the terminal.
  context.set_password_callback([](size_t, asio::ssl::context::password_purpose) { return std::string(); });
  error_code ec;
  context.use_certificate_chain_file(certificate.string(), ec);
  if (ec) fail_input(certificate.string(), ": no PEM certificate chain in it");
  context.use_private_key_file(key.string(), asio::ssl::context::pem, ec);
  if (ec)
    fail_input(key.string(), ": no PEM private key without a password in it, or not the key of ", certificate.string());
  if (SSL_CTX_check_private_key(native) != 1) fail_input(key.string(), ": not the key of ", certificate.string());
}

TlsContext::~TlsContext() = default;

std::shared_ptr<Stream> make_stream(tcp::socket socket, TlsContext* tls) {
  if (tls) return std::make_shared<TlsStream>(std::move(socket), tls->impl_->context);
  return std::make_shared<PlainStream>(std::move(socket));
}

}  // namespace l4::serve
