// E4M3 (quant/fp8.h) by the conversion unit, two at a time. All codes are exact in f16; the first of a pair is in the
// lower bits.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace l4::cuda {

// Four codes as two words of f16.
__device__ inline void halves_of_fp8(uint32_t codes, uint32_t& first, uint32_t& second) {
  asm("{\n"
      ".reg .b16 low, high;\n"
      "mov.b32 {low, high}, %2;\n"
      "cvt.rn.f16x2.e4m3x2 %0, low;\n"
      "cvt.rn.f16x2.e4m3x2 %1, high;\n"
      "}"
      : "=r"(first), "=r"(second)
      : "r"(codes));
}
// The codes nearest to two numbers (fp8_from_float) as f16.
__device__ inline uint32_t halves_of_nearest_fp8(float first, float second) {
  uint32_t halves;
  asm("{\n"
      ".reg .b16 codes;\n"
      "cvt.rn.satfinite.e4m3x2.f32 codes, %2, %1;\n"
      "cvt.rn.f16x2.e4m3x2 %0, codes;\n"
      "}"
      : "=r"(halves)
      : "f"(first), "f"(second));
  return halves;
}

// cvt.rn.satfinite: the codes of v0 (lower byte) and v1, as fp8_from_float() makes them but for the sign of a NaN.
__device__ inline uint16_t fp8_pair(float v0, float v1) {
  uint16_t codes;
  asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(codes) : "f"(v1), "f"(v0));
  return codes;
}

}  // namespace l4::cuda
