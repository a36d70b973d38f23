#include "base/base64.h"

#include <random>

#include "support/test.h"

using namespace l4;
using namespace l4::test;

namespace {

// Not the table: bit by bit.
std::string reference(std::string_view bytes) {
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

TEST_CASE("base64: there and back, any bytes of any length") {
  CHECK(to_base64("") == "");
  CHECK(to_base64("f") == "Zg==");  // RFC 4648, section 10
  CHECK(to_base64("fooba") == "Zm9vYmE=");
  CHECK(to_base64("foobar") == "Zm9vYmFy");
  std::mt19937 random(1);
  for (size_t n = 0; n < 200; ++n) {
    std::string bytes(n, '\0');
    for (char& byte : bytes) byte = char(random());
    CHECK(to_base64(bytes) == reference(bytes));
    CHECK(from_base64(to_base64(bytes)) == bytes);
  }
}

TEST_CASE("base64: what is none is refused, and where") {
  CHECK(error_of([] { from_base64("Zm9v!mFy"); }) == "not base64: character 5 is \"!\"");
  CHECK(error_of([] { from_base64("Zm=v"); }) == "not base64: character 3 is \"=\"");
  CHECK(error_of([] { from_base64("===="); }) == "not base64: character 1 is \"=\"");
  CHECK(error_of([] { from_base64("Zm9v\n"); }) == "not base64: character 5 is \"\\x0a\"");
  CHECK(error_of([] { from_base64("Zm9vY"); }) == "not base64: 5 characters, padding (=) included, are no multiple of 4");
  CHECK(error_of([] { from_base64("Zh=="); }) == "not base64: bits that nothing stands for are set in the last digit");
}
