#include "tools/common/media/url.h"

#include <arpa/inet.h>

#include <string>
#include <vector>

#include "support/test.h"

using namespace l4;
using namespace l4::test;
using namespace l4::tools;

namespace {

std::vector<uint8_t> address(const char* text) {
  std::vector<uint8_t> v4(4), v6(16);
  if (inet_pton(AF_INET, text, v4.data()) == 1) return v4;
  REQUIRE_MESSAGE(inet_pton(AF_INET6, text, v6.data()) == 1, text);
  return v6;
}

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

}  // namespace

TEST_CASE("media: addresses of the web that are read, and what they mean") {
  struct Row {
    const char* text;
    bool tls;
    const char* host;
    uint16_t port;
    const char* target;
  };
  const Row rows[] = {
      {"http://example.com", false, "example.com", 80, "/"},
      {"https://example.com/", true, "example.com", 443, "/"},
      {"HTTPS://Example.COM/A.png", true, "example.com", 443, "/A.png"},
      {"https://example.com:8443/a.png?x=1&y=%20#part", true, "example.com", 8443, "/a.png?x=1&y=%20"},
      {"http://example.com?q=/a@b:c", false, "example.com", 80, "/?q=/a@b:c"},
      {"http://example.com#@evil.com/", false, "example.com", 80, "/"},
      {"http://example.com/../../etc", false, "example.com", 80, "/../../etc"},  // the server's own matter
      {"http://a-b_c.xn--bcher-kva.example/", false, "a-b_c.xn--bcher-kva.example", 80, "/"},
      {"http://localhost:1/", false, "localhost", 1, "/"},
      {"http://1.2.3.4.example/", false, "1.2.3.4.example", 80, "/"},
      {"http://0xhost.com/", false, "0xhost.com", 80, "/"},
      {"http://example.com:65535/", false, "example.com", 65535, "/"},
  };
  for (const Row& row : rows) {
    CAPTURE(row.text);
    const PictureUrl url = parse_picture_url(row.text);
    CHECK(url.tls == row.tls);
    CHECK(url.host == row.host);
    CHECK(url.port == row.port);
    CHECK(url.target == row.target);
  }
}

TEST_CASE("media: addresses of the web that are refused, by what is wrong") {
  using namespace std::string_literals;
  const std::pair<std::string, const char*> rows[] = {
      {"", "neither http"},
      {"ftp://example.com/", "neither http"},
      {"gopher://example.com/", "neither http"},
      {"http:/example.com/", "neither http"},
      {"http:example.com", "neither http"},
      {" http://example.com/", "neither http"},
      {"//example.com/", "neither http"},
      {"http://", "no host"},
      {"http:///a.png", "no host"},
      {"http://:80/", "no host"},
      {"http://?a", "no host"},
      {"http://user@example.com/", "user"},
      {"http://user:word@example.com/", "user"},
      {"http://example.com:80@127.0.0.1/", "user"},
      {"http://@example.com/", "user"},
      // What made two parsers disagree: one ends the host at the backslash, the other goes on.
      {"http://example.com\\@127.0.0.1/", "user"},
      {"http://example.com\\.evil.com/", "character"},
      {"http:\\\\example.com/", "neither http"},
      {"http://example.com/a\\b", "character"},
      {"http://exam ple.com/", "character"},
      {"http://example.com/a b", "character"},
      {"http://example.com/\r\nHost: evil.com", "character"},
      {"http://example.com/\t", "character"},
      {"http://example.com/\0x"s, "character"},
      {"http://example.com/\x7F", "character"},
      {"http://b\xC3\xBC"
       "cher.example/",
       "character"},
      {"http://example.com\xE3\x80\x82"
       "evil.com/",
       "character"},                                                        // an ideographic full stop
      {"http://\xE2\x91\xA0\xE2\x91\xA1\xE2\x91\xA6.0.0.1/", "character"},  // circled digits
      {"http://example.com/<>", "character"},
      {"http://example.com/{a}", "character"},
      {"http://example.com/[a]", "character"},
      {"http://127.0.0.1/", "an address, not a name"},
      {"http://127.1/", "an address, not a name"},
      {"http://0177.0.0.1/", "an address, not a name"},
      {"http://0x7f.0.0.1/", "an address, not a name"},
      {"http://0x7F000001/", "an address, not a name"},
      {"http://foo.0x1/", "an address, not a name"},
      {"http://0x/", "an address, not a name"},
      {"http://2130706433/", "an address, not a name"},
      {"http://017700000001/", "an address, not a name"},
      {"http://8.8.8.8/", "an address, not a name"},
      {"http://169.254.169.254/latest/meta-data/", "an address, not a name"},
      {"http://[::1]/", "an address, not a name"},
      {"http://[::ffff:127.0.0.1]:80/", "an address, not a name"},
      {"http://[v1.a]/", "an address, not a name"},
      {"http://::1/", "port"},
      {"http://example.com./", "no name of letters"},
      {"http://127.0.0.1./", "no name of letters"},
      {"http://.example.com/", "no name of letters"},
      {"http://a..b/", "no name of letters"},
      {"http://-a.com/", "no name of letters"},
      {"http://a-.com/", "no name of letters"},
      {"http://ex%61mple.com/", "no name of letters"},
      {"http://example.com%2F@evil/", "user"},
      {"http://example.com%00.evil.com/", "no name of letters"},
      {"http://a,b/", "no name of letters"},
      {"http://*.example.com/", "no name of letters"},
      {"http://" + std::string(64, 'a') + ".com/", "no name of letters"},
      {"http://" + std::string(300, 'a') + "/", "too long"},
      {"http://example.com:/", "port"},
      {"http://example.com:0/", "port"},
      {"http://example.com:080/", "port"},
      {"http://example.com:65536/", "port"},
      {"http://example.com:99999999999/", "port"},
      {"http://example.com:-1/", "port"},
      {"http://example.com:+80/", "port"},
      {"http://example.com:80:80/", "port"},
      {"http://example.com:8o/", "port"},
      {"http://example.com/%", "hex"},
      {"http://example.com/%4", "hex"},
      {"http://example.com/%zz", "hex"},
      {"http://example.com/" + std::string(9000, 'a'), "too long"},
  };
  for (const auto& [text, part] : rows) {
    CAPTURE(text);
    const std::string message = error_of([&, &url = text] { parse_picture_url(url); });
    CHECK_MESSAGE(contains(message, part), message);
    CHECK(!contains(message, "\n"));
    CHECK(message.size() < 200);
  }
}

