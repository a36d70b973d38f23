// Who may ask: TLS, API keys, browsers' pages of other origins.
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>

#include <cstdio>

#include "formats/json.h"
#include "tools/serve_http_fixture.h"

using namespace l4;
using test::get;
using test::post;
using test::quick_options;
using test::RawClient;
using test::TestServer;

namespace {

// A certificate for "localhost" that signs itself, and its key, made here.
void make_certificate(const fs::path& certificate, const fs::path& key) {
  EVP_PKEY* pkey = EVP_EC_gen("P-256");
  X509* x509 = X509_new();
  X509_set_version(x509, 2);
  ASN1_INTEGER_set(X509_get_serialNumber(x509), 1);
  X509_gmtime_adj(X509_getm_notBefore(x509), -60);
  X509_gmtime_adj(X509_getm_notAfter(x509), 3600);
  X509_set_pubkey(x509, pkey);
  X509_NAME* name = X509_get_subject_name(x509);
  X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC, reinterpret_cast<const unsigned char*>("localhost"), -1, -1, 0);
  X509_set_issuer_name(x509, name);
  REQUIRE(X509_sign(x509, pkey, EVP_sha256()) > 0);
  std::FILE* file = std::fopen(certificate.c_str(), "w");
  PEM_write_X509(file, x509);
  std::fclose(file);
  file = std::fopen(key.c_str(), "w");
  PEM_write_PrivateKey(file, pkey, nullptr, nullptr, 0, nullptr, nullptr);
  std::fclose(file);
  X509_free(x509);
  EVP_PKEY_free(pkey);
}

class TlsClient {
 public:
  // max_version 0: the newest
  TlsClient(int port, const fs::path& certificate, int max_version = 0, const std::string& alpn = {}) : raw_(port) {
    context_ = SSL_CTX_new(TLS_client_method());
    SSL_CTX_load_verify_locations(context_, certificate.c_str(), nullptr);
    SSL_CTX_set_verify(context_, SSL_VERIFY_PEER, nullptr);
    if (max_version) {
      SSL_CTX_set_security_level(context_, 0);
      SSL_CTX_set_min_proto_version(context_, TLS1_VERSION);
      SSL_CTX_set_max_proto_version(context_, max_version);
    }
    ssl_ = SSL_new(context_);
    if (!alpn.empty())
      SSL_set_alpn_protos(ssl_, reinterpret_cast<const unsigned char*>(alpn.data()), unsigned(alpn.size()));
    SSL_set_fd(ssl_, raw_.fd());
    is_connected = SSL_connect(ssl_) == 1;
    ERR_clear_error();
  }
  ~TlsClient() {
    SSL_free(ssl_);
    SSL_CTX_free(context_);
  }
  TlsClient(const TlsClient&) = delete;

  void send(const std::string& bytes) {
    REQUIRE(SSL_write(ssl_, bytes.data(), int(bytes.size())) == int(bytes.size()));
  }
  // Up to and with the text; all there was, where the end came first.
  std::string until(const std::string& text) {
    for (size_t at; (at = received_.find(text)) == received_.npos;) {
      char part[4096];
      if (!SSL_pending(ssl_) && !raw_.wait_readable(5)) break;
      const int n = SSL_read(ssl_, part, sizeof part);
      if (n <= 0) {
        ended_well = SSL_get_error(ssl_, n) == SSL_ERROR_ZERO_RETURN;  // said so, not just gone
        break;
      }
      received_.append(part, size_t(n));
    }
    const size_t at = received_.find(text);
    const size_t n = at == received_.npos ? received_.size() : at + text.size();
    std::string out = received_.substr(0, n);
    received_.erase(0, n);
    return out;
  }
  bool is_connected = false, ended_well = false;
  RawClient& raw() { return raw_; }
  SSL* ssl() { return ssl_; }

 private:
  RawClient raw_;
  SSL_CTX* context_ = nullptr;
  SSL* ssl_ = nullptr;
  std::string received_;
};

struct TlsFiles {
  TlsFiles() { make_certificate(certificate, key); }
  test::TempDir dir;
  fs::path certificate = dir / "cert.pem", key = dir / "key.pem";
};

}  // namespace

