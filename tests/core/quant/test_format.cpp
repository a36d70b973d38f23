#include "quant/format.h"

#include <cmath>
#include <string>

#include "support/test.h"

using namespace l4;

TEST_CASE("format: bytes of a weight") {
  CHECK(weight_bytes(WeightFormat::bf16, 5120, 8192) == 83'886'080);
  CHECK(weight_bytes(WeightFormat::f32, 3, 5) == 60);
  CHECK(weight_bytes(WeightFormat::bf16, int64_t(128) * 5120, 16384) == 21'474'836'480);  // Maverick's gate_up_proj
  CHECK(std::string(weight_format_name(WeightFormat::bf16)) == "BF16");
  CHECK(std::string(weight_format_name(WeightFormat::f32)) == "F32");
  CHECK(weight_bytes(WeightFormat::fp8, 5120, 8192) == 5120 * 8192 + 5120 * 4);
  CHECK(weight_bytes(WeightFormat::int4, 5120, 8192, 128) == 5120 * 4096 + 5120 * 64 * 2);
  CHECK_THROWS(weight_bytes(WeightFormat::int4, 16, 192, 128));
}

TEST_CASE("format: which stored types are weights") {
  CHECK(held_format(DType::bf16) == WeightFormat::bf16);
  CHECK(held_format(DType::f32) == WeightFormat::f32);
  CHECK(held_format(DType::f16) == WeightFormat::bf16);
  for (DType other :
       {DType::f64, DType::i8, DType::u8, DType::i32, DType::i64, DType::boolean, DType::f8_e4m3, DType::f8_e5m2})
    CHECK_FALSE(held_format(other));
}

TEST_CASE("format: half precision against its definition") {
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    int exponent = int(bits >> 10 & 31), fraction = int(bits & 1023);
    double sign = bits & 0x8000 ? -1 : 1;
    float got = f16_to_float(uint16_t(bits));
    CHECK(std::signbit(got) == (sign < 0));
    if (exponent == 31 && fraction) {
      CHECK(std::isnan(got));
    } else {
      double want = exponent == 31  ? sign * INFINITY
                    : exponent == 0 ? sign * fraction * std::pow(2.0, -24)
                                    : sign * (1024 + fraction) * std::pow(2.0, exponent - 25);
      CHECK(double(got) == want);
    }
  }
}

TEST_CASE("format: F16 to BF16 rounds to nearest even") {
  // 1 + 2^-8 lies half-way between 1 and 1 + 2^-7; 1 + 3 * 2^-8 half-way between 1 + 2^-7 and 1 + 2^-6.
  const uint16_t from[] = {0x3C00, 0x3C04, 0x3C0C, 0x3C05, 0x7BFF, 0xFC00, 0x0001};
  BFloat16 to[7];
  convert_f16_to_bf16(from, to);
  CHECK(to_float(to[0]) == 1.0f);
  CHECK(to_float(to[1]) == 1.0f);
  CHECK(to_float(to[2]) == 1.0f + 1.0f / 64);
  CHECK(to_float(to[3]) == 1.0f + 1.0f / 128);
  CHECK(to_float(to[4]) == 65536.0f);
  CHECK(to_float(to[5]) == -INFINITY);
  CHECK(to_float(to[6]) == std::ldexp(1.0f, -24));
}
