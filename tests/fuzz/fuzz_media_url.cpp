// Addresses of the web: whatever is taken has a host that is a name and means the same when it is written anew.
#include <cstdlib>
#include <string_view>

#include "base/error.h"
#include "tools/common/media/url.h"

using namespace l4;
using namespace l4::tools;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const auto require = [](bool holds) {
    if (!holds) std::abort();
  };
  try {
    const PictureUrl url = parse_picture_url(text);
    require(check_domain(url.host) == url.host);
    require(url.port != 0);
    require(url.target.starts_with('/'));
    for (const char c : url.target) require(c > ' ' && c < 0x7F && c != '\\' && c != '#');
    const PictureUrl again =
        parse_picture_url(cat(url.tls ? "https://" : "http://", url.host, ":", url.port, url.target));
    require(again.tls == url.tls && again.host == url.host && again.port == url.port && again.target == url.target);
  } catch (const Error& error) {
    require(error.kind() == ErrorKind::usage);
    require(error.message().find('\n') == std::string::npos);
  }
  try {
    require(percent_decode(text).size() <= size);
  } catch (const Error& error) {
    require(error.kind() == ErrorKind::usage);
  }
  if (size == 4 || size == 16) is_public_address({data, size});
  return 0;
}