TEST_CASE("serve http: TLS") {
  TlsFiles files;
  serve::ServerOptions o = quick_options();
  using S = serve::ServerOptions::Seconds;
  o.header_timeout = S(1);  // of the silent ones; nobody else here is to be too slow
  o.body_timeout = o.idle_timeout = o.write_timeout = S(10);
  o.tls_certificate = files.certificate;
  o.tls_key = files.key;
  TestServer s(o);
  CHECK(s.server->url() == cat("https://127.0.0.1:", s.server->port()));
  {
    TlsClient c(s.server->port(), files.certificate);
    REQUIRE(c.is_connected);
    CHECK(SSL_get_version(c.ssl()) == std::string("TLSv1.3"));
    c.send(post("/echo", std::string(100'000, 'x') + "end"));
    const std::string answer = c.until("xend");
    CHECK(answer.starts_with("HTTP/1.1 200 OK"));
    CHECK(answer.size() > 100'000);
    c.send(post("/events?3", "t"));
    CHECK(c.until("\r\n0\r\n\r\n").find("data: t3\n\ndata: t2\n\ndata: t1\n\ndata: [DONE]\n\n") != std::string::npos);
    c.send(get("/health", "Connection: close\r\n"));
    CHECK(c.until("never").find("200 OK") != std::string::npos);
    CHECK(c.ended_well);
  }
  {  // a client that leaves in a stream
    TlsClient c(s.server->port(), files.certificate);
    c.send(post("/events?100000000", "t"));
    c.until("data: t");
  }
  CHECK(s.wait_for([&] { return s.pump.n_closed() == 1; }));
  CHECK(TlsClient(s.server->port(), files.certificate, TLS1_2_VERSION).is_connected);
  CHECK(!TlsClient(s.server->port(), files.certificate, TLS1_1_VERSION).is_connected);
  TlsClient alpn(s.server->port(), files.certificate, 0, "\x02h2\x08http/1.1");
  const unsigned char* chosen = nullptr;
  unsigned size = 0;
  SSL_get0_alpn_selected(alpn.ssl(), &chosen, &size);
  CHECK(std::string(reinterpret_cast<const char*>(chosen), size) == "http/1.1");
  CHECK(!TlsClient(s.server->port(), files.certificate, 0, "\x02h2").is_connected);
  // HTTP in the clear, a handshake that does not go on, and rubbish: closed.
  RawClient plain = s.client(), silent = s.client(), rubbish = s.client();
  plain.send(get("/health"));
  rubbish.send(std::string("\x16\x03\x01\x00\x05zzzzz", 10));
  CHECK(plain.ends());
  CHECK(silent.ends());
  CHECK(rubbish.ends());
  CHECK(TlsClient(s.server->port(), files.certificate).is_connected);
  CHECK(s.wait_for([&] { return s.server->stats().connections <= 1; }));
}

TEST_CASE("serve http: certificates and keys that do not do are one line with the file's name") {
  TlsFiles files, others;
  write_file_atomic(files.dir / "text", "no certificate");
  serve::Router router;
  serve::Metrics metrics;
  const serve::ServeLog log;
  const auto error = [&](const fs::path& certificate, const fs::path& key) {
    serve::ServerOptions o = quick_options();
    o.tls_certificate = certificate;
    o.tls_key = key;
    return test::error_of([&] { serve::Server(o, router, metrics, log); });
  };
  CHECK(error("/no/such", files.key).starts_with("/no/such"));
  CHECK(error(files.dir / "text", files.key) == (files.dir / "text").string() + ": no PEM certificate chain in it");
  CHECK(
      error(files.certificate, files.dir / "text").starts_with((files.dir / "text").string() + ": no PEM private key"));
  CHECK(error(files.certificate, others.key).find("not the key of " + files.certificate.string()) != std::string::npos);
  CHECK(error(files.certificate, "").find("--ssl-keyfile") != std::string::npos);
}

TEST_CASE("serve http: API keys guard everything but health and readiness") {
  serve::ServerOptions o = quick_options();
  o.api_keys = {"sk-one", "sk-two"};
  TestServer s(o);
  RawClient c = s.client();
  CHECK(c.send(get("/health")).response().status == 200);
  CHECK(c.send(get("/ready")).response().status == 200);
  for (const char* path : {"/metrics", "/version", "/v1/models/x"}) {
    const auto r = c.send(get(path)).response();
    CHECK(r.status == 401);
    CHECK(r.header("www-authenticate") == "Bearer");
    CHECK(parse_json(r.body, "body").find("error")->find("type")->as_string() == "authentication_error");
    CHECK(parse_json(r.body, "body").find("error")->find("code")->as_string() == "invalid_api_key");
    CHECK(c.send(get(path, "Authorization: Bearer sk-two\r\n")).response().status == 200);
    CHECK(c.send(get(path, "x-api-key: sk-one\r\n")).response().status == 200);
    CHECK(c.send(get(path, "x-api-key: sk-\r\n")).response().status == 401);
  }
  // A long body without a key is not read.
  c.send("POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 10000000\r\n\r\n");
  CHECK(c.response().status == 401);
  CHECK(c.ends());
  CHECK(s.log_text().find("sk-") == std::string::npos);
}

TEST_CASE("serve http: pages of other origins") {
  const auto answers = [](std::vector<std::string> origins, const std::string& origin) {
    serve::ServerOptions o = quick_options();
    o.allowed_origins = std::move(origins);
    o.api_keys = {"key"};
    TestServer s(o);
    RawClient c = s.client();
    const std::string header = "Origin: " + origin + "\r\n";
    const auto r = c.send(get("/health", header)).response();
    // Errors too, or the page could not read them.
    CHECK(c.send(get("/metrics", header)).response().header("access-control-allow-origin") ==
          r.header("access-control-allow-origin"));
    // Asked before a request that has a key: without one.
    const auto preflight = c.send("OPTIONS /echo HTTP/1.1\r\nHost: x\r\n" + header +
                                  "Access-Control-Request-Method: POST\r\n"
                                  "Access-Control-Request-Headers: authorization,content-type\r\n\r\n")
                               .response();
    CHECK(preflight.status == 204);
    CHECK(preflight.header("access-control-allow-methods") == "POST, OPTIONS");
    CHECK(preflight.header("access-control-allow-headers") == "authorization,content-type");
    CHECK(preflight.header("access-control-allow-origin") == r.header("access-control-allow-origin"));
    return r.header("access-control-allow-origin");
  };
  CHECK(answers({}, "https://a.example") == "");
  CHECK(answers({"*"}, "https://a.example") == "*");
  CHECK(answers({"https://b.example", "https://a.example"}, "https://a.example") == "https://a.example");
  CHECK(answers({"https://a.example"}, "https://a.example.evil") == "");
}
