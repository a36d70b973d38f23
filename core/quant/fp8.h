// E4M3, the 8-bit float of FP8 weights and caches: sign, 4 bits of exponent with bias 7, 3 of fraction; no infinities, one
// NaN (0x7F) of either sign, largest 448, smallest 2^-9. Open Compute's "OCP 8-bit Floating Point Specification" 1.0, 5.
// Functions for host and device code; the compiler's own bit casts, as those of the library are the host's.
#pragma once

#include <cstdint>

#include "base/host_device.h"

namespace l4 {

constexpr float kFp8Max = 448.0f;

L4_HOST_DEVICE inline float fp8_to_float(uint8_t code) {
  if ((code & 0x7F) == 0x7F) return __builtin_bit_cast(float, 0x7FC00000u | uint32_t(code & 0x80) << 24);
  // The same bits as a float of exponent bias 127 are 2^120 too small, and so are those of a subnormal.
  return __builtin_bit_cast(float, uint32_t(code & 0x80) << 24 | uint32_t(code & 0x7F) << 20) * 0x1p120f;
}

// To nearest, ties to even; beyond 448 the largest, NaN stays NaN.
L4_HOST_DEVICE inline uint8_t fp8_from_float(float value) {
  const uint32_t bits = __builtin_bit_cast(uint32_t, value);
  const uint8_t sign = uint8_t(bits >> 24 & 0x80);
  const uint32_t magnitude = bits & 0x7FFFFFFF;
  if (magnitude > 0x7F800000) return sign | 0x7F;
  if (magnitude >= 0x43E00000) return sign | 0x7E;  // 448
  if (magnitude < 0x3C800000) {                     // below 2^-6: multiples of 2^-9, to nearest by the float adder
    const float steps = __builtin_bit_cast(float, magnitude) * 0x1p9f + 0x1p23f;
    return uint8_t(sign | (__builtin_bit_cast(uint32_t, steps) & 0x7F));
  }
  const uint32_t rounded = magnitude + 0x7FFFF + (magnitude >> 20 & 1);
  return uint8_t(sign | ((rounded >> 20) - (120u << 3)));
}

// s such that the codes of x / s use the whole range, for numbers of sizes up to `largest`; 1 where these are all zero.
L4_HOST_DEVICE inline float fp8_scale(float largest) {
  const float scale = largest / kFp8Max;
  return scale > 0 ? scale : 1;
}

}  // namespace l4
