// http and https addresses of pictures. One parser: what it returns is what is checked, resolved and asked for; the
// text is never read a second time by anybody else. It takes less than the web's standards do, and what it takes means
// the same to every reader.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace l4::tools {

struct PictureUrl {
  bool tls = false;
  std::string host;  // a name in lower case: letters, digits, - _ and dots; never an address in numbers
  uint16_t port = 0;
  std::string target;  // path and query as written, "/" at least; no fragment

  bool default_port() const { return port == (tls ? 443 : 80); }
};

bool is_http_url(std::string_view url);

// "http(s)://HOST[:PORT][/PATH][?QUERY][#FRAGMENT]". Error{usage} for anything else, by what is wrong: white space,
// control characters, bytes beyond ASCII, backslashes and other characters that no URL has; user information; an empty
// host, one that is an address in any notation (1.2.3.4, 0x7f.1, 2130706433, [::1]), has an empty or overlong label or
// a dot at its end; a port that is not 1 to 65535 without leading zeros; a % without two hex digits.
PictureUrl parse_picture_url(std::string_view text);

// A host name for the list of allowed ones, in lower case. Error{usage} for what parse_picture_url takes as no host.
std::string check_domain(std::string_view host);

// An IPv4 (4 bytes) or IPv6 address (16), first byte first, that is neither private, loopback, link-local, multicast,
// reserved, for documentation, nor one of the ways to write an IPv4 address in IPv6 but NAT64's (64:ff9b::/96) of a
// public one. By IANA's special-purpose registries (RFC 6890 and successors).
bool is_public_address(std::span<const uint8_t> address);
bool is_loopback_address(std::span<const uint8_t> address);  // 127.0.0.0/8, ::1

// %41 -> A, once. Error{usage} for a % without two hex digits.
std::string percent_decode(std::string_view text);

}  // namespace l4::tools
