#include "tools/serve/page/page.h"

#include <span>

#include "base/error.h"
#include "vision/sha256.h"

namespace l4::serve {

namespace {

constexpr std::string_view kHtml =
#include "page.inc"
    ;

std::string base64(std::span<const uint8_t> bytes) {
  constexpr std::string_view kDigits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string out;
  for (size_t i = 0; i < bytes.size(); i += 3) {
    uint32_t group = 0;
    for (size_t j = 0; j < 3; ++j) group = group << 8 | (i + j < bytes.size() ? bytes[i + j] : 0);
    for (size_t j = 0; j < 4; ++j) out += i + j <= bytes.size() ? kDigits[group >> (18 - 6 * j) & 63] : '=';
  }
  return out;
}

// 'sha256-...' of what stands between <tag> and </tag>, as browsers count it.
std::string hash_of(std::string_view tag) {
  const std::string open = cat("<", tag, ">"), close = cat("</", tag, ">");
  const size_t begin = kHtml.find(open), end = kHtml.find(close);
  L4_CHECK(begin != std::string_view::npos && end != std::string_view::npos, "the page has no ", tag);
  const std::string_view text = kHtml.substr(begin + open.size(), end - begin - open.size());
  Sha256 hash;
  hash.update({reinterpret_cast<const uint8_t*>(text.data()), text.size()});
  return cat("'sha256-", base64(hash.finish()), "'");
}

}  // namespace

const WebPage& web_page() {
  static const WebPage page{
      kHtml, cat("default-src 'none'; script-src ", hash_of("script"), "; style-src ", hash_of("style"),
                 "; img-src data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
                 "require-trusted-types-for 'script'; trusted-types 'none'")};
  return page;
}

}  // namespace l4::serve
