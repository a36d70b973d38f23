#include "quant/fp8.h"

#include <cmath>
#include <vector>

#include "support/test.h"

using namespace l4;

TEST_CASE("fp8: every code is what its bits say") {
  for (int code = 0; code < 256; ++code) {
    const int exponent = code >> 3 & 15, fraction = code & 7;
    const double sign = code & 0x80 ? -1 : 1;
    const float got = fp8_to_float(uint8_t(code));
    CHECK(std::signbit(got) == (sign < 0));
    if (exponent == 15 && fraction == 7)
      CHECK(std::isnan(got));
    else
      CHECK(double(got) == sign * (exponent ? (8 + fraction) * std::pow(2.0, exponent - 10) : fraction * std::pow(2.0, -9)));
  }
}

TEST_CASE("fp8: a float becomes the nearest code, of two the even one, and the largest beyond it") {
  std::vector<float> codes;  // 0 .. 448, ascending
  for (int code = 0; code < 0x7F; ++code) codes.push_back(fp8_to_float(uint8_t(code)));
  for (size_t i = 0; i + 1 < codes.size(); ++i) {
    const float middle = (codes[i] + codes[i + 1]) / 2;
    for (const float sign : {1.0f, -1.0f}) {
      const uint8_t bit = sign < 0 ? 0x80 : 0;
      CHECK(fp8_from_float(sign * codes[i]) == uint8_t(i | bit));
      CHECK(fp8_from_float(sign * middle) == uint8_t((i % 2 ? i + 1 : i) | bit));
      CHECK(fp8_from_float(sign * std::nextafter(middle, 0.0f)) == uint8_t(i | bit));
      CHECK(fp8_from_float(sign * std::nextafter(middle, 1e9f)) == uint8_t((i + 1) | bit));
    }
  }
  for (const float big : {448.0f, 464.0f, 1e30f, INFINITY}) CHECK(fp8_from_float(big) == 0x7E);
  CHECK(fp8_from_float(-INFINITY) == 0xFE);
  CHECK(fp8_from_float(1e-30f) == 0);
  CHECK((fp8_from_float(NAN) & 0x7F) == 0x7F);
}
