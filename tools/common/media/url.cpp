#include "tools/common/media/url.h"

#include <algorithm>
#include <array>
#include <vector>

#include "base/error.h"

namespace l4::tools {

namespace {

constexpr size_t kMaxUrl = 8192, kMaxHost = 253, kMaxLabel = 63;

[[noreturn]] void refuse(std::string_view what) {
  fail(ErrorKind::usage, "not an address that is fetched: ", what);
}

bool is_digit(char c) {
  return c >= '0' && c <= '9';
}
int hex_value(char c) {
  if (is_digit(c)) return c - '0';
  const char lower = char(c | 0x20);
  return lower >= 'a' && lower <= 'f' ? lower - 'a' + 10 : -1;
}

// RFC 3986: unreserved, reserved and %, less what only an authority may hold ([ and ]).
bool is_url_character(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || is_digit(c) ||
         std::string_view("-._~:/?#@!$&'()*+,;=%").find(c) != std::string_view::npos;
}

// What inet_aton() and browsers would read as an IPv4 address has a last label that is a number: all digits, or 0x...
bool is_number_label(std::string_view label) {
  const auto all = [](std::string_view text, auto&& test) { return std::all_of(text.begin(), text.end(), test); };
  if (all(label, is_digit)) return true;
  return label.starts_with("0x") && all(label.substr(2), [](char c) { return hex_value(c) >= 0; });
}

bool is_label(std::string_view label) {
  if (label.empty() || label.size() > kMaxLabel || label.front() == '-' || label.back() == '-') return false;
  return std::all_of(label.begin(), label.end(),
                     [](char c) { return (c >= 'a' && c <= 'z') || is_digit(c) || c == '-' || c == '_'; });
}

uint16_t parse_port(std::string_view text) {
  const bool plain =
      !text.empty() && text.size() <= 5 && text[0] != '0' && std::all_of(text.begin(), text.end(), is_digit);
  const std::optional<int64_t> port = plain ? parse_int(text) : std::nullopt;
  if (!port || *port > 65535) refuse("the port is no number from 1 to 65535");
  return uint16_t(*port);
}

struct Range {
  std::array<uint8_t, 16> prefix;
  int bits;
};

bool inside(std::span<const uint8_t> address, const Range& range) {
  for (int bit = 0; bit < range.bits; bit += 8) {
    const int n = std::min(8, range.bits - bit);
    const auto mask = uint8_t(0xFF << (8 - n));
    if ((address[size_t(bit / 8)] & mask) != range.prefix[size_t(bit / 8)]) return false;
  }
  return true;
}

constexpr Range kRefusedV4[] = {
    {{0}, 8},              // this network
    {{10}, 8},             // private
    {{100, 64}, 10},       // carriers' NAT
    {{127}, 8},            // loopback
    {{169, 254}, 16},      // link-local, metadata of clouds
    {{172, 16}, 12},       // private
    {{192, 0, 0}, 24},     // protocol assignments
    {{192, 0, 2}, 24},     // documentation
    {{192, 88, 99}, 24},   // 6to4 relays
    {{192, 168}, 16},      // private
    {{198, 18}, 15},       // benchmarking
    {{198, 51, 100}, 24},  // documentation
    {{203, 0, 113}, 24},   // documentation
    {{224}, 3},            // multicast, reserved, broadcast
};
constexpr Range kGlobalV6 = {{0x20}, 3};
constexpr Range kRefusedV6[] = {
    {{0x20, 0x01}, 23},              // protocol assignments, Teredo, ORCHID
    {{0x20, 0x01, 0x0D, 0xB8}, 32},  // documentation
    {{0x20, 0x02}, 16},              // 6to4: an IPv4 address inside
    {{0x3F, 0xFF}, 20},              // documentation
};
constexpr Range kNat64 = {{0x00, 0x64, 0xFF, 0x9B}, 96};

template <size_t n>
bool in_any(std::span<const uint8_t> address, const Range (&ranges)[n]) {
  return std::any_of(std::begin(ranges), std::end(ranges), [&](const Range& range) { return inside(address, range); });
}

}  // namespace

bool is_http_url(std::string_view url) {
  const std::string head = to_lower(url.substr(0, 8));
  return head.starts_with("http://") || head == "https://";
}

std::string check_domain(std::string_view host) {
  if (host.empty()) refuse("no host");
  if (host.size() > kMaxHost) refuse("the host's name is too long");
  if (host.find(':') != std::string_view::npos || host.front() == '[') refuse("the host is an address, not a name");
  const std::string name = to_lower(host);
  const std::vector<std::string> labels = split(name, '.');
  // Numbers first: 127.0.0.1. is an address, too.
  if (is_number_label(labels.back()) && !labels.back().empty()) refuse("the host is an address, not a name");
  if (!std::all_of(labels.begin(), labels.end(), is_label))
    refuse("the host is no name of letters, digits, - _ and dots (others: in their xn-- form)");
  return name;
}

PictureUrl parse_picture_url(std::string_view text) {
  if (text.size() > kMaxUrl) refuse("it is too long");
  if (!is_http_url(text)) refuse("it begins with neither http:// nor https://");
  PictureUrl url;
  url.tls = text[4] == 's' || text[4] == 'S';
  text.remove_prefix(url.tls ? 8 : 7);
  std::string_view authority = text.substr(0, text.find_first_of("/?#"));
  if (authority.find('@') != std::string_view::npos) refuse("it holds a user's name");
  if (authority.starts_with('[')) refuse("the host is an address, not a name");
  if (!std::all_of(text.begin(), text.end(), is_url_character)) refuse("it holds a character that no address may");

  const std::string_view rest = text.substr(authority.size());
  const size_t colon = authority.find(':');
  url.port = url.tls ? 443 : 80;
  if (colon != std::string_view::npos) {
    url.port = parse_port(authority.substr(colon + 1));
    authority = authority.substr(0, colon);
  }
  url.host = check_domain(authority);
  const std::string_view target = rest.substr(0, rest.find('#'));
  percent_decode(target);  // only to know that it could be
  url.target = target.starts_with('/') ? std::string(target) : cat("/", target);
  return url;
}

bool is_loopback_address(std::span<const uint8_t> address) {
  if (address.size() == 4) return address[0] == 127;
  return std::all_of(address.begin(), address.end() - 1, [](uint8_t byte) { return byte == 0; }) && address.back() == 1;
}

bool is_public_address(std::span<const uint8_t> address) {
  if (address.size() == 4) return !in_any(address, kRefusedV4);
  L4_CHECK(address.size() == 16);
  if (inside(address, kNat64)) return is_public_address(address.last(4));
  return inside(address, kGlobalV6) && !in_any(address, kRefusedV6);
}

std::string percent_decode(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '%') {
      out.push_back(text[i]);
      continue;
    }
    const int high = i + 2 < text.size() ? hex_value(text[i + 1]) : -1;
    const int low = i + 2 < text.size() ? hex_value(text[i + 2]) : -1;
    if (high < 0 || low < 0) fail(ErrorKind::usage, "a % in the address is not followed by two hex digits");
    out.push_back(char(high << 4 | low));
    i += 2;
  }
  return out;
}

}  // namespace l4::tools
