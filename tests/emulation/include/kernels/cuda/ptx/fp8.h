#pragma once

#include <cuda_runtime.h>

#include <cmath>
#include <cstdint>

#include "quant/fp8.h"

namespace l4::cuda {

namespace emulated {
// Of a code: five bits of exponent where the code has four; subnormal codes are normal numbers.
inline uint32_t half_of_fp8(uint32_t code) {
  const float value = fp8_to_float(uint8_t(code));
  const uint32_t sign = (code & 0x80u) << 8;
  if (std::isnan(value)) return sign | 0x7E00u;
  if (value == 0) return sign;
  int exponent;
  const float fraction = std::frexp(std::fabs(value), &exponent);  // [0.5, 1)
  return sign | uint32_t(exponent + 14) << 10 | (uint32_t(fraction * 2048) & 1023u);
}
inline uint32_t halves_of_two_fp8(uint32_t codes) {
  return half_of_fp8(codes & 0xFFu) | half_of_fp8(codes >> 8 & 0xFFu) << 16;
}
}  // namespace emulated

inline void halves_of_fp8(uint32_t codes, uint32_t& first, uint32_t& second) {
  first = emulated::halves_of_two_fp8(codes), second = emulated::halves_of_two_fp8(codes >> 16);
}
inline uint32_t halves_of_nearest_fp8(float first, float second) {
  return emulated::halves_of_two_fp8(uint32_t(fp8_from_float(first)) | uint32_t(fp8_from_float(second)) << 8);
}

inline uint16_t fp8_pair(float v0, float v1) {
  return uint16_t(fp8_from_float(v0) | fp8_from_float(v1) << 8);
}

}  // namespace l4::cuda
