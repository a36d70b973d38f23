#include "tools/serve/page/page.h"

#include <array>

#include "base/base64.h"
#include "base/error.h"
#include "vision/sha256.h"

namespace l4::serve {

namespace {

constexpr std::string_view kHtml =
#include "page.inc"
    ;

// 'sha256-...' of what stands between <tag> and </tag>, as browsers count it.
std::string hash_of(std::string_view tag) {
  const std::string open = cat("<", tag, ">"), close = cat("</", tag, ">");
  const size_t begin = kHtml.find(open), end = kHtml.find(close);
  L4_CHECK(begin != std::string_view::npos && end != std::string_view::npos, "the page has no ", tag);
  const std::string_view text = kHtml.substr(begin + open.size(), end - begin - open.size());
  Sha256 hash;
  hash.update({reinterpret_cast<const uint8_t*>(text.data()), text.size()});
  const std::array<uint8_t, 32> digest = hash.finish();
  return cat("'sha256-", to_base64({reinterpret_cast<const char*>(digest.data()), digest.size()}), "'");
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
