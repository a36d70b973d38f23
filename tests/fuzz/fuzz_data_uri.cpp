// data: addresses: what is decoded is the one way to write those bytes, and no longer than it may be.
#include <cstdlib>
#include <string>
#include <string_view>

#include "base/error.h"
#include "tools/common/media/data_uri.h"

using namespace l4;
using namespace l4::tools;

namespace {

void require(bool holds) {
  if (!holds) std::abort();
}

std::string base64(std::string_view bytes) {
  const char* alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string out;
  for (size_t bit = 0; bit < 8 * bytes.size(); bit += 6) {
    int digit = 0;
    for (size_t k = bit; k < bit + 6; ++k)
      digit = 2 * digit + (k < 8 * bytes.size() ? uint8_t(bytes[k / 8]) >> (7 - k % 8) & 1 : 0);
    out += alphabet[digit];
  }
  while (out.size() % 4) out += '=';
  return out;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  constexpr uint64_t kMaxBytes = 1000;
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  for (const bool whole : {true, false}) {
    try {
      const std::string bytes = whole ? decode_data_uri(text, kMaxBytes) : decode_base64(text, kMaxBytes);
      require(bytes.size() <= kMaxBytes);
      require(text.ends_with(base64(bytes)));
    } catch (const Error& error) {
      require(error.kind() != ErrorKind::internal);
      require(error.message().find('\n') == std::string::npos);
    }
  }
  return 0;
}
