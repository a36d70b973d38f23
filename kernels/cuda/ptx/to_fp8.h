// Conversions to E4M3 (quant/fp8.h), two at a time.
#pragma once

#include <cstdint>

namespace l4::cuda {

// cvt.rn.satfinite: the codes of v0 (lower byte) and v1, as fp8_from_float() makes them but for the sign of a NaN.
__device__ inline uint16_t fp8_pair(float v0, float v1) {
  uint16_t codes;
  asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(codes) : "f"(v1), "f"(v0));
  return codes;
}

}  // namespace l4::cuda
