#include "tools/serve/router.h"

#include <optional>

#include "base/strings.h"

namespace l4::serve {

namespace {

// Percent-decoded; nothing where it is not such text, not UTF-8, or holds control characters.
std::optional<std::string> decode_percent(std::string_view text) {
  std::string out;
  const auto digit = [](char c) {
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                  : -1;
  };
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '%') {
      out += text[i];
      continue;
    }
    if (i + 2 >= text.size() || digit(text[i + 1]) < 0 || digit(text[i + 2]) < 0) return std::nullopt;
    out += char(digit(text[i + 1]) * 16 + digit(text[i + 2]));
    i += 2;
  }
  for (unsigned char c : out)
    if (c < 0x20 || c == 0x7f) return std::nullopt;
  if (!is_valid_utf8(out)) return std::nullopt;
  return out;
}

bool fits(const std::string& pattern, std::string_view path) {
  if (pattern.back() != '*') return path == pattern;
  const std::string_view prefix(pattern.data(), pattern.size() - 1);
  return path.size() > prefix.size() && path.substr(0, prefix.size()) == prefix;
}

}  // namespace

void Router::add(std::string method, std::string pattern, Handler handler, RouteOptions options) {
  L4_CHECK(!pattern.empty() && pattern[0] == '/', "route ", pattern);
  routes_.push_back({std::move(method), std::move(pattern), std::move(handler), std::move(options)});
}

Router::Match Router::find(std::string_view method, std::string_view path) const {
  Match match;
  const std::string_view wanted = method == "HEAD" ? "GET" : method;
  for (const Route& route : routes_) {
    if (!fits(route.pattern, path)) continue;
    match.allowed += cat(route.method, route.method == "GET" ? ", HEAD, " : ", ");
    if (route.method != wanted || match.route) continue;
    match.route = &route;
    if (route.pattern.back() != '*') continue;
    const std::optional<std::string> rest = decode_percent(path.substr(route.pattern.size() - 1));
    match.bad_path = !rest;
    match.wildcard = rest.value_or("");
  }
  if (!match.allowed.empty()) match.allowed += "OPTIONS";
  return match;
}

}  // namespace l4::serve