TEST_CASE("media: the list of allowed hosts takes names alone") {
  CHECK(check_domain("Example.COM") == "example.com");
  for (const char* host : {"", "127.0.0.1", "[::1]", "::1", "example.com:80", "https://example.com", "a b",
                           "*.example.com", "example.com.", "example.com/"}) {
    CAPTURE(host);
    error_of([&] { check_domain(host); });
  }
}

TEST_CASE("media: addresses that are public, and all that are not") {
  for (const char* text : {"8.8.8.8",         "1.1.1.1",
                           "93.184.216.34",   "100.63.255.255",
                           "100.128.0.0",     "172.15.255.255",
                           "172.32.0.0",      "192.167.255.255",
                           "192.169.0.0",     "198.17.255.255",
                           "198.20.0.0",      "11.0.0.0",
                           "126.255.255.255", "128.0.0.0",
                           "169.253.255.255", "223.255.255.255",
                           "2606:4700::1111", "2a00:1450:4001:81b::200e",
                           "2001:200::1",     "2001:4860:4860::8888",
                           "3fff:1000::1",    "64:ff9b::8.8.8.8"}) {
    CAPTURE(text);
    CHECK(is_public_address(address(text)));
  }
  for (const char* text : {"0.0.0.0",
                           "0.1.2.3",
                           "10.0.0.1",
                           "10.255.255.255",
                           "100.64.0.1",
                           "100.127.255.255",
                           "127.0.0.1",
                           "127.255.255.255",
                           "169.254.169.254",
                           "172.16.0.1",
                           "172.31.255.255",
                           "192.0.0.8",
                           "192.0.2.1",
                           "192.88.99.1",
                           "192.168.0.1",
                           "192.168.255.255",
                           "198.18.0.1",
                           "198.19.255.255",
                           "198.51.100.7",
                           "203.0.113.9",
                           "224.0.0.1",
                           "239.255.255.255",
                           "240.0.0.1",
                           "255.255.255.255",
                           "::",
                           "::1",
                           "::ffff:127.0.0.1",
                           "::ffff:8.8.8.8",
                           "::8.8.8.8",
                           "64:ff9b::127.0.0.1",
                           "64:ff9b::10.0.0.1",
                           "64:ff9b::169.254.169.254",
                           "64:ff9b:1::8.8.8.8",
                           "100::1",
                           "2001::1",
                           "2001:0:53aa:64c::1",
                           "2001:10::1",
                           "2001:20::1",
                           "2001:1ff::1",
                           "2001:db8::1",
                           "2002:7f00:1::1",
                           "2002:808:808::1",
                           "3fff::1",
                           "3fff:fff::1",
                           "4000::1",
                           "5f00::1",
                           "fc00::1",
                           "fd00:ec2::254",
                           "fe80::1",
                           "febf::1",
                           "fec0::1",
                           "ff02::1",
                           "ff0e::1"}) {
    CAPTURE(text);
    CHECK(!is_public_address(address(text)));
  }
  for (const char* text : {"127.0.0.1", "127.9.9.9", "::1"}) CHECK(is_loopback_address(address(text)));
  for (const char* text : {"128.0.0.1", "0.0.0.0", "::", "::2", "::ffff:127.0.0.1", "1::1"})
    CHECK(!is_loopback_address(address(text)));
}

TEST_CASE("media: percent signs are read once") {
  CHECK(percent_decode("a%41%2f%2F%00b") == std::string("aA//\0b", 6));
  CHECK(percent_decode("%2541") == "%41");
  for (const char* text : {"%", "a%", "%4", "%4g", "%g4", "%%41", "%-1"}) error_of([&] { percent_decode(text); });
}
